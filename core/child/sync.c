/* The sync backend: calls one after another, no event loop. Answers are sent when requests run
 * out, or the queue is half full, or a call takes long. */
#include <lauxlib.h>

#include "rpc_server.h"

enum {
    LONG = 1024, /* bytes of an answer that may be sent by itself */
    KEPT = 16 * TINE__RING
}; /* bytes of a buffer that outlives a large result */

typedef struct call {
    tine__rpc_server *serving;
    tine_str payload;
    uint64_t serial;
    tine_kind kind; /* of an error that is raised now */
} call;

static int run_call(lua_State *L)
{
    call *c = lua_touserdata(L, 1);
    tine__rpc_server *s = c->serving;
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->func);
    c->kind = TINE_KIND_DECODE;
    int n = tine__rpc_server_decode(L, c->serial, c->payload.data, c->payload.len);
    if (n < 0)
        return lua_error(L);
    c->kind = TINE_KIND_EXCEPTION;
    lua_call(L, n, LUA_MULTRET);
    c->kind = TINE_KIND_ENCODE;
    if (!tine__codec_encode(s->codec, L, 1, lua_gettop(L), "results", &s->out))
        return lua_error(L);
    return 0;
}

/* What comes now is no job's. */
static void end_output(const tine__rpc_server *s)
{
    if (!s->marks)
        return;
    tine__mark(0);
    tine__reply_hold(false);
}

/* What is written now is the job's. The same for the one before it, whose answer waits for that. */
static void begin_output(const tine__rpc_server *s, uint64_t serial)
{
    if (!s->marks)
        return;
    tine__mark(serial);
    tine__reply_hold(false);
}

/* The stack holds the message handler at 1, and nothing else. */
static void carry_out(tine__rpc_server *s, uint64_t serial, const unsigned char *body,
                      size_t len, uint64_t times[2])
{
    lua_State *L = s->L;
    call c = {s, {body, len}, serial, TINE_KIND_EXCEPTION};
    s->out.len = 0;
    s->serial = serial;
    begin_output(s, serial);
    lua_pushcfunction(L, run_call);
    lua_pushlightuserdata(L, &c);
    int status = lua_pcall(L, 1, 0, 1);
    tine__failure f;
    if (status != LUA_OK) {
        tine__failure_from(L, status, c.kind, &f);
        tine__failure_value(&f); /* while the call can still be stopped */
    }
    s->serial = 0;
    tine__interrupt_calm();
    if (status != LUA_OK || s->out.len > LONG)
        end_output(s);
    else
        tine__reply_hold(s->marks);
    times[1] = tine__clock_ns() - times[0];
    tine__memory_publish(s->child);
    if (status == LUA_OK) {
        tine_str parts[] = {{times, TINE__CALL_TIMES}, {s->out.data, s->out.len}};
        tine__rpc_server_put_fds(serial);
        tine__reply_put(TINE__RESULT, serial, parts, 2);
    } else {
        tine__reply_failure(serial, times, &f);
        lua_settop(L, 1);
    }
    if (s->out.cap > KEPT)
        tine__buf_free(&s->out);
}

/* Whether the host took it back: see call.h. */
static bool is_recalled(tine__page *page, uint64_t serial)
{
    uint64_t bit = UINT64_C(1) << serial % 64;
    _Atomic uint64_t *word = &page->recall[serial % TINE__WINDOW / 64];
    atomic_store_explicit(&page->started, serial, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (!(atomic_load_explicit(word, memory_order_relaxed) & bit))
        return false;
    atomic_fetch_and(word, ~bit);
    return true;
}

/* The next request, when there is none at once: what is finished goes out first. */
static int await_request(const tine__rpc_server *s, tine__page *page,
                         tine__call_head *head, const unsigned char **body)
{
    end_output(s);
    tine__reply_flush(true);
    atomic_store_explicit(&page->idle, 1, memory_order_release);
    tine__interrupt_settle();
    int result = tine__request(head, body, true);
    atomic_store_explicit(&page->idle, 0, memory_order_relaxed);
    return result;
}

void tine__sync_run(tine__rpc_server *s)
{
    tine__page *page = tine__reply_page();
    lua_settop(s->L, 0);
    lua_pushcfunction(s->L, tine__on_error);
    uint64_t times[2] = {0, 0};
    for (;;) {
        tine__call_head head;
        const unsigned char *body;
        bool waited = !tine__request_ready();
        int result = waited ? await_request(s, page, &head, &body)
                            : tine__request(&head, &body, true);
        if (result < 0)
            break;
        if (head.type == TINE__PROMOTE) {
            end_output(s);
            return;
        }
        if (head.type != TINE__CALL)
            continue;
        times[0] = waited || !times[0] ? tine__clock_ns() : times[0] + times[1];
        atomic_store_explicit(&page->started_ns, times[0], memory_order_relaxed);
        if (is_recalled(page, head.serial)) {
            tine__inbox_drop(tine__request_fds());
            tine__reply_put(TINE__SKIPPED, head.serial, NULL, 0);
            continue;
        }
        tine__reply_arm();
        carry_out(s, head.serial, body, head.len, times);
        tine__inbox_drop(tine__request_fds());
        if (tine__reply_is_time()) {
            end_output(s);
            tine__reply_flush(true);
        }
        tine__interrupt_settle();
    }
    end_output(s);
    tine__rpc_server_finish(s);
}

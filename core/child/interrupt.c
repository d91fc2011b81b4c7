/* Reaching into a call that runs: an error raised in it, and its traceback, at the host's
 * request. The request lies in the shared page, a signal points to it, and a hook carries it out
 * in whichever coroutine runs: Lua does not tell which that is, so coroutine.resume and
 * coroutine.wrap are ours, and note it.
 *
 * A call that is to end and sleeps in a system call has to come back to Lua for that. The first
 * signal cannot wake it where the kernel restarts the call, since the same signal comes for other
 * reasons, too; but it sees to it that the next one does, and the host sends it again and again.
 * So nothing depends on when a signal comes, either. */
#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "fd/fd.h"
#include "module.h"
#include "rpc_server.h"

enum { SAVED = 16 };

/* A hook of the user's that ours took the place of. */
typedef struct saved {
    lua_State *L;
    lua_Hook hook;
    int mask, count;
} saved;

static tine__interrupts interrupts;
static lua_State *volatile running; /* the coroutine that runs */
static volatile sig_atomic_t pending;
static uint64_t stopped; /* the call that was stopped last: each is once */
static saved olds[SAVED];

static void on_hook(lua_State *L, lua_Debug *ar);
static void on_signal(int signo);

/* In a signal handler too: what it calls only reads and writes fields of the state. */
static void install(lua_State *L)
{
    lua_Hook hook = lua_gethook(L);
    if (hook == on_hook)
        return;
    if (hook) {
        int i = 0;
        while (i < SAVED && olds[i].L)
            i++;
        if (i < SAVED) {
            olds[i].hook = hook;
            olds[i].mask = lua_gethookmask(L);
            olds[i].count = lua_gethookcount(L);
            olds[i].L = L;
        }
    }
    lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT,
                1);
}

static void uninstall(lua_State *L)
{
    for (int i = 0; i < SAVED; i++) {
        if (olds[i].L == L) {
            olds[i].L = NULL;
            lua_sethook(L, olds[i].hook, olds[i].mask, olds[i].count);
            return;
        }
    }
    lua_sethook(L, NULL, 0, 0);
}

/* ----------------------------------------------------------------- waking it */

static void set_handler(int flags)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = flags;
    sigaction(TINE__SIGNAL, &action, NULL);
}

/* In the signal's handler. */
static void wake(void)
{
    if (!bind_fd_interrupted)
        set_handler(0);
    bind_fd_interrupted = 1;
    if (interrupts.loop)
        interrupts.loop();
}

void tine__interrupt_calm(void)
{
    if (!bind_fd_interrupted)
        return;
    set_handler(SA_RESTART);
    bind_fd_interrupted = 0;
}

/* ------------------------------------------------------------------- requests */

static bool wants_stop(const tine__page *page)
{
    uint64_t serial = tine__server.serial;
    return serial && serial != stopped && atomic_load(&page->stop) / 2 == serial;
}

static bool wants_trace(const tine__page *page)
{
    return atomic_load(&page->trace_asked) != atomic_load(&page->trace_told);
}

void tine__interrupt_tell(uint64_t number, const tine_str *parts, size_t nparts)
{
    atomic_store(&tine__reply_page()->trace_told, number);
    tine__reply_put(TINE__TRACE, number, parts, nparts);
    tine__reply_flush(false);
    tine__reply_arm();
}

/* serial: of the open call that the text is about, async; or 0. */
static void tell_trace(uint64_t number, uint64_t serial, const char *text, size_t len)
{
    static const uint32_t no_text = 0;
    uint32_t length = (uint32_t)len;
    tine_str parts[] = {{&no_text, 4}, {&serial, 8}, {&length, 4}, {text, len}};
    tine__interrupt_tell(number, serial ? parts : parts + 2, serial ? 4 : 2);
}

static void trace(lua_State *L)
{
    uint64_t number = atomic_load(&tine__reply_page()->trace_asked);
    lua_State *main = tine__server.L;
    size_t len;
    luaL_checkstack(L, 8, "traceback");
    luaL_traceback(L, L, NULL, 0);
    if (main && main != L) {
        /* Other coroutines may lie between; Lua does not say which. */
        luaL_traceback(L, main, "\nresumed from:", 0);
        lua_concat(L, 2);
    }
    const char *text = lua_tolstring(L, -1, &len);
    uint64_t serial = tine__server.async ? tine__server.serial : 0;
    tell_trace(number, serial && tine__async_is_open(L, serial) ? serial : 0, text,
               len);
    lua_pop(L, 1);
}

static int stop(lua_State *L)
{
    tine__page *page = tine__reply_page();
    bool cancel = atomic_load(&page->stop) % 2 != 0;
    const char *text = cancel ? "the job was cancelled" : "the job took too long";
    stopped = tine__server.serial;
    tine__interrupt_calm();
    bind_push_error(L, cancel ? "cancelled" : "timeout", text, strlen(text));
    luaL_traceback(L, L, NULL, 0);
    lua_setfield(L, -2, "traceback");
    return lua_error(L);
}

static void on_hook(lua_State *L, lua_Debug *ar)
{
    const tine__page *page = tine__reply_page();
    if (bind_fd_shielded)
        return;
    bool called = !tine__server.serial && tine__async_in_callback();
    /* That of the loop's which reads requests answers by itself. */
    if (called && lua_getinfo(L, "S", ar) && *ar->what == 'C')
        return;
    uninstall(L);
    if (!page)
        return;
    pending = 0;
    if (wants_trace(page) && (called || tine__server.serial))
        trace(L);
    if (wants_stop(page)) {
        luaL_checkstack(L, 8, "stop");
        stop(L);
    }
}

static void on_signal(int signo)
{
    (void)signo;
    tine__reply_on_signal();
    const tine__page *page = tine__reply_page();
    bool runs = tine__server.serial || tine__async_in_callback();
    if (!page || !runs || (!wants_stop(page) && !wants_trace(page)))
        return;
    int err = errno;
    pending = 1;
    install(running);
    if (wants_stop(page))
        wake();
    errno = err;
}

void tine__interrupt_serve(lua_State *L)
{
    sigset_t set;
    running = L;
    stopped = 0; /* of an ancestor, whose serials began at 1 as ours do */
    set_handler(SA_RESTART);
    sigemptyset(&set);
    sigaddset(&set, TINE__SIGNAL);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

void tine__interrupt_end(void)
{
    signal(TINE__SIGNAL, SIG_DFL); /* which is to ignore it */
    pending = 0;
    bind_fd_interrupted = 0;
    if (lua_gethook(running) == on_hook)
        uninstall(running);
}

/* It came as the call ended: nothing runs any more. */
void tine__interrupt_settle(void)
{
    static const char idle[] = "nothing runs: the worker waits for calls";
    const tine__page *page = tine__reply_page();
    if (!wants_trace(page))
        return;
    uint64_t number = atomic_load(&page->trace_asked);
    if (tine__server.async)
        tine__async_tell(number);
    else
        tell_trace(number, 0, idle, sizeof idle - 1);
}

/* ------------------------------------------------------------------ coroutines */

/* Async: goes on with the call that co belongs to; what is begun in a call's code is that call's. */
static void enter_call(lua_State *L, lua_State *co)
{
    const tine__page *page = tine__reply_page();
    uint64_t serial = tine__async_call_of(L, co);
    if (!serial && tine__server.serial && lua_status(co) == LUA_OK)
        tine__async_adopt(L, co, tine__server.serial);
    if (!serial || !page)
        return;
    tine__rpc_server_switch(serial);
    if (wants_stop(page)) /* the signal came when it waited */
        pending = 1;
}

/* The results of a resume, moved to L: their number, or -1 with the error. */
static int resume(lua_State *L, lua_State *co, int nargs)
{
    int nresults;
    lua_State *before = running;
    uint64_t call = tine__server.serial;
    bool async = tine__server.async;
    if (!lua_checkstack(co, nargs)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    if (async)
        enter_call(L, co);
    lua_xmove(L, co, nargs);
    running = co;
    if (pending)
        install(co);
    int status = lua_resume(co, L, nargs, &nresults);
    running = before;
    if (async)
        tine__rpc_server_switch(call);
    if (pending && before)
        install(before);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_xmove(co, L, 1);
        return -1;
    }
    if (!lua_checkstack(L, nresults + 1)) {
        lua_pop(co, nresults);
        lua_pushliteral(L, "too many results to resume");
        return -1;
    }
    lua_xmove(co, L, nresults);
    return nresults;
}

static int co_resume(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);
    luaL_argexpected(L, co, 1, "coroutine");
    int n = resume(L, co, lua_gettop(L) - 1);
    lua_pushboolean(L, n >= 0);
    lua_insert(L, n >= 0 ? -(n + 1) : -2);
    return n >= 0 ? n + 1 : 2;
}

static int wrapped(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n = resume(L, co, lua_gettop(L));
    if (n >= 0)
        return n;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        status =
            lua_resetthread(co); /* its variables to be closed; the error may change */
        lua_xmove(co, L, 1);
    }
    if (status != LUA_ERRMEM && lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int co_wrap(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    lua_pushcclosure(L, wrapped, 1);
    return 1;
}

void tine__interrupt_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"resume", co_resume}, {"wrap", co_wrap}, {NULL, NULL}};
    running = L;
    lua_pushlightuserdata(L, &interrupts);
    lua_setfield(L, LUA_REGISTRYINDEX, TINE__INTERRUPTS);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, -1, LUA_COLIBNAME) == LUA_TTABLE)
        luaL_setfuncs(L, functions, 0);
    lua_pop(L, 2);
}

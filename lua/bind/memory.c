/* The memory of a process as a table, and the method that asks for it. Called by a method
 * written in Lua: errors blame the caller of that. */
#include <stdbool.h>
#include <string.h>

#include <lauxlib.h>

#include "fd/fd.h"
#include "process.h"

static void set_size(lua_State *L, const char *name, int64_t value)
{
    if (value < 0)
        return;
    lua_pushinteger(L, (lua_Integer)value);
    lua_setfield(L, -2, name);
}

void bind_set_memory(lua_State *L, const tine_memory *m)
{
    static const char *const heaps[] = {NULL, "malloc", "plain", "sealed"};

    if (m->heap != TINE_HEAP_UNKNOWN) {
        lua_pushstring(L, heaps[m->heap]);
        lua_setfield(L, -2, "heap");
    }
    if (*m->failed) {
        lua_pushstring(L, m->failed);
        lua_setfield(L, -2, "failed");
    }
    set_size(L, "own", m->own);
    set_size(L, "shared", m->shared);
    set_size(L, "sealed", m->sealed);
    set_size(L, "seals", m->seals);
    set_size(L, "rss", m->rss);
    set_size(L, "pss", m->pss);
    set_size(L, "private", m->private_rss);
    set_size(L, "copied", m->copied);
    if (m->minor_faults >= 0) {
        lua_createtable(L, 0, 2);
        set_size(L, "minor", m->minor_faults);
        set_size(L, "major", m->major_faults);
        lua_setfield(L, -2, "faults");
    }
}

typedef struct answer {
    bind_process *process;
    const tine_error *err;
    const tine_memory *memory;
} answer;

/* Answers come in the order of the questions: takes the first of those who wait. */
static void take_first(lua_State *L, int list)
{
    lua_Integer i, n = (lua_Integer)lua_rawlen(L, list);

    lua_rawgeti(L, list, 1);
    for (i = 1; i <= n; i++) {
        lua_rawgeti(L, list, i + 1);
        lua_rawseti(L, list, i);
    }
}

static int deliver(lua_State *L)
{
    const answer *a = lua_touserdata(L, 1);

    bind_object_push(L, &a->process->object);
    if (lua_isnil(L, 2) || lua_getiuservalue(L, 2, BIND_ON_MEMORY) != LUA_TTABLE)
        return 0;
    take_first(L, 3);
    if (a->err) {
        lua_pushnil(L);
        bind_push_failure(L, a->err);
    } else if (!a->memory) {
        lua_pushboolean(L, 1);
        lua_pushnil(L);
    } else {
        lua_createtable(L, 0, 12);
        set_size(L, "pid", a->memory->pid);
        bind_set_memory(L, a->memory);
        lua_pushnil(L);
    }
    bind_call(a->process->object.state, 2);
    return 0;
}

static void on_memory(void *arg, tine_proc *p, const tine_error *err,
                      const tine_memory *memory)
{
    bind_process *b = arg;
    answer a = {b, err, memory};

    (void)p;
    bind_enter_for(&b->object, deliver, &a);
    bind_process_unwind(b);
}

static void on_loaded(void *arg, tine_proc *p, const tine_error *err)
{
    on_memory(arg, p, err, NULL);
}

static int refuse(lua_State *L, const char *text)
{
    lua_pushnil(L);
    bind_push_error(L, "closed", text, strlen(text));
    return 2;
}

/* The process is not there any more; why, where that is known. */
static int refuse_ended(lua_State *L, bind_process *b, bool loaded)
{
    const tine_error *why =
        loaded && b->object.core ? tine_proc_why(b->object.core) : NULL;
    if (!why)
        return refuse(L, "the process has ended");
    lua_pushnil(L);
    bind_push_failure(L, why);
    return 2;
}

static int ask(lua_State *L, const char *what, bool loaded)
{
    bind_process *b =
        loaded ? bind_process_check_unused(L, 2, what) : bind_process_check(L, 2, what);
    lua_Integer n;
    int rc;

    if (!b->object.core || b->closing)
        return refuse(L, b->exited ? "the process has ended"
                                   : "this process handle is closed");
    if (b->exited)
        return refuse_ended(L, b, loaded);
    if (lua_getiuservalue(L, 1, BIND_ON_MEMORY) != LUA_TTABLE) {
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setiuservalue(L, 1, BIND_ON_MEMORY);
        lua_replace(L, -2);
    }
    n = (lua_Integer)lua_rawlen(L, -1) + 1;
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, n);
    if (loaded)
        rc = tine_proc_await_loaded(b->object.core, on_loaded, b);
    else
        rc = tine_proc_memory(b->object.core, on_memory, b);
    if (rc < 0) {
        lua_pushnil(L);
        lua_rawseti(L, -2, n);
        return rc == -TINE_ECLOSED ? refuse_ended(L, b, loaded)
                                   : bind_fail(L, what, rc);
    }
    bind_process_settle(L, 1, b);
    lua_pushboolean(L, 1);
    return 1;
}

/* memory(p, cb): true, or nil and an err, and cb is not called. */
int bind_process_memory(lua_State *L)
{
    return ask(L, "memory", false);
}

/* loaded(p, cb): the same; cb gets true, or nil and an err. */
int bind_process_loaded(lua_State *L)
{
    return ask(L, "await_loaded", true);
}

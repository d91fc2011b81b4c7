/* The userdata that stand for calls under way, and what is done with their callbacks. A job is a
 * slot of the calls and its generation, so that it can be dropped and kept as its user likes: when
 * the slot's generation is another, it has ended. */
#include <stdbool.h>

#include <lauxlib.h>

#include "calls.h"
#include "fd/fd.h"

const char bind_job_type[] = "tine.job";
const char bind_calls_key;

bind_calls *bind_calls_get(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &bind_calls_key);
    bind_calls *c = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return c;
}

/* Its record, or NULL when it has ended. */
static bind_record *live(lua_State *L, const bind_job *j)
{
    const bind_calls *c = bind_calls_get(L);
    bool known = j->slot &&
                 j->slot <= c->nchunks * BIND_CHUNK; /* none are, as the state closes */
    bind_record *r = known ? bind_record_at(c, j->slot) : NULL;
    return r && r->generation == j->generation && r->job ? r : NULL;
}

/*** Ends the job, whatever it is doing; does nothing when it has ended.
@function job:cancel */
static int job_cancel(lua_State *L)
{
    bind_record *r = live(L, luaL_checkudata(L, 1, bind_job_type));
    if (r && r->rpc->object.core && !bind_state_check(L)->closed)
        tine_job_cancel(r->job);
    return 0;
}

/*** Ends the job if it has not started.
@function job:withdraw
@treturn boolean whether it has ended, or will without having started */
static int job_withdraw(lua_State *L)
{
    bind_record *r = live(L, luaL_checkudata(L, 1, bind_job_type));
    bool open = r && r->rpc->object.core && !bind_state_check(L)->closed;
    lua_pushboolean(L, !open || tine_job_withdraw(r->job));
    return 1;
}

/*** Whether the job has ended: its callback has been, or is being, called.
@function job:done
@treturn boolean */
static int job_done(lua_State *L)
{
    lua_pushboolean(L, !live(L, luaL_checkudata(L, 1, bind_job_type)));
    return 1;
}

/*** Whether a worker has begun with the job, and it has not ended.
@function job:running
@treturn boolean */
static int job_running(lua_State *L)
{
    const bind_record *r = live(L, luaL_checkudata(L, 1, bind_job_type));
    bool open = r && r->rpc->object.core && !bind_state_check(L)->closed;
    lua_pushboolean(L, open && tine_job_running(r->job));
    return 1;
}

/* tap(job, fn): its callback is to be what fn makes of it. Returns whether the job is open. */
static int tap(lua_State *L)
{
    const bind_record *r = live(L, luaL_checkudata(L, 1, bind_job_type));
    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_pushboolean(L, r != NULL);
    if (!r)
        return 1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, bind_calls_get(L)->callbacks);
    lua_pushvalue(L, 2);
    lua_rawgeti(L, -2, (lua_Integer)r->slot);
    lua_call(L, 1, 1);
    lua_rawseti(L, -2, (lua_Integer)r->slot);
    lua_pop(L, 1);
    return 1;
}

/*** The job's number, counted from 1 in each rpc and pool.
@function job:id
@treturn integer */
static int job_id(lua_State *L)
{
    const bind_job *j = luaL_checkudata(L, 1, bind_job_type);
    lua_pushinteger(L, j->id);
    return 1;
}

static int job_text(lua_State *L)
{
    const bind_job *j = luaL_checkudata(L, 1, bind_job_type);
    lua_pushfstring(L, "tine.job (%I%s)", (LUAI_UACINT)j->id,
                    live(L, j) ? "" : ", ended");
    return 1;
}

/* What guard returns. */
static int call_guarded(lua_State *L)
{
    enum { FEW = 100, COPIES = 3 };
    int n = lua_gettop(L), most = COPIES * n + BIND_CALL_ROOM;
    lua_State *co = lua_tothread(L, lua_upvalueindex(2));
    if (n > FEW && (!lua_checkstack(L, most) || !lua_checkstack(co, most))) {
        static const char text[] = "too many values for the coroutine's stack";
        lua_settop(L, 0);
        bind_push_error(L, "decode", text, sizeof text - 1);
        n = 1;
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, n, 0);
    return 0;
}

/* guard(waker, coroutine): a callback of a call that ends the wait of the coroutine: with an err
 * in the place of more values than can be handed on. */
static int guard(lua_State *L)
{
    luaL_checktype(L, 2, LUA_TTHREAD);
    lua_settop(L, 2);
    lua_pushcclosure(L, call_guarded, 2);
    return 1;
}

/* ended_job(): the job of a call that failed at once. */
static int ended_job(lua_State *L)
{
    bind_job *j = lua_newuserdatauv(L, sizeof *j, 0);
    *j = (bind_job){0, 0, 0};
    luaL_setmetatable(L, bind_job_type);
    return 1;
}

void bind_job_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"ended_job", ended_job}, {"guard", guard}, {"tap", tap}, {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"cancel", job_cancel}, {"withdraw", job_withdraw},
        {"done", job_done},     {"running", job_running},
        {"id", job_id},         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    if (luaL_newmetatable(L, bind_job_type)) {
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, job_text);
        lua_setfield(L, -2, "__tostring");
    }
    lua_getfield(L, -1, "__index");
    lua_setfield(L, -3, "job_methods"); /* service.lua adds to them */
    lua_pop(L, 1);
}

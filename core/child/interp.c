/* Commands that reach into the interpreter, each in a protected call. */
#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "child.h"
#include "fd/fd.h"
#include "heap/heap.h"
#include "rpc_server.h"
#include "values/lua_format.h"
#include "wire/protocol.h"

/* The functions that `require "tine"` has besides in a child: see API. */
#define CHILD "tine.child"

enum { CHUNK_NAME_MAX = 100, RANDOM_STATE = 32 };

typedef struct command {
    tine__child *child;
    tine__reader *frame;
    tine__cursor cur;
    bool garbage; /* no host of this version would send it */
} command;

/* ------------------------------------------------------- what a child's Lua can call */

int tine__push_run_args(lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, tine__self.args);
    int args = lua_gettop(L);
    int n = (int)lua_rawlen(L, args);
    luaL_checkstack(L, n, "too many arguments");
    for (int i = 1; i <= n; i++)
        lua_rawgeti(L, args, i);
    for (int i = n; i > 0; i--) {
        lua_pushnil(L);
        lua_rawseti(L, args, i);
    }
    lua_remove(L, args);
    return n;
}

static int run_args(lua_State *L)
{
    lua_settop(L, 0);
    return tine__push_run_args(L);
}

/* exit([code [, close]]), as os.exit: but a child leaves without the exit handlers of what
 * it shares, unless they are asked for. */
static int child_exit(lua_State *L)
{
    int code = 0;
    if (lua_isboolean(L, 1))
        code = lua_toboolean(L, 1) ? 0 : 1;
    else
        code = (int)luaL_optinteger(L, 1, 0);
    if (lua_toboolean(L, 2)) {
        lua_close(tine__self.L);
        exit(code);
    }
    tine__leave(code);
}

/* Where math.random keeps its state: xoshiro256** takes any 32 random bytes. Writing them
 * there spares each worker the pages that a call would touch; where the state looks
 * otherwise than in Lua 5.4, math.randomseed is called instead. */
static void find_random(lua_State *L)
{
    tine__child *c = &tine__self;
    c->randomseed = LUA_NOREF;
    if (lua_getglobal(L, LUA_MATHLIBNAME) != LUA_TTABLE)
        return;
    lua_getfield(L, -1, "random");
    if (lua_iscfunction(L, -1) && lua_getupvalue(L, -1, 1) &&
        lua_type(L, -1) == LUA_TUSERDATA && lua_rawlen(L, -1) == RANDOM_STATE) {
        c->random_state = lua_touserdata(L, -1);
        luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
        lua_getfield(L, -2, "randomseed");
        c->randomseed = luaL_ref(L, LUA_REGISTRYINDEX);
    }
}

/* lookup(name): the function of that name, as for run. */
static int child_lookup(lua_State *L)
{
    size_t len;
    const char *name = luaL_checklstring(L, 1, &len);
    tine__push_function(L, name, len);
    return 1;
}

static int open_state(lua_State *L)
{
    tine__failure_open(L);
    static const luaL_Reg functions[] = {{"run_args", run_args},
                                         {"exit", child_exit},
                                         {"exec", tine__exec},
                                         {"lookup", child_lookup},
                                         {NULL, NULL}};
    bind_error_open(L);
    lua_newtable(L);
    bind_fd_open(L);
    bind_fd_set_default_blocking(1);
    lua_newtable(L);
    tine__self.args = luaL_ref(L, LUA_REGISTRYINDEX);
    luaL_newlib(L, functions);
    tine__rpc_server_functions(L);
    tine__interrupt_open(L);
    tine__gc_open(L);
    lua_setfield(L, LUA_REGISTRYINDEX, CHILD);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    if (lua_getfield(L, -1, LUA_OSLIBNAME) == LUA_TTABLE) {
        lua_pushcfunction(L, child_exit);
        lua_setfield(L, -2, "exit");
    }
    lua_pop(L, 1);
    find_random(L);
    bind_fd_push(L, -1);
    tine__self.sock = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

void tine__interp_open(tine__child *c)
{
    if (!lua_checkstack(c->L, LUA_MINSTACK))
        tine__leave(1);
    lua_pushcfunction(c->L, open_state);
    if (lua_pcall(c->L, 0, 0, 0) != LUA_OK) {
        fprintf(stderr, "tine: cannot start: %s\n", lua_tostring(c->L, -1));
        tine__leave(1);
    }
}

void tine__interp_reseed(tine__child *c)
{
    lua_Integer seed[2];
    if (c->random_state)
        syscall(SYS_getrandom, c->random_state, RANDOM_STATE, 0);
    if (c->randomseed < 0 || getrandom(seed, sizeof seed, 0) != sizeof seed)
        return;
    lua_rawgeti(c->L, LUA_REGISTRYINDEX, c->randomseed);
    lua_pushinteger(c->L, seed[0]);
    lua_pushinteger(c->L, seed[1]);
    if (lua_pcall(c->L, 2, 0, 0) != LUA_OK)
        lua_pop(c->L, 1);
}

/* ------------------------------------------------------------------- commands */

static int garbage(lua_State *L, command *cmd)
{
    cmd->garbage = true;
    return luaL_error(L, "the command socket brought garbage in a command");
}

/* Text names itself in tracebacks by its first line. */
static void load_text(lua_State *L, tine_str code)
{
    char name[CHUNK_NAME_MAX + 2];
    const char *text = code.data;
    size_t n = code.len < CHUNK_NAME_MAX ? code.len : CHUNK_NAME_MAX;
    const char *nl = n ? memchr(text, '\n', n) : NULL;
    if (nl)
        n = (size_t)(nl - text) + 1;
    if (n)
        memcpy(name, text, n);
    name[n] = 0;
    if (n && (name[0] == '@' || name[0] == '='))
        name[0] = ' ';
    if (code.len && text[0] == LUA_SIGNATURE[0])
        luaL_error(L, "bytecode instead of source text");
    if (luaL_loadbufferx(L, text, code.len, name, "t") != LUA_OK)
        lua_error(L);
}

static void push_strings(lua_State *L, command *cmd, uint32_t n)
{
    tine__cursor *cur = &cmd->cur;
    if (n > (size_t)(cur->end - cur->at) / 4)
        garbage(L, cmd);
    luaL_checkstack(L, (int)n, "too many arguments");
    for (uint32_t i = 0; i < n; i++) {
        tine_str s = tine__get_str(cur);
        lua_pushlstring(L, s.data, s.len);
    }
    if (!tine__get_done(cur))
        garbage(L, cmd);
}

/* Pushes what was encoded; a first value that is text becomes the function it is. */
static int push_plain(lua_State *L, command *cmd, tine_str code)
{
    int base = lua_gettop(L) + 1;
    int n = tine__lua_decode(L, code.data, code.len, 1);
    if (n < 0) {
        cmd->garbage = true;
        return lua_error(L);
    }
    if (n > 0 && lua_type(L, base) == LUA_TSTRING) {
        tine_str text;
        text.data = lua_tolstring(L, base, &text.len);
        load_text(L, text);
        lua_replace(L, base);
    }
    if (n < 1 || !lua_isfunction(L, base))
        garbage(L, cmd);
    return n;
}

static int do_eval(lua_State *L, command *cmd)
{
    uint32_t kind = tine__get_u32(&cmd->cur);
    tine_str code = tine__get_str(&cmd->cur);
    uint32_t n = tine__get_u32(&cmd->cur);
    if (cmd->cur.bad)
        return garbage(L, cmd);
    if (kind == TINE_PLAIN) {
        n = (uint32_t)push_plain(L, cmd, code) - 1;
    } else {
        load_text(L, code);
        push_strings(L, cmd, n);
    }
    /* The code may be large: it is not kept while it runs. */
    tine__reader_next(cmd->frame);
    lua_call(L, (int)n, 0);
    return 0;
}

static int do_require(lua_State *L, command *cmd)
{
    uint32_t n = tine__get_u32(&cmd->cur);
    int first = lua_gettop(L) + 1;
    push_strings(L, cmd, n);
    for (uint32_t i = 0; i < n; i++) {
        lua_getglobal(L, "require");
        lua_pushvalue(L, first + (int)i);
        lua_call(L, 1, 0);
    }
    return 0;
}

static int do_args(lua_State *L, command *cmd)
{
    uint32_t n = tine__get_u32(&cmd->cur);
    lua_rawgeti(L, LUA_REGISTRYINDEX, tine__self.args);
    int args = lua_gettop(L);
    if (n > (size_t)(cmd->cur.end - cmd->cur.at) / 4)
        return garbage(L, cmd);
    for (uint32_t i = 0; i < n; i++) {
        tine_str s = tine__get_str(&cmd->cur);
        lua_pushlstring(L, s.data, s.len);
        lua_rawseti(L, args, (lua_Integer)lua_rawlen(L, args) + 1);
    }
    return tine__get_done(&cmd->cur) ? 0 : garbage(L, cmd);
}

static int do_fds(lua_State *L, command *cmd)
{
    tine__reader *frame = cmd->frame;
    lua_rawgeti(L, LUA_REGISTRYINDEX, tine__self.args);
    int args = lua_gettop(L);
    for (size_t i = 0; i < frame->nfds; i++) {
        int fd = frame->fds[i];
        frame->fds[i] = -1;
        bind_fd_push(L, fd);
        lua_rawseti(L, args, (lua_Integer)lua_rawlen(L, args) + 1);
    }
    return 0;
}

static int do_run(lua_State *L, command *cmd)
{
    tine__child *c = cmd->child;
    uint32_t kind = tine__get_u32(&cmd->cur);
    tine_str func = tine__get_str(&cmd->cur);
    if (!tine__get_done(&cmd->cur))
        return garbage(L, cmd);
    if (kind == TINE_PLAIN) {
        if (push_plain(L, cmd, func) != 1)
            return garbage(L, cmd);
    } else {
        tine__push_function(L, func.data, func.len);
    }
    tine__reader_next(cmd->frame);
    int base = lua_gettop(L);
    int fd = c->cmd;
    c->cmd = -1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->sock);
    bind_fd_give(L, -1, fd);
    luaL_unref(L, LUA_REGISTRYINDEX, c->sock);
    tine__push_run_args(L);
    lua_call(L, lua_gettop(L) - base, 0);
    return 0;
}

static int do_command(lua_State *L)
{
    command *cmd = lua_touserdata(L, 1);
    lua_settop(L, 0);
    switch (cmd->frame->type) {
    case TINE__FRAME_EVAL:
        return do_eval(L, cmd);
    case TINE__FRAME_REQUIRE:
        return do_require(L, cmd);
    case TINE__FRAME_ARGS:
        return do_args(L, cmd);
    case TINE__FRAME_FDS:
        return do_fds(L, cmd);
    case TINE__FRAME_RUN:
        return do_run(L, cmd);
    default:
        return 0;
    }
}

static void fail_with_value(tine__child *c, int status, bool garbage)
{
    tine__failure f;
    tine__failure_from(c->L, status, garbage ? TINE_KIND_PROTOCOL : TINE_KIND_EXCEPTION,
                       &f);
    tine__fail(c, f.kind, status == LUA_ERRMEM ? ENOMEM : 0, f.message.data,
               f.message.len, f.traceback.data, f.traceback.len);
}

static bool run_protected(tine__child *c, tine__reader *frame)
{
    lua_State *L = c->L;
    int top = lua_gettop(L);
    command cmd = {c, frame, {frame->body.data, NULL, false}, false};
    cmd.cur.end = cmd.cur.at + frame->body.len;
    if (!lua_checkstack(L, LUA_MINSTACK))
        return false;
    lua_pushcfunction(L, tine__on_error);
    lua_pushcfunction(L, do_command);
    lua_pushlightuserdata(L, &cmd);
    int status = lua_pcall(L, 1, 0, top + 1);
    if (status != LUA_OK)
        fail_with_value(c, status, cmd.garbage);
    lua_settop(L, top);
    tine__gc_relieve(L);
    return status == LUA_OK;
}

static bool is_user_code(int type)
{
    return type == TINE__FRAME_EVAL || type == TINE__FRAME_REQUIRE;
}

void tine__interp_command(tine__child *c, tine__reader *frame)
{
    static const char lost[] =
        "the process has no descriptor free for one that was sent";
    sigset_t before;
    if (frame->fds_lost) {
        tine__fail(c, TINE_KIND_SYSTEM, EMFILE, lost, sizeof lost - 1, "", 0);
        return;
    }
    bool user_code = is_user_code(frame->type);
    c->flushed = c->flushed && !user_code;
    /* Programs that the code starts inherit the mask. */
    if (user_code)
        sigprocmask(SIG_SETMASK, &c->waiting_mask, &before);
    run_protected(c, frame);
    tine__heap_changed(c->L);
    if (!user_code)
        return;
    tine__check_sigchld(c);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

int tine__interp_run(tine__child *c, tine__reader *frame)
{
    tine__reap_by_signal();
    sigprocmask(SIG_SETMASK, &c->waiting_mask, NULL);
    return run_protected(c, frame) ? 0 : 1;
}

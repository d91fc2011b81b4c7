/* Descriptors among the values of calls: while they are encoded, what stands for them are indices. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#include "codec_priv.h"

enum { MOST = 1024 };

void tine__codec_pass_fds(tine__codec *c, int on)
{
    c->passes_fds = on && c->kind != TINE_STRINGS && c->kind != TINE_SOURCE;
}

bind_fds *tine__codec_out(tine__codec *c)
{
    return c->passes_fds ? &c->out : NULL;
}

const int *tine__codec_fds(const tine__codec *c, size_t *n)
{
    *n = c->out.n;
    return c->out.fd;
}

int bind_fds_add(lua_State *L, bind_fds *fds, int fd)
{
    if (fcntl(fd, F_GETFD) < 0) {
        lua_pushliteral(L, "a closed descriptor");
        return -1;
    }
    if (fds->n == MOST) {
        lua_pushfstring(L, "more than %d descriptors in one call", (int)MOST);
        return -1;
    }
    if (fds->n == fds->cap) {
        size_t cap = fds->cap ? fds->cap * 2 : 8;
        int *more = realloc(fds->fd, cap * sizeof *more);
        if (!more) {
            lua_pushliteral(L, "a descriptor, and not enough memory");
            return -1;
        }
        fds->fd = more;
        fds->cap = cap;
    }
    fds->fd[fds->n] = fd;
    return (int)fds->n++;
}

/* With the value: its descriptor. */
static int ask(lua_State *L)
{
    lua_pushinteger(L, bind_fd_check(L, 1, 1));
    return 1;
}

int bind_fds_ask(lua_State *L, int idx)
{
    int fd = -2;
    idx = lua_absindex(L, idx);
    luaL_checkstack(L, 4, NULL);
    lua_pushcfunction(L, ask);
    lua_pushvalue(L, idx);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK)
        fd = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return fd;
}

int bind_fds_put(lua_State *L, bind_fds *fds, int idx)
{
    int fd = bind_fd_peek(L, idx);
    if (fd == -2 && bind_fd_is_object(L, idx))
        fd = bind_fds_ask(L, idx);
    if (fd == -1)
        lua_pushliteral(L, "a closed descriptor");
    return fd < 0 ? fd : bind_fds_add(L, fds, fd);
}

int bind_fds_push(lua_State *L, bind_fds *fds, uint32_t index)
{
    if (!fds || index >= fds->n) {
        lua_pushliteral(L, "a descriptor that did not come");
        return 0;
    }
    if (fds->fd[index] < 0) {
        lua_pushliteral(L, "a descriptor that was lost: too many open files");
        return 0;
    }
    int fd = fds->fd[index];
    fds->fd[index] = -1;
    bind_fd_push(L, fd);
    return 1;
}

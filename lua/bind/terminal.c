/* What the command line asks of the descriptors it was started with, and of its files. */
#include <fcntl.h>
#include <lauxlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "state.h"

int bind_terminal_width(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1);
    struct winsize size;

    if (!isatty(fd)) {
        lua_pushnil(L);
        return 1;
    }
    if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        size.ws_col = 80;
    lua_pushinteger(L, size.ws_col);
    return 1;
}

/* By fstat and lseek: stdio reads ahead when it is asked where the end is. A path is not opened:
 * of a FIFO, the writer would see it. */
int bind_unread(lua_State *L)
{
    struct stat st;
    off_t here = 0;
    int rc;

    if (lua_type(L, 1) == LUA_TSTRING) {
        rc = stat(lua_tostring(L, 1), &st);
    } else {
        int fd = (int)luaL_checkinteger(L, 1);

        rc = fstat(fd, &st);
        if (rc == 0)
            here = lseek(fd, 0, SEEK_CUR);
    }
    if (rc != 0 || !S_ISREG(st.st_mode) || here < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, st.st_size > here ? st.st_size - here : 0);
    return 1;
}

/* Without waiting for the writer of a FIFO. As O_NONBLOCK is gone then, each read is preceded by a
 * poll, which on a FIFO ends when there has been a writer. */
int bind_open_input(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int flags;

    if (fd < 0)
        return luaL_fileresult(L, 0, path);
    flags = fcntl(fd, F_GETFL);
    if (flags >= 0)
        (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    lua_pushinteger(L, fd);
    return 1;
}

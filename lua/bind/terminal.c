/* What the command line asks of the descriptors it was started with. */
#include <lauxlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "link.h"

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

/* By fstat and lseek: stdio reads ahead when it is asked where the end is. */
int bind_unread(lua_State *L)
{
    int fd = (int)luaL_checkinteger(L, 1);
    struct stat st;
    off_t here;

    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        (here = lseek(fd, 0, SEEK_CUR)) < 0)
        lua_pushnil(L);
    else
        lua_pushinteger(L, st.st_size > here ? st.st_size - here : 0);
    return 1;
}

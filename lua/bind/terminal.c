/* What the command line asks of its terminal. */
#include <lauxlib.h>
#include <sys/ioctl.h>
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

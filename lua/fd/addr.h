/* addr.c: addresses of sockets, from text and to text. For sock.c. Knows nothing of sockets that
 * are open. */
#ifndef TINE_FD_ADDR_H
#define TINE_FD_ADDR_H

#include <lua.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ADDRESSES_MAX 8 /* of one name */

struct bind_address {
    socklen_t len;
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } to;
};

/* What the text of an address stands for, and how far connect has got with it. */
struct bind_target {
    int n, next;
    bool pending; /* addresses[next - 1] is being connected */
    struct bind_address addresses[ADDRESSES_MAX];
};

/* Fills t from the string at arg, which is an argument of the running function; what begins
 * messages about failures. Returns 0, or pushes nil and an err and returns 2. Looks names
 * up, which may block. */
int bind_target_parse(lua_State *L, int arg, const char *what, struct bind_target *t);
/* Pushes the text of an address and returns 1, or pushes nil and an err and returns 2. */
int bind_address_push(lua_State *L, const struct bind_address *a, const char *what);

#endif

/* Addresses of sockets, as text and as the system has them: "host:port", "[::1]:port",
 * "unix:/path", "unix:@name".
 * Goes into tine-template too: it needs Lua and the system, nothing of tine.h. */
#include "addr.h"
#include "fd.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include <lauxlib.h>

#define UNIX_PATH_MAX (sizeof(((struct sockaddr_un *)0)->sun_path) - 1)

/* Addresses from text. The parsers return 0, or push nil, err and return 2. */

static void malformed(lua_State *L, int arg, const char *text)
{
    lua_pushfstring(L,
                    "malformed address '%s': \"host:port\", \"[::1]:port\" or "
                    "\"unix:/path\" expected",
                    text);
    luaL_argerror(L, arg, lua_tostring(L, -1));
}

static int parse_unix(lua_State *L, int arg, const char *what, struct bind_target *t)
{
    size_t len;
    const char *text = lua_tolstring(L, arg, &len);
    const char *path = text + strlen("unix:");
    bool abstract = *path == '@';
    struct sockaddr_un *un = &t->addresses[0].to.un;

    len -= strlen("unix:");
    if (len <= (size_t)abstract || (!abstract && strlen(path) != len))
        malformed(L, arg, text);
    if (len > UNIX_PATH_MAX)
        return bind_fail_text(
            L, "system", ENAMETOOLONG,
            "%s: the path has %d bytes, the system takes %d (ENAMETOOLONG)", what,
            (int)len, (int)UNIX_PATH_MAX);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, len);
    un->sun_path[abstract ? 0 : len] = '\0';
    t->addresses[0].len =
        (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + !abstract);
    t->n = 1;
    return 0;
}

/* Splits "host:port" and "[host]:port". Returns the port's text or NULL. */
static const char *split(const char *text, size_t len, char *host, size_t size,
                         bool *bracketed)
{
    const char *colon = strrchr(text, ':');
    const char *start = text;
    const char *end = colon;
    size_t ndigits;

    if (strlen(text) != len || !colon)
        return NULL;
    ndigits = strspn(colon + 1, "0123456789");
    if (!ndigits || ndigits > 5 || colon[1 + ndigits])
        return NULL;
    *bracketed = *text == '[';
    if (*bracketed) {
        start = text + 1;
        end = colon - 1;
        if (end < start || *end != ']')
            return NULL;
    }
    if (end <= start || (size_t)(end - start) >= size)
        return NULL;
    memcpy(host, start, (size_t)(end - start));
    host[end - start] = '\0';
    if ((strchr(host, ':') != NULL) != *bracketed)
        return NULL;
    return colon + 1;
}

static int fail_lookup(lua_State *L, const char *what, int code)
{
    if (code == EAI_SYSTEM)
        return bind_fail_errno(L, what, errno);
    return bind_fail_text(L, "system", 0, "%s: %s", what, gai_strerror(code));
}

static int parse_inet(lua_State *L, int arg, const char *what, struct bind_target *t)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *list;
    char host[256];
    bool bracketed = false;
    size_t len;
    const char *text = lua_tolstring(L, arg, &len);
    const char *port = split(text, len, host, sizeof host, &bracketed);
    int code;

    if (!port || strtol(port, NULL, 10) > 65535)
        malformed(L, arg, text);
    code = getaddrinfo(host, port, &hints, &list);
    if (code == EAI_NONAME && bracketed)
        malformed(L, arg, text);
    if (code == EAI_NONAME) {
        hints.ai_flags = AI_NUMERICSERV;
        code = getaddrinfo(host, port, &hints, &list);
    }
    if (code)
        return fail_lookup(L, what, code);
    for (struct addrinfo *a = list; a && t->n < ADDRESSES_MAX; a = a->ai_next) {
        struct bind_address *address = &t->addresses[t->n];
        if (a->ai_addrlen > sizeof address->to)
            continue;
        memcpy(&address->to, a->ai_addr, a->ai_addrlen);
        address->len = a->ai_addrlen;
        t->n++;
    }
    freeaddrinfo(list);
    return 0;
}

int bind_target_parse(lua_State *L, int arg, const char *what, struct bind_target *t)
{
    memset(t, 0, sizeof *t);
    if (strncmp(lua_tostring(L, arg), "unix:", strlen("unix:")) == 0)
        return parse_unix(L, arg, what, t);
    return parse_inet(L, arg, what, t);
}

/* Text from addresses. */

static void push_unix(lua_State *L, const struct sockaddr_un *un, socklen_t addrlen)
{
    size_t size = addrlen - offsetof(struct sockaddr_un, sun_path);

    if (addrlen <= offsetof(struct sockaddr_un, sun_path)) {
        lua_pushliteral(L, "unix:");
    } else if (un->sun_path[0] == '\0') {
        lua_pushliteral(L, "unix:@");
        lua_pushlstring(L, un->sun_path + 1, size - 1);
        lua_concat(L, 2);
    } else {
        lua_pushstring(L, un->sun_path[0] == '@' ? "unix:./" : "unix:");
        lua_pushlstring(L, un->sun_path, strnlen(un->sun_path, size));
        lua_concat(L, 2);
    }
}

int bind_address_push(lua_State *L, const struct bind_address *a, const char *what)
{
    const struct sockaddr *sa = &a->to.any;
    char host[NI_MAXHOST];
    char port[NI_MAXSERV];
    int code;

    if (sa->sa_family == AF_UNIX) {
        push_unix(L, &a->to.un, a->len);
        return 1;
    }
    if (sa->sa_family != AF_INET && sa->sa_family != AF_INET6)
        return bind_fail_errno(L, what, EAFNOSUPPORT);
    code = getnameinfo(sa, a->len, host, sizeof host, port, sizeof port,
                       NI_NUMERICHOST | NI_NUMERICSERV);
    if (code)
        return fail_lookup(L, what, code);
    lua_pushfstring(L, sa->sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    return 1;
}

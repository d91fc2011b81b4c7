/* What the files of the Lua binding share with workers: errors and descriptors. The files that
 * make them (error.c, fd*.c, sock.c, addr.c) know nothing of the core: they need Lua and the
 * system. */
#ifndef TINE_FD_FD_H
#define TINE_FD_FD_H

#include <lua.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* error.c: the err tables of the Lua API, with the metatable "tine.error". */

#define BIND_ERROR_TYPE "tine.error"

/* Makes the metatable. Leaves the stack as it was; needs no module table. */
void bind_error_open(lua_State *L);
/* Pushes {kind=, message=} with the metatable; further fields are the caller's to set. */
void bind_push_error(lua_State *L, const char *kind, const char *message, size_t len);
/* Whether the value at idx is such an err. */
int bind_is_error(lua_State *L, int idx);
/* Pushes what to say of an error value, at a positive idx: its text or its type, never its
 * address, which means nothing in another process. Raises what its __tostring raises. */
void bind_push_error_text(lua_State *L, int idx);
/* Pushes nil and an err whose message is as of lua_pushfstring; err: its errno, or 0. Returns 2. */
int bind_fail_text(lua_State *L, const char *kind, int err, const char *format, ...);
/* The same of kind "system", with the message "WHAT: strerror". */
int bind_fail_errno(lua_State *L, const char *what, int err);

/* fd.c and its like (see fd_priv.h): the userdata "tine.fd".
 *
 * A method that would have to wait asks the function in the registry at "tine.fd.wait", if
 * there is one: wait(fd, "r" or "w", seconds or nil) returns true when it has waited for that, or
 * for so long, perhaps by yielding; nil or false where it cannot wait, and nil, err to make the
 * method fail with err. When an
 * object on which wait has been called is closed or gives up its descriptor, the function
 * at "tine.fd.closing" is called as closing(fd, number): the object is closed by then, the
 * descriptor still open. It must wake those who wait, and must not raise. */
#define BIND_FD_WAIT "tine.fd.wait"
#define BIND_FD_CLOSING "tine.fd.closing"

/* Not 0: the code that runs is to end: methods that sleep are not to go on with it when a signal
 * has woken them; they fail with EINTR. Set and cleared by whoever sends signals, also in their
 * handlers. */
extern volatile sig_atomic_t bind_fd_interrupted;
/* Not 0: the code that runs is not to be ended now, since nobody would hear of its error. */
extern volatile sig_atomic_t bind_fd_shielded;

/* Registers the metatable and sets listen, connect and socketpair in the table on top. */
void bind_fd_open(lua_State *L);
/* Pushes a tine.fd that owns fd (-1: none yet). If that raises (no memory), fd has been closed. */
void bind_fd_push(lua_State *L, int fd);
/* Gives the tine.fd at idx, which was pushed with -1, its descriptor. Asks for no memory. */
void bind_fd_give(lua_State *L, int idx, int fd);
/* The open descriptor behind the value at idx: an integer, a Lua file, a tine.fd, or an
 * object with a method fileno() or getfd(). Borrowed. Raises an argument error for arg
 * (at the caller's line) for anything else and for a closed one; an integer is checked
 * with fcntl. */
int bind_fd_check(lua_State *L, int idx, int arg);
/* The descriptor of the tine.fd or Lua file at idx, without calling Lua; -1 where it is closed, -2
 * where that is something else. */
int bind_fd_peek(lua_State *L, int idx);
/* Whether the value at idx may be an object with fileno() or getfd(), which asks Lua. */
int bind_fd_is_object(lua_State *L, int idx);
/* In a process forked from this state: every tine.fd made before is closed, except those
 * whose descriptor is in keep. Nothing is closed in the system: that was the fork's. */
void bind_fd_forked(const int *keep, size_t nkeep);
/* Whether objects made from now on, in any state of this process, block where no "wait"
 * helps, and whether the sockets made for them do. At first they do not. */
void bind_fd_set_default_blocking(int blocking);

#endif

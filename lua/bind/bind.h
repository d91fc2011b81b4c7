/* What the files of the Lua binding share. The binding knows of the core only tine.h.
 * Files that also go into tine-template (error.c, fd*.c, sock.c, addr.c, plain.c) know
 * nothing of it at all: they need Lua and the system. */
#ifndef TINE_BIND_H
#define TINE_BIND_H

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
/* Pushes nil and an err of kind "system" with errno and a message "WHAT: strerror". Returns 2. */
int bind_fail_errno(lua_State *L, const char *what, int err);

/* fd.c and its like (see fd.h): the userdata "tine.fd".
 *
 * A method that would have to wait asks the function in the registry at "tine.fd.wait", if
 * there is one: wait(fd, "r" or "w") returns true when it has waited, perhaps by yielding,
 * nil or false where it cannot wait, and nil, err to make the method fail with err. When an
 * object on which wait has been called is closed or gives up its descriptor, the function
 * at "tine.fd.closing" is called as closing(fd, number): the object is closed by then, the
 * descriptor still open. It must wake those who wait, and must not raise. */
#define BIND_FD_WAIT "tine.fd.wait"
#define BIND_FD_CLOSING "tine.fd.closing"

/* Not 0: the code that runs is to end: methods that sleep are not to go on with it when a signal
 * has woken them; they fail with EINTR. Set and cleared by whoever sends signals, also in their
 * handlers. */
extern volatile sig_atomic_t bind_fd_interrupted;

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

/* plain.c: plain Lua data as octets and back, see there for what is plain. */

/* Descriptors among values: what is encoded is the index. Zeros is empty. */
typedef struct bind_fds {
    int *fd; /* borrowed of their objects; when decoding, taken by being set to -1 */
    size_t n, cap;
} bind_fds;

/* The index that an open descriptor gets; -1 with a message pushed. */
int bind_fds_add(lua_State *L, bind_fds *fds, int fd);
/* The descriptor of the object at idx, which is asked: Lua is called; -2 where it has none. */
int bind_fds_ask(lua_State *L, int idx);
/* The index of the value at idx, as bind_fd_check takes it but for numbers; -1 with a message
 * pushed where it is closed; -2 where it is none. May call Lua. */
int bind_fds_put(lua_State *L, bind_fds *fds, int idx);
/* Pushes a tine.fd that owns the one with that index, or a message: then returns 0. */
int bind_fds_push(lua_State *L, bind_fds *fds, uint32_t index);

/* What refusals call the light userdata NULL. */
#define BIND_NULL_TEXT                                                                 \
    "a light userdata (cjson.null? the serialiser \"json\" has it; others have nil "   \
    "and false)"

/* Whether Lua functions are plain, too. */
enum {
    BIND_NO_FUNCTIONS,
    BIND_CODE,     /* they are: the first value is code, and the others its arguments */
    BIND_FUNCTIONS /* they are; all values are arguments */
};

/* Pushes a string that encodes the n values from index first. On failure pushes a message
 * that names the value, such as "upvalue 'conf'.list[7]: a userdata" (of code), "args[2].x: a
 * userdata". Returns 1 for success, else 0. */
int bind_plain_encode(lua_State *L, int first, int n, int functions);
/* The same with descriptors; fds NULL: they are refused. */
int bind_plain_encode_fds(lua_State *L, int first, int n, int functions, bind_fds *fds);
/* Pushes the values encoded in data and returns how many. -1 with a message pushed when
 * the data is malformed, or holds a function and functions is 0: for what comes from the
 * host itself alone it may be anything else, since bytecode can do anything. */
int bind_plain_decode(lua_State *L, const char *data, size_t len, int functions);
/* The same with descriptors; fds NULL: none came. */
int bind_plain_decode_fds(lua_State *L, const char *data, size_t len, int functions,
                          bind_fds *fds);
int bind_plain_open(lua_State *L); /* sets encode and decode in the table on top */

#endif

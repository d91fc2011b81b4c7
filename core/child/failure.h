/* What an error in the user's code was: in evals, entry functions and calls alike. Knows nothing
 * of who is told. */
#ifndef TINE_CHILD_FAILURE_H
#define TINE_CHILD_FAILURE_H

#include <lua.h>

#include "tine.h"

typedef struct tine__failure {
    tine_kind kind;
    tine_str message, traceback;
    tine_str value; /* serialised; data NULL: none */
    lua_State *L;   /* at at there: an error that is no text; 0: none */
    int at;
} tine__failure;

/* Once for each state, protected. */
void tine__failure_open(lua_State *L);
/* Message handler: notes what the error is, and returns it as it was. Lua's parser has its
 * errors pass through the handler on their way to whoever called load. */
int tine__on_error(lua_State *L);
/* Notes what the error on top is, which has passed through no handler. */
void tine__failure_note(lua_State *L);
/* What tine__on_error has noted, after a protected call that ended with status and the value on
 * top. Strings stay on the stack, which needs room for them. kind: what it was if it does not say
 * otherwise itself. */
void tine__failure_from(lua_State *L, int status, tine_kind kind, tine__failure *f);

#endif

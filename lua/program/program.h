/* How a program becomes an interpreter; see tine_main. Knows nothing of what the program is else. */
#ifndef TINE_PROGRAM_PROGRAM_H
#define TINE_PROGRAM_PROGRAM_H

#include <stdbool.h>

#include "tine.h"

/* Whether the arguments are those of an interpreter, or a sweeper. */
bool tine__program_is_asked(int argc, char **argv);
/* Serves as asked. setup may be NULL. Never returns. */
void tine__program_serve(char **argv, void (*setup)(struct lua_State *L))
    __attribute__((noreturn));

#endif

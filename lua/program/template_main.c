/* tine-template: the executable that a host execs to get an interpreter. */
#include <lua.h>
#include <stdio.h>
#include <string.h>

#include "program.h"
#include "wire/protocol.h"

static int usage(FILE *to)
{
    fprintf(
        to,
        "tine-template %s (%s, protocol %d)\n"
        "The interpreter of tine's processes. A host program starts it with a socket:\n"
        "  tine-template --serve FD PARENT\n"
        "To serve on a descriptor by hand, see `tine serve --help`.\n",
        tine_version(), LUA_RELEASE, TINE__PROTOCOL);
    return to == stdout ? 0 : 2;
}

int main(int argc, char **argv)
{
    if (argc == 2 &&
        (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "--help") == 0))
        return usage(stdout);
    if (!tine__program_is_asked(argc, argv))
        return usage(stderr);
    tine__program_serve(argv, NULL);
}

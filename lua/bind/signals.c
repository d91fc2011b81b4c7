/* Names of signals, and an end by one. */
#include "state.h"

#include <signal.h>
#include <string.h>

#include <lauxlib.h>

static const struct {
    const char *name;
    int number;
} signals[] = {
    {"HUP", SIGHUP},     {"INT", SIGINT},       {"QUIT", SIGQUIT}, {"ILL", SIGILL},
    {"TRAP", SIGTRAP},   {"ABRT", SIGABRT},     {"BUS", SIGBUS},   {"FPE", SIGFPE},
    {"KILL", SIGKILL},   {"USR1", SIGUSR1},     {"SEGV", SIGSEGV}, {"USR2", SIGUSR2},
    {"PIPE", SIGPIPE},   {"ALRM", SIGALRM},     {"TERM", SIGTERM}, {"CHLD", SIGCHLD},
    {"CONT", SIGCONT},   {"STOP", SIGSTOP},     {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN},
    {"TTOU", SIGTTOU},   {"URG", SIGURG},       {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ},
    {"PROF", SIGPROF},   {"VTALRM", SIGVTALRM}, {"SYS", SIGSYS},
#ifdef SIGWINCH
    {"WINCH", SIGWINCH},
#endif
#ifdef SIGIO
    {"IO", SIGIO},
#endif
#ifdef SIGPWR
    {"PWR", SIGPWR},
#endif
};

int bind_signal_check(lua_State *L, int idx)
{
    const char *name;
    size_t i;

    if (lua_type(L, idx) == LUA_TNUMBER) {
        lua_Integer number = luaL_checkinteger(L, idx);

        luaL_argcheck(L, number >= 0 && number < NSIG, idx, "no such signal");
        return (int)number;
    }
    name = luaL_checkstring(L, idx);
    if (strncmp(name, "SIG", 3) == 0)
        name += 3;
    for (i = 0; i < sizeof signals / sizeof *signals; i++) {
        if (strcmp(name, signals[i].name) == 0)
            return signals[i].number;
    }
    return luaL_argerror(L, idx, lua_pushfstring(L, "no signal is named '%s'", name));
}

int bind_signal_raise(lua_State *L)
{
    int signo = bind_signal_check(L, 1);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signo);
    signal(signo, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    raise(signo);
    return 0;
}

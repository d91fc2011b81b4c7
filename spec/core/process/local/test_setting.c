/* The default template is made anew when what it was made in has changed. */
#include "process/local/setting.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "host_test.h"

/* Changes one thing, tells whether that was seen, and changes it back. */
static void check_change(tine_host *host, void (*change)(tine_host *host, bool back))
{
    tine__setting *s = tine__setting_take(host);
    CHECK(s && tine__setting_holds(s, host));
    change(host, false);
    CHECK(!tine__setting_holds(s, host));
    change(host, true);
    CHECK(tine__setting_holds(s, host));
    free(s);
}

static void new_variable(tine_host *host, bool back)
{
    (void)host;
    CHECK((back ? unsetenv("TINE_A") : setenv("TINE_A", "1", 1)) == 0);
}

static void other_value(tine_host *host, bool back)
{
    (void)host;
    CHECK(setenv("TINE_B", back ? "value" : "valve", 1) == 0);
}

static char in_place[] = "TINE_C=before";

static void written_over(tine_host *host, bool back)
{
    (void)host;
    in_place[9] = back ? 'f' : 'v';
}

static void no_environment(tine_host *host, bool back)
{
    static char **before;
    (void)host;
    if (back) {
        environ = before;
    } else {
        before = environ;
        environ = NULL;
    }
}

static void directory(tine_host *host, bool back)
{
    static char before[4096];
    (void)host;
    if (!back)
        CHECK(getcwd(before, sizeof before));
    CHECK(chdir(back ? before : "/") == 0);
}

static void module_path(tine_host *host, bool back)
{
    CHECK(tine_host_set_lua_path(host, back ? "a;b" : "a;b;c", "d") == 0);
}

static void module_cpath(tine_host *host, bool back)
{
    CHECK(tine_host_set_lua_path(host, "a;b", back ? "d" : "e") == 0);
}

/* The same text, cut at another place. */
static void shifted(tine_host *host, bool back)
{
    CHECK(tine_host_set_lua_path(host, back ? "a;b" : "a;", back ? "d" : "bd") == 0);
}

static void changes(tine_host *host)
{
    CHECK(setenv("TINE_B", "value", 1) == 0);
    CHECK(putenv(in_place) == 0);
    CHECK(tine_host_set_lua_path(host, "a;b", "d") == 0);
    check_change(host, new_variable);
    check_change(host, other_value);
    written_over(host, true);
    check_change(host, written_over);
    check_change(host, no_environment);
    check_change(host, directory);
    check_change(host, module_path);
    check_change(host, module_cpath);
    check_change(host, shifted);
    CHECK(unsetenv("TINE_C") == 0);
}

/* What a new process says of itself, and of the template that it is a fork of. */
static const char *ask_new(tine_host *host, char *parent)
{
    static const char code[] =
        "function say(s)\n"
        "  local p = io.popen('pwd')\n"
        "  local dir = p:read('l')\n"
        "  p:close()\n"
        "  local f = io.open('/proc/self/stat')\n"
        "  local parent = f:read('a'):match('^.*%) %a (%d+)')\n"
        "  s:write(parent .. ' ' .. tostring(os.getenv('TINE_A')) .. ' ' .. dir)\n"
        "end";
    static char answer[200];
    tine_proc *p;
    seen s;
    CHECK(tine_proc_new(host, NULL, &p) == 0);
    see(&s, p);
    CHECK(tine_proc_eval(p, TINE_TEXT, code, sizeof code - 1, NULL, 0) == 0);
    (void)snprintf(answer, sizeof answer, "%s", converse(host, p, &s, "say", ""));
    await(host, &s.exits, 1);
    tine_proc_close(p);
    size_t n = strcspn(answer, " ");
    CHECK(n < 20 && answer[n]);
    memcpy(parent, answer, n);
    parent[n] = 0;
    return answer + n + 1;
}

static void template_anew(tine_host *host)
{
    char first[20], second[20], third[20], fourth[20];
    char before[4096];
    CHECK(getcwd(before, sizeof before));
    CHECK(strncmp(ask_new(host, first), "nil ", 4) == 0);
    CHECK(strncmp(ask_new(host, second), "nil ", 4) == 0);
    CHECK(strcmp(first, second) == 0);
    CHECK(setenv("TINE_A", "set", 1) == 0);
    CHECK(strncmp(ask_new(host, third), "set ", 4) == 0);
    CHECK(strcmp(first, third) != 0);
    CHECK(chdir("/") == 0);
    CHECK(strcmp(ask_new(host, fourth), "set /") == 0);
    CHECK(strcmp(third, fourth) != 0);
    CHECK(chdir(before) == 0);
    CHECK(unsetenv("TINE_A") == 0);
}

int main(void)
{
    host_run("changes", changes);
    host_run("template_anew", template_anew);
    return 0;
}

/* Errors as values: their messages have their length, and end where the buffer does. */
#include "base/error.h"

#include "test.h"

static void says(const tine_error *err, const char *text)
{
    CHECK_INT(err->message_len, strlen(text));
    CHECK(memcmp(err->message, text, err->message_len) == 0);
}

static void made(void)
{
    tine_error err = tine__error_make(TINE_KIND_CLOSED, 7, "it was closed");
    says(&err, "it was closed");
    CHECK_INT(err.kind, TINE_KIND_CLOSED);
    CHECK_INT(err.pid, 7);
    CHECK_INT(err.code, -1);
    CHECK(!err.traceback && !err.status && !err.signal && !err.sys_errno);
}

static void printed(void)
{
    char text[16];
    tine_error err =
        tine__error_print(TINE_KIND_PROTOCOL, 7, text, sizeof text, "worker %d", 12);
    says(&err, "worker 12");
    CHECK_INT(err.kind, TINE_KIND_PROTOCOL);
    CHECK_INT(err.pid, 7);
    CHECK_INT(err.code, -1);
}

static void cut(void)
{
    char text[8];
    tine_error err = tine__error_print(TINE_KIND_CRASH, 0, text, sizeof text, "%s",
                                       "more than there is room for");
    says(&err, "more th");
    CHECK_INT(text[7], 0);
}

static void said_anew(void)
{
    char text[64];
    tine_error err = tine__error_make(TINE_KIND_CRASH, 7, "it fell");
    err.signal = 11;
    tine__error_say(&err, text, sizeof text, "the end: %.*s", (int)err.message_len,
                    err.message);
    says(&err, "the end: it fell");
    CHECK_INT(err.signal, 11);
    CHECK_INT(err.kind, TINE_KIND_CRASH);
}

static void of_the_system(void)
{
    char text[64];
    tine_error err = tine__error_system(-ENOENT, text, sizeof text, "open %s", "there");
    says(&err, "open there: No such file or directory (ENOENT)");
    CHECK_INT(err.kind, TINE_KIND_SYSTEM);
    CHECK_INT(err.sys_errno, ENOENT);
    for (size_t size = 1; size <= sizeof text; size++) {
        err = tine__error_system(-ENOENT, text, size, "open %s", "there");
        CHECK_INT(err.message_len, strlen(text));
        CHECK(err.message_len < size);
    }
    err = tine__error_system(-TINE_ECLOSED, text, sizeof text, "call");
    CHECK_INT(err.sys_errno, 0);
}

static void kept(void)
{
    char text[] = "it fell", status[] = "exited";
    tine_error err = tine__error_make(TINE_KIND_EXIT, 7, text);
    err.status = status;
    tine__cause *cause = tine__cause_new(&err);
    CHECK(cause != NULL);
    memset(text, 'x', sizeof text - 1);
    memset(status, 'x', sizeof status - 1);
    says(tine__cause_error(cause), "it fell");
    CHECK(strcmp(cause->error.status, "exited") == 0);
    free(cause);
    says(tine__cause_error(NULL), "out of memory");
    CHECK_INT(tine__cause_error(NULL)->sys_errno, ENOMEM);
}

int main(void)
{
    RUN(made);
    RUN(printed);
    RUN(cut);
    RUN(said_anew);
    RUN(of_the_system);
    RUN(kept);
    return 0;
}

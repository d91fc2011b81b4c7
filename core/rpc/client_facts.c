/* What its owner asks of a client. */
#include "client_priv.h"

pid_t tine__client_pid(const tine__client *c)
{
    return c->pid ? c->pid : c->proc ? tine_proc_pid(c->proc) : 0;
}

size_t tine__client_load(const tine__client *c)
{
    return c->load;
}

bool tine__client_is_ready(const tine__client *c)
{
    return c->ready;
}

void *tine__client_tag(const tine__client *c)
{
    return c->tag;
}

void tine__client_set_tag(tine__client *c, void *tag)
{
    c->tag = tag;
}

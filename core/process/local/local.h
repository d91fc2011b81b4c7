/* The transport for processes below this kernel, as the handles' side sees it: how they are made,
 * and what a host keeps for them. All else goes through the table. Knows nothing of handles but
 * what transport.h says. */
#ifndef TINE_PROCESS_LOCAL_LOCAL_H
#define TINE_PROCESS_LOCAL_LOCAL_H

#include "process/transport.h"

extern const tine__transport tine__local_transport;

/* A host's part. news: of all its processes. */
int tine__local_open(tine_host *host, const tine__news *news);
/* Kills all processes that are not detached, with all that they have started, without a word. */
void tine__local_end_all(tine_host *host);
void tine__local_close(tine_host *host);

/* Each makes a process of an open link. Where that fails, it is told as news, and 0 returned. */
int tine__local_exec(tine__link *l, const tine_proc_options *options);
/* Of a command socket that somebody has given away. Takes fd. */
int tine__local_adopt(tine__link *l, int fd);
/* 0 if fd can be one. */
int tine__local_is_socket(int fd);
/* A fork of the program. As tine_proc_here; what fails is returned. */
int tine__local_here(tine__link *l, const tine_proc_options *options, int *command_fd);

int tine__local_set_interpreter(tine_host *host, const char *path);
const char *tine__local_interpreter(tine_host *host);
int tine__local_set_lua_path(tine_host *host, const char *path, const char *cpath);

#endif

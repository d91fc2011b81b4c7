/* Descriptors for programs that know nothing of O_NONBLOCK. Knows the system, nothing of tine. */
#ifndef TINE_BASE_BLOCKING_H
#define TINE_BASE_BLOCKING_H

/* A descriptor of fd's file that blocks: fd itself where it does, or where the file never keeps
 * anybody waiting; else a new one, close-on-exec and above 2, of the file opened anew, since the
 * flag is shared by all who have this opening of it. -EOPNOTSUPP where that cannot be: a
 * nonblocking socket, and what is like it. Or another negative errno. */
int tine__fd_blocking(int fd);

#endif

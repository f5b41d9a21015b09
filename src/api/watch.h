/* watch.h - one thread that notices clients that leave and calls a tick.
 *
 * libmicrohttpd does not look at a connection that waits for a reply, so a client that gives up
 * would hold its place in the batch until the end. The watcher polls those sockets itself. */
#pragma once
#include "base/base.h"

struct watch;
enum watch_event { WATCH_HALF, WATCH_GONE };   /* the peer sends no more; the connection is dead */

/* event(to, key, ...) and tick(to), about four times a second, run on the watcher's thread. Keys
 * are not 0. */
struct watch *watch_open(void (*event)(void *to, uint64_t key, enum watch_event),
                         void (*tick)(void *to), void *to, struct err *);
void watch_close(struct watch *);
void watch_add(struct watch *, int fd, uint64_t key);
void watch_remove(struct watch *, int fd);     /* before the fd is closed */
void watch_wake(struct watch *);               /* tick now; may be called in a signal handler */

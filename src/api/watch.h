/* watch.h - one thread that notices clients that leave and calls a tick.
 *
 * libmicrohttpd does not look at a connection that waits for a reply, so a client that gives up
 * would hold its place in the batch until the end; and it may miss an end or a reset that came with
 * the last bytes it read. The watcher polls every socket itself. */
#pragma once
#include "base/base.h"

struct watch;
enum watch_event { WATCH_HALF, WATCH_GONE };   /* the peer sends no more; the connection is dead */

struct watch_calls {                 /* on the watcher's thread */
    void (*event)(void *to, uint64_t key, enum watch_event);
    /* About four times a second. `late_s`: how long after its time, 0 when it came early. */
    void (*tick)(void *to, double late_s);
    void (*knock)(void *to, int index);      /* somebody connects to a socket of watch_listen */
    void (*soon)(void *to);          /* once, so long after a watch_soon */
};

/* Keys of events are above UINT32_MAX. */
struct watch *watch_open(const struct watch_calls *, void *to, struct err *);
void watch_stop(struct watch *);     /* no more calls; watch_remove still may come. NULL: nothing */
void watch_close(struct watch *);    /* after watch_stop */
void watch_add(struct watch *, int fd, uint64_t key);
void watch_remove(struct watch *, int fd);     /* before the fd is closed */
/* Begins or ends to look at a listening socket; told once for each who comes. */
void watch_listen(struct watch *, int fd, int index, bool on);
void watch_wake(struct watch *);               /* tick now; may be called in a signal handler */
void watch_soon(struct watch *, int ms);       /* any thread; more calls until then are one */

/* crowd.c - more clients than --connections: each gets a short 503 and is let go.
 *
 * At its limit libmicrohttpd stops to accept, and clients would wait in the kernel's queue for as
 * long as they have patience. So while a listener is full the watcher accepts there as well,
 * answers without reading and shuts that direction down. A descriptor that is closed while the
 * client still sends becomes a reset, which may overtake the reply, so the last few linger for a
 * second; there are LINGER of them however many clients come, and nothing else is kept. */
#include "api/server.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* At most BURST clients a time, so that the watcher comes back to those who are in. */
enum { LINGER = 64, LINGER_S = 1, BURST = 256, DRAIN = 4096, DRAIN_TIMES = 16, TELL_S = 60 };

struct crowd {
    struct { int fd; double s; } late[LINGER];       /* fd -1: empty */
    int next;
    double told_s;                   /* when the log last said so; 0: never */
};

struct crowd *crowd_open(void) {
    struct crowd *c = mem_new(sizeof *c);
    for (int i = 0; i < LINGER; i++) c->late[i].fd = -1;
    return c;
}

void crowd_close(struct crowd *c) {
    if (!c) return;
    for (int i = 0; i < LINGER; i++)
        if (c->late[i].fd >= 0) close(c->late[i].fd);
    free(c);
}

/* What has arrived is thrown away: only then is the end of the connection not a reset. */
static void drain(int fd) {
    char block[DRAIN];
    for (int i = 0; i < DRAIN_TIMES; i++)
        if (recv(fd, block, sizeof block, MSG_DONTWAIT) <= 0) return;
}

static void turn_away(struct crowd *c, int fd, double now) {
    struct buf all = { 0 }, body = { 0 };
    struct fault busy = { 0 };
    char id[REQUEST_ID_MAX + 1];
    /* Before the answer: whoever has it may count on the limit of descriptors. */
    if (c->late[c->next].fd >= 0) close(c->late[c->next].fd);
    request_id_new(id, sizeof id);
    fault_set(&busy, 503, NULL, "the server is busy: it has as many connections as it may");
    fault_openai(&body, &busy, id);
    buf_format(&all, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; "
               "charset=utf-8\r\nContent-Length: %zu\r\nRetry-After: 1\r\nx-request-id: %s\r\n"
               "Connection: close\r\n\r\n", body.len, id);
    buf_str(&all, buf_view(&body));
    drain(fd);
    ssize_t sent = send(fd, all.at, all.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)sent;                        /* a new socket has room for it, or is dead */
    buf_free(&all);
    buf_free(&body);
    shutdown(fd, SHUT_WR);
    c->late[c->next].fd = fd;
    c->late[c->next].s = now;
    c->next = (c->next + 1) % LINGER;
}

static void tell(struct crowd *c, const struct listener *l, double now) {
    if (c->told_s > 0 && now - c->told_s < TELL_S) return;
    c->told_s = now;
    log_line(LOG_WARN, "%s: %d connections are open, the limit; more are turned away", l->address,
             l->connections_max);
}

void crowd_meet(struct server *s, int index) {
    struct listener *l = &s->listener[index];
    double now = clock_s();
    for (int i = 0; i < BURST && !l->quiet; i++) {
        if (atomic_load(&l->n_connections) < l->connections_max) return;
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) return;
        tell(s->crowd, l, now);
        turn_away(s->crowd, fd, now);
    }
}

void crowd_tick(struct server *s, double now) {
    struct crowd *c = s->crowd;
    for (int i = 0; i < LINGER; i++) {
        if (c->late[i].fd < 0) continue;
        drain(c->late[i].fd);
        if (now - c->late[i].s < LINGER_S) continue;
        close(c->late[i].fd);
        c->late[i].fd = -1;
    }
    for (int i = 0; i < s->n_listeners; i++) {
        struct listener *l = &s->listener[i];
        bool full = !l->quiet && atomic_load(&l->n_connections) >= l->connections_max;
        if (full != l->watched && !l->quiet) watch_listen(s->watch, l->fd, i, full);
        l->watched = full;
        if (full) crowd_meet(s, i);
    }
}

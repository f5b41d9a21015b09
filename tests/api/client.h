/* client.h - HTTP as a client speaks it, byte by byte: for the exchanges, the load and the bench.
 *
 * A reply is a state machine that is fed what came, so one thread can hold thousands of them.
 * Nothing is repaired: what a strict client would refuse ends in REPLY_BAD with a sentence. */
#pragma once
#include "base/buf.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum reply_state { REPLY_HEAD, REPLY_SIZED, REPLY_SIZE_LINE, REPLY_CHUNK, REPLY_CHUNK_END,
                   REPLY_TRAILER, REPLY_TO_CLOSE, REPLY_DONE, REPLY_BAD };

struct reply {
    enum reply_state state;
    bool to_head;                    /* of a HEAD request: no body, whatever the headers say */
    int status, n_continues;
    bool closes;                     /* the server said that it will close */
    struct buf head, body;           /* body: chunks put together */
    struct buf line;
    size_t left, event_at;
    size_t n_bytes;                  /* of all that was fed */
    const char *bad;
};

static inline void reply_free(struct reply *r) {
    buf_free(&r->head);
    buf_free(&r->body);
    buf_free(&r->line);
    *r = (struct reply){ 0 };
}

static inline size_t reply_refuse(struct reply *r, const char *why) {
    r->state = REPLY_BAD;
    r->bad = why;
    return 0;
}

/* The value of a header, without blanks around it; at == NULL: not there. */
static inline struct str reply_header(struct reply *r, const char *name) {
    size_t n = strlen(name);
    const char *at = buf_c(&r->head);
    for (at = strchr(at, '\n'); at && *++at; at = strchr(at, '\n')) {
        if (strncasecmp(at, name, n) || at[n] != ':') continue;
        const char *from = at + n + 1, *to = strpbrk(from, "\r\n");
        while (*from == ' ') from++;
        return (struct str){ from, to ? (size_t)(to - from) : strlen(from) };
    }
    return (struct str){ 0 };
}

/* The head is complete: which body follows? */
static inline void reply_headed(struct reply *r) {
    const char *at = buf_c(&r->head);
    if (strncmp(at, "HTTP/1.", 7) || !isdigit((unsigned char)at[9])) {
        reply_refuse(r, "no status line");
        return;
    }
    r->status = (at[9] - '0') * 100 + (at[10] - '0') * 10 + (at[11] - '0');
    if (r->status == 100) {
        r->n_continues++;
        buf_clear(&r->head);
        return;
    }
    struct str length = reply_header(r, "content-length");
    struct str coding = reply_header(r, "transfer-encoding");
    struct str connection = reply_header(r, "connection");
    uint64_t n = 0;
    r->closes = (connection.at && !strncasecmp(connection.at, "close", 5)) || at[7] == '0';
    if (length.at && !str_u64(length, SIZE_MAX / 2, &n))
        reply_refuse(r, "Content-Length is no number");
    else if (length.at && coding.at)
        reply_refuse(r, "Content-Length and Transfer-Encoding");
    else if (r->to_head || r->status == 204 || r->status == 304)
        r->state = REPLY_DONE;
    else if (coding.at)
        r->state = REPLY_SIZE_LINE;
    else if (length.at)
        r->state = n ? REPLY_SIZED : REPLY_DONE;
    else
        r->state = REPLY_TO_CLOSE;
    r->left = (size_t)n;
}

static inline void reply_size_line(struct reply *r) {
    size_t size = 0, digits = 0;
    const char *at = buf_c(&r->line);
    for (; isxdigit((unsigned char)*at); at++, digits++) {
        int c = tolower((unsigned char)*at);
        size = size << 4 | (size_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    buf_clear(&r->line);
    if (!digits || digits > 8) {
        reply_refuse(r, "chunk without a size");
        return;
    }
    r->left = size;
    r->state = size ? REPLY_CHUNK : REPLY_TRAILER;
}

/* Takes bytes of a body; `next`: the state when `left` are there. */
static inline size_t reply_take(struct reply *r, const char *at, size_t n, enum reply_state next) {
    size_t some = MIN(n, r->left);
    buf_put(&r->body, at, some);
    r->left -= some;
    if (!r->left) r->state = next;
    return some;
}

/* One step of the machine; bytes taken. */
static inline size_t reply_step(struct reply *r, const char *at, size_t n) {
    if (r->state == REPLY_SIZED) return reply_take(r, at, n, REPLY_DONE);
    if (r->state == REPLY_CHUNK) return reply_take(r, at, n, REPLY_CHUNK_END);
    if (r->state == REPLY_TO_CLOSE) {
        buf_put(&r->body, at, n);
        return n;
    }
    /* The other states read lines. */
    struct buf *line = r->state == REPLY_HEAD ? &r->head : &r->line;
    const char *end = memchr(at, '\n', n);
    size_t some = end ? (size_t)(end - at) + 1 : n;
    buf_put(line, at, some);
    if (line->len > 65536) return reply_refuse(r, "a head without end");
    if (!end) return some;
    bool blank = line->len >= 2 && !memcmp(line->at + line->len - 2, "\r\n", 2) &&
                 (line->len == 2 || (r->state == REPLY_HEAD && line->len >= 4 &&
                                     line->at[line->len - 3] == '\n'));
    if (r->state == REPLY_HEAD) {
        if (blank) reply_headed(r);
    } else if (r->state == REPLY_SIZE_LINE) {
        reply_size_line(r);
    } else if (r->state == REPLY_CHUNK_END) {
        buf_clear(line);
        if (!blank) return reply_refuse(r, "a chunk longer than it said");
        r->state = REPLY_SIZE_LINE;
    } else {
        buf_clear(line);
        if (blank) r->state = REPLY_DONE;
    }
    return some;
}

/* How many of the bytes belong to this reply. */
static inline size_t reply_feed(struct reply *r, const char *at, size_t n) {
    size_t used = 0;
    while (used < n && r->state != REPLY_DONE && r->state != REPLY_BAD)
        used += reply_step(r, at + used, n - used);
    r->n_bytes += used;
    return used;
}

static inline void reply_closed(struct reply *r) {
    if (r->state == REPLY_TO_CLOSE)
        r->state = REPLY_DONE;
    else if (r->state != REPLY_DONE && r->state != REPLY_BAD)
        reply_refuse(r, r->n_bytes ? "closed in the middle of a reply" : "closed without a reply");
}

/* The next whole server-sent event: lines up to an empty one. Valid until more is fed. */
static inline bool reply_event(struct reply *r, struct str *event) {
    if (r->body.len <= r->event_at) return false;
    const char *from = r->body.at + r->event_at;
    const char *end = memmem(from, r->body.len - r->event_at, "\n\n", 2);
    if (!end) return false;
    *event = (struct str){ from, (size_t)(end - from) };
    r->event_at += event->len + 2;
    return true;
}

/* ---- connections ---- */

struct client { int fd; struct buf in; size_t at; };

/* To 127.0.0.1, or to a Unix socket when `path` is given. fd < 0: refused. */
static inline int client_connect(int port, const char *path) {
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    if (path) snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    int fd = socket(path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr *to = path ? (const void *)&un : (const void *)&in;
    if (fd >= 0 && connect(fd, to, path ? sizeof un : sizeof in)) {
        close(fd);
        return -1;
    }
    int one = 1;
    if (fd >= 0 && !path) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static inline void client_close(struct client *c) {
    if (c->fd >= 0) close(c->fd);
    buf_free(&c->in);
    *c = (struct client){ .fd = -1 };
}

/* The peer gets a reset instead of an end. */
static inline void client_reset(struct client *c) {
    struct linger now = { .l_onoff = 1 };
    if (c->fd >= 0) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    client_close(c);
}

/* False: not all could be sent, because the peer closed or does not read. What was not sent is
 * no failure for a test of bad input: the answer is what counts. */
static inline bool client_send(struct client *c, struct str bytes, double seconds) {
    double until = clock_s() + seconds;
    while (bytes.len) {
        struct pollfd p = { .fd = c->fd, .events = POLLOUT };
        double left = until - clock_s();
        if (left <= 0 || poll(&p, 1, (int)(left * 1000) + 1) <= 0) return false;
        ssize_t n = send(c->fd, bytes.at, bytes.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n < 0) return false;
        bytes = str_from(bytes, (size_t)n);
    }
    return true;
}

enum client_more { CLIENT_DATA, CLIENT_END, CLIENT_LATE };

/* Waits for bytes and appends them to c->in. A reset is an end. */
static inline enum client_more client_more(struct client *c, double until) {
    char piece[16384];
    struct pollfd p = { .fd = c->fd, .events = POLLIN };
    double left = until - clock_s();
    if (c->at == c->in.len) buf_clear(&c->in), c->at = 0;
    if (left <= 0 || poll(&p, 1, (int)(left * 1000) + 1) <= 0) return CLIENT_LATE;
    ssize_t n = recv(c->fd, piece, sizeof piece, 0);
    if (n <= 0) return CLIENT_END;
    buf_put(&c->in, piece, (size_t)n);
    return CLIENT_DATA;
}

/* Feeds what was read and was not used yet. */
static inline void client_feed(struct client *c, struct reply *r) {
    c->at += reply_feed(r, c->in.at + c->at, c->in.len - c->at);
}

/* Reads one reply to its end. */
static inline bool client_reply(struct client *c, struct reply *r, double seconds) {
    double until = clock_s() + seconds;
    for (;;) {
        if (c->at < c->in.len) client_feed(c, r);
        if (r->state == REPLY_DONE) return true;
        if (r->state == REPLY_BAD) return false;
        enum client_more more = client_more(c, until);
        if (more == CLIENT_LATE) {
            reply_refuse(r, "no reply in time");
            return false;
        }
        if (more == CLIENT_END) reply_closed(r);
    }
}

/* One request on a connection of its own; false: no reply. */
static inline bool client_ask(int port, struct str request, struct reply *r, double seconds) {
    struct client c = { .fd = client_connect(port, NULL) };
    if (c.fd < 0) return false;
    client_send(&c, request, seconds);
    bool got = client_reply(&c, r, seconds);
    client_close(&c);
    return got;
}

/* A request with a body (or without, when it is empty) as a well-behaved client writes it. */
static inline void client_request(struct buf *to, const char *method_and_path, const char *headers,
                                  struct str body) {
    buf_format(to, "%s HTTP/1.1\r\nHost: localhost\r\n%s", method_and_path, headers);
    if (body.len)
        buf_format(to, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.len);
    buf_str(to, S("\r\n"));
    buf_str(to, body);
}

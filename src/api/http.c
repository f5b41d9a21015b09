/* http.c - libmicrohttpd underneath: connections, bodies, deadlines.
 *
 * The library parses and sends on its I/O thread, one for each listener. Everything that may take
 * longer than a moment is handed on while the connection is suspended. The table of connections
 * exists because the library tells nobody how long a client has been silent, and does not
 * look at connections that wait. */
#include "api/inflate.h"
#include "api/inside.h"
#include "base/log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { POOL_BYTES = 32 << 10, DRAIN_BYTES = 64 << 10, LAST_BYTES_S = 1,
       BIG_BODY_BYTES = 256 << 10, REQUESTS_PER_CONNECTION = 10000 };

struct table {
    pthread_mutex_t lock;
    struct conn **slot;
    uint32_t *generation, *empty;
    int n_slots, n_empty;
};

/* ---- the table ---- */

static void table_add(struct table *t, struct conn *c) {
    pthread_mutex_lock(&t->lock);
    if (!t->n_empty) {
        int n = t->n_slots ? t->n_slots * 2 : 64;
        t->slot = mem_grow(t->slot, (size_t)n, sizeof *t->slot);
        t->generation = mem_grow(t->generation, (size_t)n, sizeof *t->generation);
        t->empty = mem_grow(t->empty, (size_t)n, sizeof *t->empty);
        for (int i = n - 1; i >= t->n_slots; i--) {
            t->slot[i] = NULL;
            t->generation[i] = 0;
            t->empty[t->n_empty++] = (uint32_t)i;
        }
        t->n_slots = n;
    }
    uint32_t i = t->empty[--t->n_empty];
    t->slot[i] = c;
    c->key = (uint64_t)++t->generation[i] << 32 | i;
    pthread_mutex_unlock(&t->lock);
}

static void table_remove(struct table *t, struct conn *c) {
    uint32_t i = (uint32_t)c->key;
    pthread_mutex_lock(&t->lock);
    t->slot[i] = NULL;
    t->empty[t->n_empty++] = i;
    pthread_mutex_unlock(&t->lock);
}

static void set_deadline(struct conn *c, double seconds) {
    struct table *t = c->server->http;
    pthread_mutex_lock(&t->lock);
    c->deadline_s = seconds > 0 ? clock_s() + seconds : 0;
    c->reading = c->more = false;
    pthread_mutex_unlock(&t->lock);
}

/* For more of a request. libmicrohttpd takes a short read for the last one, so it misses an end
 * that was there already; who has closed that direction has sent what it had. */
static void expect_more(struct conn *c, double seconds, bool reading) {
    struct table *t = c->server->http;
    pthread_mutex_lock(&t->lock);
    c->deadline_s = clock_s() + (c->half ? MIN(seconds, LAST_BYTES_S) : seconds);
    c->reading = reading;
    c->more = true;
    pthread_mutex_unlock(&t->lock);
}

static void set_current(struct conn *c, struct exchange *x) {
    struct table *t = c->server->http;
    pthread_mutex_lock(&t->lock);
    c->x = x;
    pthread_mutex_unlock(&t->lock);
}

/* ---- the watcher's thread ---- */

void http_event(struct server *s, uint64_t key, enum watch_event event) {
    struct table *t = s->http;
    uint32_t i = (uint32_t)key;
    struct exchange *x = NULL;
    pthread_mutex_lock(&t->lock);
    struct conn *c = i < (uint32_t)t->n_slots ? t->slot[i] : NULL;
    if (c && c->key != key) c = NULL;
    if (c && c->x) x = exchange_hold(c->x);
    /* libmicrohttpd may have missed it while it looked at other things: this wakes it. What a
     * client sent before it closed one direction may not have been read yet. */
    if (c && event == WATCH_GONE) shutdown(c->fd, SHUT_RDWR);
    if (c) c->half = true;
    if (c && c->more && c->deadline_s > 0)
        c->deadline_s = MIN(c->deadline_s, clock_s() + LAST_BYTES_S);
    pthread_mutex_unlock(&t->lock);
    if (!x) return;
    if (event == WATCH_GONE) exchange_lost(x);
    else exchange_probe(x);
    exchange_release(x);
}

/* For a client whose request never became one: libmicrohttpd has sent nothing, so we may. `x`: what
 * there is of the request, or NULL. */
static void raw_reply(int fd, struct exchange *x, int status, const char *words,
                      const char *message) {
    struct buf all = { 0 }, body = { 0 };
    struct fault f = { 0 };
    char id[REQUEST_ID_MAX + 1];
    request_id_new(id, sizeof id);
    if (x) {
        snprintf(id, sizeof id, "%s", x->request_id);
        pthread_mutex_lock(&x->inside->lock);
        x->inside->raw_status = status;
        pthread_mutex_unlock(&x->inside->lock);
    }
    fault_set(&f, status, NULL, "%s", message);
    fault_openai(&body, &f, id);
    buf_format(&all, "HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\n"
               "Content-Length: %zu\r\nx-request-id: %s\r\nConnection: close\r\n\r\n", status,
               words, body.len, id);
    buf_str(&all, buf_view(&body));
    ssize_t n = send(fd, all.at, all.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)n;                           /* a client that is slow to read as well gets nothing */
    buf_free(&all);
    buf_free(&body);
}

void http_tick(struct server *s, double late) {
    struct table *t = s->http;
    double now = clock_s();
    for (int i = 0;; i++) {
        struct exchange *x = NULL;
        pthread_mutex_lock(&t->lock);
        bool more = i < t->n_slots;
        struct conn *c = more ? t->slot[i] : NULL;
        if (c && c->x) x = exchange_hold(c->x);
        if (c && c->deadline_s > 0) c->deadline_s += late;
        if (c && c->deadline_s > 0 && now > c->deadline_s) {
            if (c->reading)
                raw_reply(c->fd, x, 408, "Request Timeout", "the request took too long to arrive");
            shutdown(c->fd, SHUT_RDWR);
            c->deadline_s = 0;
        }
        pthread_mutex_unlock(&t->lock);
        if (!more) return;
        if (x) exchange_tick(x, now, late);
        exchange_release(x);
    }
}

/* ---- libmicrohttpd's calls, on an I/O thread ---- */

static void peer_name(struct MHD_Connection *connection, struct conn *c) {
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    c->peer[0] = 0;
    if (i && i->client_addr) address_text(i->client_addr, c->peer, sizeof c->peer);
}

static void on_connection(void *to, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code) {
    struct listener *l = to;
    struct server *s = l->server;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct conn *c = mem_new(sizeof *c);
        const union MHD_ConnectionInfo *i =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *c = (struct conn){ .server = s, .listener = l, .fd = i->connect_fd };
        peer_name(connection, c);
        if (!framing_watch(c->fd, &c->framing)) shutdown(c->fd, SHUT_RDWR);
        table_add(s->http, c);
        expect_more(c, s->options.header_s, true);
        atomic_fetch_add(&s->n_connections, 1);
        if (atomic_fetch_add(&l->n_connections, 1) + 1 == l->connections_max) watch_wake(s->watch);
        watch_add(s->watch, c->fd, c->key);
        *context = c;
        return;
    }
    struct conn *c = *context;
    if (!c) return;
    framing_forget(c->fd);
    watch_remove(s->watch, c->fd);
    table_remove(s->http, c);
    atomic_fetch_sub(&s->n_connections, 1);
    atomic_fetch_sub(&l->n_connections, 1);
    free(c->uri);
    free(c);
    *context = NULL;
}

static struct conn *conn_of(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return i->socket_context;
}

/* The target as it came, before anything is unescaped: paths are compared byte for byte. */
static void *on_uri(void *to, const char *uri, struct MHD_Connection *connection) {
    struct conn *c = conn_of(connection);
    (void)to;
    free(c->uri);
    c->uri = mem_str(str_of(uri));
    expect_more(c, c->server->options.header_s, true);
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    return NULL;
}

static size_t keep_escapes(void *to, struct MHD_Connection *connection, char *text) {
    (void)to;
    (void)connection;
    return strlen(text);
}

static bool method_of(const char *name, enum method *m) {
    static const enum method all[] = { METHOD_GET, METHOD_HEAD, METHOD_POST, METHOD_OPTIONS };
    for (size_t i = 0; i < COUNT(all); i++)
        if (!strcmp(name, method_name(all[i]))) {
            *m = all[i];
            return true;
        }
    return false;
}

/* A client's own id is taken for the reply and the log if it can do no harm there. */
static void take_request_id(struct exchange *x) {
    struct str id = str_of(exchange_header(x, "x-request-id"));
    bool sane = id.len && id.len <= REQUEST_ID_MAX;
    for (size_t i = 0; i < id.len && sane; i++) {
        char c = id.at[i];
        sane = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               c == '-' || c == '_' || c == '.' || c == ':';
    }
    if (sane) snprintf(x->request_id, sizeof x->request_id, "%s", id.at);
}

static void begin(struct exchange *x, const char *method, const char *version) {
    struct inside *in = x->inside;
    in->checked = true;
    in->conn->n_requests++;
    snprintf(in->method, sizeof in->method, "%s", method);
    take_request_id(x);
    x->method = METHOD_GET;
    if (!method_of(method, &x->method)) {
        check_request(x, version);     /* a stranger without a key hears of that first */
        if (!in->refused.status || in->refused.status == 415) {
            in->refused = (struct fault){ 0 };
            fault_set(&in->refused, 405, NULL, "this method is not known here");
        }
    } else {
        check_request(x, version);
    }
    /* After a head that is not understood nobody knows where the next one begins. */
    in->last = in->conn->n_requests >= REQUESTS_PER_CONNECTION || in->refused.status == 400;
    expect_more(in->conn, x->server->options.body_s, true);
}

/* A refusal goes out at once when the body would be long, and else after it: a client that is
 * still sending may never see a reply before a reset. */
static bool refuse_now(const struct exchange *x) {
    if (!x->inside->refused.status) return false;
    const char *length = MHD_lookup_connection_value(x->inside->connection, MHD_HEADER_KIND,
                                                     "Content-Length");
    const char *expect = MHD_lookup_connection_value(x->inside->connection, MHD_HEADER_KIND,
                                                     "Expect");
    uint64_t n = 0;
    bool small = !length || (str_u64(str_of(length), UINT64_MAX, &n) && n <= DRAIN_BYTES);
    return expect || !small || x->inside->refused.status == 400;
}

/* A whole reply has a deadline; a stream is watched by exchange_tick. */
static enum MHD_Result send_reply(struct exchange *x) {
    bool streaming = x->inside->streaming;
    set_deadline(x->inside->conn, streaming ? 0 : 2 * x->server->options.stall_s);
    return exchange_queue(x);
}

static enum MHD_Result refuse(struct exchange *x) {
    reply_fault(x, &x->inside->refused);
    return send_reply(x);
}

static enum MHD_Result take_body(struct exchange *x, const char *bytes, size_t *n) {
    struct inside *in = x->inside;
    size_t max = in->refused.status ? DRAIN_BYTES : x->server->options.body_max;
    in->body_seen += *n;
    if (in->body_seen > max) {
        raw_reply(in->conn->fd, x, 413, "Content Too Large", "the body is longer than the limit");
        return MHD_NO;
    }
    if (!in->refused.status && x->method == METHOD_POST) buf_put(&x->body, bytes, *n);
    *n = 0;
    return MHD_YES;
}

static void preflight(struct exchange *x) {
    struct buf none = { 0 };
    reply_text(x, 204, "text/plain", &none);
    struct MHD_Response *r = x->inside->response;
    if (!x->inside->origin) return;
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
    const char *asked = exchange_header(x, "Access-Control-Request-Headers");
    MHD_add_response_header(r, "Access-Control-Allow-Headers",
                            asked ? asked : "authorization, content-type, x-api-key");
    MHD_add_response_header(r, "Access-Control-Max-Age", "86400");
}

/* Handlers see plain bodies only. */
static bool decompress(struct exchange *x) {
    struct fault f = { 0 };
    struct buf plain = { 0 };
    const char *encoding = x->inside->encoding;
    if (!*encoding) return true;
    bool ok = inflate_body(buf_view(&x->body), encoding, x->server->options.body_max, &plain, &f);
    buf_free(&x->body);
    x->body = plain;
    if (!ok) reply_fault(x, &f);
    return ok;
}

/* On a worker. */
static void work(void *to) {
    struct exchange *x = to;
    if (!exchange_is_gone(x) && decompress(x)) x->route->handle(x);
    exchange_release(x);
}

/* The request is complete: it is answered now, or the connection sleeps until it is. */
static enum MHD_Result handle(struct exchange *x) {
    struct inside *in = x->inside;
    set_deadline(in->conn, 0);
    if (x->method == METHOD_OPTIONS) preflight(x);
    else if (!(x->route->flags & ROUTE_WORK)) x->route->handle(x);
    pthread_mutex_lock(&in->lock);
    bool answered = in->response, waits = !answered && exchange_suspend(x);
    if (waits) in->phase = PHASE_WORK;
    pthread_mutex_unlock(&in->lock);
    if (answered) return send_reply(x);
    if (!waits) return MHD_NO;
    watch_add(x->server->watch, in->conn->fd, in->conn->key);
    if (!(x->route->flags & ROUTE_WORK)) return MHD_YES;
    bool big = x->body.len > (*in->encoding ? BIG_BODY_BYTES / 16 : BIG_BODY_BYTES);
    if (workers_do(x->server->workers, work, exchange_hold(x), big)) return MHD_YES;
    exchange_release(x);
    struct fault busy = { .retry_after = 1 };
    fault_set(&busy, 503, NULL, "the server is busy: too many requests wait to be read");
    reply_fault(x, &busy);
    return MHD_YES;
}

static enum MHD_Result on_request(void *to, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **context) {
    struct exchange *x = *context;
    (void)to;
    (void)url;
    if (!x) {
        struct conn *c = conn_of(connection);
        if (!c->uri) return MHD_NO;
        *context = x = exchange_new(c, connection);
        set_current(c, x);
        begin(x, method, version);
        return refuse_now(x) ? refuse(x) : MHD_YES;
    }
    if (*upload_size) return take_body(x, upload, upload_size);
    struct inside *in = x->inside;
    pthread_mutex_lock(&in->lock);
    enum phase phase = in->phase;
    bool gone = in->gone;
    pthread_mutex_unlock(&in->lock);
    if (gone) return MHD_NO;
    if (phase == PHASE_READY) return send_reply(x);
    if (phase != PHASE_BODY) return MHD_YES;
    return in->refused.status ? refuse(x) : handle(x);
}

static void on_completed(void *to, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code) {
    struct exchange *x = *context;
    (void)to;
    if (!x) return;
    struct inside *in = x->inside;
    struct conn *c = in->conn;
    set_current(c, NULL);
    pthread_mutex_lock(&in->lock);
    in->phase = PHASE_OVER;
    in->suspended = false;
    bool whole = code == MHD_REQUEST_TERMINATED_COMPLETED_OK && !in->gone;
    int status = in->status, raw = in->raw_status;
    struct MHD_Response *unsent = in->response;      /* a stream's holds the exchange */
    in->response = NULL;
    pthread_mutex_unlock(&in->lock);
    if (unsent) MHD_destroy_response(unsent);
    if (!whole) exchange_lost(x);
    if (!whole) status = raw ? raw : 499;
    metrics_reply(x->server->metrics, x->route, status, clock_s() - x->begun_s);
    request_log(x->server, x, status);
    expect_more(c, x->server->options.idle_s, false);
    /* A connection that is dead already gives no sign of it any more. */
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT,
                              whole ? (unsigned)x->server->options.idle_s + 1 : 1u);
    *context = NULL;
    exchange_release(x);
}

static void __attribute__((format(printf, 2, 0))) on_log(void *to, const char *format,
                                                         va_list args) {
    char text[512];
    (void)to;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\r\n")] = 0;
    log_line(LOG_DEBUG, "http: %s", text);
}

/* ---- open and close ---- */

/* A connection is a descriptor; the soft limit is often 1,024. */
static int connections_max(const struct server *s) {
    struct rlimit files;
    int want = s->options.connections_max;
    if (getrlimit(RLIMIT_NOFILE, &files)) return MIN(want, 512);
    rlim_t need = (rlim_t)want + 256;
    if (files.rlim_cur < need) {
        files.rlim_cur = MIN(need, files.rlim_max);
        setrlimit(RLIMIT_NOFILE, &files);
        getrlimit(RLIMIT_NOFILE, &files);
    }
    return files.rlim_cur < need ? MAX((int)files.rlim_cur - 256, 16) : want;
}

/* Not strict: what that adds is a missing Host and blanks in the target, which check.c refuses in
 * our own words instead of a page of HTML. */
static struct MHD_Daemon *daemon_start(struct listener *l) {
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME |
                     MHD_USE_ITC | MHD_USE_ERROR_LOG;
    return MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, l, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, l->fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)l->connections_max,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, 0u,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, l, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        l, MHD_OPTION_URI_LOG_CALLBACK, on_uri, l, MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, l,
        MHD_OPTION_STRICT_FOR_CLIENT, 0, MHD_OPTION_END);
}

void http_prepare(struct server *s) {
    struct table *t = s->http = mem_new(sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    for (int i = 0; i < s->n_listeners; i++) s->listener[i].connections_max = connections_max(s);
}

bool http_open(struct server *s, struct err *err) {
    for (int i = 0; i < s->n_listeners; i++) {
        struct listener *l = &s->listener[i];
        l->server = s;
        l->daemon = daemon_start(l);
        if (!l->daemon) return err_set(err, "%s: the HTTP library did not start", l->address);
    }
    return true;
}

/* The library's thread may be about to take the listening socket out of its epoll set, as
 * MHD_quiesce_daemon does, and aborts if the descriptor is bad by then, not if it is of something
 * else. So it becomes a socket of nothing until listen_close; clients are refused, as after a
 * close. Not shut down: it may be systemd's as well. */
static void stop_listening(const struct listener *l) {
    int nothing = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (nothing < 0) return;           /* then clients wait in the kernel's queue until the end */
    dup3(nothing, l->fd, O_CLOEXEC);
    close(nothing);
}

void http_quiesce(struct server *s) {
    for (int i = 0; i < s->n_listeners; i++) {
        struct listener *l = &s->listener[i];
        if (!l->daemon || l->quiet) continue;
        l->quiet = true;
        MHD_quiesce_daemon(l->daemon);
        stop_listening(l);
    }
}

/* Those that still wait are ended first: libmicrohttpd aborts when it stops with suspended
 * connections. Its threads still run, so none may begin to wait behind our back (`closing`). */
static void end_waiting(struct server *s) {
    struct table *t = s->http;
    for (int i = 0;; i++) {
        struct exchange *x = NULL;
        pthread_mutex_lock(&t->lock);
        bool more = i < t->n_slots;
        if (more && t->slot[i] && t->slot[i]->x) x = exchange_hold(t->slot[i]->x);
        pthread_mutex_unlock(&t->lock);
        if (!more) return;
        if (x) exchange_lost(x);
        exchange_release(x);
    }
}

void http_close(struct server *s) {
    struct table *t = s->http;
    if (!t) return;
    atomic_store(&s->closing, true);
    end_waiting(s);
    for (int i = 0; i < s->n_listeners; i++)
        if (s->listener[i].daemon) MHD_stop_daemon(s->listener[i].daemon);
    free(t->slot);
    free(t->generation);
    free(t->empty);
    pthread_mutex_destroy(&t->lock);
    free(t);
    s->http = NULL;
}

/* exchange.c - the life of an exchange: references, replies, streams, clients that leave.
 *
 * libmicrohttpd is suspended while a handler works and while a stream has nothing to send. Whoever
 * brings news resumes it under the exchange's lock, so that no wake-up is lost between looking at
 * the buffer and suspending. */
#include "api/inflate.h"
#include "api/inside.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { OUT_MAX = 1 << 20, OUT_KEEP = 16 << 10, STREAM_BLOCK = 4096, EAGER = 3, HOLD_MS = 8,
       HOLD_MS_MAX = 24 };

void request_id_new(char *text, size_t size) {
    static _Atomic uint64_t counter;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t n = atomic_fetch_add(&counter, 1);
    snprintf(text, size, "req_%08llx%05lx%06llx", (unsigned long long)now.tv_sec,
             (unsigned long)now.tv_nsec >> 10, (unsigned long long)(n & 0xffffff));
}

struct exchange *exchange_new(struct conn *conn, struct MHD_Connection *connection) {
    struct exchange *x = mem_new(sizeof *x);
    struct inside *in = x->inside = mem_new(sizeof *in);
    const char *query = strchr(conn->uri, '?');
    size_t path_len = query ? (size_t)(query - conn->uri) : strlen(conn->uri);
    char *uri = mem_str(str_of(conn->uri));
    x->server = conn->server;
    x->path = (struct str){ uri, path_len };
    x->query = str_of(query ? uri + path_len + 1 : "");
    x->begun_s = clock_s();
    x->body.max = conn->server->options.body_max;
    request_id_new(x->request_id, sizeof x->request_id);
    in->conn = conn;
    in->connection = connection;
    in->refs = 1;
    pthread_mutex_init(&in->lock, NULL);
    atomic_fetch_add(&conn->server->n_exchanges, 1);
    return x;
}

struct exchange *exchange_hold(struct exchange *x) {
    atomic_fetch_add(&x->inside->refs, 1);
    return x;
}

void exchange_release(struct exchange *x) {
    if (!x || atomic_fetch_sub(&x->inside->refs, 1) > 1) return;
    struct inside *in = x->inside;
    atomic_fetch_sub(&x->server->n_exchanges, 1);
    if (in->response) MHD_destroy_response(in->response);
    pthread_mutex_destroy(&in->lock);
    buf_free(&in->out);
    free(in->origin);
    free(in);
    buf_free(&x->body);
    free((void *)(uintptr_t)x->path.at);
    free(x);
}

const char *exchange_header(const struct exchange *x, const char *name) {
    if (x->inside->phase == PHASE_OVER) return NULL;
    return MHD_lookup_connection_value(x->inside->connection, MHD_HEADER_KIND, name);
}

/* ---- under the lock ---- */

bool exchange_suspend(struct exchange *x) {
    struct inside *in = x->inside;
    if (atomic_load(&x->server->closing)) return false;
    in->suspended = true;
    MHD_suspend_connection(in->connection);
    return true;
}

static void wake(struct inside *in) {
    if (!in->suspended || in->phase == PHASE_OVER) return;
    in->suspended = false;
    MHD_resume_connection(in->connection);
}

/* Bytes of a stream. What is first in the buffer has waited since it was alone there. */
static void append(struct inside *in, struct str text, double now) {
    if (in->out.len == in->out_at) in->waits_s = now;
    buf_str(&in->out, text);
}

/* Who is to be told, once; called after the lock is dropped. */
static void (*leaving(struct inside *in, void **to))(void *) {
    in->gone = true;
    wake(in);
    if (!in->on_gone || in->told) return NULL;
    in->told = true;
    *to = in->on_gone_to;
    return in->on_gone;
}

/* ---- clients that leave ---- */

void exchange_lost(struct exchange *x) {
    struct inside *in = x->inside;
    void *to = NULL;
    pthread_mutex_lock(&in->lock);
    void (*tell)(void *) = leaving(in, &to);
    pthread_mutex_unlock(&in->lock);
    if (tell) tell(to);
}

void exchange_on_gone(struct exchange *x, void (*gone)(void *), void *to) {
    struct inside *in = x->inside;
    pthread_mutex_lock(&in->lock);
    in->on_gone = gone;
    in->on_gone_to = to;
    bool now = in->told = in->gone;
    pthread_mutex_unlock(&in->lock);
    if (now) gone(to);
}

bool exchange_forget_gone(struct exchange *x) {
    pthread_mutex_lock(&x->inside->lock);
    bool in_time = x->inside->on_gone && !x->inside->told;
    x->inside->told = true;
    pthread_mutex_unlock(&x->inside->lock);
    return in_time;
}

bool exchange_is_gone(struct exchange *x) {
    pthread_mutex_lock(&x->inside->lock);
    bool gone = x->inside->gone;
    pthread_mutex_unlock(&x->inside->lock);
    return gone;
}

void exchange_probe(struct exchange *x) {
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct inside *in = x->inside;
    bool dead = false;
    pthread_mutex_lock(&in->lock);
    if (in->phase == PHASE_WORK && in->http11 && !in->probed) {
        in->probed = true;             /* every client has to take interim replies */
        ssize_t n = send(in->conn->fd, interim, sizeof interim - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        dead = n != (ssize_t)sizeof interim - 1;
    } else if (in->streaming && !in->ended && in->phase != PHASE_OVER) {
        append(in, S(":\n\n"), clock_s());
        wake(in);
    }
    pthread_mutex_unlock(&in->lock);
    if (dead) exchange_lost(x);
}

void exchange_tick(struct exchange *x, double now, double late) {
    struct inside *in = x->inside;
    const struct server_options *o = &x->server->options;
    pthread_mutex_lock(&in->lock);
    bool open = in->streaming && !in->ended && !in->gone;
    bool waits = in->out.len > in->out_at;
    in->waits_s += late;
    bool stuck = in->streaming && waits && now - in->waits_s > o->stall_s;
    if (open && !waits && now - in->put_s > o->ping_s) {
        append(in, S(": keepalive\n\n"), now);
        in->put_s = now;
        wake(in);
    }
    pthread_mutex_unlock(&in->lock);
    if (stuck) exchange_lost(x);
}

/* ---- replies ---- */

static void add_header(struct MHD_Response *r, const char *name, const char *value) {
    MHD_add_response_header(r, name, value);
}

static void common_headers(struct exchange *x, struct MHD_Response *r, const char *type) {
    add_header(r, "Content-Type", type);
    add_header(r, "x-request-id", x->request_id);
    add_header(r, "X-Content-Type-Options", "nosniff");
    if (x->inside->origin) {
        add_header(r, "Access-Control-Allow-Origin", x->inside->origin);
        add_header(r, "Access-Control-Expose-Headers", "x-request-id, retry-after");
        if (strcmp(x->inside->origin, "*")) add_header(r, "Vary", "Origin");
    }
    bool close = x->inside->last || atomic_load(&x->server->state) == SERVER_DRAINING;
    if (close) add_header(r, "Connection", "close");
}

/* The reply is decided; the first one counts. */
static void ready(struct exchange *x, int status, struct MHD_Response *r) {
    struct inside *in = x->inside;
    pthread_mutex_lock(&in->lock);
    bool first = !in->response && in->phase <= PHASE_WORK;
    if (first) {
        in->response = r;
        in->status = status;
        if (in->phase == PHASE_WORK) in->phase = PHASE_READY;
        wake(in);
    }
    pthread_mutex_unlock(&in->lock);
    if (!first) MHD_destroy_response(r);
}

static struct MHD_Response *response_of(struct exchange *x, const char *type, struct buf *text) {
    void *bytes = text->at ? text->at : mem_new(1);
    struct MHD_Response *r =
        MHD_create_response_from_buffer(text->len, bytes, MHD_RESPMEM_MUST_FREE);
    *text = (struct buf){ 0 };
    common_headers(x, r, type);
    return r;
}

void reply_text(struct exchange *x, int status, const char *type, struct buf *text) {
    ready(x, status, response_of(x, type, text));
}

void reply_json(struct exchange *x, int status, struct buf *json) {
    reply_text(x, status, "application/json; charset=utf-8", json);
}

static void put_methods(struct buf *to, unsigned methods) {
    if (methods & METHOD_GET) buf_str(to, S("GET, HEAD, "));
    if (methods & METHOD_POST) buf_str(to, S("POST, "));
    buf_str(to, S("OPTIONS"));
}

void reply_fault(struct exchange *x, const struct fault *f) {
    struct buf json = { 0 }, methods = { 0 };
    fault_writer *write = x->route ? x->route->fault : fault_openai;
    write(&json, f, x->request_id);
    struct MHD_Response *r = response_of(x, "application/json; charset=utf-8", &json);
    char seconds[16];
    snprintf(seconds, sizeof seconds, "%d", f->retry_after);
    if (f->retry_after) add_header(r, "Retry-After", seconds);
    if (f->status == 415 && !strcmp(f->param, "Content-Encoding"))
        add_header(r, "Accept-Encoding", inflate_names);
    if (f->status == 401) add_header(r, "WWW-Authenticate", "Bearer");
    if (f->status == 405 && x->route) {
        put_methods(&methods, x->route->methods);
        add_header(r, "Allow", buf_c(&methods));
    }
    buf_free(&methods);
    ready(x, f->status, r);
}

/* What libmicrohttpd calls when it can send more of a stream. */
static ssize_t read_stream(void *to, uint64_t pos, char *block, size_t max) {
    struct exchange *x = to;
    struct inside *in = x->inside;
    (void)pos;
    pthread_mutex_lock(&in->lock);
    size_t n = MIN(in->out.len - in->out_at, max);
    ssize_t result = (ssize_t)n;
    if (in->gone) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n) {
        memcpy(block, in->out.at + in->out_at, n);
        in->out_at += n;
        in->waits_s = clock_s();
        if (in->out_at == in->out.len) {
            in->out_at = 0;
            if (in->out.cap > OUT_KEEP) buf_free(&in->out);
            else buf_clear(&in->out);
        }
    } else if (in->ended) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (!exchange_suspend(x)) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    }
    pthread_mutex_unlock(&in->lock);
    return result;
}

static void stream_done(void *to) {
    exchange_release(to);
}

void stream_begin(struct exchange *x) {
    struct MHD_Response *r = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, exchange_hold(x), stream_done);
    common_headers(x, r, "text/event-stream; charset=utf-8");
    add_header(r, "Cache-Control", "no-cache");
    add_header(r, "X-Accel-Buffering", "no");
    pthread_mutex_lock(&x->inside->lock);
    x->inside->streaming = true;
    x->inside->put_s = clock_s();
    pthread_mutex_unlock(&x->inside->lock);
    ready(x, 200, r);
}

/* The more sequences run the longer, a millisecond for each, so that all of them together do not
 * cause more than a thousand sends a second. The most is one picture of a film. */
static int hold_ms(const struct server *s) {
    return MIN(MAX(atomic_load(&s->n_running), HOLD_MS), HOLD_MS_MAX);
}

/* Where tokens come faster than a person could see, each costs a system call and a wake-up, of
 * cores that the model needs: those that come within hold_ms go out together, but for the first
 * ones. True: this stream is to be put on the list. */
static bool hold_back(const struct server *s, struct inside *in, bool last) {
    bool eager = in->n_put < EAGER;
    in->n_put += eager;
    if (last || eager || in->put_s - in->woken_s >= hold_ms(s) * 1e-3) {
        in->woken_s = in->put_s;
        wake(in);
        return false;
    }
    bool first = !in->held;
    in->held = true;
    return first;
}

static void list_held(struct exchange *x) {
    struct server *s = x->server;
    exchange_hold(x);
    pthread_mutex_lock(&s->held_lock);
    x->inside->next_held = s->held;
    s->held = x;
    pthread_mutex_unlock(&s->held_lock);
    watch_soon(s->watch, hold_ms(s));
}

void exchanges_flush(struct server *s) {
    double now = clock_s();
    pthread_mutex_lock(&s->held_lock);
    struct exchange *x = s->held;
    s->held = NULL;
    pthread_mutex_unlock(&s->held_lock);
    while (x) {
        struct inside *in = x->inside;
        struct exchange *next = in->next_held;
        pthread_mutex_lock(&in->lock);
        in->held = false;
        in->woken_s = now;
        wake(in);
        pthread_mutex_unlock(&in->lock);
        exchange_release(x);
        x = next;
    }
}

/* False: nobody reads it. A buffer that is full means a client that is too slow. */
static bool put(struct exchange *x, struct str begin, struct str text, struct str end, bool last) {
    struct inside *in = x->inside;
    void (*tell)(void *) = NULL;
    void *to = NULL;
    bool later = false;
    pthread_mutex_lock(&in->lock);
    bool ok = in->streaming && !in->gone && !in->ended;
    if (ok && in->out.len - in->out_at + text.len > OUT_MAX) {
        tell = leaving(in, &to);
        ok = false;
    } else if (ok) {
        in->put_s = clock_s();
        append(in, begin, in->put_s);
        buf_str(&in->out, text);
        buf_str(&in->out, end);
        in->ended = last;
        later = hold_back(x->server, in, last);
    }
    pthread_mutex_unlock(&in->lock);
    if (later) list_held(x);
    if (tell) tell(to);
    return ok;
}

bool stream_data(struct exchange *x, struct str json) {
    return put(x, S("data: "), json, S("\n\n"), false);
}

void stream_end(struct exchange *x, bool done_marker) {
    put(x, (struct str){ 0 }, done_marker ? S("data: [DONE]\n\n") : (struct str){ 0 },
        (struct str){ 0 }, true);
}

void stream_fault(struct exchange *x, const struct fault *f) {
    struct buf json = { 0 };
    fault_writer *write = x->route ? x->route->fault : fault_openai;
    write(&json, f, x->request_id);
    put(x, S("data: "), buf_view(&json), S("\n\n"), true);
    buf_free(&json);
}

enum MHD_Result exchange_queue(struct exchange *x) {
    struct inside *in = x->inside;
    pthread_mutex_lock(&in->lock);
    struct MHD_Response *r = in->response;
    in->phase = PHASE_SENT;
    in->response = NULL;
    pthread_mutex_unlock(&in->lock);
    enum MHD_Result ok = MHD_queue_response(in->connection, (unsigned)in->status, r);
    MHD_destroy_response(r);
    return ok;
}

bool fault_set(struct fault *f, int status, const char *param, const char *format, ...) {
    char text[sizeof f->err.text];
    if (f->status) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    f->status = status;
    if (param) snprintf(f->param, sizeof f->param, "%s", param);
    return err_set(&f->err, "%s", text);
}

/* server.c - from options to a listening server, the engine's loop, and the end.
 *
 * The thread that calls server_serve steps the engine. A stop comes from a signal: the watcher sees
 * it, closes the listening sockets and lets running requests finish, for so long. */
#include "api/server.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS_QUEUE = 4096 };

static const char *const *copy_list(struct arena *a, const char *const *list, int n) {
    if (n < 1) return NULL;
    const char **copy = arena_new(a, (size_t)n * sizeof *copy);
    for (int i = 0; i < n; i++) copy[i] = arena_str(a, str_of(list[i]));
    return copy;
}

static const char *copy_text(struct arena *a, const char *text) {
    return text ? arena_str(a, str_of(text)) : NULL;
}

static void copy_options(struct server *s, const struct server_options *o) {
    struct server_options *c = &s->options;
    *c = *o;
    c->host = copy_list(&s->arena, o->host, o->n_hosts);
    c->key = copy_list(&s->arena, o->key, o->n_keys);
    c->origin = copy_list(&s->arena, o->origin, o->n_origins);
    c->allowed_host = copy_list(&s->arena, o->allowed_host, o->n_allowed_hosts);
    c->prefix = copy_text(&s->arena, o->prefix);
    c->alias = copy_text(&s->arena, o->alias);
    c->model_path = copy_text(&s->arena, o->model_path);
    c->template_vars = copy_text(&s->arena, o->template_vars);
    c->reasoning_field = copy_text(&s->arena, o->reasoning_field);
    struct str field = str_of(c->reasoning_field);
    s->only_reasoning = str_is(field, "reasoning");
    s->only_reasoning_content = str_is(field, "reasoning_content");
    c->notify = copy_text(&s->arena, o->notify);
    if (c->connections_max < 1) c->connections_max = 16384;
    if (c->queue_max < 1) c->queue_max = 512;
    if (c->key_max < 1) c->key_max = c->n_keys ? 64 : c->queue_max;
    if (!c->body_max) c->body_max = 16 << 20;
    if (c->header_s <= 0) c->header_s = 10;
    if (c->body_s <= 0) c->body_s = 30;
    if (c->idle_s <= 0) c->idle_s = 75;
    if (c->stall_s <= 0) c->stall_s = 30;
    if (c->ping_s <= 0) c->ping_s = 15;
    if (c->drain_s <= 0) c->drain_s = 30;
    /* A step is a chunk of a prompt or a token of each sequence: this is far more than either
     * takes, on any machine that is of use. */
    if (c->stuck_s <= 0) c->stuck_s = 60;
}

/* The first alias, or the last part of the path, as a name for clients. */
static void name_model(struct server *s) {
    struct server_options *o = &s->options;
    while (o->alias && *o->alias == ',') o->alias++;
    if (o->alias && !*o->alias) o->alias = NULL;
    const char *path = o->model_path ? o->model_path : "mlxcel";
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    if (o->alias)
        snprintf(s->model, sizeof s->model, "%.*s", (int)strcspn(o->alias, ","), o->alias);
    else snprintf(s->model, sizeof s->model, "%.*s", (int)(n - begin), path + begin);
}

/* ---- stopping, on the watcher's thread ---- */

static void begin_drain(struct server *s) {
    double none = 0;
    if (!atomic_compare_exchange_strong(&s->drain_s, &none, clock_s())) return;
    /* Loading may end between a look and a change: then it is looked at again. */
    int was = atomic_load(&s->state);
    while (was != SERVER_DRAINING &&
           !atomic_compare_exchange_weak(&s->state, &was, SERVER_DRAINING)) {}
    server_notify(s, "STOPPING=1\nSTATUS=running requests may finish");
    http_quiesce(s);
    if (was == SERVER_READY || was == SERVER_FAILED) engine_stop(s->engine);
}

static void end_late(void *to, struct call *c) {
    double now = *(const double *)to;
    const struct server_options *o = &c->x->server->options;
    struct fault late = { 0 };
    if (c->failed || now - c->x->begun_s < o->request_s) return;
    fault_set(&late, 504, NULL, "the request took longer than the limit of %g s", o->request_s);
    c->why = late;
    c->failed = true;
    call_cancel(c);
}

/* An engine that is stuck is what the service manager should see: then nothing is said. */
static void feed_watchdog(struct server *s, double now) {
    double every = s->options.watchdog_s / 2;
    if (every <= 0 || now - s->watchdog_s < every || server_stuck(s)) return;
    s->watchdog_s = now;
    server_notify(s, "WATCHDOG=1");
}

static void on_tick(void *to, double late) {
    struct server *s = to;
    double now = clock_s();
    feed_watchdog(s, now);
    if (atomic_load(&s->stops)) begin_drain(s);
    bool over = atomic_load(&s->stops) > 1 || now - s->drain_s > s->options.drain_s;
    if (atomic_load(&s->state) == SERVER_DRAINING && over) calls_cancel(s);
    if (s->options.request_s > 0) calls_each(s, end_late, &now);
    http_tick(s, late);
    crowd_tick(s, now);
}

static void on_event(void *to, uint64_t key, enum watch_event event) {
    http_event(to, key, event);
}

static void on_knock(void *to, int index) {
    crowd_meet(to, index);
}

static void on_soon(void *to) {
    exchanges_flush(to);
}

void server_stop(struct server *s) {
    atomic_fetch_add(&s->stops, 1);
    watch_wake(s->watch);
}

/* ---- opening and closing ---- */

struct server *server_open(const struct server_options *o, struct err *err) {
    static const struct watch_calls calls = { on_event, on_tick, on_knock, on_soon };
    struct server *s = mem_new(sizeof *s);
    copy_options(s, o);
    name_model(s);
    s->created = (int64_t)time(NULL);
    s->opened_s = clock_s();
    pthread_mutex_init(&s->calls_lock, NULL);
    pthread_mutex_init(&s->held_lock, NULL);
    s->metrics = metrics_open();
    s->access = access_open(&s->options, err);
    s->workers = workers_open(workers_wanted(), WORKERS_QUEUE);
    bool ok = s->access && listen_open(s, err);
    if (ok && !s->workers) ok = err_set(err, "no threads could be started");
    http_prepare(s);
    s->crowd = crowd_open();
    if (ok) ok = (s->watch = watch_open(&calls, s, err)) != NULL;
    if (ok && http_open(s, err)) return s;
    server_close(s);
    return NULL;
}

static bool has_calls(struct server *s) {
    pthread_mutex_lock(&s->calls_lock);
    bool any = s->calls != NULL;
    pthread_mutex_unlock(&s->calls_lock);
    return any;
}

/* When no worker is left that could begin a call: one may have begun after the last look of those
 * who served. What the engine tells a call uses the server, so it lets go of them before that is
 * freed. */
static void end_calls(struct server *s) {
    struct err err = { 0 };
    calls_cancel(s);
    while (has_calls(s) && engine_step(s->engine, &err) >= 0) {}
}

void server_close(struct server *s) {
    if (!s) return;
    atomic_store(&s->state, SERVER_DRAINING);
    workers_stop(s->workers);          /* libmicrohttpd's threads may still call them */
    end_calls(s);
    watch_stop(s->watch);
    exchanges_flush(s);
    http_close(s);
    workers_close(s->workers);
    watch_close(s->watch);
    crowd_close(s->crowd);
    listen_close(s);
    access_close(s->access);
    metrics_close(s->metrics);
    pthread_mutex_destroy(&s->calls_lock);
    pthread_mutex_destroy(&s->held_lock);
    arena_free(&s->arena);
    free(s);
}

int server_port(const struct server *s) {
    for (int i = 0; i < s->n_listeners; i++)
        if (s->listener[i].port) return s->listener[i].port;
    return 0;
}

void server_addresses(const struct server *s, struct buf *to) {
    for (int i = 0; i < s->n_listeners; i++)
        buf_format(to, "%s%s", i ? ", " : "", s->listener[i].address);
}

void server_progress(struct server *s, double done) {
    char text[96];
    int thousandths = (int)(MIN(MAX(done, 0), 1) * 1000);
    int before = atomic_exchange(&s->progress, thousandths);
    if (before / 10 == thousandths / 10) return;
    /* A model that takes long must not be killed as long as it comes nearer. */
    snprintf(text, sizeof text, "STATUS=loading %d %%\nEXTEND_TIMEOUT_USEC=120000000",
             thousandths / 10);
    server_notify(s, text);
}

/* One datagram, to a path or to an abstract name (which begins with @). */
void server_notify(const struct server *s, const char *state) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    const char *path = s->options.notify;
    size_t n = path ? strlen(path) : 0;
    if (!n || n >= sizeof a.sun_path) return;
    memcpy(a.sun_path, path, n);
    if (path[0] == '@') a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    ssize_t sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&a,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
    if (sent < 0) log_line(LOG_WARN, "the service manager could not be told: %s", state);
    close(fd);
}

/* ---- the engine's loop ---- */

/* What the engine has is always waited for, since it tells the calls, which close with the server;
 * past the limit of time it has been told to let go. The first stop waits for clients as well, who
 * may still read what was written for them. */
static bool over(struct server *s) {
    if (atomic_load(&s->state) != SERVER_DRAINING) return false;
    bool late = clock_s() - s->drain_s > s->options.drain_s + 1;
    bool hurry = atomic_load(&s->stops) > 1;
    return !has_calls(s) && (late || hurry || !atomic_load(&s->n_exchanges));
}

/* The device is gone, and the engine has ended every request. Who asks is told so, /health too,
 * until the server is stopped: what supervises it then knows more than that it died. */
static void stand_by(struct server *s, const struct err *err) {
    int ready = SERVER_READY;
    atomic_compare_exchange_strong(&s->state, &ready, SERVER_FAILED);
    log_line(LOG_ERROR, "%s", err->text);
    while (!over(s)) usleep(10000);
}

bool server_serve(struct server *s, struct engine *e, const struct sample_params *sampling,
                  struct err *err) {
    int loading = SERVER_LOADING;
    s->engine = e;
    s->sampling = sampling;
    s->info = engine_info(e);
    struct engine_stats before = engine_stats(e);
    metrics_base(s->metrics, &before);
    if (atomic_compare_exchange_strong(&s->state, &loading, SERVER_READY))
        server_notify(s, "READY=1\nSTATUS=serving");
    while (!over(s)) {
        int rows = engine_step(e, err);
        if (rows < 0) {
            stand_by(s, err);
            return false;
        }
        if (!rows) engine_wait(e, atomic_load(&s->state) == SERVER_DRAINING ? 0.01 : 1);
    }
    return true;
}

/* server.h - the server's own struct, for the files of api/. */
#pragma once
#include "api/access.h"
#include "api/call.h"
#include "api/metrics.h"
#include "api/watch.h"
#include "api/workers.h"
#include "base/arena.h"

#include <stdatomic.h>

enum server_state { SERVER_LOADING, SERVER_READY, SERVER_DRAINING, SERVER_FAILED };

struct listener {
    struct server *server;
    struct MHD_Daemon *daemon;
    int fd, port;                    /* port 0: not TCP */
    bool local;                      /* a Unix socket: any Host will do */
    bool quiet;                      /* accepts no more */
    int connections_max;             /* of this socket */
    _Atomic int n_connections;
    bool watched;                    /* the watcher accepts, too; its own */
    char address[128];               /* "http://127.0.0.1:8080", "unix:/run/mlxcel.sock" */
    char *unlink_path;               /* removed at the end; NULL: none */
};

struct crowd;

struct server {
    struct server_options options;   /* its lists are copies, of the arena */
    struct arena arena;
    struct listener listener[LISTEN_MAX]; int n_listeners;
    struct access *access;
    struct metrics *metrics;
    struct workers *workers;
    struct watch *watch;
    struct crowd *crowd;
    char model[256];                 /* what /v1/models calls it */
    bool only_reasoning, only_reasoning_content;
    int64_t created;                 /* Unix seconds of the start */
    double opened_s;                 /* clock_s of the start */
    double watchdog_s;               /* when systemd heard of us; the watcher's own */
    _Atomic double drain_s;          /* of the stop; 0 before it */

    _Atomic int state;               /* enum server_state */
    _Atomic int stops;               /* how often server_stop was called */
    _Atomic bool closing;            /* no connection may be suspended any more */
    _Atomic int progress;            /* of loading, in thousandths */
    _Atomic int n_running;           /* calls that the engine works for */
    _Atomic int n_exchanges, n_connections;
    /* Valid from SERVER_READY on; set before the state is. */
    struct engine *engine;
    const struct sample_params *sampling;
    struct engine_info info;

    pthread_mutex_t calls_lock;
    struct call *calls;              /* running ones */
    pthread_mutex_t held_lock;
    struct exchange *held;           /* streams with events that wait for exchanges_flush */
    void *http;                      /* http.c's table of connections */
};

/* http.c: one libmicrohttpd daemon for each listener. */
void http_prepare(struct server *);  /* what the watcher looks at from its start */
bool http_open(struct server *, struct err *);
void http_quiesce(struct server *);  /* accept nothing more */
void http_close(struct server *);    /* ends who still waits */
/* On the watcher's thread: a connection's event, and the deadlines. `late_s`: for so long this
 * process did not run (it was stopped, or starved), which is not held against clients. */
void http_event(struct server *, uint64_t key, enum watch_event);
void http_tick(struct server *, double late_s);
/* crowd.c: on the watcher's thread: who comes when there is no place gets a 503. */
struct crowd *crowd_open(void);
void crowd_close(struct crowd *);    /* NULL: nothing */
void crowd_meet(struct server *, int listener);           /* somebody knocks */
void crowd_tick(struct server *, double now_s);
/* exchange.c: on the watcher's thread: streams whose events were held back send them. */
void exchanges_flush(struct server *);
/* listen.c: the sockets of options.host. */
bool listen_open(struct server *, struct err *);
void listen_close(struct server *);
struct sockaddr;
void address_text(const struct sockaddr *, char *text, size_t size);     /* "127.0.0.1:8080" */
/* Ends all running calls: their clients get what there is, or a fault. */
void calls_cancel(struct server *);
/* A line for a request that ended. */
void request_log(struct server *, const struct exchange *, int status);
/* To whoever started us, when options.notify names its socket: "READY=1", ... */
void server_notify(const struct server *, const char *state);
/* The engine has been inside of one step for options.stuck_s: for /livez and the watchdog. */
bool server_stuck(const struct server *);

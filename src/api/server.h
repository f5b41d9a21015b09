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

struct listener { int fd, port; bool local; char address[128]; struct MHD_Daemon *daemon;
                  char *unlink_path; };

struct server {
    struct server_options options;   /* its lists are copies, of the arena */
    struct arena arena;
    struct listener listener[LISTEN_MAX]; int n_listeners;
    struct access *access;
    struct metrics *metrics;
    struct workers *workers;
    struct watch *watch;
    char model[256];                 /* what /v1/models calls it */
    int64_t created;                 /* Unix seconds of the start */
    double opened_s;

    _Atomic int state;               /* enum server_state */
    _Atomic int stops;               /* how often server_stop was called */
    _Atomic int progress;            /* of loading, in thousandths */
    _Atomic int n_running;           /* calls that the engine works for */
    _Atomic int n_exchanges, n_connections;
    /* Valid from SERVER_READY on; set before the state is. */
    struct engine *engine;
    const struct sample_params *sampling;
    struct engine_info info;

    pthread_mutex_t calls_lock;
    struct call *calls;              /* running ones */
    void *http;                      /* http.c's table of connections */
};

/* http.c: one libmicrohttpd daemon for each listener. */
bool http_open(struct server *, struct err *);
void http_quiesce(struct server *);  /* accept nothing more */
void http_close(struct server *);
/* listen.c */
bool listen_open(struct server *, struct err *);
void listen_close(struct server *);
/* A line for a request that ended. */
void request_log(struct server *, const struct exchange *, int status);
/* To whoever started us, when options.notify names its socket: "READY=1", ... */
void server_notify(const struct server *, const char *state);

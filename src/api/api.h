/* api.h - the server: one engine behind HTTP. All that cli/serve.c sees.
 *
 * Threads: I/O threads (libmicrohttpd's) read requests and write replies and never wait for
 * anything else; workers parse, render and tokenize; one thread steps the engine; one watches
 * for clients that leave and for deadlines. */
#pragma once
#include "engine.h"

enum { LISTEN_MAX = 16, KEYS_MAX = 256, ORIGINS_MAX = 64, HOSTS_MAX = 64 };

struct server_options {              /* everything is copied by server_open */
    const char *const *host; int n_hosts;    /* address, unix:PATH or fd:N; none: 127.0.0.1 */
    int port;                        /* 0: any free one, server_port says which */
    const char *prefix;              /* "/api" before every path; NULL: none */
    const char *const *key; int n_keys;      /* API keys; none: everyone may */
    bool open;                       /* no key is needed on an address others can reach */
    const char *const *origin; int n_origins;    /* CORS; "*": any; none: loopback pages */
    const char *const *allowed_host; int n_allowed_hosts;    /* Host names beside our own */
    const char *alias;               /* the model's name for clients, perhaps several with commas;
                                        NULL: from its folder */
    const char *model_path;          /* as given; for /props */
    const char *template_vars;       /* a JSON object, under a request's own; NULL: none */
    const char *reasoning_field;     /* "reasoning_content" or "reasoning" alone in replies; else
                                        both */
    bool strict_model;               /* another name in "model" is a 404 */
    bool no_slots, no_props, no_metrics;     /* leave these routes out */
    int connections_max;             /* 0: 16384, within the file limit */
    int queue_max, key_max;          /* requests: waiting and running in all, and of one key */
    size_t body_max;                 /* bytes of a request */
    double header_s, body_s, idle_s, stall_s;    /* deadlines; 0: the defaults */
    double request_s;                /* of a whole generation; 0: none */
    double ping_s;                   /* between keep-alive comments; 0: 15 */
    double stuck_s;                  /* a step that takes longer is told of by /livez; 0: 60 */
    double drain_s;                  /* for running requests after SIGTERM; 0: 30 */
    bool log_json;                   /* log lines as JSON objects */
    bool quiet;                      /* no line for each request */
    const char *notify;              /* systemd's socket; NULL: none */
    double watchdog_s;               /* it wants to hear from us so often; 0: never */
};

struct server;

/* Binds and listens; from now on requests are answered, with 503 until server_serve. */
struct server *server_open(const struct server_options *, struct err *);
void server_close(struct server *);
int  server_port(const struct server *);                  /* of the first TCP socket, or 0 */
void server_addresses(const struct server *, struct buf *);      /* "http://127.0.0.1:8080" */

/* How far loading is, 0 to 1, for /health and systemd. Any thread. */
void server_progress(struct server *, double done);

/* Serves with this engine, which stays the caller's, until a stop was asked for and the requests
 * that ran are done or the time to drain is over. `sampling`: what a request that says nothing
 * gets. False: the engine's device failed, err says how. */
bool server_serve(struct server *, struct engine *, const struct sample_params *sampling,
                  struct err *);
/* Asks for the end: no new requests, those that run may finish. A second call ends those too.
 * From any thread, and from signal handlers. */
void server_stop(struct server *);

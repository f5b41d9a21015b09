/* inside.h - what http.c, exchange.c and check.c know of an exchange and nobody else. */
#pragma once
#include "api/framing.h"
#include "api/server.h"

#include <microhttpd.h>

/* A client's connection, from accept to close; carries one exchange after the other. */
struct conn {
    struct server *server;
    struct listener *listener;
    int fd;
    uint64_t key;                    /* of the table: index and generation */
    char *uri;                       /* of the current request line, as it came */
    struct exchange *x;              /* the current one; under the table's lock */
    double deadline_s;               /* it is closed then; 0: no deadline; under the lock */
    bool reading;                    /* a deadline now is a 408; under the lock, as the next two */
    bool more, half;                 /* it is for bytes to come; the peer will send no more */
    struct framing framing;          /* the I/O thread's */
    int n_requests;
    char peer[64];
};

enum phase {
    PHASE_BODY,                      /* reading the request */
    PHASE_WORK,                      /* a handler has it; libmicrohttpd is suspended */
    PHASE_READY,                     /* a reply waits to be queued */
    PHASE_SENT,                      /* libmicrohttpd has the reply */
    PHASE_OVER                       /* the connection is done with it */
};

struct inside {
    struct conn *conn;               /* valid until PHASE_OVER */
    struct MHD_Connection *connection;
    _Atomic int refs;
    bool http11, checked;
    bool last;                       /* the connection has had its share: it ends after this */
    char method[16];                 /* as it came, also an unknown one */
    struct fault refused;            /* status 0: not */
    char *origin;                    /* value for Access-Control-Allow-Origin; NULL: none */
    size_t body_seen;
    char encoding[16];               /* the body's, one that inflate.h knows; empty: plain */

    pthread_mutex_t lock;            /* of everything below */
    enum phase phase;
    int status;
    int raw_status;                  /* of what went out beside libmicrohttpd; 0: nothing did */
    struct MHD_Response *response;
    bool streaming, ended, suspended, gone, told, probed;
    struct buf out; size_t out_at;   /* of a stream: what was not handed on yet */
    double put_s;                    /* when something last came in */
    double woken_s;                  /* when it was last told of new events */
    int n_put;                       /* events so far, up to EAGER */
    bool held;                       /* in the server's list of those told later; a reference */
    struct exchange *next_held;      /* of that list, under its lock */
    double waits_s;                  /* since when what is first in `out` could have gone */
    void (*on_gone)(void *to);
    void *on_gone_to;
};

struct exchange *exchange_new(struct conn *, struct MHD_Connection *);
/* Under its lock: the connection sleeps until there is news. False, and it does not, once the
 * server closes: nobody would wake it then. */
bool exchange_suspend(struct exchange *);
/* The client has left: tells who waits for that, and lets libmicrohttpd find out. */
void exchange_lost(struct exchange *);
/* The reply that is ready goes to libmicrohttpd. Under no lock, on the I/O thread. */
enum MHD_Result exchange_queue(struct exchange *);
/* About four times a second: pings, and clients that do not read. */
void exchange_tick(struct exchange *, double now_s, double late_s);  /* see http_tick */
/* The peer sends no more. It may still read, so it is sent something harmless: if it is gone,
 * the answer to that is a reset. */
void exchange_probe(struct exchange *);

/* Headers, before the body is read: false and x->inside->refused, or true. */
bool check_request(struct exchange *, const char *version);
const struct route *route_find(const struct server *, struct str path);
const char *method_name(enum method);

/* exchange.h - one HTTP request and its reply, as handlers see them.
 *
 * http.c makes an exchange when the headers are in, fills its body, and runs the route's handler.
 * A handler answers once: with a whole reply, or with a stream that is put together piece by piece
 * from any thread. It may answer after it returned, if it has taken a reference. Nothing here
 * waits for the client: pieces go to a bounded buffer, and a client that does not read is
 * dropped. */
#pragma once
#include "api/api.h"
#include <json-c/json_object.h>
#include <pthread.h>

struct exchange;
struct key_account;                  /* access.h: who asks, by API key */

enum { REQUEST_ID_MAX = 64 };

enum method { METHOD_GET = 1, METHOD_HEAD = 2, METHOD_POST = 4, METHOD_OPTIONS = 8 };

/* What is wrong with a request, in the words all dialects have. */
struct fault {
    int status;                      /* 400, 401, ... */
    const char *type;                /* "invalid_request_error"; NULL: by status */
    const char *code;                /* "context_length_exceeded"; NULL: none */
    char param[64];                  /* the field; empty: none */
    int n_prompt, n_ctx;             /* context overflow: extra keys; 0: none */
    int retry_after;                 /* seconds; 0: no header */
    int progress;                    /* of loading, in thousandths; 0: not shown */
    struct err err;                  /* the sentence */
};
/* Sets status and sentence unless a fault was set before. Returns false. */
bool fault_set(struct fault *, int status, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A wire format's way to write a fault: the body of the reply, or the data of a last event in a
 * stream. */
typedef void fault_writer(struct buf *json, const struct fault *, const char *request_id);
fault_writer fault_openai;           /* {"error":{message,type,param,code}} */
fault_writer fault_native;           /* llama-server's: the same with a numeric code */

enum route_flags {
    ROUTE_OPEN = 1,                  /* needs no key */
    ROUTE_WORK = 2,                  /* the handler may take long: it runs on a worker */
    ROUTE_LOADING = 4,               /* answered while the model loads */
    ROUTE_SLOTS = 8, ROUTE_PROPS = 16, ROUTE_METRICS = 32,   /* can be left out by options */
    ROUTE_QUEUE = 64                 /* generates: refused at once when the queue is full */
};

struct route {
    unsigned methods;                /* METHOD_ bits; HEAD follows from GET */
    const char *path;
    unsigned flags;
    fault_writer *fault;
    void (*handle)(struct exchange *);
    const char *help;                /* for docs/server.md */
};
extern const struct route routes[];
extern const int n_routes;

/* What a handler may read. Valid as long as the exchange. */
struct exchange {
    struct server *server;
    const struct route *route;       /* NULL: none matches */
    struct key_account *account;     /* who asks */
    enum method method;
    struct str path, query;
    struct buf body;
    char request_id[REQUEST_ID_MAX + 1];     /* the client's, or ours */
    char priority[16];               /* the header X-Priority, cut; empty: none */
    double begun_s;                  /* clock_s */
    struct inside *inside;           /* http.c's: connection, buffers, state */

    /* What the line in the log says of it, filled by whoever knows. */
    char model[64];
    int n_prompt, n_cached, n_generated;
    double queue_s, prefill_s, decode_s, first_token_s;
    const char *finish;              /* a literal */
};

/* An id for a request that brings none: "req_" and hexadecimal digits, each time another. */
void request_id_new(char *text, size_t size);

struct exchange *exchange_hold(struct exchange *);        /* one more reference */
void exchange_release(struct exchange *);

/* A request header; NULL: not there. On the I/O thread only: a worker's handler may run when the
 * connection is gone. */
const char *exchange_header(const struct exchange *, const char *name);

/* Called at most once, from any thread but never under the exchange's own lock, when the client
 * has left or was dropped; at once if it has left already. */
void exchange_on_gone(struct exchange *, void (*gone)(void *to), void *to);
/* It shall not be called any more. False: it was, or is being called just now. */
bool exchange_forget_gone(struct exchange *);
bool exchange_is_gone(struct exchange *);

/* ---- the reply; any thread; the first one counts, later ones are dropped ---- */

/* The buffer is taken. */
void reply_json(struct exchange *, int status, struct buf *json);
void reply_text(struct exchange *, int status, const char *type, struct buf *text);
void reply_fault(struct exchange *, const struct fault *);        /* in the route's dialect */

/* Status 200 and server-sent events from now on. Until stream_end, a comment is sent when nothing
 * was for ping_s. */
void stream_begin(struct exchange *);
/* Appends "data: " + json + two newlines. False: the client is gone, or too slow and dropped. */
bool stream_data(struct exchange *, struct str json);
void stream_end(struct exchange *, bool done_marker);     /* with "data: [DONE]" or without */
/* A failure after the 200: one error frame in the route's dialect, and the end. */
void stream_fault(struct exchange *, const struct fault *);

/* engine_inside.h - the engine's own struct, for engine*.c and nobody else. */
#pragma once
#include "engine.h"
#include "engine_generation.h"
#include "model/model.h"

#include <pthread.h>

enum { LOGPROBS_MAX = 64 };

struct job {                         /* a request with what its client wants */
    struct request request;          /* first: the scheduler hands back pointers to it */
    struct generate_options options; /* its lists are ours */
    engine_emit *emit;
    void *to;
    struct detok *detok;             /* NULL: ids only */
    struct stopper stopper;
    struct buf text, show, piece;    /* of the current token: decoded; what may be shown; alone */
    struct token_prob *top;          /* [options.logprobs] */
    float logprob;
    enum finish finish;
    int n_told;                      /* tokens of the prompt that the last EVENT_PROGRESS told of */
    int n_generated, stop;           /* stop: index + 1 of the stop string that ended it */
    double submitted_s, started_s, first_s, last_s;
    struct job *next;
};

/* Every request from submit to its last event, by id: ids are a serial number times n, plus the
 * place, so an id that is guessed, reused or very old finds nothing. */
struct job_table { struct job **at; int *free; int n, n_free; uint64_t serial; };

/* A batch that was asked for. Its requests live until it has landed: nobody is released between
 * sched_next and that. */
struct flight {
    bool open;                       /* its tokens are on their way, and its commit was done */
    bool ahead;                      /* every token it gives can be drawn without looking */
    int turn, n, n_rows, n_req, n_decoding;      /* n: logits */
    double begin_s;
    struct job **job;                /* [logits_max] */
    int *position;                   /* [logits_max] */
    bool *plain, *wanted;            /* [logits_max] see drawn_by_device; a token is asked for */
    int *token;                      /* [logits_max] where the host draws them at once */
};

struct engine {
    struct device dev;
    struct model *model;
    struct cache *cache;
    struct sched *sched;
    struct budget budget;
    struct sampler *sampler;
    struct tokenizer *tokenizer;     /* NULL with no_tokenizer */
    struct chat *chat;               /* NULL: no template, chat_err says why */
    struct err chat_err;
    struct generation generation;
    struct probe *probe, probe_is;
    const struct kv_name *kv;
    char format[48];                 /* "affine 4-bit g64", "bf16" */
    uint64_t awaited;                /* engine_finish waits for it; 0: nobody does */
    size_t cache_bytes;
    int64_t params;
    double load_s, step_s;
    struct engine_stats now;         /* as the engine's thread counts; copied to stats */
    int context, vocab, requests_max, rows_max, waiting_max;
    int logits_max;                  /* of a step */
    struct flight flight[2];         /* in turns: one lands while the next is on its way */
    int turn;                        /* of the next */
    bool ahead;                      /* a batch may be asked for before the last one has landed */
    double landed_s;
    struct draw *draw;               /* [logits_max] */
    int *picked, *ids;               /* [logits_max]; [rows_max] a batch's ids, all known */
    float *row;                      /* [vocab] a copy that sampling may change */

    pthread_mutex_t lock;            /* of everything below */
    pthread_cond_t wake;
    struct job *submitted, **submitted_end;
    struct job_table jobs;
    int n_submitted;
    bool cancelled, stop;            /* somebody was; engine_stop was called */
    bool failed;                     /* the device did: nothing runs any more */
    struct engine_stats stats;
};

/* Room for so many requests at a time, and none. */
void jobs_open(struct job_table *, int n);
void jobs_close(struct job_table *);
/* The request is over: nobody finds it any more, and it is freed. */
void job_end(struct engine *, struct job *);
/* Makes what the engine's thread has counted visible to the others. */
void engine_publish(struct engine *, bool stepping);

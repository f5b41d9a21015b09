/* engine_inside.h - the engine's own struct, for engine.c, engine_open.c and nobody else. */
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
    struct buf text, show;           /* of the current token: decoded; what may be shown */
    struct token_prob *top;          /* [options.logprobs] */
    float logprob;
    enum finish finish;
    int n_generated, stop;           /* stop: index + 1 of the stop string that ended it */
    double submitted_s, started_s, first_s, last_s;
    struct job *next;
};

struct engine {
    struct device dev;
    struct model *model;
    struct cache *cache;
    struct sched *sched;
    struct sampler *sampler;
    struct tokenizer *tokenizer;     /* NULL with no_tokenizer */
    struct chat *chat;               /* NULL: no template, chat_err says why */
    struct err chat_err;
    struct generation generation;
    struct probe *probe, probe_is;
    char format[48];                 /* "affine 4-bit g64", "bf16" */
    uint64_t awaited;                /* engine_finish waits for it; 0: nobody does */
    size_t cache_bytes;
    double load_s, step_s;
    int context, vocab, waiting_max;
    int *picked;                     /* [logits_max] */
    float *row;                      /* [vocab] a copy that sampling may change */

    pthread_mutex_t lock;            /* of everything below */
    pthread_cond_t wake;
    struct job *submitted, **submitted_end;
    uint64_t *cancelled, last_id;
    size_t n_cancelled, cancelled_cap;
    int queued;                      /* submitted and not yet done */
};

/* batch.h - requests in, packed batches out.
 *
 * One thread owns the scheduler, the cache and the model. Everyone else
 * reaches it through the bounded queues of struct engine. */
#pragma once
#include "batch/budget.h"
#include "cache/cache.h"
#include "tokens/tokens.h"

enum phase { WAITING, RUNNING, FINISHED };

struct request {                     /* the scheduler's part of a request; the engine embeds it */
    uint64_t id;
    _Atomic enum phase phase;        /* written by the thread that schedules */
    int priority;                    /* higher first */
    uint64_t client;                 /* equal priority: clients in turn, see sched_add */
    struct ids ids;                  /* the prompt, then what was generated */
    int n_prompt;
    int n_done;                      /* ids whose state is in the cache */
    int n_now;                       /* rows of the current batch */
    int n_max;                       /* ids this request may reach, prompt included */
    int logits_from;                 /* first position whose logits are wanted, n_prompt - 1 mostly;
                                        moves on with sched_commit, so nothing is given twice */
    int n_cached;                    /* ids found in the cache at its first start */
    int n_preempted;
    int variant;                     /* of the rope, that n_done ids were computed with */
    _Atomic bool cancelled;          /* any thread may set it; see sched_look */
    bool gather;                     /* until its prompt is read nobody decodes; then it is reset */
    bool starved;                    /* FINISHED because it does not fit the cache, even alone */
    bool started, over;              /* scheduler's */
    uint64_t turn, arrival;          /* scheduler's: its client's turn; who came first */
    int level;                       /* scheduler's: the priority, or what age has made of it */
    uint64_t since, waited;          /* scheduler's, in steps: in the queue since; before that */
    struct cache_seq seq;            /* its salt is the caller's choice until sched_add */
    struct request *next;            /* scheduler's lists */
};

struct batch {                       /* rows of the chosen requests, back to back */
    struct request **req;            /* [n_req] */
    int n_req, n_rows, n_logits;
    int n_decoding;                  /* rows that are a sequence's last known id */
    const int *ids;                  /* [n_rows] */
    struct rows rows;                /* positions and sequences */
    const int *logit_row;            /* [n_logits] rows whose logits are wanted,
                                        ascending */
    const int *logit_req;            /* [n_logits] index into req */
    const int *variant;              /* [n_req] rope variant of each sequence */
};

struct sched_options {
    int rows_max;                    /* rows of one batch, at most the cache's rows_max */
    int chunk_max;                   /* prefill rows one request may have in a batch; 0: rows_max */
    int requests_max;                /* running at a time */
    int waiting_max;                 /* the bound of the queue */
    int logits_max;                  /* logits of one batch; 0: rows_max */
    int restart_at;                  /* spec's: 0 never */
    int patience;                    /* steps that anyone waits for higher priorities; 0: any */
    const struct budget *budget;     /* of prompts' rows beside decoding; NULL: none. Borrowed */
};

struct sched;
struct sched *sched_open(struct cache *, const struct sched_options *);
/* Those that run lose their pages; the requests stay their owners'. NULL: nothing to do. */
void sched_close(struct sched *);

/* Takes it (WAITING): the caller filled id, priority, client, ids (one at least), n_prompt, n_max,
 * logits_from, gather and seq.salt and zeroed the rest. False: the queue is full.
 *
 * Requests of one priority are ordered by turns, as start-time fair queueing has them (Goyal, Vin,
 * Cheng 1996): a request's turn is where its client's last one would end, counted in tokens, or
 * now, if that is later. So a client with a hundred requests does not delay one with one, and a
 * client that did nothing has saved up nothing. */
bool sched_add(struct sched *, struct request *);
/* Marks it, wherever it is; it comes out of sched_done at the next sched_next. */
void sched_cancel(struct sched *, uint64_t id);
/* Somebody set `cancelled` of a request, maybe of one that waits: those are looked at only then,
 * so that a long queue costs a step nothing. */
void sched_look(struct sched *);

/* Takes a running request's pages as if they were needed: it waits and resumes. Between a
 * commit and the next batch. False: it does not run. For selftest, and for sharing memory. */
bool sched_preempt(struct sched *, uint64_t id);

/* The next batch: a row for every request that decodes, then prefill chunks while rows and the
 * budget are left; when pages run out the least worthy running request gives up its pages and
 * waits again, in its old place in the queue. One that waits takes place and pages of those that
 * run with a lower priority; one that waited `patience` steps, all its waits together, counts as
 * if it had the highest priority around, so no flood of urgent requests starves it. A request
 * whose prompt another one is computing right now waits for those pages. False: nothing to run.
 * Valid until the next call. */
bool sched_next(struct sched *, struct batch *);

/* The batch was computed, or asked for. token[i] is what sampling gave for logit i, or -1 for none
 * (logits of inner prompt positions), or DRAWN - i: the device knows it already, and sched_know
 * says it before the next commit. A request whose last id got a token grows by it; one whose last
 * id got none, or that has reached n_max, is over. */
void sched_commit(struct sched *, const struct batch *, const int *token);
/* The id at this position of r, which sched_commit was not told. */
void sched_know(struct request *r, int position, int token);
/* The request is over (stop string, end of text, budget): it leaves with the next sched_next. */
void sched_finish(struct sched *, struct request *);
/* A finished, cancelled or starved request, given back to its owner; NULL: none. */
struct request *sched_done(struct sched *);

struct sched_stats { int waiting, running; uint64_t preempted, restarted, aged; };
/* Counts of now, and since open. */
struct sched_stats sched_stats(const struct sched *);

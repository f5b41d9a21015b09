/* engine_requests.c - what every thread may do: hand in a request, cancel one, look at the numbers.
 *
 * All of it meets the engine's thread at one mutex, which nobody holds longer than it takes to
 * copy a few words. */
#include "engine_inside.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- all requests, by id ---- */

void jobs_open(struct job_table *t, int n) {
    t->at = mem_array((size_t)n, sizeof *t->at);
    t->free = mem_array((size_t)n, sizeof *t->free);
    t->n = t->n_free = n;
    for (int i = 0; i < n; i++) t->free[i] = n - 1 - i;
}

void jobs_close(struct job_table *t) {
    free(t->at);
    free(t->free);
}

static uint64_t jobs_put(struct job_table *t, struct job *j) {
    int i = t->free[--t->n_free];
    t->at[i] = j;
    return j->request.id = ++t->serial * (uint64_t)t->n + (uint64_t)i;
}

static struct job *jobs_find(const struct job_table *t, uint64_t id) {
    struct job *j = t->at[id % (uint64_t)t->n];
    return j && j->request.id == id ? j : NULL;
}

static void jobs_take(struct job_table *t, uint64_t id) {
    int i = (int)(id % (uint64_t)t->n);
    t->at[i] = NULL;
    t->free[t->n_free++] = i;
}

/* ---- in and out ---- */

static void copy_options(struct job *j, const struct generate_options *o) {
    struct sample_params *p = &j->options.sample;
    j->options = *o;
    int *breaker = mem_array((size_t)p->n_dry_breakers, sizeof *breaker);
    struct logit_bias *bias = mem_array((size_t)p->n_bias, sizeof *bias);
    struct str *stop = mem_array((size_t)o->n_stop, sizeof *stop);
    if (p->n_dry_breakers)
        memcpy(breaker, p->dry_breaker, (size_t)p->n_dry_breakers * sizeof *breaker);
    if (p->n_bias) memcpy(bias, p->bias, (size_t)p->n_bias * sizeof *bias);
    for (int i = 0; i < o->n_stop; i++)
        stop[i] = (struct str){ mem_str(o->stop[i]), o->stop[i].len };
    p->dry_breaker = breaker;
    p->bias = bias;
    j->options.stop = stop;
    j->stopper = (struct stopper){ .stop = stop, .n_stop = o->n_stop };
}

static void job_free(struct job *j) {
    struct sample_params *p = &j->options.sample;
    free((void *)(uintptr_t)p->dry_breaker);
    free((void *)(uintptr_t)p->bias);
    for (int i = 0; i < j->options.n_stop; i++) free((void *)(uintptr_t)j->options.stop[i].at);
    free((void *)(uintptr_t)j->options.stop);
    stopper_free(&j->stopper);
    detok_close(j->detok);
    buf_free(&j->text);
    buf_free(&j->show);
    buf_free(&j->piece);
    ids_free(&j->request.ids);
    free(j->top);
    free(j);
}

/* What can be said of a request before it is queued. */
static bool check(const struct engine *e, const int *ids, int n, const struct generate_options *o,
                  struct err *err) {
    if (n < 1) return err_set(err, "the prompt is empty");
    if (n > e->context || (o->n_max != 0 && n >= e->context))
        return err_set(err, "the prompt has %d tokens, but the context is %d", n, e->context);
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= e->vocab)
            return err_set(err, "token %d of the prompt is %d, but the vocabulary has %d", i,
                           ids[i], e->vocab);
    if (o->logprobs < 0 || o->logprobs > LOGPROBS_MAX)
        return err_set(err, "logprobs: must be 0 to %d", LOGPROBS_MAX);
    return sample_check(&o->sample, err);
}

static struct job *job_new(struct engine *e, const int *ids, int n,
                           const struct generate_options *o) {
    struct job *j = mem_new(sizeof *j);
    struct request *r = &j->request;
    copy_options(j, o);
    int room = e->context - n;
    for (int i = 0; i < n; i++) ids_put(&r->ids, ids[i]);
    r->n_prompt = n;
    r->n_max = n + (o->n_max < 0 ? room : MIN(o->n_max, room));
    r->logits_from = o->prompt_logprobs ? 0 : MAX(0, n - MAX(1, o->logits_last));
    r->priority = o->priority;
    r->gather = o->gather;
    r->client = o->client;
    r->seq.salt = o->salt;
    j->submitted_s = clock_s();
    if (o->logprobs) j->top = mem_array((size_t)o->logprobs, sizeof *j->top);
    if (e->tokenizer) j->detok = detok_open(e->tokenizer, o->specials);
    return j;
}

/* Those that run are known as of the last step; the table bounds what that may miss. */
static bool is_full(const struct engine *e) {
    const struct job_table *t = &e->jobs;
    return !t->n_free || t->n - t->n_free - e->stats.running >= e->waiting_max;
}

uint64_t engine_submit(struct engine *e, const int *ids, int n, const struct generate_options *o,
                       engine_emit *emit, void *to, struct err *err) {
    if (!check(e, ids, n, o, err)) return 0;
    struct job *j = job_new(e, ids, n, o);
    j->emit = emit;
    j->to = to;
    pthread_mutex_lock(&e->lock);
    bool failed = e->failed;
    uint64_t id = failed || is_full(e) ? 0 : jobs_put(&e->jobs, j);
    if (id) {
        *e->submitted_end = j;
        e->submitted_end = &j->next;
        e->n_submitted++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    if (id) return id;
    job_free(j);
    if (failed) err_code(err, ERR_MEMORY, "the device failed");
    else err_code(err, ERR_MEMORY, "the queue is full: %d requests wait", e->waiting_max);
    return 0;
}

void job_end(struct engine *e, struct job *j) {
    pthread_mutex_lock(&e->lock);
    jobs_take(&e->jobs, j->request.id);
    pthread_mutex_unlock(&e->lock);
    job_free(j);
}

void engine_cancel(struct engine *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    struct job *j = jobs_find(&e->jobs, id);
    if (j) {
        j->request.cancelled = true;
        e->cancelled = true;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
}

bool engine_runs(struct engine *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    const struct job *j = jobs_find(&e->jobs, id);
    bool runs = j && j->request.phase == RUNNING;
    pthread_mutex_unlock(&e->lock);
    return runs;
}

/* ---- the loop, seen from outside ---- */

void engine_wait(struct engine *e, double seconds) {
    struct timespec until;
    engine_publish(e, false);
    clock_gettime(CLOCK_MONOTONIC, &until);
    double at = (double)until.tv_nsec * 1e-9 + MAX(seconds, 0);
    until.tv_sec += (time_t)at;
    until.tv_nsec = (long)((at - (double)(time_t)at) * 1e9);
    pthread_mutex_lock(&e->lock);
    int timeout = 0;
    while (!e->submitted && !e->cancelled && !e->stop && !timeout)
        timeout = pthread_cond_timedwait(&e->wake, &e->lock, &until);
    e->stop = false;
    pthread_mutex_unlock(&e->lock);
}

void engine_stop(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

void engine_publish(struct engine *e, bool stepping) {
    struct sched_stats s = sched_stats(e->sched);
    struct cache_stats c = cache_stats(e->cache);
    struct engine_stats *now = &e->now;
    now->waiting = s.waiting;
    now->running = s.running;
    now->preempted = s.preempted;
    now->restarted = s.restarted;
    now->pages = c.pages;
    now->pages_used = c.pages_held;
    now->page_tokens = CACHE_PAGE_TOKENS;
    now->cache_bytes = c.bytes;
    now->cache_used_bytes = c.pages ? c.bytes / (size_t)c.pages * (size_t)c.pages_held : 0;
    now->heartbeat_s = clock_s();
    now->stepping = stepping;
    pthread_mutex_lock(&e->lock);
    e->stats = *now;
    pthread_mutex_unlock(&e->lock);
}

struct engine_stats engine_stats(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    struct engine_stats s = e->stats;
    s.failed = e->failed;
    s.waiting += e->n_submitted;
    pthread_mutex_unlock(&e->lock);
    return s;
}

void engine_token_text(const struct engine *e, int token, struct buf *out) {
    if (e->tokenizer) tok_piece(e->tokenizer, token, out);
}

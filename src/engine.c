/* engine.c - the loop: prompt > tokens > batch > layers > logits > token > text.
 *
 * One thread steps and owns the model, the cache and the scheduler. Other threads
 * hand requests in through a queue under a mutex and get events from the thread
 * that steps. Opening and closing is in engine_open.c. */
#include "engine_inside.h"

#include <stdlib.h>
#include <string.h>

/* ---- requests in, from any thread ---- */

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
    r->logits_from = MAX(0, n - MAX(1, o->logits_last));
    r->priority = o->priority;
    r->seq.salt = o->salt;
    j->submitted_s = clock_s();
    if (o->logprobs) j->top = mem_array((size_t)o->logprobs, sizeof *j->top);
    if (e->tokenizer) j->detok = detok_open(e->tokenizer, o->specials);
    return j;
}

uint64_t engine_submit(struct engine *e, const int *ids, int n, const struct generate_options *o,
                       engine_emit *emit, void *to, struct err *err) {
    if (!check(e, ids, n, o, err)) return 0;
    struct job *j = job_new(e, ids, n, o);
    j->emit = emit;
    j->to = to;
    pthread_mutex_lock(&e->lock);
    uint64_t id = e->queued < e->waiting_max ? ++e->last_id : 0;
    if (id) {
        j->request.id = id;
        *e->submitted_end = j;
        e->submitted_end = &j->next;
        e->queued++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    if (id) return id;
    job_free(j);
    err_code(err, ERR_MEMORY, "the queue is full: %d requests wait", e->waiting_max);
    return 0;
}

void engine_cancel(struct engine *e, uint64_t id) {
    pthread_mutex_lock(&e->lock);
    if (e->n_cancelled == e->cancelled_cap) {
        e->cancelled_cap = e->cancelled_cap * 2 + 16;
        e->cancelled = mem_grow(e->cancelled, e->cancelled_cap, sizeof *e->cancelled);
    }
    e->cancelled[e->n_cancelled++] = id;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
}

/* ---- the thread that steps ---- */

static void take_new_requests(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    struct job *first = e->submitted;
    e->submitted = NULL;
    e->submitted_end = &e->submitted;
    for (struct job *j = first, *next; j; j = next) {
        next = j->next;
        sched_add(e->sched, &j->request);    /* never full: both have the same bound */
    }
    for (size_t i = 0; i < e->n_cancelled; i++) sched_cancel(e->sched, e->cancelled[i]);
    e->n_cancelled = 0;
    pthread_mutex_unlock(&e->lock);
}

static void send(struct job *j, struct engine_event *ev) {
    ev->id = j->request.id;
    if (j->emit) j->emit(j->to, ev);
}

static void send_logits(struct engine *e, struct job *j, const float *logits, int position) {
    if (!j->options.logits_last) return;
    send(j, &(struct engine_event){ .kind = EVENT_LOGITS, .logits = logits, .vocab = e->vocab,
                                    .position = position });
}

/* logits -> token, of one row. -1: this request samples nothing here. */
static int sample_row(struct engine *e, struct job *j, float *logits, int position) {
    struct request *r = &j->request;
    float *row = logits;
    send_logits(e, j, logits, position);
    if (position != r->ids.len - 1 || r->ids.len >= r->n_max) return -1;
    if (j->options.logprobs) {
        memcpy(e->row, logits, (size_t)e->vocab * sizeof *logits);
        row = e->row;
    }
    int token = sampler_pick(e->sampler, &j->options.sample, row, r->ids.at, r->ids.len,
                             (uint64_t)r->ids.len);
    if (token < 0) j->finish = FINISH_ERROR;
    else if (j->options.logprobs)
        j->logprob = sampler_logprobs(e->sampler, logits, token, j->top, j->options.logprobs);
    return token;
}

static void sample_rows(struct engine *e, const struct batch *b, float *logits) {
    for (int i = 0; i < b->n_logits; i++) {
        struct job *j = (struct job *)b->req[b->logit_req[i]];
        e->picked[i] = sample_row(e, j, logits + (int64_t)i * e->vocab,
                                  b->rows.pos[b->logit_row[i]]);
    }
}

/* token -> text: what may be shown of it, and whether a stop string was completed. */
static void text_of(struct engine *e, struct job *j, int token, bool last) {
    struct buf *show = &j->show;
    buf_clear(show);
    buf_clear(&j->text);
    if (!j->detok) return;
    if (token >= 0 && !engine_is_eos(e, token)) detok_push(j->detok, token, &j->text);
    if (last) detok_flush(j->detok, &j->text);
    int stop = stopper_push(&j->stopper, buf_view(&j->text), last, show);
    if (stop < 0) return;
    j->stop = stop + 1;
    j->finish = FINISH_STOP;
}

static void send_token(struct engine *e, struct job *j, int token) {
    struct request *r = &j->request;
    bool over = engine_is_eos(e, token) && !j->options.ignore_eos;
    double now = clock_s();
    if (!j->n_generated++) j->first_s = now;
    j->last_s = now;
    if (over) j->finish = FINISH_STOP;
    text_of(e, j, token, false);
    send(j, &(struct engine_event){ .kind = EVENT_TOKEN, .token = token, .text = buf_view(&j->show),
                                    .logprob = j->logprob, .top = j->top,
                                    .n_top = j->options.logprobs });
    if (j->finish == FINISH_STOP) sched_finish(e->sched, r);
    else if (r->ids.len >= r->n_max) j->finish = FINISH_LENGTH;
}

static void send_tokens(struct engine *e, const struct batch *b) {
    for (int i = 0; i < b->n_req; i++) {
        struct job *j = (struct job *)b->req[i];
        if (j->started_s <= 0) j->started_s = e->step_s;
    }
    for (int i = 0; i < b->n_logits; i++)
        if (e->picked[i] >= 0) send_token(e, (struct job *)b->req[b->logit_req[i]], e->picked[i]);
}

static void send_done(struct engine *e, struct job *j) {
    struct request *r = &j->request;
    double now = clock_s(), started = j->started_s > 0 ? j->started_s : now;
    double first = j->n_generated ? j->first_s : now;
    if (j->finish == FINISH_NONE) j->finish = r->cancelled ? FINISH_CANCELLED : FINISH_LENGTH;
    if (r->starved) j->finish = FINISH_ERROR;
    if (!j->stop) text_of(e, j, -1, true);
    else buf_clear(&j->show);
    struct engine_event done = {
        .kind = EVENT_DONE, .finish = j->finish, .text = buf_view(&j->show),
        .n_prompt = r->n_prompt, .n_cached = r->n_cached, .n_generated = j->n_generated,
        .queue_s = started - j->submitted_s, .prefill_s = first - started,
        .decode_s = j->n_generated ? j->last_s - first : 0, .first_token_s = first - j->submitted_s,
    };
    if (j->stop) done.stop = j->options.stop[j->stop - 1];
    if (r->starved) done.error = "the sequence does not fit into the cache";
    else if (j->finish == FINISH_ERROR) done.error = "the model gave numbers that are not finite";
    send(j, &done);
}

static void release_done(struct engine *e) {
    for (struct request *r; (r = sched_done(e->sched));) {
        send_done(e, (struct job *)r);
        if (e->awaited == r->id) e->awaited = 0;
        job_free((struct job *)r);
        pthread_mutex_lock(&e->lock);
        e->queued--;
        pthread_mutex_unlock(&e->lock);
    }
}

int engine_step(struct engine *e, struct err *err) {
    struct batch b;
    take_new_requests(e); /* prompt -> tokens, in submit */
    bool any = sched_next(e->sched, &b);                             /* tokens -> batch */
    release_done(e);
    if (!any) return 0;
    e->step_s = clock_s();
    float *logits = model_run(e->model, e->cache, &b, e->probe, err);    /* layers -> logits */
    if (!logits) return -1;
    sample_rows(e, &b, logits);                                      /* logits -> token */
    sched_commit(e->sched, &b, e->picked);
    send_tokens(e, &b);                                              /* token -> text */
    release_done(e);
    return b.n_rows;
}

void engine_wait(struct engine *e, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    double at = (double)until.tv_nsec * 1e-9 + seconds;
    until.tv_sec += (time_t)at;
    until.tv_nsec = (long)((at - (double)(time_t)at) * 1e9);
    pthread_mutex_lock(&e->lock);
    if (!e->submitted && !e->n_cancelled) pthread_cond_timedwait(&e->wake, &e->lock, &until);
    pthread_mutex_unlock(&e->lock);
}

bool engine_preempt(struct engine *e, uint64_t id) {
    return sched_preempt(e->sched, id);
}

bool engine_finish(struct engine *e, uint64_t id, struct err *err) {
    e->awaited = id;
    while (e->awaited) {
        int rows = engine_step(e, err);
        struct sched_stats s = sched_stats(e->sched);
        if (rows < 0) return false;
        if (!rows && !s.waiting && !s.running) break;    /* it was done before we were asked */
    }
    return true;
}

/* engine.c - the loop: prompt > tokens > batch > layers > logits > token > text.
 *
 * Where the device draws tokens, a batch is asked for before the tokens of the last one have come:
 * its ids name them, the scheduler goes on with names, and what a token ends is found out one
 * batch later, whose row of that request is then for nothing.
 *
 * One thread steps and owns the model, the cache and the scheduler. What other threads do, and
 * how requests come in, is in engine_requests.c; opening and closing in engine_open.c. */
#include "engine_inside.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { PROGRESS_EVENTS = 100 };        /* of one prompt, at most */

static void take_new_requests(struct engine *e) {
    pthread_mutex_lock(&e->lock);
    struct job *first = e->submitted;
    e->submitted = NULL;
    e->submitted_end = &e->submitted;
    e->stats.waiting += e->n_submitted;      /* nobody sees them missing until the next publish */
    e->n_submitted = 0;
    if (e->cancelled) sched_look(e->sched);
    e->cancelled = false;
    pthread_mutex_unlock(&e->lock);
    for (struct job *j = first, *next; j; j = next) {
        next = j->next;
        sched_add(e->sched, &j->request);    /* never full: it has the bound of the job table */
    }
}

static void send(struct job *j, struct engine_event *ev) {
    ev->id = j->request.id;
    if (j->emit) j->emit(j->to, ev);
}

static void send_logits(struct engine *e, struct job *j, const float *logits, int position) {
    int last = j->options.logits_last;
    if (!last || position < j->request.n_prompt - last) return;
    send(j, &(struct engine_event){ .kind = EVENT_LOGITS, .logits = logits, .vocab = e->vocab,
                                    .position = position });
}

/* A token of the prompt, with the logits that came before it; NULL: it is the first. */
static void send_prompt(struct engine *e, struct job *j, const float *logits, int position) {
    int token = j->request.ids.at[position], n = logits ? j->options.logprobs : 0;
    struct engine_event ev = { .kind = EVENT_PROMPT, .token = token, .position = position,
                               .logprob = NAN, .top = j->top, .n_top = n };
    buf_clear(&j->text);
    buf_clear(&j->piece);
    if (e->tokenizer) tok_decode(e->tokenizer, &token, 1, true, &j->text);
    engine_token_text(e, token, &j->piece);
    if (logits) ev.logprob = sampler_logprobs(e->sampler, logits, token, j->top, n);
    ev.text = buf_view(&j->text);
    ev.piece = buf_view(&j->piece);
    send(j, &ev);
}

/* logits -> token, of one row. drawn: by the device, else NULL. -1: this request samples nothing
 * here. */
static int sample_row(struct engine *e, const struct flight *f, int i, float *logits,
                      const int *drawn) {
    struct job *j = f->job[i];
    struct request *r = &j->request;
    const int position = f->position[i];
    float *row = logits;
    int token = drawn ? drawn[i] : -1;
    if (!f->plain[i] || !drawn) {
        send_logits(e, j, logits, position);
        if (j->options.prompt_logprobs && !position) send_prompt(e, j, NULL, 0);
        if (j->options.prompt_logprobs && position + 1 < r->n_prompt)
            send_prompt(e, j, logits, position + 1);
    }
    if (!f->wanted[i]) return -1;
    if (!f->plain[i] || !drawn) {
        if (j->options.logprobs) {
            memcpy(e->row, logits, (size_t)e->vocab * sizeof *logits);
            row = e->row;
        }
        token = sampler_pick(e->sampler, &j->options.sample, row, r->ids.at, position + 1,
                             (uint64_t)position + 1);
    }
    if (token < 0) j->finish = FINISH_ERROR;
    else if (j->options.logprobs)
        j->logprob = sampler_logprobs(e->sampler, logits, token, j->top, j->options.logprobs);
    return token;
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

/* The counts and times of EVENT_TOKEN and EVENT_DONE. */
static void count(const struct job *j, double now, struct engine_event *ev) {
    double started = j->started_s > 0 ? j->started_s : now;
    double first = j->n_generated ? j->first_s : now;
    ev->n_prompt = j->request.n_prompt;
    ev->n_cached = j->request.n_cached;
    ev->n_generated = j->n_generated;
    ev->queue_s = started - j->submitted_s;
    ev->prefill_s = first - started;
    ev->decode_s = j->n_generated ? j->last_s - first : 0;
    ev->first_token_s = first - j->submitted_s;
}

static void send_token(struct engine *e, struct job *j, int token, int position) {
    struct request *r = &j->request;
    bool over = engine_is_eos(e, token) && !j->options.ignore_eos;
    double now = clock_s();
    if (!j->n_generated++) j->first_s = now;
    j->last_s = now;
    if (over) j->finish = FINISH_STOP;
    text_of(e, j, token, false);
    buf_clear(&j->piece);
    engine_token_text(e, token, &j->piece);
    struct engine_event ev = { .kind = EVENT_TOKEN, .token = token, .position = position,
                               .text = buf_view(&j->show), .piece = buf_view(&j->piece),
                               .logprob = j->logprob, .top = j->top,
                               .n_top = j->options.logprobs };
    count(j, now, &ev);
    send(j, &ev);
    if (j->finish == FINISH_STOP) sched_finish(e->sched, r);
    else if (position + 1 >= r->n_max) j->finish = FINISH_LENGTH;
}

/* After the commit: how far those are whose prompts are not read yet. */
static void send_progress(const struct batch *b) {
    for (int i = 0; i < b->n_req; i++) {
        struct job *j = (struct job *)b->req[i];
        const struct request *r = &j->request;
        bool reading = j->options.progress && !j->n_generated && r->n_done < r->n_prompt;
        if (!reading || r->n_done - j->n_told < MAX(r->n_prompt / PROGRESS_EVENTS, 1)) continue;
        struct engine_event ev = { .kind = EVENT_PROGRESS, .position = j->n_told = r->n_done };
        count(j, clock_s(), &ev);
        send(j, &ev);
    }
}

static void note_started(struct engine *e, const struct batch *b) {
    for (int i = 0; i < b->n_req; i++) {
        struct job *j = (struct job *)b->req[i];
        if (j->started_s > 0) continue;
        j->started_s = e->step_s;
        e->now.tokens_prompt += (uint64_t)j->request.n_prompt;
        e->now.tokens_cached += (uint64_t)j->request.n_cached;
    }
}

static void send_tokens(struct engine *e, const struct flight *f, const int *token) {
    for (int i = 0; i < f->n; i++) {
        if (token[i] < 0) continue;
        e->now.tokens_generated++;
        send_token(e, f->job[i], token[i], f->position[i] + 1);
    }
}

static void send_done(struct engine *e, struct job *j) {
    struct request *r = &j->request;
    if (j->finish == FINISH_NONE) j->finish = r->cancelled ? FINISH_CANCELLED : FINISH_LENGTH;
    if (r->starved) j->finish = FINISH_ERROR;
    if (!j->stop) text_of(e, j, -1, true);
    else buf_clear(&j->show);
    struct engine_event done = { .kind = EVENT_DONE, .finish = j->finish,
                                 .text = buf_view(&j->show) };
    count(j, clock_s(), &done);
    if (j->stop) done.stop = j->options.stop[j->stop - 1];
    if (r->starved) done.error = "the sequence does not fit into the cache";
    else if (e->failed) done.error = "the device failed";
    else if (j->finish == FINISH_ERROR) done.error = "the model gave numbers that are not finite";
    send(j, &done);
}

static void release_done(struct engine *e) {
    for (struct request *r; (r = sched_done(e->sched));) {
        send_done(e, (struct job *)r);
        if (e->awaited == r->id) e->awaited = 0;
        job_end(e, (struct job *)r);
    }
}

/* Whether the device draws this request's tokens, wherever they come; else the host does, from the
 * logits. */
static bool drawn_by_device(const struct generate_options *o, uint64_t position,
                            struct draw *draw) {
    struct sample_plain p;
    *draw = (struct draw){ .top_p = 1 };
    if (o->logprobs || o->prompt_logprobs || o->logits_last ||
        !sample_is_plain(&o->sample, &p) || p.top_k > DRAW_TOP_K_MAX ||
        (!p.top_k && p.top_p < 1))
        return false;
    *draw = (struct draw){ .temperature = p.temperature, .top_p = p.top_p, .min_p = p.min_p,
                           .top_k = p.top_k, .chance = sample_chance(o->sample.seed, position) };
    return true;
}

static void describe_flight(struct engine *e, struct flight *f, const struct batch *b) {
    f->n = b->n_logits;
    f->n_rows = b->n_rows;
    f->n_req = b->n_req;
    f->n_decoding = b->n_decoding;
    f->begin_s = e->step_s;
    f->ahead = e->ahead && !e->probe;
    for (int i = 0; i < f->n; i++) {
        struct job *j = (struct job *)b->req[b->logit_req[i]];
        const int position = b->rows.pos[b->logit_row[i]];
        const struct request *r = &j->request;
        f->job[i] = j;
        f->position[i] = position;
        f->wanted[i] = position == r->ids.len - 1 && r->ids.len < r->n_max;
        f->plain[i] = drawn_by_device(&j->options, (uint64_t)position + 1, &e->draw[i]);
        f->ahead = f->ahead && f->plain[i];
    }
}

/* Tokens of the flight before that a host's device reads by name. */
static void name_ids(struct engine *e, struct batch *b, const struct flight *before) {
    for (int i = 0; i < b->n_rows; i++)
        e->ids[i] = b->ids[i] > DRAWN ? b->ids[i] : MAX(0, before->token[DRAWN - b->ids[i]]);
    b->ids = e->ids;
}

/* Asks for a batch. Where nothing draws beside the host, the host does at once. */
static bool begin(struct engine *e, struct flight *f, struct batch *b, struct err *err) {
    const bool draws = model_draws(e->model);
    describe_flight(e, f, b);
    note_started(e, b);
    if (!draws) name_ids(e, b, &e->flight[f->turn ^ 1]);
    model_queue(e->model, e->cache, b, e->draw, f->turn, e->probe);
    e->turn ^= 1;
    if (draws || !f->ahead) return true;
    float *logits = model_logits(e->model, f->n, err);
    for (int i = 0; logits && i < f->n; i++) {
        const struct job *j = f->job[i];
        f->token[i] = sampler_pick(e->sampler, &j->options.sample, logits + (int64_t)i * e->vocab,
                                   NULL, 0, (uint64_t)f->position[i] + 1);
    }
    return logits != NULL;
}

static void note_step(struct engine *e, const struct flight *f) {
    const double now = clock_s(), took = now - MAX(f->begin_s, e->landed_s);
    e->landed_s = now;
    e->now.steps++;
    e->now.rows += (uint64_t)f->n_rows;
    e->now.sequences += (uint64_t)f->n_req;
    e->now.step_s += took;
    budget_note(&e->budget, f->n_decoding, f->n_rows - f->n_decoding, took);
}

/* The tokens of a flight have come: they get their places, and clients see them. One that is over
 * already has a row too many in it. */
static bool land(struct engine *e, struct flight *f, struct err *err) {
    const int *token = model_draws(e->model) ? model_tokens(e->model, f->turn, err) : f->token;
    f->open = false;
    if (!token) return false;
    for (int i = 0; i < f->n; i++) {
        struct job *j = f->job[i];
        e->picked[i] = -1;
        if (!f->wanted[i]) continue;
        sched_know(&j->request, f->position[i] + 1, MAX(0, token[i]));
        if (j->finish != FINISH_NONE || j->request.cancelled) continue;
        e->picked[i] = token[i];
        if (token[i] >= 0) continue;
        j->finish = FINISH_ERROR;
        sched_finish(e->sched, &j->request);
    }
    send_tokens(e, f, e->picked);
    note_step(e, f);
    return true;
}

/* Nobody waits for this batch: the scheduler goes on with the names of its tokens. */
static void go_ahead(struct engine *e, struct flight *f, const struct batch *b) {
    for (int i = 0; i < f->n; i++) e->picked[i] = f->wanted[i] ? DRAWN - i : -1;
    sched_commit(e->sched, b, e->picked);
    f->open = true;
}

/* Waits for a batch and hands it out. */
static bool finish(struct engine *e, struct flight *f, const struct batch *b, struct err *err) {
    const bool draws = model_draws(e->model);
    bool look = !draws;
    for (int i = 0; i < f->n; i++) look = look || !f->plain[i];
    const int *drawn = draws ? model_tokens(e->model, f->turn, err) : NULL;
    float *logits = look ? model_logits(e->model, f->n, err) : NULL;
    if ((draws && !drawn) || (look && !logits)) return false;
    for (int i = 0; i < f->n; i++)                                   /* logits -> token */
        e->picked[i] = sample_row(e, f, i, look ? logits + (int64_t)i * e->vocab : NULL, drawn);
    sched_commit(e->sched, b, e->picked);
    send_tokens(e, f, e->picked);                                    /* token -> text */
    note_step(e, f);
    return true;
}

/* A batch, asked for and handed out, or the one before. Rows; 0: nothing to do; -1: the device
 * failed. */
static int step(struct engine *e, struct err *err) {
    struct batch b;
    struct flight *f = &e->flight[e->turn], *before = &e->flight[e->turn ^ 1];
    const bool landing = before->open;
    take_new_requests(e); /* prompt -> tokens, in submit */
    bool any = sched_next(e->sched, &b);                             /* tokens -> batch */
    if (!landing) release_done(e);
    e->step_s = clock_s();
    if (any && !begin(e, f, &b, err)) return -1;                     /* layers -> logits */
    if (landing && !land(e, before, err)) return -1;
    release_done(e);
    if (!any) return landing ? before->n_rows : 0;
    if (f->ahead) go_ahead(e, f, &b);
    else if (!finish(e, f, &b, err)) return -1;
    send_progress(&b);
    release_done(e);
    return b.n_rows;
}

/* Nothing runs any more. */
static void fail_all(struct engine *e) {
    struct batch none;
    pthread_mutex_lock(&e->lock);
    e->failed = true;
    pthread_mutex_unlock(&e->lock);
    take_new_requests(e);
    for (int i = 0; i < e->jobs.n; i++) {
        struct job *j = e->jobs.at[i];         /* nobody puts one in any more */
        if (!j) continue;
        j->request.cancelled = true;
        j->finish = FINISH_ERROR;
    }
    sched_look(e->sched);
    bool any = sched_next(e->sched, &none);    /* all leave, so there is nothing to run */
    assert(!any);
    (void)any;
    release_done(e);
    engine_publish(e, false);
}

int engine_step(struct engine *e, struct err *err) {
    engine_publish(e, true);
    int rows = step(e, err);
    engine_publish(e, false);
    /* Here, and not where the engine is closed: those who wait for events may be gone by then. */
    if (rows < 0) fail_all(e);
    return rows;
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

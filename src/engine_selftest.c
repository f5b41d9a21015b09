/* engine_selftest.c - the exactness contract, tried on a real checkpoint: what a sequence
 * generates depends neither on its neighbours, nor on how its prompt was cut, nor on a
 * cache hit, nor on having been preempted, nor on the threads. Bit for bit. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { ANSWER = 24, PROMPT_MAX = 150, CROWD = 5 };

struct trace {                       /* what one request gave */
    uint64_t hash[PROMPT_MAX + 2 * ANSWER];  /* of the logits at each position; 0: none seen */
    int token[ANSWER], n_tokens, n_cached;
    bool done, failed;
};

struct selftest {
    struct engine_options options;
    void (*line)(void *to, const char *name, bool ok, const char *detail);
    void *to;
    struct trace want;               /* of the prompt alone, in one piece */
    int prompt[PROMPT_MAX + ANSWER], n_prompt, vocab;
    bool ok;
};

static void collect(void *to, const struct engine_event *ev) {
    struct trace *t = to;
    if (ev->kind == EVENT_LOGITS)
        t->hash[ev->position] = XXH3_64bits(ev->logits, (size_t)ev->vocab * sizeof(float)) | 1;
    if (ev->kind == EVENT_TOKEN && t->n_tokens < ANSWER) t->token[t->n_tokens++] = ev->token;
    if (ev->kind == EVENT_DONE) {
        t->done = true;
        t->failed = ev->finish == FINISH_ERROR;
        t->n_cached = ev->n_cached;
    }
}

static uint64_t ask(struct engine *e, const int *ids, int n, int answer, int logits,
                    struct trace *t, struct err *err) {
    struct generate_options o = { .sample = sample_defaults(), .n_max = answer, .ignore_eos = true,
                                  .logits_last = logits };
    o.sample.temperature = 0;
    *t = (struct trace){ 0 };
    return engine_submit(e, ids, n, &o, collect, t, err);
}

/* Positions where both saw logits, and how many of those differ. */
static int differences(const struct trace *a, const struct trace *b, int *compared) {
    int different = 0;
    *compared = 0;
    for (size_t i = 0; i < COUNT(a->hash); i++) {
        if (!a->hash[i] || !b->hash[i]) continue;
        ++*compared;
        different += a->hash[i] != b->hash[i];
    }
    return different;
}

static bool report(struct selftest *s, const char *name, const struct trace *t, bool happened,
                   const char *missing) {
    char text[160];
    int compared, different = differences(&s->want, t, &compared);
    bool same = t->n_tokens == 0 ||
                !memcmp(t->token, s->want.token, (size_t)t->n_tokens * sizeof *t->token);
    bool ok = t->done && !t->failed && happened && compared && !different && same;
    if (!t->done || t->failed) snprintf(text, sizeof text, "the request failed");
    else if (!happened) snprintf(text, sizeof text, "%s", missing);
    else snprintf(text, sizeof text, "%d of %d positions differ%s", different, compared,
                  same ? "" : ", and the tokens do");
    s->line(s->to, name, ok, ok ? "" : text);
    s->ok = s->ok && ok;
    return ok;
}

static struct engine *open_with(const struct selftest *s, int chunk, int threads, struct err *err) {
    struct engine_options o = s->options;
    o.chunk_max = chunk;
    o.rows_max = chunk ? MAX(chunk, 16) : PROMPT_MAX + 2 * ANSWER;
    if (threads) o.threads = threads;
    return engine_open(&o, err);
}

static bool one_piece(struct selftest *s, struct err *err) {
    struct engine *e = open_with(s, 0, 0, err);
    if (!e) return false;
    struct engine_info info = engine_info(e);
    s->vocab = info.vocab;
    s->n_prompt = MIN(PROMPT_MAX, info.context - 2 * ANSWER);
    for (int i = 0; i < s->n_prompt; i++) s->prompt[i] = (int)((i * 7919LL + 13) % s->vocab);
    uint64_t id = s->n_prompt < 2 ? 0
                : ask(e, s->prompt, s->n_prompt, ANSWER, s->n_prompt, &s->want, err);
    bool ok = id && engine_finish(e, id, err) && s->want.done && !s->want.failed;
    if (!ok) err_set(err, "the first request failed, or the context is below %d", 2 * ANSWER + 2);
    memcpy(s->prompt + s->n_prompt, s->want.token, sizeof s->want.token);
    engine_close(e);
    return ok;
}

static bool prefill_equals_decode(struct selftest *s, struct err *err) {
    struct engine *e = open_with(s, 0, 0, err);
    struct trace t;
    int n = s->n_prompt + ANSWER - 1;
    uint64_t id = e ? ask(e, s->prompt, n, 0, n, &t, err) : 0;
    bool ok = id && engine_finish(e, id, err);
    if (ok) report(s, "prefill and decode equal one prefill", &t, true, "");
    engine_close(e);
    return ok;
}

static bool chunks(struct selftest *s, int chunk, int threads, struct err *err) {
    char name[64];
    struct engine *e = open_with(s, chunk, threads, err);
    struct trace t;
    uint64_t id = e ? ask(e, s->prompt, s->n_prompt, ANSWER, s->n_prompt, &t, err) : 0;
    bool ok = id && engine_finish(e, id, err);
    if (threads) snprintf(name, sizeof name, "one thread equals all");
    else snprintf(name, sizeof name, "a prompt cut in chunks of %d", chunk);
    if (ok) report(s, name, &t, true, "");
    engine_close(e);
    return ok;
}

static bool crowd(struct selftest *s, struct err *err) {
    struct engine *e = open_with(s, 33, 0, err);
    struct trace t, other[CROWD];
    uint64_t id = 0;
    bool ok = e != NULL;
    for (int i = 0; i < CROWD && ok; i++) {
        int begin = i * 17 % s->n_prompt, n = MAX(1, (s->n_prompt - begin) / (i + 1));
        if (i == CROWD / 2)
            ok = (id = ask(e, s->prompt, s->n_prompt, ANSWER, s->n_prompt, &t, err)) != 0;
        ok = ok && ask(e, s->prompt + begin, n, ANSWER - 3 * i, 1, &other[i], err);
    }
    ok = ok && engine_finish(e, id, err);
    if (ok) report(s, "other requests in the batch", &t, true, "");
    engine_close(e);
    return ok;
}

static bool cache_hit(struct selftest *s, struct err *err) {
    struct engine *e = open_with(s, 0, 0, err);
    struct trace t;
    bool ok = e != NULL;
    for (int i = 0; i < 2 && ok; i++) {
        uint64_t id = ask(e, s->prompt, s->n_prompt, ANSWER, 1, &t, err);
        ok = id && engine_finish(e, id, err);
    }
    if (ok) report(s, "a prompt found in the cache", &t, t.n_cached > 0 || s->n_prompt <= 33,
                   "the cache found nothing");
    engine_close(e);
    return ok;
}

/* Another request runs beside it; three times, in prefill and in decode, it has to give up
 * all it has. With the prefix cache it resumes from what is left there, else from nothing. */
static bool preemption(struct selftest *s, bool reuse, struct err *err) {
    struct trace t, other;
    struct selftest with = *s;
    with.options.no_reuse = !reuse;
    struct engine *e = open_with(&with, 33, 0, err);
    uint64_t beside = e ? ask(e, s->prompt, s->n_prompt / 2 + 1, ANSWER, 1, &other, err) : 0;
    uint64_t id = beside ? ask(e, s->prompt, s->n_prompt, ANSWER, 1, &t, err) : 0;
    bool ok = id != 0;
    for (int step = 1; ok && !t.done; step++) {
        ok = engine_step(e, err) >= 0;
        if (step == 3 || step == 15 || step == 30) engine_preempt(e, id);
    }
    if (ok)
        report(s, reuse ? "preempted and resumed from the cache" : "preempted and recomputed", &t,
               engine_info(e).preempted > 0, "nothing was preempted");
    engine_close(e);
    return ok;
}

bool engine_selftest(const struct engine_options *o,
                     void (*line)(void *to, const char *name, bool ok, const char *detail),
                     void *to, struct err *err) {
    static const int chunk[] = { 1, 7, 32, 33 };
    struct selftest s = { .options = *o, .line = line, .to = to, .ok = true };
    struct err own = { 0 };
    if (!err) err = &own;
    s.options.no_tokenizer = true;
    s.options.context = 0;
    if (!one_piece(&s, err) || !prefill_equals_decode(&s, err)) return false;
    for (size_t i = 0; i < COUNT(chunk); i++)
        if (!chunks(&s, chunk[i], 0, err)) return false;
    return chunks(&s, 0, 1, err) && crowd(&s, err) && cache_hit(&s, err) &&
           preemption(&s, true, err) && preemption(&s, false, err) && s.ok;
}

/* test_storm.c - whatever happens to the others, a request gets what it gets alone.
 *
 * Requests with common beginnings arrive, are cancelled and preempted at random, with priorities
 * and clients, in an engine whose cache is far too small for them; on every kind of memory that a
 * layer can have. Then the same from many threads, which is what the thread sanitizer runs. */
#include "recipe.h"

#include "engine.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>

#include <cmocka.h>

enum { KINDS = 24, PROMPT = 150, ANSWER = 50, CONTEXT = 224, REQUESTS = 150, THREADS = 4,
       EACH = 25, RUNNING_MAX = 6 };

#ifdef __SANITIZE_THREAD__           /* the rest is slow there, and has one thread */
enum { ONLY_THREADS = 1 };
#else
enum { ONLY_THREADS = 0 };
#endif

struct kind {                        /* a request, and what it gets alone */
    int ids[PROMPT], n, n_max;
    struct generate_options options;
    int token[ANSWER], n_tokens;
    float logprob[ANSWER];
    struct buf text;
};

struct asked {                       /* one request in the storm */
    const struct kind *kind;
    uint64_t id;
    int token[ANSWER], n_tokens, n_done, n_cached, n_generated;
    float logprob[ANSWER];
    struct buf text;
    enum finish finish;
    pthread_mutex_t *lock;           /* NULL: the thread that steps is the only one */
    pthread_cond_t *over;
};

struct memory { const char *family, *kv; };      /* family NULL: the built-in model */

static int draw(uint64_t *seed, int n) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (int)((*seed >> 33) % (uint64_t)n);
}

static void on_event(void *to, const struct engine_event *ev) {
    struct asked *a = to;
    if (a->lock) pthread_mutex_lock(a->lock);
    bool was_over = a->n_done > 0;
    if (ev->kind == EVENT_TOKEN && a->n_tokens < ANSWER) {
        a->token[a->n_tokens] = ev->token;
        a->logprob[a->n_tokens++] = ev->logprob;
    }
    buf_str(&a->text, ev->text);
    if (ev->kind == EVENT_DONE) {
        a->finish = ev->finish;
        a->n_cached = ev->n_cached;
        a->n_generated = ev->n_generated;
    }
    if (ev->kind == EVENT_DONE || was_over) a->n_done++;     /* nothing comes after the last */
    if (a->lock && a->n_done) pthread_cond_broadcast(a->over);
    if (a->lock) pthread_mutex_unlock(a->lock);
}

static struct engine *open_with(struct engine_options o, const char *dir) {
    struct err err = { 0 };
    o.dir = dir;
    o.threads = 1;
    o.context = CONTEXT;
    struct engine *e = engine_open(&o, &err);
    if (!e) fail_msg("%s: %s", dir, err.text);
    return e;
}

/* As little for the cache as one sequence of CONTEXT tokens can do with, or a little more. */
static struct engine *open_small(const char *dir, bool no_tokenizer, const char *kv) {
    struct engine_options o = { .dir = dir, .kv = kv, .threads = 1, .context = CONTEXT, .ahead = 1,
                                .slowdown = 1.5,
                                .requests_max = RUNNING_MAX, .no_tokenizer = no_tokenizer };
    struct engine *e = open_with(o, dir);
    size_t bytes = engine_info(e).cache_bytes;
    engine_close(e);
    for (int share = 8; share > 0; share--) {
        struct err err = { 0 };
        o.cache_bytes = bytes / (size_t)share;
        if ((e = engine_open(&o, &err))) return e;
    }
    fail_msg("%s: no cache is small enough", dir);
    return NULL;
}

static void run_all(struct engine *e) {
    struct err err = { 0 };
    int rows;
    while ((rows = engine_step(e, &err))) if (rows < 0) fail_msg("%s", err.text);
}

/* Half of the kinds draw their tokens; most begin as others do. */
static void make_kinds(struct kind *kind, const char *dir, bool no_tokenizer, const char *kv) {
    struct engine *e = open_with((struct engine_options){ .no_reuse = true, .requests_max = 1,
                                                          .kv = kv,
                                                          .no_tokenizer = no_tokenizer }, dir);
    int vocab = engine_info(e).vocab;
    uint64_t seed = 7;
    for (int k = 0; k < KINDS; k++) {
        struct kind *q = &kind[k];
        struct asked a = { .kind = q };
        int common = k % 3 ? draw(&seed, 110) : 0;
        *q = (struct kind){ .n = common + 1 + draw(&seed, PROMPT - common),
                            .n_max = 1 + draw(&seed, ANSWER) };
        for (int i = 0; i < q->n; i++)
            q->ids[i] = i < common ? i * 37 % vocab : draw(&seed, vocab);
        /* Those without logprobs may be asked for ahead of their last token. */
        q->options = (struct generate_options){ .sample = sample_defaults(), .n_max = q->n_max,
                                                .ignore_eos = true, .logprobs = k % 4 < 2 };
        q->options.sample.temperature = k % 2 ? 0.8f : 0;
        q->options.sample.seed = (uint64_t)k;
        assert_true(engine_submit(e, q->ids, q->n, &q->options, on_event, &a, NULL) > 0);
        run_all(e);
        assert_int_equal(a.finish, FINISH_LENGTH);
        assert_int_equal(a.n_tokens, q->n_max);
        q->n_tokens = a.n_tokens;
        memcpy(q->token, a.token, sizeof a.token);
        memcpy(q->logprob, a.logprob, sizeof a.logprob);
        q->text = a.text;
    }
    engine_close(e);
}

static void free_kinds(struct kind *kind) {
    for (int k = 0; k < KINDS; k++) buf_free(&kind[k].text);
}

static void ask(struct engine *e, struct asked *a, const struct kind *kind, uint64_t *seed) {
    struct generate_options o = kind->options;
    a->kind = kind;
    o.priority = draw(seed, 4) / 3;
    o.client = (uint64_t)draw(seed, 3);
    uint64_t id = engine_submit(e, kind->ids, kind->n, &o, on_event, a, NULL);
    assert_true(id > 0);
    if (a->lock) pthread_mutex_lock(a->lock);
    a->id = id;
    if (a->lock) pthread_mutex_unlock(a->lock);
}

/* All of the answer, or of a cancelled one what there is: bit for bit. */
static void check(struct asked *a) {
    const struct kind *k = a->kind;
    assert_int_equal(a->n_done, 1);
    assert_int_equal(a->n_generated, a->n_tokens);
    assert_true(a->finish == FINISH_LENGTH || a->finish == FINISH_CANCELLED);
    assert_in_range(a->n_tokens, 0, k->n_tokens);
    if (a->finish == FINISH_LENGTH) {
        assert_int_equal(a->n_tokens, k->n_tokens);
        assert_true(str_eq(buf_view(&a->text), buf_view(&k->text)));
    }
    assert_memory_equal(a->token, k->token, (size_t)a->n_tokens * sizeof *a->token);
    assert_memory_equal(a->logprob, k->logprob, (size_t)a->n_tokens * sizeof *a->logprob);
    assert_in_range(a->n_cached, 0, k->n - 1);
    buf_free(&a->text);
}

/* What the engine counted is what the clients saw. */
static void check_stats(struct engine *e, struct asked *a, int n) {
    struct engine_stats s = engine_stats(e);
    uint64_t generated = 0, cached = 0, prompt = 0, prompt_max = 0;
    for (int i = 0; i < n; i++) {
        generated += (uint64_t)a[i].n_tokens;
        cached += (uint64_t)a[i].n_cached;
        prompt_max += (uint64_t)a[i].kind->n;
        if (a[i].n_tokens) prompt += (uint64_t)a[i].kind->n;
    }
    assert_int_equal(s.running + s.waiting + s.pages_used, 0);
    assert_int_equal(s.cache_used_bytes, 0);
    assert_int_equal(s.tokens_generated, generated);
    assert_int_equal(s.tokens_cached, cached);
    assert_in_range(s.tokens_prompt, prompt, prompt_max);
    assert_true(s.tokens_cached > 0);
}

/* ---- one thread, all kinds of memory ---- */

static char *checkpoint(const char *family) {
    char path[256], *dir = temp_dir();
    struct buf b = { 0 };
    struct err err = { 0 };
    snprintf(path, sizeof path, "tests/families/%s/tensors.json", family);
    recipe_model(&b, path, NULL);
    temp_write(dir, "model.safetensors", buf_view(&b));
    buf_clear(&b);
    snprintf(path, sizeof path, "tests/families/%s/config.json", family);
    if (!buf_read_file(&b, path, 1 << 20, &err)) fail_msg("%s", err.text);
    temp_write(dir, "config.json", buf_view(&b));
    buf_free(&b);
    return dir;
}

static void test_storm(void **state) {
    const struct memory *m = *state;
    const char *family = m->family;
    static struct kind kind[KINDS];
    static struct asked a[REQUESTS];
    char *dir = checkpoint(family);
    uint64_t seed = 11, forced = 0;
    memset(a, 0, sizeof a);
    make_kinds(kind, dir, true, m->kv);
    struct engine *e = open_small(dir, true, m->kv);
    for (int n = 0, steps = 0, rows = 1; n < REQUESTS || rows; steps++) {
        struct engine_stats s = engine_stats(e);
        while (n < REQUESTS && s.waiting < 12 && draw(&seed, 4)) {
            ask(e, &a[n++], &kind[draw(&seed, KINDS)], &seed);
            s = engine_stats(e);
        }
        if (n && !draw(&seed, 30)) engine_cancel(e, a[draw(&seed, n)].id);
        if (n && !draw(&seed, 6)) forced += engine_preempt(e, a[draw(&seed, n)].id);
        rows = engine_step(e, NULL);
        assert_in_range(rows, 0, engine_info(e).rows_max);
        assert_in_range(engine_stats(e).running, 0, RUNNING_MAX);
        assert_in_range(engine_stats(e).pages_used, 0, engine_stats(e).pages);
        assert_in_range(steps, 0, 20000);
    }
    check_stats(e, a, REQUESTS);
    uint64_t preempted = engine_stats(e).preempted;
    int cancelled = 0;
    for (int i = 0; i < REQUESTS; i++) {
        cancelled += a[i].finish == FINISH_CANCELLED;
        check(&a[i]);
    }
    print_message("%s: %d steps, %d preempted, %d by us, %d cancelled, %d of %d reused\n", family,
                  (int)engine_stats(e).steps, (int)preempted, (int)forced, cancelled,
                  (int)engine_stats(e).tokens_cached, (int)engine_stats(e).tokens_prompt);
    assert_true(preempted > forced && forced > 0 && cancelled > 0);
    free_kinds(kind);
    engine_close(e);
    temp_free(dir);
}

/* ---- many threads ---- */

struct crowd {
    struct engine *e;
    const struct kind *kind;
    struct asked a[THREADS * EACH];
    pthread_mutex_t lock;
    pthread_cond_t over;
    _Atomic int next;
    _Atomic bool stop;
};

static void *step_loop(void *to) {
    struct crowd *c = to;
    while (!atomic_load(&c->stop))
        if (!engine_step(c->e, NULL)) engine_wait(c->e, 60);
    return NULL;
}

static void await(struct crowd *c, struct asked *a) {
    pthread_mutex_lock(&c->lock);
    while (!a->n_done) pthread_cond_wait(&c->over, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

/* Two at a time; one of four is cancelled, before it began or after it was over. */
static void *client_loop(void *to) {
    struct crowd *c = to;
    struct buf text = { 0 };
    uint64_t seed = 100 + (uint64_t)atomic_fetch_add(&c->next, 1);
    struct asked *mine = &c->a[(seed - 100) * EACH];
    for (int i = 0; i < EACH; i++) {
        mine[i].lock = &c->lock;
        mine[i].over = &c->over;
        ask(c->e, &mine[i], &c->kind[draw(&seed, KINDS)], &seed);
        if (i) await(c, &mine[i - 1]);
        struct engine_stats s = engine_stats(c->e);
        if (s.running > RUNNING_MAX || s.heartbeat_s <= 0 || engine_info(c->e).running < 0) abort();
        engine_token_text(c->e, draw(&seed, 1000), &text);
        if (!draw(&seed, 4)) engine_cancel(c->e, mine[i].id);
        if (i && !draw(&seed, 4)) engine_cancel(c->e, mine[i - 1].id);
    }
    await(c, &mine[EACH - 1]);
    buf_free(&text);
    return NULL;
}

/* The built-in model gives texts; a tiny one is fast enough for the thread sanitizer. */
static void test_threads(void **state) {
    const struct memory *m = *state;
    const char *family = m->family;
    static struct kind kind[KINDS];
    static struct crowd c;
    pthread_t steps, client[THREADS];
    char *dir = family ? checkpoint(family) : mem_str(S("models/demo"));
    make_kinds(kind, dir, family, m->kv);
    c = (struct crowd){ .e = open_small(dir, family, m->kv), .kind = kind };
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.over, NULL);
    assert_int_equal(pthread_create(&steps, NULL, step_loop, &c), 0);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&client[i], NULL, client_loop, &c), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(client[i], NULL);
    atomic_store(&c.stop, true);
    engine_stop(c.e);
    pthread_join(steps, NULL);
    run_all(c.e);
    check_stats(c.e, c.a, THREADS * EACH);
    for (int i = 0; i < THREADS * EACH; i++) check(&c.a[i]);
    engine_close(c.e);
    free_kinds(kind);
    pthread_cond_destroy(&c.over);
    pthread_mutex_destroy(&c.lock);
    if (family) temp_free(dir);
    else free(dir);
}

int main(void) {
    /* Pages; with windows; latents; delta states beside pages; states alone; sinks; and a rope that
     * makes long sequences begin anew. 8 bits where all, some or none of the layers take them. */
    static const struct memory memories[] = {
        { "llama", NULL }, { "gemma3_text", NULL }, { "deepseek_v3", NULL }, { "qwen3_next", NULL },
        { "mamba2", NULL }, { "gpt_oss", NULL }, { "phi3", NULL },
        { "llama", "q8" }, { "gemma3_text", "q8" }, { "deepseek_v3", "q8" }, { "qwen3_next", "q8" },
        { "gpt_oss", "q8" }, { "llama", "fp8" }, { "qwen3_next", "fp8" }, { "llama", "f32" },
    };
    static const struct memory demo = { NULL, NULL }, tiny = { "llama", NULL };
    struct CMUnitTest tests[COUNT(memories) + 2];
    size_t n = 0;
    for (; n < COUNT(memories) && !ONLY_THREADS; n++)
        tests[n] = (struct CMUnitTest){ memories[n].family, test_storm, NULL, NULL,
                                        (void *)(uintptr_t)&memories[n] };
    if (!ONLY_THREADS)
        tests[n++] = (struct CMUnitTest){ "test_threads", test_threads, NULL, NULL,
                                          (void *)(uintptr_t)&demo };
    tests[n++] = (struct CMUnitTest){ "threads", test_threads, NULL, NULL,
                                      (void *)(uintptr_t)&tiny };
    return _cmocka_run_group_tests("storm", tests, n, NULL, NULL);
}

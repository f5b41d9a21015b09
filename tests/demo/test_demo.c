/* test_demo.c - the built-in model: against an independent forward pass over its
 * dequantized weights, and the default mode against F32 over held-out text. */
#include "engine.h"

#include <json-c/json.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Sanitizers look at paths, which a third of the text and of the caches already takes. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { IDS_MAX = 1024, POSITIONS_MIN = 2000, ENOUGH = SANITIZED ? POSITIONS_MIN : 1 << 30 };

static struct engine *open_demo(bool f32, const char *kv) {
    struct err err = { 0 };
    struct engine_options o = { .dir = "models/demo", .f32 = f32, .kv = kv, .no_reuse = true };
    struct engine *e = engine_open(&o, &err);
    if (!e) fail_msg("%s", err.text);
    return e;
}

static int read_ids(struct json_object *list, int *ids) {
    int n = (int)json_object_array_length(list);
    assert_in_range(n, 1, IDS_MAX);
    for (int i = 0; i < n; i++)
        ids[i] = json_object_get_int(json_object_array_get_idx(list, (size_t)i));
    return n;
}

struct got { int tokens[IDS_MAX], n_tokens, position; float *logits; struct buf text; };

static void collect(void *to, const struct engine_event *ev) {
    struct got *g = to;
    if (ev->kind == EVENT_LOGITS && ev->position == g->position)
        memcpy(g->logits, ev->logits, (size_t)ev->vocab * sizeof *g->logits);
    if (ev->kind == EVENT_TOKEN && g->n_tokens < IDS_MAX) g->tokens[g->n_tokens++] = ev->token;
    if (ev->kind != EVENT_LOGITS) buf_str(&g->text, ev->text);
}

static void ask(struct engine *e, const int *ids, int n, int answer, int logits, engine_emit *emit,
                void *to) {
    struct err err = { 0 };
    struct generate_options o = { .sample = sample_defaults(), .n_max = answer,
                                  .logits_last = logits };
    o.sample.temperature = 0;
    uint64_t id = engine_submit(e, ids, n, &o, emit, to, &err);
    if (!id || !engine_finish(e, id, &err)) fail_msg("%s", err.text);
}

static void check_vector(struct engine *e, struct json_object *v) {
    int ids[IDS_MAX], greedy[IDS_MAX];
    int n = read_ids(json_object_object_get(v, "ids"), ids);
    int n_greedy = read_ids(json_object_object_get(v, "greedy"), greedy);
    struct json_object *logits = json_object_object_get(v, "logits");
    int vocab = engine_info(e).vocab;
    struct got g = { .position = n - 1, .logits = mem_array((size_t)vocab, sizeof(float)) };
    ask(e, ids, n, n_greedy + 1, 1, collect, &g);
    for (size_t i = 0; i < json_object_array_length(logits); i++) {
        double want = json_object_get_double(json_object_array_get_idx(logits, i));
        if (!(fabs((double)g.logits[i] - want) <= 2e-3))
            fail_msg("logit %zu is %.6g, expected %.6g", i, (double)g.logits[i], want);
    }
    assert_true(g.n_tokens >= n_greedy);
    assert_memory_equal(g.tokens, greedy, (size_t)n_greedy * sizeof *greedy);
    assert_string_equal(buf_c(&g.text),
                        json_object_get_string(json_object_object_get(v, "text")));
    buf_free(&g.text);
    free(g.logits);
}

static void test_vectors(void **state) {
    (void)state;
    struct engine *e = open_demo(true, NULL);
    struct json_object *root = json_object_from_file("tests/demo/vectors.json");
    struct json_object *list = json_object_object_get(root, "vectors");
    assert_true(json_object_array_length(list) >= 3);
    for (size_t i = 0; i < json_object_array_length(list); i++)
        check_vector(e, json_object_array_get_idx(list, i));
    json_object_put(root);
    engine_close(e);
}

/* The messages of each vector, through the checkpoint's own template and tokenizer. */
static void test_template(void **state) {
    (void)state;
    struct engine *e = open_demo(true, NULL);
    struct err err = { 0 };
    const struct chat *chat = engine_chat(e, &err);
    if (!chat) fail_msg("%s", err.text);
    struct json_object *root = json_object_from_file("tests/demo/vectors.json");
    struct json_object *list = json_object_object_get(root, "vectors");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *v = json_object_array_get_idx(list, i);
        struct dialog d = { .messages = json_object_object_get(v, "messages") };
        struct prompt p = { 0 };
        struct ids ids = { 0 };
        int want[IDS_MAX], n = read_ids(json_object_object_get(v, "ids"), want);
        if (!chat_render(chat, &d, &p, &err)) fail_msg("%s", err.text);
        tok_encode(engine_tokenizer(e), buf_view(&p.text), TOK_SPECIALS | TOK_ADD_BOS, p.span,
                   p.n_spans, &ids);
        assert_int_equal(ids.len, n);
        assert_memory_equal(ids.at, want, (size_t)n * sizeof *want);
        ids_free(&ids);
        prompt_free(&p);
    }
    json_object_put(root);
    engine_close(e);
}

/* One text through one mode: its logits at every position. */
struct rows { float *at; int vocab; };

static void keep(void *to, const struct engine_event *ev) {
    struct rows *r = to;
    if (ev->kind == EVENT_LOGITS)
        memcpy(r->at + (int64_t)ev->position * r->vocab, ev->logits,
               (size_t)r->vocab * sizeof(float));
}

static int best_of(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) if (x[i] > x[best]) best = i;
    return best;
}

static double log_sum(const float *x, int n) {
    double max = (double)x[best_of(x, n)], sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - max);
    return max + log(sum);
}

static double divergence(const float *p, const float *q, int n) {
    double a = log_sum(p, n), b = log_sum(q, n), kl = 0;
    for (int i = 0; i < n; i++) {
        double lp = (double)p[i] - a;
        kl += exp(lp) * (lp - ((double)q[i] - b));
    }
    return kl;
}

/* What a mode promises against F32 throughout, over a held-out text. */
struct promise { const char *name; bool f32; const char *kv; double kl, agree; };
static const struct promise promises[] = {
    { "default", false, NULL, 1e-3, 0.995 },
    { "8-bit keys and values", true, "q8", 1e-3, 0.99 },
    { "default with 8-bit keys and values", false, "q8", 1e-3, 0.99 },
};

static void test_promise(void **state) {
    const struct promise *mode = *state;
    struct engine *exact = open_demo(true, NULL), *fast = open_demo(mode->f32, mode->kv);
    struct json_object *root = json_object_from_file("tests/demo/text.json");
    struct json_object *texts = json_object_object_get(root, "ids");
    int vocab = engine_info(exact).vocab, positions = 0, agree = 0;
    size_t size = (size_t)IDS_MAX * (size_t)vocab;
    struct rows a = { mem_array(size, sizeof(float)), vocab }, b = { mem_array(size, sizeof(float)),
                                                                     vocab };
    double kl = 0;
    for (size_t t = 0; positions < ENOUGH && t < json_object_array_length(texts); t++) {
        int ids[IDS_MAX], n = read_ids(json_object_array_get_idx(texts, t), ids);
        ask(exact, ids, n, 0, n, keep, &a);
        ask(fast, ids, n, 0, n, keep, &b);
        for (int i = 0; i < n; i++) {
            const float *p = a.at + (int64_t)i * vocab, *q = b.at + (int64_t)i * vocab;
            kl += divergence(p, q, vocab);
            agree += best_of(p, vocab) == best_of(q, vocab);
        }
        positions += n;
    }
    print_message("%s against f32 over %d positions: mean KL %.2e, top-1 agreement %.2f %%\n",
                  mode->name, positions, kl / positions, 100.0 * agree / positions);
    assert_true(positions >= POSITIONS_MIN);
    assert_true(kl / positions < mode->kl);
    assert_true(agree > mode->agree * positions);
    free(a.at);
    free(b.at);
    json_object_put(root);
    engine_close(exact);
    engine_close(fast);
}

static void line(void *to, const char *name, bool ok, const char *detail) {
    (void)to;
    if (!ok) print_error("%s: %s\n", name, detail);
}

static void test_exact(void **state) {
    static const char *const kv[] = { "auto", "q8", "f32" };
    (void)state;
    for (size_t i = 0; i < COUNT(kv) - SANITIZED; i++) {
        struct err err = { 0 };
        struct engine_options o = { .dir = "models/demo", .kv = kv[i] };
        assert_true(engine_selftest(&o, line, NULL, &err));
    }
}

/* Half the memory of bf16, but for the scales, is what an estimate and an engine say. */
static void test_kv_memory(void **state) {
    (void)state;
    static const struct { const char *kv; int per_token; } rows[] = {
        { "f32", 8192 }, { "bf16", 4096 }, { "auto", 4096 }, { "q8", 2176 },
    };
    struct err err = { 0 };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf json = { 0 };
        if (!engine_inspect("models/demo", 0, rows[i].kv, &json, &err)) fail_msg("%s", err.text);
        struct json_object *root = json_tokener_parse(buf_c(&json));
        struct json_object *memory = json_object_object_get(root, "memory");
        assert_int_equal(json_object_get_int(json_object_object_get(memory, "kv_per_token")),
                         rows[i].per_token);
        json_object_put(root);
        buf_free(&json);
        struct engine *e = open_demo(false, rows[i].kv);
        assert_string_equal(engine_info(e).kv, rows[i].kv[0] == 'a' ? "bf16" : rows[i].kv);
        engine_close(e);
    }
    struct engine_options o = { .dir = "models/demo", .kv = "q4" };
    assert_null(engine_open(&o, &err));
    assert_string_equal(err.text, "kv q4: unknown; there is: auto, f32, bf16, q8");
}

int main(void) {
    struct CMUnitTest tests[COUNT(promises) + 4] = {
        cmocka_unit_test(test_template),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_kv_memory),
    };
    for (size_t i = 0; i < COUNT(promises); i++)
        tests[4 + i] = (struct CMUnitTest){ promises[i].name, test_promise, NULL, NULL,
                                            (void *)(uintptr_t)&promises[i] };
    return _cmocka_run_group_tests("demo", tests, COUNT(tests), NULL, NULL);
}

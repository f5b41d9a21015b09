/* test_demo.c - the built-in model: against an independent forward pass over its
 * dequantized weights, and the default mode against F32 over held-out text. */
#include "../maker.h"
#include "device/cpu/linear.h"
#include "engine.h"
#include "weights/quant.h"

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

static struct engine *open_dir(const char *dir, bool f32, const char *kv) {
    struct err err = { 0 };
    struct engine_options o = { .dir = dir, .f32 = f32, .kv = kv, .no_reuse = true };
    struct engine *e = engine_open(&o, &err);
    if (!e) fail_msg("%s", err.text);
    return e;
}

static struct engine *open_demo(bool f32, const char *kv) {
    return open_dir("models/demo", f32, kv);
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
struct logits { float *at; int vocab; };

static void keep(void *to, const struct engine_event *ev) {
    struct logits *r = to;
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

static struct buf read_demo(const char *name) {
    struct buf path = { 0 }, bytes = { 0 };
    buf_format(&path, "models/demo/%s", name);
    FILE *f = fopen(buf_c(&path), "rb");
    if (!f) fail_msg("%s", buf_c(&path));
    for (int c; (c = fgetc(f)) != EOF;) buf_char(&bytes, (char)c);
    fclose(f);
    buf_free(&path);
    return bytes;
}

/* A tensor of the file, by its name and what is added to it; at NULL: there is none. */
static struct tensor find(struct json_object *header, char *data, const char *name,
                          const char *suffix) {
    struct buf full = { 0 };
    struct json_object *entry, *shape, *at;
    struct tensor t = { .at = NULL };
    buf_format(&full, "%s%s", name, suffix);
    if (json_object_object_get_ex(header, buf_c(&full), &entry)) {
        shape = json_object_object_get(entry, "shape");
        at = json_object_array_get_idx(json_object_object_get(entry, "data_offsets"), 0);
        t = tensor_2d(data + json_object_get_int(at), BF16,
                      json_object_get_int(json_object_array_get_idx(shape, 0)),
                      json_object_get_int(json_object_array_get_idx(shape, 1)));
    }
    buf_free(&full);
    return t;
}

static void add(struct maker *m, const char *name, const char *suffix, const char *dtype,
                int64_t rows, int64_t cols, const void *at, size_t bytes) {
    struct buf full = { 0 }, shape = { 0 };
    buf_format(&full, "%s%s", name, suffix);
    buf_format(&shape, "[%lld,%lld]", (long long)rows, (long long)cols);
    maker_add(m, buf_c(&full), dtype, buf_c(&shape), at, bytes);
    buf_free(&full);
    buf_free(&shape);
}

/* Adds the matrix whose packed values t is, in bf16 or MXFP4. */
static void add_matrix(struct maker *m, struct json_object *header, char *data, struct tensor t,
                       const char *name, enum dtype as) {
    const struct tensor scales = find(header, data, name, ".scales");
    const int64_t rows = t.shape[0], cols = scales.shape[1] * 64;
    struct tensor w = tensor_2d(t.at, MLX_AFFINE, rows, cols);
    w.quant = (struct quant){ .scales = scales.at, .scale_dtype = BF16, .group = 64,
                              .biases = find(header, data, name, ".biases").at,
                              .bits = (uint8_t)(t.shape[1] * 32 / cols) };
    float *row = mem_array((size_t)cols, sizeof *row);
    uint16_t *all = mem_array((size_t)(rows * cols), sizeof *all);
    uint8_t *codes = mem_array((size_t)(rows * cols / 2), 1);
    uint8_t *powers = mem_array((size_t)(rows * cols / 32), 1);
    for (int64_t r = 0; r < rows; r++) {
        cpu_dequantize_row(&w, r, row);
        for (int64_t c = 0; c < cols; c++) {
            uint32_t bits;
            memcpy(&bits, &row[c], sizeof bits);
            all[r * cols + c] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
        }
        for (int64_t c = 0; c < cols; c += 32)
            quant_mxfp4(row + c, codes + (r * cols + c) / 2, powers + (r * cols + c) / 32);
    }
    if (as == MXFP4) {
        add(m, name, ".weight", "U32", rows, cols / 8, codes, (size_t)(rows * cols / 2));
        add(m, name, ".scales", "U8", rows, cols / 32, powers, (size_t)(rows * cols / 32));
    } else {
        add(m, name, ".weight", "BF16", rows, cols, all, (size_t)(rows * cols) * sizeof *all);
    }
    free(row);
    free(all);
    free(codes);
    free(powers);
}

/* The built-in model with weights of bf16, or but for the embedding of MXFP4, in a folder of its
 * own. */
static char *demo_of(enum dtype weights) {
    static const char *const others[] = { "generation_config.json", "tokenizer.json",
                                          "tokenizer_config.json", "special_tokens_map.json" };
    char *dir = temp_dir();
    for (size_t i = 0; i < COUNT(others); i++) {
        struct buf bytes = read_demo(others[i]);
        temp_write(dir, others[i], buf_view(&bytes));
        buf_free(&bytes);
    }
    struct json_object *config = json_object_from_file("models/demo/config.json");
    json_object_object_del(config, "quantization");
    json_object_object_del(config, "quantization_config");
    if (weights == MXFP4)
        json_object_object_add(config, "quantization", json_tokener_parse(
            "{\"mode\":\"mxfp4\",\"bits\":4,\"group_size\":32}"));
    temp_write(dir, "config.json", str_of(json_object_to_json_string(config)));
    json_object_put(config);

    struct buf file = read_demo("model.safetensors");
    uint64_t length;
    memcpy(&length, file.at, sizeof length);
    char *data = file.at + sizeof length + length;
    struct maker m = { 0 };
    struct json_tokener *reader = json_tokener_new();
    struct json_object *header = json_tokener_parse_ex(reader, file.at + sizeof length,
                                                       (int)length);
    json_object_object_foreach(header, name, entry) {
        const size_t n = strlen(name), tail = strlen(".weight");
        if (n < tail || strcmp(name + n - tail, ".weight") != 0)
            continue;
        struct buf base = { 0 };
        buf_put(&base, name, n - tail);
        struct json_object *shape = json_object_object_get(entry, "shape");
        struct json_object *at = json_object_object_get(entry, "data_offsets");
        const int begin = json_object_get_int(json_object_array_get_idx(at, 0));
        const int end = json_object_get_int(json_object_array_get_idx(at, 1));
        if (find(header, data, buf_c(&base), ".scales").at)
            add_matrix(&m, header, data, find(header, data, name, ""), buf_c(&base),
                       strstr(name, "embed") ? BF16 : weights);
        else
            maker_add(&m, name, "BF16", json_object_to_json_string(shape), data + begin,
                      (size_t)(end - begin));
        buf_free(&base);
    }
    maker_write(&m, dir, "model.safetensors");
    json_object_put(header);
    json_tokener_free(reader);
    buf_free(&file);
    return dir;
}

/* What a mode promises against F32 throughout, over a held-out text. */
struct promise {
    const char *name;
    bool f32;
    enum dtype weights;              /* MLX_AFFINE: as it is */
    const char *kv;
    double kl, agree;
};
static const struct promise promises[] = {
    { "default", false, MLX_AFFINE, NULL, 1e-3, 0.995 },
    { "default with weights of bf16", false, BF16, NULL, 1e-3, 0.995 },
    { "default with weights of MXFP4", false, MXFP4, NULL, 1e-3, 0.995 },
    { "8-bit keys and values", true, MLX_AFFINE, "q8", 1e-3, 0.99 },
    { "default with 8-bit keys and values", false, MLX_AFFINE, "q8", 1e-3, 0.99 },
    { "FP8 keys and values", true, MLX_AFFINE, "fp8", 2e-3, 0.98 },
};

static void test_promise(void **state) {
    const struct promise *mode = *state;
    const bool made = mode->weights != MLX_AFFINE;
    char *dir = made ? demo_of(mode->weights) : mem_str(S("models/demo"));
    struct engine *exact = open_dir(dir, true, NULL), *fast = open_dir(dir, mode->f32, mode->kv);
    struct json_object *root = json_object_from_file("tests/demo/text.json");
    struct json_object *texts = json_object_object_get(root, "ids");
    int vocab = engine_info(exact).vocab, positions = 0, agree = 0;
    size_t size = (size_t)IDS_MAX * (size_t)vocab;
    struct logits a = { mem_array(size, sizeof(float)), vocab };
    struct logits b = { mem_array(size, sizeof(float)), vocab };
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
    if (made)
        temp_free(dir);
    else
        free(dir);
}

static void line(void *to, const char *name, bool ok, const char *detail) {
    (void)to;
    if (!ok) print_error("%s: %s\n", name, detail);
}

static void test_exact(void **state) {
    static const char *const kv[] = { "auto", "q8", "fp8", "f32" };
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
        { "fp8", 2176 },
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
    assert_string_equal(err.text, "kv q4: unknown; there is: auto, f32, bf16, q8, fp8");
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

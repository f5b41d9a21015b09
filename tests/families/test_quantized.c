/* test_quantized.c - families in FP8 and MXFP4: what a quantized checkpoint gives is, bit for bit,
 * what the same one gives whose weights were made floats beforehand. */
#include "recipe.h"

#include "device/small_float.h"
#include "engine.h"
#include "weights/quant.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { BLOCK_ROWS = 16, BLOCK_COLS = 24, PROMPT = 19, NEW = 6, LOGITS_MAX = 16 << 10 };
enum how { FP8_BLOCKS, FP8_ONE, MXFP4_MLX, MXFP4_OSS };

static const struct { const char *name, *config, *format; } ways[] = {
    [FP8_BLOCKS] = { "fp8 in blocks", "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
                     "\"weight_block_size\":[16,24]}", NULL },
    [FP8_ONE]    = { "fp8 with one scale", "{\"quant_method\":\"compressed-tensors\",\"format\":"
                     "\"float-quantized\"}", NULL },
    [MXFP4_MLX]  = { "mxfp4 of MLX", "{\"mode\":\"mxfp4\",\"bits\":4,\"group_size\":32}", "mlx" },
    [MXFP4_OSS]  = { "mxfp4 of GPT-OSS", "{\"quant_method\":\"mxfp4\"}", NULL },
};

struct values { float *at; int64_t shape[3], n; int rank; };

static struct values values_of(const char *seed, const char *name, struct json_object *entry) {
    struct json_object *shape = json_object_object_get(entry, "shape");
    struct values v = { .n = 1, .rank = (int)json_object_array_length(shape) };
    assert_true(v.rank <= 3);
    for (int i = 0; i < v.rank; i++) {
        v.shape[i] = json_object_get_int64(json_object_array_get_idx(shape, (size_t)i));
        v.n *= v.shape[i];
    }
    v.at = mem_array((size_t)v.n, sizeof *v.at);
    for (int64_t i = 0; i < v.n; i++)
        v.at[i] = recipe_value(recipe_key(seed, name), (uint64_t)i, recipe_number(entry, "mean"),
                               recipe_number(entry, "std"));
    return v;
}

static void put(struct maker *m, const char *base, const char *suffix, const char *dtype, int rank,
                const int64_t *shape, const void *at, size_t bytes) {
    char name[256];
    struct buf text = { 0 };
    snprintf(name, sizeof name, "%s%s", base, suffix);
    for (int i = 0; i < rank; i++) buf_format(&text, "%c%lld", i ? ',' : '[', (long long)shape[i]);
    buf_char(&text, ']');
    maker_add(m, name, dtype, buf_c(&text), at, bytes);
    buf_free(&text);
}

/* Rounds v to FP8 in place; writes it packed, or as floats. */
static void add_fp8(struct maker *m, const char *base, struct values *v, bool one, bool packed) {
    int64_t cols = v->shape[1], rows = v->shape[0];
    int64_t tall = one ? rows : BLOCK_ROWS, wide = one ? cols : BLOCK_COLS;
    int64_t grid[] = { (rows + tall - 1) / tall, (cols + wide - 1) / wide };
    uint8_t *q = mem_array((size_t)v->n, 1);
    float *scale = mem_array((size_t)(grid[0] * grid[1]), sizeof *scale);
    for (int64_t i = 0; i < v->n; i++) {
        float *s = &scale[i / cols / tall * grid[1] + i % cols / wide];
        *s = fmaxf(*s, fabsf(v->at[i]));
    }
    for (int64_t i = 0; i < grid[0] * grid[1]; i++) scale[i] = quant_fp8_scale(scale[i]);
    for (int64_t i = 0; i < v->n; i++) {
        float s = scale[i / cols / tall * grid[1] + i % cols / wide];
        q[i] = e4m3_of(v->at[i] / s);
        v->at[i] = float_of_e4m3(q[i]) * s;
    }
    if (packed) {
        put(m, base, ".weight", "F8_E4M3", 2, v->shape, q, (size_t)v->n);
        put(m, base, one ? ".weight_scale" : ".weight_scale_inv", "F32", 2, grid, scale,
            (size_t)(grid[0] * grid[1]) * 4);
    }
    free(q);
    free(scale);
}

/* The same with MXFP4. Stacks of GPT-OSS are [n, in, out] as floats and [n, out, in] as blocks. */
static void add_mxfp4(struct maker *m, const char *base, struct values *v, bool oss, bool packed) {
    int64_t in = v->shape[oss ? 1 : v->rank - 1], out = oss ? v->shape[2] : v->n / in;
    uint8_t *q = mem_array((size_t)v->n / 2, 1), *s = mem_array((size_t)v->n / MXFP4_GROUP, 1);
    for (int64_t g = 0; g < v->n / MXFP4_GROUP; g++) {
        float w[MXFP4_GROUP], *from[MXFP4_GROUP];
        for (int i = 0; i < MXFP4_GROUP; i++) {
            int64_t k = g * MXFP4_GROUP + i, e = k / (in * out), o = k / in % out, c = k % in;
            from[i] = v->at + (oss ? (e * in + c) * out + o : k);
            w[i] = *from[i];
        }
        quant_mxfp4(w, q + g * MXFP4_GROUP / 2, &s[g]);
        for (int i = 0; i < MXFP4_GROUP; i++)
            *from[i] = float_of_e2m1(q[(g * MXFP4_GROUP + i) / 2] >> i % 2 * 4) *
                       float_of_e8m0(s[g]);
    }
    int64_t shape[4] = { v->shape[0], oss ? out : v->shape[1], 0, MXFP4_GROUP / 2 };
    int last = v->rank - 1;
    if (packed) {
        shape[last] = oss ? in / MXFP4_GROUP : in / 8;
        put(m, base, oss ? "_blocks" : ".weight", oss ? "U8" : "U32", v->rank + oss, shape, q,
            (size_t)v->n / 2);
        shape[last] = in / MXFP4_GROUP;
        put(m, base, oss ? "_scales" : ".scales", "U8", v->rank, shape, s,
            (size_t)v->n / MXFP4_GROUP);
    }
    free(q);
    free(s);
}

/* Which matrices a converter packs: no routers, no embeddings, nothing whose rows do not fit. */
static bool is_packed(enum how how, struct str name, const struct values *v) {
    if (how == MXFP4_OSS)
        return (str_ends(name, "experts.gate_up_proj") || str_ends(name, "experts.down_proj")) &&
               v->shape[1] % MXFP4_GROUP == 0;
    bool other = str_ends(name, "embed_tokens.weight") || str_ends(name, "mlp.gate.weight") ||
                 str_ends(name, "router.weight") || !str_ends(name, ".weight") || v->rank < 2;
    return !other && (how == MXFP4_MLX ? v->shape[v->rank - 1] % MXFP4_GROUP == 0 : v->rank == 2);
}

/* The checkpoint of a folder, its matrices rounded, in the format or as floats. */
static char *checkpoint(const char *family, enum how how, bool packed, int *n_packed) {
    char path[256], *dir = temp_dir();
    snprintf(path, sizeof path, "tests/families/%s/tensors.json", family);
    struct json_object *root = json_object_from_file(path);
    const char *seed = json_object_get_string(json_object_object_get(root, "seed_string"));
    struct maker m = { 0 };
    if (ways[how].format) maker_metadata(&m, ways[how].format);
    *n_packed = 0;
    json_object_object_foreach(json_object_object_get(root, "tensors"), name, entry) {
        if (json_object_object_get(entry, "kind")) {
            recipe_tensor(&m, seed, name, entry);
            continue;
        }
        struct values v = values_of(seed, name, entry);
        bool small = is_packed(how, str_of(name), &v);
        char *base = mem_str(str_cut(str_of(name), 0, strlen(name) - (how == MXFP4_OSS ? 0 : 7)));
        if (small && how >= MXFP4_MLX) add_mxfp4(&m, base, &v, how == MXFP4_OSS, packed);
        else if (small) add_fp8(&m, base, &v, how == FP8_ONE, packed);
        if (!small) recipe_tensor(&m, seed, name, entry);
        else if (!packed) put(&m, name, "", "F32", v.rank, v.shape, v.at, (size_t)v.n * 4);
        *n_packed += small;
        free(base);
        free(v.at);
    }
    json_object_put(root);
    maker_write(&m, dir, "model.safetensors");
    snprintf(path, sizeof path, "tests/families/%s/config.json", family);
    root = json_object_from_file(path);
    if (packed)
        json_object_object_add(root, ways[how].format ? "quantization" : "quantization_config",
                               json_tokener_parse(ways[how].config));
    temp_write(dir, "config.json", str_of(json_object_to_json_string(root)));
    json_object_put(root);
    return dir;
}

struct seen { float logits[LOGITS_MAX]; int n, token[NEW], n_tokens; bool done; };

static void on_event(void *to, const struct engine_event *e) {
    struct seen *s = to;
    if (e->kind == EVENT_LOGITS && s->n + e->vocab <= LOGITS_MAX) {
        memcpy(s->logits + s->n, e->logits, (size_t)e->vocab * sizeof *e->logits);
        s->n += e->vocab;
    }
    if (e->kind == EVENT_TOKEN) s->token[s->n_tokens++] = e->token;
    if (e->kind == EVENT_DONE) s->done = e->finish == FINISH_LENGTH;
}

/* One prompt through the checkpoint; then the folder is gone. */
static void run(char *dir, const char *isa, struct seen *s) {
    struct engine_options o = { .dir = dir, .f32 = true, .no_tokenizer = true, .isa = isa,
                                .threads = 2 };
    struct generate_options g = { .sample = sample_defaults(), .n_max = NEW, .ignore_eos = true,
                                  .logits_last = 4 };
    struct err err = { 0 };
    int ids[PROMPT];
    g.sample.temperature = 0;
    *s = (struct seen){ .n = 0 };
    for (int i = 0; i < PROMPT; i++) ids[i] = (i * 7 + 3) % 60;
    struct engine *e = engine_open(&o, &err);
    uint64_t id = e ? engine_submit(e, ids, PROMPT, &g, on_event, s, &err) : 0;
    if (!id || !engine_finish(e, id, &err)) fail_msg("%s: %s", dir, err.text);
    assert_true(s->done && s->n > 0);
    engine_close(e);
    temp_free(dir);
}

static void compare(const char *family, enum how how) {
    static struct seen packed, floats;
    static const char *const isas[] = { NULL, "generic" };
    for (size_t i = 0; i < COUNT(isas); i++) {
        int n, m;
        run(checkpoint(family, how, true, &n), isas[i], &packed);
        run(checkpoint(family, how, false, &m), isas[i], &floats);
        if (n < 4 || n != m) fail_msg("%s: %d matrices were packed", family, n);
        if (packed.n != floats.n ||
            memcmp(packed.logits, floats.logits, (size_t)packed.n * sizeof *packed.logits) ||
            memcmp(packed.token, floats.token, sizeof packed.token))
            fail_msg("%s: %s is not what its floats are", family, ways[how].name);
    }
}

static void test_fp8(void **state) {
    (void)state;
    static const char *const families[] = { "llama", "qwen3", "phi3", "qwen3_moe", "deepseek_v3" };
    for (size_t i = 0; i < COUNT(families); i++) {
        compare(families[i], FP8_BLOCKS);
        compare(families[i], FP8_ONE);
    }
}

static void test_mxfp4(void **state) {
    (void)state;
    static const char *const families[] = { "llama", "gemma2", "qwen3_moe", "deepseek_v3" };
    for (size_t i = 0; i < COUNT(families); i++) compare(families[i], MXFP4_MLX);
}

static void test_gpt_oss(void **state) {
    (void)state;
    compare("gpt_oss", MXFP4_OSS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_mxfp4),
        cmocka_unit_test(test_gpt_oss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

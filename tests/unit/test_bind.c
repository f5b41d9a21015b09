/* test_bind.c - from tensor names to slots: layouts, fixes, packing, and the sentence for
 * each thing that does not fit. */
#include "bound.h"
#include "base/pull.h"
#include "weights/quant.h"
#include <math.h>

/* Element i of every made tensor is seed + i, exact in BF16 below 256. */
static void add(struct fixture *f, const char *name, const char *dtype, const char *shape, int n,
                int seed) {
    struct buf data = { 0 };
    for (int i = 0; i < n; i++) {
        float v = (float)(seed + i);
        uint16_t h = bf16_of(v);
        if (!strcmp(dtype, "F32")) buf_put(&data, &v, sizeof v);
        else buf_put(&data, &h, sizeof h);
    }
    maker_add(&f->m, name, dtype, shape, data.at, data.len);
    buf_free(&data);
}

/* A packed tensor [rows, cols] (or [stack, rows, cols]) whose values are scale * q + bias with
 * q = (3 * i) mod 2^bits, scale 1/4 and bias -2 for even groups, 1/2 and 1 for odd ones. */
static float packed_value(int64_t i, int bits, int group) {
    int q = (int)(3 * i % (1 << bits));
    return i / group % 2 ? (float)q * 0.5f + 1 : (float)q * 0.25f - 2;
}

static void add_packed(struct fixture *f, const char *base, int stack, int rows, int cols, int bits,
                       int group) {
    char name[256], shape[64], lead[32] = "";
    int n = rows * cols * (stack ? stack : 1);
    uint8_t *data = mem_new((size_t)n);
    struct buf scales = { 0 }, biases = { 0 };
    for (int i = 0; i < n * bits; i++)
        if ((3 * (i / bits) % (1 << bits)) >> i % bits & 1)
            data[i / 8] = (uint8_t)(data[i / 8] | 1 << i % 8);
    for (int g = 0; g < n / group; g++) {
        uint16_t s = bf16_of(g % 2 ? 0.5f : 0.25f), z = bf16_of(g % 2 ? 1 : -2);
        buf_put(&scales, &s, 2);
        buf_put(&biases, &z, 2);
    }
    if (stack) snprintf(lead, sizeof lead, "%d,", stack);
    snprintf(name, sizeof name, "%s.weight", base);
    snprintf(shape, sizeof shape, "[%s%d,%d]", lead, rows, cols * bits / 32);
    maker_add(&f->m, name, "U32", shape, data, (size_t)(n * bits / 8));
    snprintf(shape, sizeof shape, "[%s%d,%d]", lead, rows, cols / group);
    snprintf(name, sizeof name, "%s.scales", base);
    maker_add(&f->m, name, "BF16", shape, scales.at, scales.len);
    snprintf(name, sizeof name, "%s.biases", base);
    maker_add(&f->m, name, "BF16", shape, biases.at, biases.len);
    free(data);
    buf_free(&scales);
    buf_free(&biases);
}

static void begin(struct fixture *f, bool mlx) {
    *f = (struct fixture){ .dir = temp_dir() };
    if (mlx) maker_metadata(&f->m, "mlx");
    add(f, "model.embed_tokens.weight", "BF16", "[2,4]", 8, 0);
}

static bool open_config(struct fixture *f, const struct name_rule *rules, const char *config) {
    return open_bound(f, rules, config, 2);
}

static void open(struct fixture *f, const struct name_rule *rules) {
    if (!open_config(f, rules, "{}")) fail_msg("%s", f->err.text);
}

/* The value at these indices of a tensor of any dtype and rank. */
static float value(const struct tensor *t, int64_t i, int64_t j, int64_t k) {
    int64_t index[] = { i, j, k }, row = 0;
    for (int axis = 0; axis < t->rank - 1; axis++) row += index[axis] * t->stride[axis];
    float out[512];
    assert_in_range(t->shape[t->rank - 1], 1, COUNT(out));
    row_of(out, t, row, (size_t)t->shape[t->rank - 1]);
    return out[index[t->rank - 1]];
}

#define A "model.layers.0.self_attn."
#define M "model.layers.0.mlp."

static void binds_linears_and_vectors(void **state) {
    (void)state;
    struct fixture f;
    struct linear q;
    struct tensor norm;
    begin(&f, false);
    add(&f, A "q_proj.weight", "BF16", "[3,4]", 12, 10);
    add(&f, A "q_proj.bias", "BF16", "[3]", 3, 50);
    add(&f, "model.layers.0.input_layernorm.weight", "BF16", "[4]", 4, 7);
    open(&f, NULL);
    assert_true(bind_has(f.b, W_Q));
    assert_false(bind_has(f.b, W_K));
    bind_linear(f.b, &q, W_Q, 3, 4, true);
    assert_float_equal(value(&q.w, 2, 1, 0), 10 + 9, 0);
    assert_int_equal(q.w.dtype, BF16);
    assert_int_equal(q.bias.dtype, F32);
    assert_float_equal(value(&q.bias, 2, 0, 0), 52, 0);
    bind_vector(f.b, &norm, W_PRE_MIX, 4);
    assert_int_equal(norm.dtype, F32);
    assert_float_equal(value(&norm, 3, 0, 0), 10, 0);
    int layer = -7;
    assert_string_equal(binder_claim(f.b, 0, &layer), "embed");
    assert_int_equal(layer, -1);
    assert_string_equal(binder_claim(f.b, 2, &layer), "q");
    assert_int_equal(layer, 0);
    finish_fine(&f);
}

static void refuses_what_does_not_fit(void **state) {
    (void)state;
    struct fixture f;
    struct linear lin;
    struct tensor t;
    begin(&f, false);
    open(&f, NULL);
    bind_linear(f.b, &lin, W_Q, 3, 4, false);
    assert_null(lin.w.at);
    finish_failed(&f, A "q_proj.weight is missing");

    begin(&f, false);
    add(&f, A "q_proj.weight", "BF16", "[4,3]", 12, 0);
    open(&f, NULL);
    bind_linear(f.b, &lin, W_Q, 3, 4, false);
    assert_null(lin.w.at);
    bind_linear(f.b, &lin, W_K, 3, 4, false);            /* the first error stays */
    finish_failed(&f, "model.safetensors: tensor " A "q_proj.weight is BF16 [4, 3], but [3, 4] is");

    begin(&f, false);
    add(&f, A "q_proj.weight", "BF16", "[3,4]", 12, 0);
    open(&f, NULL);
    bind_linear(f.b, &lin, W_Q, 3, 4, true);
    finish_failed(&f, "q_proj.bias is missing");

    begin(&f, false);
    add(&f, A "q_proj.weight", "BF16", "[3,4]", 12, 0);
    add(&f, A "q_proj.bias", "BF16", "[3]", 3, 0);
    open(&f, NULL);
    bind_linear(f.b, &lin, W_Q, 3, 4, false);
    finish_failed(&f, "q_proj.bias is there, but");

    begin(&f, false);
    maker_add(&f.m, A "q_proj.weight", "F8_E5M2", "[3,4]", "123456789012", 12);
    open(&f, NULL);
    bind_linear(f.b, &lin, W_Q, 3, 4, false);
    finish_failed(&f, "has the dtype F8_E5M2");

    begin(&f, false);
    maker_add(&f.m, A "q_proj.weight", "U32", "[2,1]", "12345678", 8);
    open(&f, NULL);
    bind_linear(f.b, &lin, W_Q, 2, 8, false);
    finish_failed(&f, "q_proj.scales is missing");

    begin(&f, false);
    maker_add(&f.m, "model.norm.weight", "BF16", "[0]", "", 0);
    open(&f, NULL);
    bind_vector(f.b, &t, W_FINAL_NORM, 4);
    assert_null(t.at);
    finish_failed(&f, "model.norm.weight is BF16 [0], but [4] is needed");
}

static void reports_leftovers_and_drops(void **state) {
    (void)state;
    struct fixture f;
    int layer;
    begin(&f, false);
    add(&f, "model.layers.0.extra.weight", "BF16", "[1]", 1, 0);
    open(&f, NULL);
    finish_failed(&f, "no part of the model uses the tensor model.layers.0.extra.weight");

    begin(&f, false);
    add(&f, "lm_head.weight", "BF16", "[2,4]", 8, 0);
    add(&f, A "rotary_emb.inv_freq", "F32", "[2]", 2, 0);
    add(&f, "model.layers.2.mlp.up_proj.weight", "BF16", "[1]", 1, 0);
    add(&f, "mtp.fc.weight", "BF16", "[1]", 1, 0);
    open(&f, NULL);
    assert_string_equal(binder_claim(f.b, 0, &layer), "drop");
    finish_fine(&f);

    static const struct name_rule rules[] = {
        { W_DROP, "model.layers.{l}.attn.masked_bias", EXACT }, { W_END, NULL, 0 },
    };
    begin(&f, false);
    add(&f, "model.layers.1.attn.masked_bias", "F32", "[1]", 1, 0);
    open(&f, rules);
    finish_fine(&f);
}

/* What may stand before a decoder's names, and where its parts are then. */
static void finds_prefixes(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        { "model.embed_tokens", "model.layers.1.mlp.up_proj", "lm_head" },
        { "embed_tokens", "layers.1.mlp.up_proj", "lm_head" },
        { "language_model.model.embed_tokens", "language_model.model.layers.1.mlp.up_proj",
          "language_model.lm_head" },
        { "model.language_model.embed_tokens", "model.language_model.layers.1.mlp.up_proj",
          "lm_head" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct fixture f = { .dir = temp_dir() };
        struct linear up, head;
        char name[128];
        static const char *const shape[] = { "[2,4]", "[3,4]", "[2,4]" };
        for (int j = 0; j < 3; j++) {
            snprintf(name, sizeof name, "%s.weight", cases[i][j]);
            add(&f, name, "BF16", shape[j], j == 1 ? 12 : 8, 20 * j);
        }
        open(&f, NULL);
        binder_layer(f.b, 1);
        bind_linear(f.b, &up, W_UP, 3, 4, false);
        bind_linear(f.b, &head, W_HEAD, 2, 4, false);
        assert_non_null(up.w.at);
        assert_float_equal(value(&up.w, 2, 3, 0), 31, 0);
        assert_float_equal(value(&head.w, 0, 1, 0), 41, 0);
        finish_fine(&f);
    }
}

static void prefers_the_family_and_the_first_rule(void **state) {
    (void)state;
    static const struct name_rule rules[] = {
        { W_Q, "model.layers.{l}.attention.wq", AS_IS }, { W_END, NULL, 0 },
    };
    struct fixture f;
    struct linear q;
    struct tensor n;
    begin(&f, false);
    add(&f, "model.layers.0.attention.wq.weight", "BF16", "[1,4]", 4, 5);
    add(&f, "model.layers.0.pre_feedforward_layernorm.weight", "BF16", "[4]", 4, 1);
    add(&f, "model.layers.0.post_attention_layernorm.weight", "BF16", "[4]", 4, 2);
    open(&f, rules);
    bind_linear(f.b, &q, W_Q, 1, 4, false);
    assert_float_equal(value(&q.w, 0, 0, 0), 5, 0);
    bind_vector(f.b, &n, W_PRE_FFN, 4);
    assert_float_equal(value(&n, 0, 0, 0), 1, 0);
    bind_vector(f.b, &n, W_POST_MIX, 4);
    assert_float_equal(value(&n, 0, 0, 0), 2, 0);
    finish_fine(&f);
}

static void applies_fixes(void **state) {
    (void)state;
    static const struct name_rule rules[] = {
        { W_FINAL_NORM, "model.norm", PLUS_ONE },
        { W_CONV, "model.layers.{l}.conv", CONV },
        { W_D, "model.layers.{l}.D", EXACT },
        { W_Q, "model.layers.{l}.c_attn", TRANSPOSED },
        { W_END, NULL, 0 },
    };
    for (int mlx = 0; mlx < 2; mlx++) {
        struct fixture f;
        struct tensor norm, conv, d, bias;
        struct linear q;
        begin(&f, mlx);
        add(&f, "model.norm.weight", "BF16", "[3]", 3, 1);
        add(&f, "model.norm.bias", "BF16", "[3]", 3, 30);
        add(&f, "model.layers.0.conv.weight", "BF16", mlx ? "[2,3,1]" : "[2,1,3]", 6, 0);
        add(&f, "model.layers.0.D", "F32", "[4]", 4, 9);
        add(&f, "model.layers.0.c_attn.weight", "BF16", mlx ? "[3,2]" : "[2,3]", 6, 0);
        open(&f, rules);
        bind_vector(f.b, &norm, W_FINAL_NORM, 3);
        float added = mlx ? 0 : 1;
        assert_float_equal(value(&norm, 0, 0, 0), 1 + added, 0);
        bind_bias_of(f.b, &bias, W_FINAL_NORM, 3);
        assert_float_equal(value(&bias, 0, 0, 0), 30, 0);
        bind_matrix(f.b, &conv, W_CONV, 2, 3);
        assert_float_equal(value(&conv, 1, 2, 0), 5, 0);
        bind_vector(f.b, &d, W_D, 4);
        assert_float_equal(value(&d, 0, 0, 0), 9, 0);
        bind_linear(f.b, &q, W_Q, 3, 2, false);
        assert_float_equal(value(&q.w, 2, 1, 0), 5, 0);
        float turned = mlx ? 2 * 2 : 2;
        assert_float_equal(value(&q.w, 2, 0, 0), turned, 0);
        finish_fine(&f);
    }
}

static void reads_packings(void **state) {
    (void)state;
    static const int all_bits[] = { 2, 3, 4, 5, 6, 8 }, groups[] = { 32, 64, 128 };
    for (size_t i = 0; i < COUNT(all_bits); i++)
        for (size_t j = 0; j < COUNT(groups); j++) {
            struct fixture f;
            struct linear q;
            int bits = all_bits[i], group = groups[j];
            char config[128];
            snprintf(config, sizeof config, "{\"quantization\":{\"bits\":%d,\"group_size\":%d}}",
                     bits, group);
            begin(&f, true);
            add_packed(&f, A "q_proj", 0, 3, 256, bits, group);
            if (!open_config(&f, NULL, config)) fail_msg("%s", f.err.text);
            bind_linear(f.b, &q, W_Q, 3, 256, false);
            assert_int_equal(q.w.dtype, MLX_AFFINE);
            assert_int_equal(q.w.quant.bits, bits);
            assert_int_equal(q.w.quant.group, group);
            for (int64_t k = 0; k < 256; k++)
                assert_float_equal(value(&q.w, 2, k, 0), packed_value(512 + k, bits, group), 0);
            finish_fine(&f);
        }
}

static const struct { const char *config, *sentence; bool opens; } configs[] = {
    { "{}", NULL, true },
    { "{\"quantization\":{\"group_size\":64}}", NULL, true },
    { "{\"quantization\":{\"bits\":8,\"group_size\":32,\"" A "q_proj\":{\"bits\":4,"
      "\"group_size\":64}}}", NULL, true },
    { "{\"quantization\":{\"bits\":8}}", A "q_proj.weight is packed with 4 bits", true },
    { "{\"quantization\":{\"bits\":4,\"group_size\":32}}", "in groups of 64", true },
    { "{\"quantization\":{\"bits\":4,\"" A "q_proj\":false}}", "says it is not", true },
    { "{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}", "\"gptq\"", false },
    { "{\"quantization\":{\"bits\":4,\"mode\":\"mxfp4\"}}",
      A "q_proj.weight is packed as affine, but config.json says mxfp4", true },
    { "{\"quantization\":{\"bits\":4,\"mode\":\"mxfp4\",\"group_size\":32,\"" A "q_proj\":"
      "{\"bits\":4,\"group_size\":64}}}", NULL, true },
    { "{\"quantization\":{\"bits\":4,\"mode\":\"q4_0\"}}", "mode is \"q4_0\"", false },
    { "{\"quantization\":{\"bits\":0}}", "config.json: quantization.bits is 0", false },
    { "{\"quantization\":{\"bits\":7}}", "quantization.bits is 7", false },
    { "{\"quantization\":{\"bits\":-1}}", "quantization.bits is -1", false },
    { "{\"quantization\":{\"group_size\":2147483648}}", "quantization.group_size is", false },
    { "{\"quantization\":{\"group_size\":48}}", "quantization.group_size is 48", false },
    { "{\"quantization\":{\"a.b\":3}}", "quantization.a.b is 3", false },
    { "{\"quantization\":4}", "quantization is 4", false },
};

static void cross_checks_the_config(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(configs); i++) {
        struct fixture f;
        struct linear q;
        begin(&f, true);
        add_packed(&f, A "q_proj", 0, 3, 128, 4, 64);
        bool opened = open_config(&f, NULL, configs[i].config);
        if (opened != configs[i].opens) fail_msg("%s: %s", configs[i].config, f.err.text);
        if (!opened) {
            if (!strstr(f.err.text, configs[i].sentence)) fail_msg("got \"%s\"", f.err.text);
            end(&f);
            continue;
        }
        bind_linear(f.b, &q, W_Q, 3, 128, false);
        if (configs[i].sentence) finish_failed(&f, configs[i].sentence);
        else finish_fine(&f);
    }
}

/* Elements of a shape as JSON: "[2,8]". */
static size_t count_of(const char *shape) {
    struct pull j = pull_open(str_of(shape));
    uint64_t n = 1, each;
    assert_true(pull_array(&j));
    while (pull_next(&j)) {
        assert_true(pull_u64(&j, 1000, &each));
        n *= each;
    }
    assert_true(pull_end(&j));
    pull_close(&j);
    return (size_t)n;
}

/* ST-27 */
static void refuses_bad_packings(void **state) {
    (void)state;
    static const struct { const char *weight, *scales, *biases; int in; const char *sentence; }
        bad[] = {
        { "[2,8]", "[2,1]", NULL, 64, "q_proj.biases is missing" },
        { "[2,8]", "[2,1]", "[1,2]", 64, "q_proj.biases is BF16 [1, 2]" },
        { "[2,8]", "[2,2]", "[2,1]", 64, "q_proj.biases is BF16 [2, 1]" },
        { "[2,8]", "[1,2]", "[1,2]", 64, "q_proj.scales is BF16 [1, 2]" },
        { "[2,8]", "[2,4]", "[2,4]", 64, "no groups of 32, 64 or 128" },
        { "[2,8]", "[2,0]", "[2,0]", 64, "no groups of 32, 64 or 128" },
        { "[2,14]", "[2,1]", "[2,1]", 64, "no packing of 64 columns" },
        { "[2,7]", "[2,1]", "[2,1]", 64, "no packing of 64 columns" },
        { "[2,2]", "[2,1]", "[2,1]", 64, "no packing of 64 columns" },
        { "[2,0]", "[2,1]", "[2,1]", 64, "no packing of 64 columns" },
        { "[2,8]", "[2,1]", "[2,1]", 96, "no packing of 96 columns" },
        { "[4,8]", "[4,1]", "[4,1]", 64, "q_proj.weight is U32 [4, 8]" },
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct fixture f;
        struct linear q;
        char zeros[256] = { 0 };
        const char *shape[] = { bad[i].weight, bad[i].scales, bad[i].biases };
        const char *name[] = { A "q_proj.weight", A "q_proj.scales", A "q_proj.biases" };
        begin(&f, true);
        for (int j = 0; j < 3 && shape[j]; j++) {
            size_t elements = count_of(shape[j]);
            assert_true(elements * 4 <= sizeof zeros);
            maker_add(&f.m, name[j], j ? "BF16" : "U32", shape[j], zeros, elements * (j ? 2 : 4));
        }
        open(&f, NULL);
        bind_linear(f.b, &q, W_Q, 2, bad[i].in, false);
        assert_null(q.w.at);
        finish_failed(&f, bad[i].sentence);
    }
}

static const enum slot qkv[] = { W_Q, W_K, W_V };

static void cuts_fused_parts(void **state) {
    (void)state;
    struct linear q, k, v, *part[] = { &q, &k, &v };
    const int64_t out[] = { 4, 2, 2 };
    for (int packed = 0; packed < 2; packed++) {
        struct fixture f;
        begin(&f, packed);
        if (packed) add_packed(&f, A "qkv_proj", 0, 8, 64, 4, 32);
        else add(&f, A "qkv_proj.weight", "BF16", "[8,64]", 512, 0);
        add(&f, A "qkv_proj.bias", "BF16", "[8]", 8, 100);
        open(&f, NULL);
        bind_parts(f.b, part, W_QKV, qkv, out, 3, 64, 7);
        assert_float_equal(value(&k.bias, 1, 0, 0), 105, 0);
        float want = packed ? packed_value(6 * 64 + 64 + 3, 4, 32) : value(&v.w, 1, 3, 0);
        assert_float_equal(value(&v.w, 1, 3, 0), want, 0);
        assert_int_equal((char *)k.w.at - (char *)q.w.at, packed ? 4 * 32 : 4 * 128);
        assert_int_equal(v.w.shape[0], 2);
        finish_fine(&f);
    }
    struct fixture f;
    begin(&f, false);
    add(&f, A "q_proj.weight", "BF16", "[4,2]", 8, 0);
    add(&f, A "q_proj.bias", "BF16", "[4]", 4, 0);
    add(&f, A "k_proj.weight", "BF16", "[2,2]", 4, 20);
    add(&f, A "v_proj.weight", "BF16", "[2,2]", 4, 30);
    open(&f, NULL);
    bind_parts(f.b, part, W_QKV, qkv, out, 3, 2, 1);
    assert_non_null(q.bias.at);
    assert_null(k.bias.at);
    assert_float_equal(value(&v.w, 1, 1, 0), 33, 0);
    finish_fine(&f);
}

static void takes_interleaved_parts(void **state) {
    (void)state;
    static const struct name_rule rules[] = { { W_GATE_UP, M "gate_up", INTERLEAVED },
                                              { W_END, NULL, 0 } };
    static const enum slot slots[] = { W_GATE, W_UP };
    struct fixture f;
    struct linear gate, up, *part[] = { &gate, &up };
    begin(&f, false);
    add(&f, M "gate_up.weight", "BF16", "[6,2]", 12, 0);
    add(&f, M "gate_up.bias", "BF16", "[6]", 6, 50);
    open(&f, rules);
    bind_parts(f.b, part, W_GATE_UP, slots, (int64_t[]){ 3, 3 }, 2, 2, 3);
    assert_int_equal(up.w.shape[0], 3);
    assert_float_equal(value(&gate.w, 2, 1, 0), 9, 0);
    assert_float_equal(value(&up.w, 2, 1, 0), 11, 0);
    assert_float_equal(value(&gate.bias, 1, 0, 0), 52, 0);
    assert_float_equal(value(&up.bias, 2, 0, 0), 55, 0);
    finish_fine(&f);
}

enum { HEADS = 2, NOPE = 3, VDIM = 4, RANK = 64 };

/* kv_b of Hugging Face, plain and packed: both cuts must hold its values. */
static void cuts_kv_b(void **state) {
    (void)state;
    for (int packed = 0; packed < 2; packed++) {
        struct fixture f;
        struct linear k, v, kv;
        begin(&f, packed);
        if (packed) add_packed(&f, A "kv_b_proj", 0, HEADS * (NOPE + VDIM), RANK, 4, 32);
        else add(&f, A "kv_b_proj.weight", "F32", "[14,64]", 14 * 64, 0);
        open(&f, NULL);
        bind_linear(f.b, &kv, W_KV_B, HEADS * (NOPE + VDIM), RANK, false);
        bind_heads(f.b, &k, W_K_UP, HEADS, RANK, NOPE);
        bind_heads(f.b, &v, W_V_UP, HEADS, VDIM, RANK);
        assert_int_equal(k.w.dtype, F32);
        for (int h = 0; h < HEADS; h++)
            for (int r = 0; r < RANK; r++) {
                for (int i = 0; i < NOPE; i++)
                    assert_float_equal(value(&k.w, h, r, i),
                                       value(&kv.w, h * (NOPE + VDIM) + i, r, 0), 0);
                for (int i = 0; i < VDIM; i++)
                    assert_float_equal(value(&v.w, h, i, r),
                                       value(&kv.w, h * (NOPE + VDIM) + NOPE + i, r, 0), 0);
            }
        finish_fine(&f);
    }
}

static void takes_converted_heads(void **state) {
    (void)state;
    struct fixture f;
    struct linear k, v;
    begin(&f, true);
    add(&f, A "embed_q.weight", "BF16", "[2,4,3]", 24, 0);
    add_packed(&f, A "unembed_out", 2, 4, 64, 8, 64);
    open(&f, NULL);
    bind_heads(f.b, &k, W_K_UP, 2, 4, 3);
    bind_heads(f.b, &v, W_V_UP, 2, 4, 64);
    assert_float_equal(value(&k.w, 1, 2, 1), 12 + 7, 0);
    assert_float_equal(value(&v.w, 1, 3, 5), packed_value(7 * 64 + 5, 8, 64), 0);
    finish_fine(&f);

    begin(&f, false);
    add(&f, A "kv_b_proj.weight", "BF16", "[14,8]", 112, 0);
    open(&f, NULL);
    bind_heads(f.b, &k, W_K_UP, 2, 8, 3);
    bind_heads(f.b, &v, W_V_UP, 2, 5, 8);                /* 3 + 5 rows do not make 7 */
    finish_failed(&f, "kv_b_proj.weight has 14 rows");
}

enum { N = 2, F = 3, D = 4 };                        /* experts, hidden, dim */

struct expert_layout { const char *gate, *up, *down, *both; unsigned fix; bool each; };
static const struct expert_layout layouts[] = {
    { M "experts.#.gate_proj", M "experts.#.up_proj", M "experts.#.down_proj", NULL, 0, true },
    { "model.layers.0.block_sparse_moe.experts.#.w1",
      "model.layers.0.block_sparse_moe.experts.#.w3",
      "model.layers.0.block_sparse_moe.experts.#.w2", NULL, 0, true },
    { M "switch_mlp.gate_proj", M "switch_mlp.up_proj", M "switch_mlp.down_proj", NULL, 0, false },
    { NULL, NULL, M "experts.down_proj", M "experts.gate_up_proj", EXACT, false },
    { NULL, NULL, M "experts.down_proj", M "experts.gate_up_proj", EXACT | TRANSPOSED, false },
    { NULL, NULL, M "experts.down_proj", M "experts.gate_up_proj", EXACT | TRANSPOSED | INTERLEAVED,
      false },
};

/* A matrix of this expert in any layout: gate 0.., up 100.., down 200.., 30 more per expert. */
static float expert_value(int kind, int e, int r, int c, int cols) {
    return (float)(kind * 100 + e * 30 + r * cols + c);
}

static void put(struct buf *data, float v) {
    buf_put(data, &v, sizeof v);
}

/* Rows of one matrix, or of gate and up together (kind 0, `both`), stored as the fix says. */
static void put_matrix(struct buf *data, int kind, int e, int rows, int cols, bool both,
                       unsigned fix) {
    int all = both ? 2 * rows : rows;
    bool turned = fix & TRANSPOSED;
    for (int i = 0; i < all * cols; i++) {
        int r = turned ? i % all : i / cols, c = turned ? i / all : i % cols;
        int which = both ? (fix & INTERLEAVED ? r % 2 : r / rows) : kind;
        int row = both ? (fix & INTERLEAVED ? r / 2 : r % rows) : r;
        put(data, expert_value(which, e, row, c, cols));
    }
}

static void add_experts(struct fixture *f, const char *format, int kind, int rows, int cols,
                        bool both, const struct expert_layout *l) {
    struct buf data = { 0 };
    char name[256], shape[64];
    int all = both ? 2 * rows : rows;
    const char *end = l->fix & EXACT ? "" : ".weight";
    for (int e = 0; e < N; e++) {
        put_matrix(&data, kind, e, rows, cols, both, l->fix);
        if (!l->each) continue;
        const char *number = strchr(format, '#');
        snprintf(name, sizeof name, "%.*s%d%s%s", (int)(number - format), format, e, number + 1,
                 end);
        snprintf(shape, sizeof shape, "[%d,%d]", rows, cols);
        maker_add(&f->m, name, "F32", shape, data.at, data.len);
        buf_clear(&data);
    }
    if (!l->each) {
        snprintf(name, sizeof name, "%s%s", format, end);
        bool turned = l->fix & TRANSPOSED;
        snprintf(shape, sizeof shape, "[%d,%d,%d]", N, turned ? cols : all, turned ? all : cols);
        maker_add(&f->m, name, "F32", shape, data.at, data.len);
    }
    buf_free(&data);
}

static void binds_experts_of_every_layout(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(layouts); i++) {
        const struct expert_layout *l = &layouts[i];
        const struct name_rule rules[] = {
            { l->both ? W_X_GATE_UP : W_DROP, "model.layers.{l}.mlp.experts.gate_up_proj", l->fix },
            { l->both ? W_X_DOWN : W_DROP, "model.layers.{l}.mlp.experts.down_proj",
              l->fix & ~(unsigned)INTERLEAVED },
            { W_END, NULL, 0 },
        };
        struct fixture f;
        struct linear *lin[3];
        begin(&f, false);
        if (l->both) {
            add_experts(&f, l->both, 0, F, D, true, l);
        } else {
            add_experts(&f, l->gate, 0, F, D, false, l);
            add_experts(&f, l->up, 1, F, D, false, l);
        }
        add_experts(&f, l->down, 2, D, F, false, l);
        open(&f, rules);
        bind_experts(f.b, &lin[0], &lin[1], &lin[2], N, F, D, false);
        for (int kind = 0; kind < 3; kind++)
            for (int e = 0; e < N; e++) {
                int rows = kind == 2 ? D : F, cols = kind == 2 ? F : D;
                const struct tensor *w = &lin[kind][e].w;
                if (!w->at) fail_msg("layout %zu: nothing bound", i);
                assert_int_equal(w->shape[0], rows);
                assert_int_equal(w->shape[1], cols);
                for (int r = 0; r < rows; r++)
                    for (int c = 0; c < cols; c++)
                        assert_float_equal(value(w, r, c, 0), expert_value(kind, e, r, c, cols), 0);
            }
        finish_fine(&f);
    }
}

/* gpt-oss: biases beside stacked tensors, those of gate and up interleaved as well. */
static void binds_expert_biases(void **state) {
    (void)state;
    const struct expert_layout *l = &layouts[5];
    static const struct name_rule rules[] = {
        { W_X_GATE_UP, "model.layers.{l}.mlp.experts.gate_up_proj",
          EXACT | TRANSPOSED | INTERLEAVED },
        { W_X_DOWN, "model.layers.{l}.mlp.experts.down_proj", EXACT | TRANSPOSED },
        { W_END, NULL, 0 },
    };
    struct fixture f;
    struct linear *gate, *up, *down;
    begin(&f, false);
    add_experts(&f, l->both, 0, F, D, true, l);
    add_experts(&f, l->down, 2, D, F, false, l);
    add(&f, M "experts.gate_up_proj_bias", "BF16", "[2,6]", 12, 0);
    add(&f, M "experts.down_proj_bias", "BF16", "[2,4]", 8, 40);
    open(&f, rules);
    bind_experts(f.b, &gate, &up, &down, N, F, D, true);
    assert_float_equal(value(&gate[1].bias, 2, 0, 0), 6 + 4, 0);
    assert_float_equal(value(&up[1].bias, 2, 0, 0), 6 + 5, 0);
    assert_float_equal(value(&down[1].bias, 3, 0, 0), 47, 0);
    finish_fine(&f);
}

static void binds_packed_and_ungated_experts(void **state) {
    (void)state;
    struct fixture f;
    struct linear *up, *down;
    begin(&f, true);
    add_packed(&f, M "switch_mlp.up_proj", 3, 2, 64, 4, 32);
    add_packed(&f, M "switch_mlp.down_proj", 3, 64, 32, 4, 32);
    open(&f, NULL);
    bind_experts(f.b, NULL, &up, &down, 3, 2, 64, false);
    finish_failed(&f, "switch_mlp.down_proj.weight");

    begin(&f, true);
    add_packed(&f, M "switch_mlp.up_proj", 3, 32, 64, 4, 32);
    add_packed(&f, M "switch_mlp.down_proj", 3, 64, 32, 4, 32);
    open(&f, NULL);
    bind_experts(f.b, NULL, &up, &down, 3, 32, 64, false);
    assert_float_equal(value(&up[2].w, 31, 9, 0), packed_value(95 * 64 + 9, 4, 32), 0);
    assert_float_equal(value(&down[1].w, 5, 9, 0), packed_value(69 * 32 + 9, 4, 32), 0);
    finish_fine(&f);
}

static void note(void *to, const struct bind_want *want) {
    buf_format(to, "%s", want->name);
    for (int i = 0; i < want->rank; i++) buf_format(to, " %lld", (long long)want->shape[i]);
    buf_str(to, want->matrix ? S(" m\n") : S("\n"));
}

static void records_requests(void **state) {
    (void)state;
    struct arena arena = { 0 };
    struct buf text = { 0 };
    struct linear q, k, v, *part[] = { &q, &k, &v }, *gate, *up, *down;
    struct tensor t;
    struct err err = { 0 };
    struct binder *b = binder_record(&arena, NULL, 2, note, &text);
    bind_table(b, &t, W_EMBED, 5, 4);
    binder_layer(b, 1);
    assert_false(bind_has(b, W_Q));
    bind_vector(b, &t, W_PRE_FFN, 4);
    assert_float_equal(((float *)t.at)[3], 0, 0);
    bind_parts(b, part, W_QKV, qkv, (int64_t[]){ 4, 2, 2 }, 3, 4, 1);
    bind_experts(b, &gate, &up, &down, 1, 3, 4, false);
    bind_matrix(b, &t, W_CONV, 6, 4);
    bind_heads(b, &k, W_K_UP, 2, 8, 3);
    bind_heads(b, &v, W_V_UP, 2, 4, 8);
    assert_true(binder_finish(b, &err));
    assert_string_equal(buf_c(&text),
        "model.embed_tokens.weight 5 4 m\n"
        "model.layers.1.post_attention_layernorm.weight 4\n"
        "model.layers.1.self_attn.q_proj.weight 4 4 m\n"
        "model.layers.1.self_attn.q_proj.bias 4\n"
        "model.layers.1.self_attn.k_proj.weight 2 4 m\n"
        "model.layers.1.self_attn.v_proj.weight 2 4 m\n"
        "model.layers.1.mlp.experts.0.gate_proj.weight 3 4 m\n"
        "model.layers.1.mlp.experts.0.up_proj.weight 3 4 m\n"
        "model.layers.1.mlp.experts.0.down_proj.weight 4 3 m\n"
        "model.layers.1.linear_attn.conv1d.weight 6 1 4\n"
        "model.layers.1.self_attn.kv_b_proj.weight 14 8 m\n");
    buf_free(&text);
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(binds_linears_and_vectors),
        cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(reports_leftovers_and_drops),
        cmocka_unit_test(finds_prefixes),
        cmocka_unit_test(prefers_the_family_and_the_first_rule),
        cmocka_unit_test(applies_fixes),
        cmocka_unit_test(reads_packings),
        cmocka_unit_test(cross_checks_the_config),
        cmocka_unit_test(refuses_bad_packings),
        cmocka_unit_test(cuts_fused_parts),
        cmocka_unit_test(takes_interleaved_parts),
        cmocka_unit_test(cuts_kv_b),
        cmocka_unit_test(takes_converted_heads),
        cmocka_unit_test(binds_experts_of_every_layout),
        cmocka_unit_test(binds_expert_biases),
        cmocka_unit_test(binds_packed_and_ungated_experts),
        cmocka_unit_test(records_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

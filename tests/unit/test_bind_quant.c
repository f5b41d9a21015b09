/* test_bind_quant.c - quantized matrices as they are published: FP8 with its kinds of scales, MLX's
 * modes without biases, GPT-OSS's blocks; and the sentence for each that is broken. */
#include "bound.h"
#include "device/small_float.h"
#include "weights/quant.h"

#define Q "model.layers.0.self_attn.q_proj"
#define X "model.layers.0.mlp.experts."

struct part { const char *name, *dtype, *shape; size_t bytes; };      /* name NULL: the end */

/* Byte i of a tensor: codes that are numbers in every format; floats are 1, 2, 3 ... */
static unsigned char code_of(size_t i) {
    return (unsigned char)(i * 37 % 113);
}

static void add(struct maker *m, const struct part *p) {
    struct buf data = { 0 };
    for (size_t i = 0; data.len < p->bytes; i++) {
        float f = (float)(i + 1);
        uint16_t h = bf16_of(f);
        unsigned char c = code_of(i), e = (unsigned char)(126 + i % 4);
        if (!strcmp(p->dtype, "F32")) buf_put(&data, &f, sizeof f);
        else if (!strcmp(p->dtype, "BF16")) buf_put(&data, &h, sizeof h);
        else buf_put(&data, strstr(p->name, "scale") ? &e : &c, 1);
    }
    maker_add(m, p->name, p->dtype, p->shape, data.at, data.len);
    buf_free(&data);
}

/* Opens the parts at layer 0 of 1. False: the config was refused. */
static bool open(struct fixture *f, const struct part *p, const char *config,
                 const struct name_rule *rules) {
    static const struct part embed = { "model.embed_tokens.weight", "BF16", "[2,4]", 16 };
    *f = (struct fixture){ .dir = temp_dir() };
    add(&f->m, &embed);
    for (; p->name; p++) add(&f->m, p);
    return open_bound(f, rules, config, 1);
}

/* ---- FP8 ---- */

#define FP8_CONFIG "{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\"," \
                   "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[3,4]}}"
#define CT(format, weights) "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"," \
    "\"format\":\"" format "\",\"config_groups\":{\"group_0\":{\"weights\":{" weights "}}}}}"

/* [7, 10] of FP8 with these scales: the block of a value is rows_of x cols_of. */
static const struct { const char *config, *name, *dtype, *shape; size_t bytes;
                      int rows_of, cols_of; } kinds[] = {
    { FP8_CONFIG, Q ".weight_scale_inv", "F32", "[3,3]", 36, 3, 4 },
    { FP8_CONFIG, Q ".weight_scale_inv", "BF16", "[3,3]", 18, 3, 4 },
    { FP8_CONFIG, Q ".weight_scale_inv", "F8_E8M0", "[3,3]", 9, 3, 4 },
    { "{\"quantization_config\":{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\"}}",
      Q ".weight_scale_inv", "BF16", "[]", 2, 7, 10 },
    { CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"tensor\""),
      Q ".weight_scale", "BF16", "[1]", 2, 7, 10 },
    { CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\""),
      Q ".weight_scale", "F32", "[7,1]", 28, 1, 10 },
    { CT("float-quantized", "\"strategy\":\"block\",\"block_structure\":[4,4]"),
      Q ".weight_scale", "F32", "[2,3]", 24, 4, 4 },
    { "{}", Q ".weight_scale", "F32", "[1,1]", 4, 128, 128 },
};

static void reads_fp8(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(kinds); i++) {
        const struct part p[] = { { Q ".weight", "F8_E4M3", "[7,10]", 70 },
                                  { Q ".input_scale", "F32", "[]", 4 },
                                  { kinds[i].name, kinds[i].dtype, kinds[i].shape, kinds[i].bytes },
                                  { 0 } };
        struct fixture f;
        struct linear q;
        float row[10];
        int across = (10 + kinds[i].cols_of - 1) / kinds[i].cols_of;
        if (!open(&f, p, kinds[i].config, NULL)) fail_msg("%s", f.err.text);
        bind_linear(f.b, &q, W_Q, 7, 10, false);
        assert_int_equal(q.w.dtype, FP8);
        for (int r = 0; r < 7; r++) {
            row_of(row, &q.w, r * 10, 10);
            for (int c = 0; c < 10; c++) {
                int s = r / kinds[i].rows_of * across + c / kinds[i].cols_of;
                float scale = strcmp(kinds[i].dtype, "F8_E8M0") ? (float)(s + 1)
                                                                : ldexpf(1, s % 4 - 1);
                assert_true(row[c] == float_of_e4m3(code_of((size_t)(r * 10 + c))) * scale);
            }
        }
        finish_fine(&f);
    }
}

static void refuses_broken_fp8(void **state) {
    (void)state;
    static const struct { struct part scale; const char *sentence; } bad[] = {
        { { Q ".weight_scale_inv", "F32", "[3,2]", 24 }, "_inv is [3, 2]: not one scale, not one "
          "for each of 7 rows, not one for each of 3 x 3 blocks" },
        { { Q ".weight_scale_inv", "F32", "[9]", 36 }, "is [9]: not one scale" },
        { { Q ".weight_scale_inv", "F32", "[3,0]", 0 }, "is [3, 0]: not one scale" },
        { { Q ".weight_scale_inv", "F32", "[3,3,3]", 108 }, "is [3, 3, 3]: not one scale" },
        { { Q ".weight_scale_inv", "U8", "[3,3]", 9 }, "has the dtype U8" },
        { { Q ".weight_scale_inv", "I32", "[3,3]", 36 }, "has the dtype I32" },
        { { Q ".weight_zero_point", "F32", "[3,3]", 36 }, "q_proj.weight is FP8, but " Q
          ".weight_scale_inv is missing" },
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        const struct part p[] = { { Q ".weight", "F8_E4M3", "[7,10]", 70 }, bad[i].scale, { 0 } };
        struct fixture f;
        struct linear q;
        if (!open(&f, p, FP8_CONFIG, NULL)) fail_msg("%s", f.err.text);
        bind_linear(f.b, &q, W_Q, 7, 10, false);
        assert_null(q.w.at);
        finish_failed(&f, bad[i].sentence);
    }
    struct fixture f;
    struct linear q;
    const struct part p[] = { { Q ".weight", "F8_E4M3", "[7,10]", 70 },
                              { Q ".weight_scale_inv", "F32", "[3,3]", 36 }, { 0 } };
    if (!open(&f, p, FP8_CONFIG, NULL)) fail_msg("%s", f.err.text);
    bind_linear(f.b, &q, W_Q, 7, 12, false);
    finish_failed(&f, "q_proj.weight is F8_E4M3 [7, 10], but [7, 12] is needed");
}

static void refuses_other_packers(void **state) {
    (void)state;
    static const struct { const char *config, *sentence; } bad[] = {
        { "{\"quantization_config\":{\"quant_method\":\"awq\"}}", "\"awq\"; supported are" },
        { "{\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}}", "fmt is" },
        { "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}}",
          "weight_block_size is not a list of two" },
        { "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[0,1]}}",
          "weight_block_size is 0" },
        { CT("pack-quantized", "\"num_bits\":4"), "format is" },
        { CT("float-quantized", "\"num_bits\":4,\"type\":\"float\""), "num_bits is 4" },
        { CT("float-quantized", "\"num_bits\":8,\"type\":\"int\""), "weights.type is" },
        { CT("float-quantized", "\"strategy\":\"group\""), "strategy is \"group\"" },
        { "{\"quantization\":{\"mode\":\"mxfp6\"}}", "mode is \"mxfp6\"" },
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct fixture f;
        if (open(&f, (const struct part[]){ { 0 } }, bad[i].config, NULL))
            fail_msg("%s was accepted", bad[i].config);
        if (!strstr(f.err.text, bad[i].sentence)) fail_msg("got \"%s\"", f.err.text);
        end(&f);
    }
}

/* A stack: its matrices begin with a block of their own, and each of them is a view. */
static void reads_stacks_of_fp8(void **state) {
    (void)state;
    static const struct name_rule rules[] = {
        { W_X_UP, X "up_proj", EXACT }, { W_X_DOWN, X "down_proj", EXACT },
        { W_END, NULL, AS_IS } };
    struct part p[] = { { X "up_proj", "F8_E4M3", "[2,6,8]", 96 },
                        { X "up_proj_scale_inv", "F32", "[2,2,2]", 32 },
                        { X "down_proj", "F8_E4M3", "[2,8,6]", 96 },
                        { X "down_proj_scale_inv", "F32", "[2,1,1]", 8 }, { 0 } };
    struct fixture f;
    struct linear *up, *down;
    float row[8];
    if (!open(&f, p, FP8_CONFIG, rules)) fail_msg("%s", f.err.text);
    bind_experts(f.b, NULL, &up, &down, 2, 6, 8, false);
    row_of(row, &up[1].w, 4 * 8, 8);         /* row 4 of the second: block row 1 of 2 */
    for (int c = 0; c < 8; c++)
        assert_true(row[c] == float_of_e4m3(code_of((size_t)(48 + 32 + c))) * (float)(7 + c / 4));
    row_of(row, &down[1].w, 0, 6);
    assert_true(row[5] == float_of_e4m3(code_of(48 + 5)) * 2);
    finish_fine(&f);

    p[0] = (struct part){ X "up_proj", "F8_E4M3", "[2,7,8]", 112 };
    p[1] = (struct part){ X "up_proj_scale_inv", "F32", "[2,3,2]", 48 };
    p[2] = (struct part){ X "down_proj", "F8_E4M3", "[2,8,7]", 112 };
    if (!open(&f, p, FP8_CONFIG, rules)) fail_msg("%s", f.err.text);
    bind_experts(f.b, NULL, &up, &down, 2, 7, 8, false);
    finish_failed(&f, "blocks of 3 rows do not divide the 7 rows of each matrix");
}

/* ---- MLX's modes ---- */

static void reads_modes(void **state) {
    (void)state;
    static const struct { const char *config; int bits, group; const char *shape, *scales;
                          enum dtype dtype; } modes[] = {
        { "{\"quantization\":{\"bits\":4,\"group_size\":32,\"mode\":\"mxfp4\"}}", 4, 32, "[3,8]",
          "[3,2]", MXFP4 },
        { "{\"quantization\":{\"bits\":4,\"group_size\":16,\"mode\":\"nvfp4\"}}", 4, 16, "[3,8]",
          "[3,4]", NVFP4 },
        { "{\"quantization\":{\"bits\":8,\"group_size\":32,\"mode\":\"mxfp8\"}}", 8, 32, "[3,16]",
          "[3,2]", FP8 },
        { "{}", 4, 32, "[3,8]", "[3,2]", MXFP4 },
    };
    for (size_t i = 0; i < COUNT(modes); i++) {
        int bits = modes[i].bits, group = modes[i].group;
        const struct part p[] = {
            { Q ".weight", "U32", modes[i].shape, (size_t)(3 * 64 * bits / 8) },
            { Q ".scales", "U8", modes[i].scales, (size_t)(3 * 64 / group) }, { 0 } };
        struct fixture f;
        struct linear q;
        float row[64];
        if (!open(&f, p, modes[i].config, NULL)) fail_msg("%s", f.err.text);
        bind_linear(f.b, &q, W_Q, 3, 64, false);
        if (bind_has(f.b, W_K) || q.w.dtype != modes[i].dtype) fail_msg("%s", modes[i].config);
        row_of(row, &q.w, 2 * 64, 64);
        for (size_t c = 0; c < 64; c++) {
            size_t at = 2 * 64 + c, s = at / (size_t)group;
            unsigned char e = (unsigned char)(126 + s % 4), b = code_of(bits == 8 ? at : at / 2);
            float scale = modes[i].dtype == NVFP4 ? float_of_e4m3(e) : float_of_e8m0(e);
            float want = bits == 8 ? float_of_e4m3(b) : float_of_e2m1(at % 2 ? b >> 4 : b);
            if (isnan(scale)) assert_true(isnan(row[c]));
            else assert_true(row[c] == want * scale);
        }
        finish_fine(&f);
    }
}

static void refuses_broken_modes(void **state) {
    (void)state;
    static const struct { const char *config; struct part weight, scale; const char *sentence; }
        bad[] = {
        { "{}", { Q ".weight", "U32", "[3,8]", 96 }, { Q ".scales", "U8", "[3,1]", 3 },
          "it is not mxfp4, mxfp8 or nvfp4" },
        { "{}", { Q ".weight", "U32", "[3,8]", 96 }, { Q ".scales", "U8", "[2,2]", 4 },
          "q_proj.scales is U8 [2, 2], but [3, 2] is needed" },
        { "{}", { Q ".weight", "U32", "[3,8]", 96 }, { Q ".scales", "BF16", "[3,2]", 12 },
          "it is not mxfp4, mxfp8 or nvfp4" },
        { "{\"quantization\":{\"bits\":4,\"mode\":\"nvfp4\"}}",
          { Q ".weight", "U32", "[3,8]", 96 }, { Q ".scales", "U8", "[3,2]", 6 },
          "is packed as mxfp4, but config.json says nvfp4" },
        { "{\"quantization\":{\"bits\":4,\"group_size\":32}}",
          { Q ".weight", "U32", "[3,8]", 96 }, { Q ".scales", "U8", "[3,2]", 6 },
          "is packed as mxfp4, but config.json says affine" },
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        const struct part p[] = { bad[i].weight, bad[i].scale, { 0 } };
        struct fixture f;
        struct linear q;
        if (!open(&f, p, bad[i].config, NULL)) fail_msg("%s", f.err.text);
        bind_linear(f.b, &q, W_Q, 3, 64, false);
        assert_null(q.w.at);
        finish_failed(&f, bad[i].sentence);
    }
}

/* ---- GPT-OSS ---- */

static const struct name_rule oss[] = {
    { W_X_GATE_UP, X "gate_up_proj", EXACT | TRANSPOSED | INTERLEAVED },
    { W_X_DOWN,    X "down_proj",    EXACT | TRANSPOSED },
    { W_END, NULL, AS_IS },
};
#define OSS_CONFIG "{\"quantization_config\":{\"quant_method\":\"mxfp4\"," \
                   "\"modules_to_not_convert\":[\"model.layers.*.self_attn\"]}}"

/* Gate and up are alternate rows of blocks that, unlike floats of that name, are not turned. */
static void reads_blocks_of_experts(void **state) {
    (void)state;
    const struct part p[] = { { X "gate_up_proj_blocks", "U8", "[2,64,1,16]", 2048 },
                              { X "gate_up_proj_scales", "U8", "[2,64,1]", 128 },
                              { X "gate_up_proj_bias", "BF16", "[2,64]", 256 },
                              { X "down_proj_blocks", "U8", "[2,32,1,16]", 1024 },
                              { X "down_proj_scales", "U8", "[2,32,1]", 64 },
                              { X "down_proj_bias", "BF16", "[2,32]", 128 }, { 0 } };
    struct fixture f;
    struct linear *gate, *up, *down;
    float row[32];
    if (!open(&f, p, OSS_CONFIG, oss)) fail_msg("%s", f.err.text);
    bind_experts(f.b, &gate, &up, &down, 2, 32, 32, true);
    if (!up[1].w.at) fail_msg("expert 1 has no up");
    assert_int_equal(up[1].w.dtype, MXFP4);
    row_of(row, &up[1].w, 3 * up[1].w.stride[0], 32);            /* row 7 of 64 of the second */
    for (size_t c = 0; c < 32; c++) {
        unsigned char b = code_of((64 + 7) * 16 + c / 2);
        float scale = float_of_e8m0((unsigned char)(126 + (64 + 7) % 4));
        assert_true(row[c] == float_of_e2m1(c % 2 ? b >> 4 : b) * scale);
    }
    assert_int_equal(down[0].w.shape[0], 32);
    finish_fine(&f);
}

static void refuses_broken_blocks(void **state) {
    (void)state;
    static const struct { struct part blocks, scales; const char *sentence; } bad[] = {
        { { X "gate_up_proj_blocks", "U8", "[2,64,1,16]", 2048 },
          { X "gate_up_proj_scale", "U8", "[2,64,1]", 128 }, "gate_up_proj_scales is missing" },
        { { X "gate_up_proj_blocks", "U8", "[2,64,1,16]", 2048 },
          { X "gate_up_proj_scales", "U8", "[2,64,2]", 256 }, "but [2, 64, 1] is needed" },
        { { X "gate_up_proj_blocks", "U8", "[2,64,16]", 2048 },
          { X "gate_up_proj_scales", "U8", "[2,64,1]", 128 }, "but [2, 64, 1, 16] is needed" },
        { { X "gate_up_proj_blocks", "F8_E4M3", "[2,64,1,16]", 2048 },
          { X "gate_up_proj_scales", "U8", "[2,64,1]", 128 }, "but [2, 64, 1, 16] is needed" },
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        const struct part p[] = { bad[i].blocks, bad[i].scales, { 0 } };
        struct fixture f;
        struct linear *gate, *up, *down;
        if (!open(&f, p, OSS_CONFIG, oss)) fail_msg("%s", f.err.text);
        bind_experts(f.b, &gate, &up, &down, 2, 32, 32, false);
        finish_failed(&f, bad[i].sentence);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_fp8),
        cmocka_unit_test(refuses_broken_fp8),
        cmocka_unit_test(refuses_other_packers),
        cmocka_unit_test(reads_stacks_of_fp8),
        cmocka_unit_test(reads_modes),
        cmocka_unit_test(refuses_broken_modes),
        cmocka_unit_test(reads_blocks_of_experts),
        cmocka_unit_test(refuses_broken_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

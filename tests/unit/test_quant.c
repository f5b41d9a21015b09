/* test_quant.c - quantized formats: our groups are MLX's bit for bit, and unpack to what was
 * packed; floats of 8 and 4 bits are those of ml_dtypes. */
#include "small_float_vectors.h"
#include "device/small_float.h"
#include "weights/quant.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { ROWS = 8, COLS = 256, COUNT_ALL = ROWS * COLS };

/* Nearly normal values from splitmix64, and rows at the corners: zeros, constants, one sign,
 * large, tiny. All are BF16 numbers. */
static void make_weights(float *w) {
    for (int i = 0; i < COUNT_ALL; i++) {
        uint64_t x = (uint64_t)(i + 1) * 0x9E3779B97F4A7C15u;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
        x = (x ^ x >> 27) * 0x94D049BB133111EBu;
        x ^= x >> 31;
        int64_t s = (int64_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
        float v = (float)(s - 131070) * 0x1p-20f;
        switch (i / COLS) {
        case 1: v = 0; break;
        case 2: v = 0.5f; break;
        case 3: v = -0.25f; break;
        case 4: v = fabsf(v); break;
        case 5: v = -fabsf(v); break;
        case 6: v *= 4096; break;
        case 7: v *= 0x1p-20f; break;
        default: break;
        }
        uint16_t h = bf16_of(v);
        floats_of(&w[i], &h, BF16, 1);
    }
}

static uint64_t fnv(uint64_t h, const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) h = (h ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
    return h;
}

/* Hashes of the words, scales and biases that mlx.core.quantize 0.32.4 gives on its CPU device. */
static const struct { int bits, group; uint64_t hash; } mlx[] = {
    { 2,  32, 0x670d5a6070c82c48 },
    { 2,  64, 0x0f70bda5157a1dd5 },
    { 2, 128, 0x198d49b7038ee7dc },
    { 3,  32, 0x8643536b72c6f994 },
    { 3,  64, 0xc97121373600586d },
    { 3, 128, 0x425dd7fa0e228839 },
    { 4,  32, 0x5657c8400fc74661 },
    { 4,  64, 0x571fdf8adf037cc7 },
    { 4, 128, 0x69a3d0b01ab8ec94 },
    { 5,  32, 0x335c927fe76f170e },
    { 5,  64, 0x693fbf9428b2ed13 },
    { 5, 128, 0x2b95f73712d218bb },
    { 6,  32, 0x261ea46b8814c8f9 },
    { 6,  64, 0x05aae01d4530ceae },
    { 6, 128, 0x8883c6fc73638187 },
    { 8,  32, 0x050bdfbb0feed0fa },
    { 8,  64, 0x731c3cc4f2b9b704 },
    { 8, 128, 0xd4206c4867424023 },
};

struct packed { uint8_t q[COUNT_ALL]; uint16_t s[COUNT_ALL / 32], z[COUNT_ALL / 32]; };

static void pack(const float *w, int bits, int group, struct packed *p) {
    memset(p, 0, sizeof *p);
    for (int g = 0; g < COUNT_ALL / group; g++) {
        float scale, bias;
        quant_group(w + g * group, group, bits, p->q + g * group * bits / 8, &scale, &bias);
        p->s[g] = bf16_of(scale);
        p->z[g] = bf16_of(bias);
    }
}

static void packs_as_mlx_does(void **state) {
    (void)state;
    float w[COUNT_ALL];
    struct packed p;
    make_weights(w);
    for (size_t i = 0; i < COUNT(mlx); i++) {
        pack(w, mlx[i].bits, mlx[i].group, &p);
        size_t groups = (size_t)(COUNT_ALL / mlx[i].group);
        uint64_t h = fnv(0xcbf29ce484222325u, p.q, (size_t)(COUNT_ALL * mlx[i].bits / 8));
        h = fnv(fnv(h, p.s, groups * 2), p.z, groups * 2);
        if (h != mlx[i].hash)
            fail_msg("%d bits, groups of %d: other bytes than MLX", mlx[i].bits, mlx[i].group);
    }
}

/* Half a step is lost by rounding, and up to one at the end of smaller magnitude, which may not be
 * reached; the rounding of scale and bias to BF16 comes on top. */
static void unpacks_what_was_packed(void **state) {
    (void)state;
    float w[COUNT_ALL], back[COUNT_ALL];
    struct packed p;
    make_weights(w);
    for (size_t i = 0; i < COUNT(mlx); i++) {
        int bits = mlx[i].bits, group = mlx[i].group;
        pack(w, bits, group, &p);
        struct tensor t = tensor_2d(p.q, MLX_AFFINE, ROWS, COLS);
        t.quant = (struct quant){ .scales = p.s, .biases = p.z, .scale_dtype = BF16,
                                  .group = (uint16_t)group, .bits = (uint8_t)bits };
        row_of(back, &t, 0, COUNT_ALL);
        for (int j = 0; j < COUNT_ALL; j++) {
            float scale, bias;
            floats_of(&scale, &p.s[j / group], BF16, 1);
            floats_of(&bias, &p.z[j / group], BF16, 1);
            float allowed = fabsf(scale) + (fabsf(bias) + fabsf(w[j])) * 0x1p-8f;
            if (fabsf(back[j] - w[j]) > allowed)
                fail_msg("%d bits: %g became %g", bits, (double)w[j], (double)back[j]);
        }
    }
}

/* Every group is found on its own: a row that begins in the middle reads the same values. */
static void reads_from_any_group(void **state) {
    (void)state;
    float w[COUNT_ALL], all[COUNT_ALL], part[64];
    struct packed p;
    make_weights(w);
    pack(w, 3, 64, &p);
    struct tensor t = tensor_2d(p.q, MLX_AFFINE, ROWS, COLS);
    t.quant = (struct quant){ .scales = p.s, .biases = p.z, .scale_dtype = BF16, .group = 64,
                              .bits = 3 };
    row_of(all, &t, 0, COUNT_ALL);
    for (int g = 0; g < COUNT_ALL / 64; g++) {
        row_of(part, &t, g * 64, 64);
        assert_memory_equal(part, all + g * 64, sizeof part);
    }
}

static void converts_floats(void **state) {
    (void)state;
    static const struct { uint16_t half; float value; } halves[] = {
        { 0x0000, 0 },          { 0x3c00, 1 },           { 0xc000, -2 },      { 0x7bff, 65504 },
        { 0x0001, 0x1p-24f },   { 0x83ff, -1023 * 0x1p-24f }, { 0x0400, 0x1p-14f },
        { 0x7c00, INFINITY },   { 0xfc00, -INFINITY },
    };
    char at[3];
    float v;
    for (size_t i = 0; i < COUNT(halves); i++) {
        memcpy(at + 1, &halves[i].half, 2);                  /* at an odd address */
        floats_of(&v, at + 1, F16, 1);
        assert_true(v >= halves[i].value && v <= halves[i].value);
    }
    uint16_t nan_half = 0x7e00;
    floats_of(&v, &nan_half, F16, 1);
    assert_true(isnan(v));
    assert_int_equal(bf16_of(1), 0x3f80);
    assert_int_equal(bf16_of(0x1.01p0f), 0x3f80);            /* halfway, to even */
    assert_int_equal(bf16_of(0x1.03p0f), 0x3f82);
    assert_int_equal(bf16_of(-INFINITY), 0xff80);
    assert_true((bf16_of(NAN) & 0x7fff) > 0x7f80);
}

static void reads_small_floats(void **state) {
    (void)state;
    for (int i = 0; i < 256; i++) {
        float f = float_of_e4m3((uint8_t)i), e = float_of_e8m0((uint8_t)i);
        if ((i & 127) == 127) assert_true(isnan(f));
        else assert_memory_equal(&f, &e4m3_bits[i], sizeof f);
        if (i == 255) assert_true(isnan(e));
        else assert_memory_equal(&e, &e8m0_bits[i], sizeof e);
    }
}

static void rounds_to_small_floats(void **state) {
    (void)state;
    float f;
    for (size_t i = 0; i < COUNT(to_e4m3); i++) {
        memcpy(&f, &to_e4m3[i], sizeof f);
        if (e4m3_of(f) != as_e4m3[i])
            fail_msg("%a is 0x%02x in e4m3, not 0x%02x", (double)f, as_e4m3[i], e4m3_of(f));
    }
    for (size_t i = 0; i < COUNT(to_e2m1); i++) {
        memcpy(&f, &to_e2m1[i], sizeof f);
        if (e2m1_of(f) != as_e2m1[i])
            fail_msg("%a is 0x%x in e2m1, not 0x%x", (double)f, as_e2m1[i], e2m1_of(f));
    }
    assert_int_equal(e4m3_of(1e9f), 0x7e);
    assert_int_equal(e4m3_of(-INFINITY), 0xfe);
    assert_int_equal(e4m3_of(NAN) & 0x7f, 0x7f);
    assert_int_equal(e2m1_of(-100), 15);
}

/* MLX takes the first of two codes at a tie, which is no rounding that a GPU has; so scales are
 * compared with it, and values with what was packed. */
static void packs_mxfp4(void **state) {
    (void)state;
    float w[COUNT_ALL], back[COUNT_ALL];
    uint8_t q[COUNT_ALL / 2], s[COUNT_ALL / MXFP4_GROUP];
    make_weights(w);
    for (int g = 0; g < COUNT_ALL / MXFP4_GROUP; g++)
        quant_mxfp4(w + g * MXFP4_GROUP, q + g * MXFP4_GROUP / 2, &s[g]);
    assert_int_equal(sizeof s, sizeof mxfp4_all_scales);
    assert_memory_equal(s, mxfp4_all_scales, sizeof s);
    struct tensor t = tensor_2d(q, MXFP4, ROWS, COLS);
    t.quant = (struct quant){ .scales = s, .scale_dtype = U8, .group = MXFP4_GROUP, .bits = 4 };
    row_of(back, &t, 0, COUNT_ALL);
    for (int i = 0; i < COUNT_ALL; i++) {
        float step = float_of_e8m0(s[i / MXFP4_GROUP]), size = fabsf(w[i]) / step;
        float allowed = size > 4 ? 1 : size > 2 ? 0.5f : 0.25f;
        if (!(fabsf(back[i] - w[i]) <= allowed * step))
            fail_msg("%a became %a", (double)w[i], (double)back[i]);
    }
    assert_int_equal(tensor_bytes(&t), sizeof q + sizeof s);
}

static void reads_modes_with_scales_alone(void **state) {
    (void)state;
    float back[COLS];
    struct tensor t = tensor_2d((void *)(uintptr_t)mxfp4_row, MXFP4, 1, COLS);
    t.quant = (struct quant){ .scales = mxfp4_scales, .scale_dtype = U8, .group = MXFP4_GROUP,
                              .bits = 4 };
    row_of(back, &t, 0, COLS);
    assert_memory_equal(back, mxfp4_values, sizeof back);
    t = tensor_2d((void *)(uintptr_t)nvfp4_row, NVFP4, 1, COLS);
    t.quant = (struct quant){ .scales = nvfp4_scales, .scale_dtype = FP8, .group = NVFP4_GROUP,
                              .bits = 4 };
    row_of(back, &t, 0, COLS);
    assert_memory_equal(back, nvfp4_values, sizeof back);
    t = tensor_2d((void *)(uintptr_t)mxfp8_row, FP8, 1, COLS);
    t.quant = (struct quant){ .scales = mxfp8_scales, .scale_dtype = U8, .cols = COLS,
                              .block_rows = 1, .block_cols = 32 };
    row_of(back, &t, 0, COLS);
    assert_memory_equal(back, mxfp8_values, sizeof back);
}

/* Views of a matrix with blocks know where they lie in it. */
static void cuts_blocks_of_fp8(void **state) {
    (void)state;
    enum { R = 7, C = 10 };
    uint8_t q[R * C];
    float scale[3 * 3], all[R * C], row[C];
    for (int i = 0; i < R * C; i++) q[i] = (uint8_t)(i % 120);
    for (int i = 0; i < 9; i++) scale[i] = (float)(1 << i);
    struct tensor t = tensor_2d(q, FP8, R, C);
    t.quant = (struct quant){ .scales = scale, .scale_dtype = F32, .cols = C, .block_rows = 3,
                              .block_cols = 4 };
    assert_int_equal(tensor_bytes(&t), sizeof q + sizeof scale);
    row_of(all, &t, 0, R * C);
    for (int i = 0; i < R * C; i++)
        assert_true(all[i] == float_of_e4m3(q[i]) * scale[i / C / 3 * 3 + i % C / 4]);
    struct tensor part = tensor_part(&t, 0, 2, 4), odd = tensor_every(&part, 1, 2);
    struct tensor cols = tensor_part(&odd, 1, 3, 5);
    row_of(row, &cols, cols.stride[0], 5);               /* row 5 of t, columns 3 to 7 */
    assert_memory_equal(row, all + 5 * C + 3, 5 * sizeof *row);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packs_as_mlx_does),
        cmocka_unit_test(unpacks_what_was_packed),
        cmocka_unit_test(reads_from_any_group),
        cmocka_unit_test(converts_floats),
        cmocka_unit_test(reads_small_floats),
        cmocka_unit_test(rounds_to_small_floats),
        cmocka_unit_test(packs_mxfp4),
        cmocka_unit_test(reads_modes_with_scales_alone),
        cmocka_unit_test(cuts_blocks_of_fp8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

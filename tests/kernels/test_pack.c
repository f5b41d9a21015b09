/* test_pack.c - packed matrices: every number lies where pack.h says, pieces that are packed
 * apart make the same whole, and views keep what they may. */
#include "device/cpu/isa.h"
#include "device/cpu/linear_job.h"
#include "device/cpu/pack.h"
#include "device/small_float.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t state = 1;

static unsigned char random_byte(void) {
    state = state * 1664525 + 1013904223;
    return (unsigned char)(state >> 24);
}

static struct tensor matrix_new(int bits, int group, enum dtype scales, int64_t rows,
                                int64_t cols) {
    struct tensor t = tensor_2d(NULL, MLX_AFFINE, rows, cols);
    const size_t q = (size_t)(rows * cols / 8 * bits);
    const size_t s = (size_t)(rows * cols / group) * dtype_bytes(scales);
    unsigned char *at = malloc(q + 2 * s);
    assert_non_null(at);
    for (size_t i = 0; i < q + 2 * s; i++)
        at[i] = random_byte();
    t.at = at;
    t.quant = (struct quant){ .scales = at + q, .biases = at + q + s, .scale_dtype = scales,
                              .group = (uint16_t)group, .bits = (uint8_t)bits };
    return t;
}

static unsigned value_of(const struct tensor *t, int64_t row, int64_t col) {
    const unsigned char *at = t->at;
    unsigned v = 0;
    for (int b = 0; b < t->quant.bits; b++) {
        int64_t i = (row * t->shape[1] + col) * t->quant.bits + b;
        v |= (unsigned)(at[i / 8] >> (i % 8) & 1) << b;
    }
    return v;
}

/* The bits of one value from its planes, as pack.h tells them. */
static unsigned packed_value(const unsigned char *unit, int bits, int r, int c) {
    const int quad = c / 8 * 2 + c % 2, byte = 4 * r + c % 8 / 2;
    const int widths[] = { bits == 8 ? 8 : bits & 4, bits == 8 ? 0 : bits & 2,
                           bits == 8 ? 0 : bits & 1 };
    unsigned v = 0;
    for (int i = 0, shift = 0; i < 3; i++) {
        const int width = widths[i];
        if (!width)
            continue;
        const int per_line = 8 / width;
        const unsigned b = unit[quad / per_line * 64 + byte];
        v |= (b >> quad % per_line * width & ((1u << width) - 1)) << shift;
        shift += width;
        unit += 64 * width;
    }
    return v;
}

static void check_panel(const unsigned char *packed, const struct tensor *t, int64_t panel) {
    const int bits = t->quant.bits, group = t->quant.group;
    const size_t size = dtype_bytes(t->quant.scale_dtype);
    const int64_t groups = t->shape[1] / group;
    const unsigned char *at = packed
        + panel * groups * cpu_pack_group_bytes(bits, group, t->quant.scale_dtype);
    for (int64_t g = 0; g < groups; g++) {
        for (int i = 0; i < 2; i++, at += 16 * size) {
            const unsigned char *from = i ? t->quant.biases : t->quant.scales;
            for (int64_t r = 0; r < 16 && panel * 16 + r < t->shape[0]; r++)
                assert_memory_equal(at + (size_t)r * size,
                                    from + (size_t)((panel * 16 + r) * groups + g) * size, size);
        }
        for (int c = 0; c < group; c++)
            for (int r = 0; r < 16; r++)
                assert_int_equal(packed_value(at + c / 32 * 64 * bits, bits, r, c % 32),
                                 panel * 16 + r < t->shape[0]
                                     ? value_of(t, panel * 16 + r, g * group + c) : 0);
        at += group * 2 * bits;
    }
}

/* To the bit: an embedding is read from its packed rows where there are any. */
static void check_rows(struct tensor t, const unsigned char *packed) {
    float want[3 * 128], got[3 * 128];
    for (int64_t r = 0; r < t.shape[0]; r++) {
        t.quant.packed = NULL;
        cpu_dequantize_row(&t, r, want);
        t.quant.packed = packed;
        cpu_dequantize_row(&t, r, got);
        assert_memory_equal(want, got, (size_t)t.shape[1] * sizeof *want);
    }
}

static void numbers_lie_where_they_should(void **unused) {
    (void)unused;
    static const int bits[] = { 2, 3, 4, 5, 6, 8 }, groups[] = { 32, 64, 128 };
    static const enum dtype scales[] = { F32, F16, BF16 };
    static const int64_t rows[] = { 1, 16, 37 };
    for (size_t i = 0; i < COUNT(bits) * COUNT(groups) * COUNT(rows); i++) {
        const int group = groups[i / COUNT(bits) % COUNT(groups)];
        struct tensor t = matrix_new(bits[i % COUNT(bits)], group, scales[i % 3],
                                     rows[i / COUNT(bits) / COUNT(groups)], 3 * group);
        const size_t bytes = cpu_packed_bytes(&t);
        const int64_t panels = (t.shape[0] + 15) / 16;
        assert_int_equal(bytes % CPU_PACK_ALIGN, 0);
        assert_int_equal(bytes, tensor_bytes(&t) / (size_t)t.shape[0] * (size_t)panels * 16);
        unsigned char *whole = aligned_alloc(CPU_PACK_ALIGN, bytes);
        unsigned char *pieces = aligned_alloc(CPU_PACK_ALIGN, bytes);
        memset(whole, 0xaa, bytes);
        memset(pieces, 0x55, bytes);
        cpu_pack(whole, &t, 0, panels);
        for (int64_t p = panels; p-- > 0;) {
            check_panel(whole, &t, p);
            cpu_pack(pieces, &t, p, p + 1);
        }
        assert_memory_equal(whole, pieces, bytes);
        check_rows(t, whole);
        free(whole);
        free(pieces);
        free(t.at);
    }
}

/* Every scale there is, on every instruction set: what a number of MXFP4 is, is v s + b, but for
 * scales so large that bf16 has no bias for them. */
static void mxfp4_is_affine(void **unused) {
    (void)unused;
    enum { ROWS = 16, COLS = 16 * 32 };
    unsigned char codes[ROWS * COLS / 2], scales[ROWS * COLS / 32];
    const struct cpu_matrix m = { .at = codes, .scales = scales, .row_bytes = COLS / 2,
                                  .scale_row_bytes = COLS / 32, .dtype = MXFP4, .scale_dtype = U8,
                                  .bits = 4, .group = 32 };
    const int64_t bytes = cpu_pack_group_bytes(8, 32, BF16);
    unsigned char *want = malloc((size_t)bytes * COLS / 32);
    unsigned char *got = malloc((size_t)bytes * COLS / 32);
    for (size_t i = 0; i < sizeof codes; i++) codes[i] = random_byte();
    for (size_t i = 0; i < sizeof scales; i++) scales[i] = (unsigned char)i;
    cpu_pack_panel(want, &m, 8, 0, ROWS, 0, COLS);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLS; c++) {
            const unsigned char *group = want + c / 32 * bytes;
            const unsigned char e8m0 = scales[r * COLS / 32 + c / 32];
            const unsigned char code = codes[(r * COLS + c) / 2];
            const double s = (double)cpu_number_at(group, BF16, r);
            const double b = (double)cpu_number_at(group, BF16, 16 + r);
            const double v = packed_value(group + 64, 8, r, c % 32);
            const double number = (double)float_of_e2m1((unsigned)code >> c % 2 * 4)
                * (double)float_of_e8m0(e8m0);
            if (e8m0 > 252)
                assert_true(isnan(v * s + b));
            else
                assert_true(v * s + b == number);
        }
    const struct cpu_kernels *k;
    for (int i = 0; (k = cpu_isa(i)); i++) {
        if (!k->int8) continue;
        k->int8->weave(got, &m, 0, ROWS, 0, COLS);
        assert_memory_equal(got, want, (size_t)bytes * COLS / 32);
    }
    free(want);
    free(got);
}

static void others_are_read_as_they_are(void **unused) {
    (void)unused;
    float number[64];
    struct tensor plain = tensor_2d(number, F32, 4, 16);
    assert_int_equal(cpu_packed_bytes(&plain), 0);
    struct tensor t = matrix_new(4, 32, BF16, 32, 64), view = tensor_every(&t, 0, 2);
    assert_int_equal(cpu_packed_bytes(&view), 0);
    view = tensor_part(&t, 1, 32, 32);
    assert_int_equal(cpu_packed_bytes(&view), 0);
    view = tensor_part(&t, 0, 7, 20);            /* rows of its own: can be packed alone */
    assert_int_equal(cpu_packed_bytes(&view), tensor_bytes(&t));
    free(t.at);
}

static void views_by_rows(void **unused) {
    (void)unused;
    struct tensor t = matrix_new(6, 64, BF16, 48, 128);
    unsigned char *packed = aligned_alloc(CPU_PACK_ALIGN, cpu_packed_bytes(&t));
    cpu_pack(packed, &t, 0, 3);
    t.quant.packed = packed;
    struct tensor view = tensor_part(&t, 0, 16, 19);
    check_panel(view.quant.packed, &view, 0);
    view = tensor_part(&view, 0, 16, 3);
    assert_ptr_equal(view.quant.packed, packed + 2 * cpu_packed_bytes(&t) / 3);
    assert_null(tensor_part(&t, 0, 8, 16).quant.packed);
    assert_null(tensor_part(&t, 1, 64, 64).quant.packed);
    assert_null(tensor_every(&t, 0, 2).quant.packed);
    assert_null(tensor_heads(&t, 2).quant.packed);
    assert_null(tensor_at(&t, 1).quant.packed);
    free(packed);
    free(t.at);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_lie_where_they_should),
        cmocka_unit_test(mxfp4_is_affine),
        cmocka_unit_test(others_are_read_as_they_are),
        cmocka_unit_test(views_by_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

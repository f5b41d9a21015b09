/* test_tensor.c - view arithmetic: every cut is checked against the element it
 * must begin at, in a buffer whose values are their own offsets. */
#include "device/tensor.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static int32_t numbers[2 * 3 * 4 * 8];

static int setup(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(numbers); i++)
        numbers[i] = (int32_t)i;
    return 0;
}

/* The value at these indices, through the strides alone. */
static int32_t value(const struct tensor *t, int64_t i, int64_t j, int64_t k) {
    int64_t index[4] = { i, j, k, 0 }, offset = 0;
    for (int axis = 0; axis < t->rank; axis++)
        offset += index[axis] * t->stride[axis];
    return ((const int32_t *)t->at)[offset];
}

static void makes_contiguous(void **state) {
    (void)state;
    struct tensor t = tensor_3d(numbers, I32, 6, 4, 8);
    assert_int_equal(t.rank, 3);
    assert_int_equal(t.stride[0], 32);
    assert_int_equal(t.stride[1], 8);
    assert_int_equal(t.stride[2], 1);
    assert_int_equal(tensor_count(&t), 192);
    assert_int_equal(tensor_bytes(&t), 768);
    struct tensor row = tensor_1d(numbers, BF16, 5);
    assert_int_equal(tensor_bytes(&row), 10);
}

static void cuts_parts(void **state) {
    (void)state;
    struct tensor t = tensor_3d(numbers, I32, 6, 4, 8);
    struct tensor rows = tensor_part(&t, 0, 2, 3);
    assert_int_equal(rows.shape[0], 3);
    assert_int_equal(value(&rows, 1, 2, 3), 3 * 32 + 2 * 8 + 3);
    struct tensor heads = tensor_part(&t, 1, 1, 2), cols = tensor_part(&heads, 2, 4, 4);
    assert_int_equal(cols.shape[1], 2);
    assert_int_equal(cols.shape[2], 4);
    assert_int_equal(value(&cols, 5, 1, 3), 5 * 32 + 2 * 8 + 7);
    struct tensor none = tensor_part(&t, 0, 6, 0);
    assert_int_equal(tensor_count(&none), 0);
}

static void enters_an_axis(void **state) {
    (void)state;
    struct tensor t = tensor_3d(numbers, I32, 6, 4, 8), m = tensor_at(&t, 4);
    assert_int_equal(m.rank, 2);
    assert_int_equal(m.shape[0], 4);
    assert_int_equal(m.shape[1], 8);
    assert_int_equal(value(&m, 3, 7, 0), 4 * 32 + 3 * 8 + 7);
    struct tensor v = tensor_at(&m, 1);
    assert_int_equal(v.rank, 1);
    assert_int_equal(value(&v, 5, 0, 0), 4 * 32 + 8 + 5);
}

static void splits_heads(void **state) {
    (void)state;
    struct tensor t = tensor_2d(numbers, I32, 6, 32), cut = tensor_part(&t, 1, 8, 16);
    struct tensor h = tensor_heads(&cut, 2);
    assert_int_equal(h.rank, 3);
    assert_int_equal(h.shape[1], 2);
    assert_int_equal(h.shape[2], 8);
    assert_int_equal(value(&h, 5, 1, 2), 5 * 32 + 8 + 8 + 2);
}

static void takes_every_nth_row(void **state) {
    (void)state;
    struct tensor t = tensor_2d(numbers, I32, 7, 8);
    struct tensor even = tensor_every(&t, 0, 2), odd = tensor_every(&t, 1, 2);
    assert_int_equal(even.shape[0], 4);
    assert_int_equal(odd.shape[0], 3);
    assert_int_equal(value(&even, 3, 1, 0), 6 * 8 + 1);
    assert_int_equal(value(&odd, 2, 7, 0), 5 * 8 + 7);
}

static void keeps_a_null_view_null(void **state) {
    (void)state;
    struct tensor t = tensor_2d(NULL, F32, 6, 32), part = tensor_part(&t, 0, 3, 2);
    assert_null(part.at);
    assert_int_equal(part.shape[0], 2);
}

/* Packed rows: values take `bits` bits, a scale and a bias stand for each group. */
static void moves_packed_views(void **state) {
    (void)state;
    static const int all_bits[] = { 2, 3, 4, 5, 6, 8 };
    static const int all_groups[] = { 32, 64, 128 };
    char *data = (char *)numbers, scales[1], biases[1];
    for (size_t b = 0; b < COUNT(all_bits); b++)
        for (size_t g = 0; g < COUNT(all_groups); g++) {
            int bits = all_bits[b], group = all_groups[g];
            struct tensor t = tensor_3d(data, MLX_AFFINE, 4, 6, 256);
            t.quant = (struct quant){ .scales = scales, .biases = biases, .scale_dtype = BF16,
                                      .group = (uint16_t)group, .bits = (uint8_t)bits };
            struct tensor e = tensor_at(&t, 2), rows = tensor_part(&e, 0, 1, 3);
            int64_t offset = (2 * 6 + 1) * 256;
            assert_int_equal((char *)rows.at - data, offset * bits / 8);
            assert_int_equal((const char *)rows.quant.scales - scales, offset / group * 2);
            assert_int_equal((const char *)rows.quant.biases - biases, offset / group * 2);
            struct tensor cols = tensor_part(&rows, 1, group, group);
            assert_int_equal((char *)cols.at - data, (offset + group) * bits / 8);
            assert_int_equal((const char *)cols.quant.scales - scales, offset / group * 2 + 2);
            assert_int_equal(cols.stride[0], 256);
            assert_int_equal(tensor_bytes(&rows), 3 * 256 * bits / 8 + 3 * 256 / group * 4);
        }
}

static void measures_mxfp4_without_biases(void **state) {
    (void)state;
    struct tensor t = tensor_2d(numbers, MXFP4, 3, 64);
    t.quant = (struct quant){ .scales = numbers, .scale_dtype = U8, .group = 32, .bits = 4 };
    assert_int_equal(tensor_bytes(&t), 3 * 32 + 3 * 2);
    struct tensor part = tensor_part(&t, 0, 1, 1);
    assert_null(part.quant.biases);
    assert_ptr_equal(part.quant.scales, (char *)numbers + 2);
}

static void names_dtypes(void **state) {
    (void)state;
    assert_string_equal(dtype_name(BF16), "bf16");
    assert_string_equal(dtype_name(FP8), "fp8");
    assert_int_equal(dtype_bytes(F16), 2);
    assert_int_equal(dtype_bytes(MLX_AFFINE), 0);
    assert_string_equal(dtype_name((enum dtype)99), "unknown");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(makes_contiguous),
        cmocka_unit_test(cuts_parts),
        cmocka_unit_test(enters_an_axis),
        cmocka_unit_test(splits_heads),
        cmocka_unit_test(takes_every_nth_row),
        cmocka_unit_test(keeps_a_null_view_null),
        cmocka_unit_test(moves_packed_views),
        cmocka_unit_test(measures_mxfp4_without_biases),
        cmocka_unit_test(names_dtypes),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}

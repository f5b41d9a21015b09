/* test_weights.c - checkpoints that must open: layouts, dtypes, odd addresses. What must be
 * refused is in tests/badinput. */
#include "../maker.h"
#include "weights/safetensors.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <cmocka.h>

static struct weights *open_fine(const char *dir) {
    struct err err = { 0 };
    struct weights *w = weights_open(dir, &err);
    if (!w) fail_msg("%s", err.text);
    return w;
}

static const struct weights_entry *get(struct weights *w, const char *name) {
    const struct weights_entry *e = weights_find(w, str_of(name));
    if (!e) fail_msg("no %s", name);
    return e;
}

static void add_f32(struct maker *m, const char *name, float value) {
    maker_add(m, name, "F32", "[1]", &value, 4);
}

static float first_f32(const struct weights_entry *e) {
    float v;
    memcpy(&v, e->t.at, sizeof v);
    return v;
}

static void opens_a_single_file(void **state) {
    (void)state;
    char *dir = temp_dir();
    struct maker m = { 0 };
    uint16_t half[6] = { 1, 2, 3, 4, 5, 6 };
    int64_t wide[2] = { 7, 8 };
    maker_metadata(&m, "mlx");
    maker_add(&m, "b", "BF16", "[2,3]", half, sizeof half);
    maker_add(&m, "a", "I64", "[2]", wide, sizeof wide);
    maker_add(&m, "empty", "F32", "[0,4]", "", 0);
    maker_add(&m, "scalar", "F32", "[]", "\0\0\200\77", 4);
    maker_add(&m, "deep", "U8", "[1,1,1,1,2]", "xy", 2);
    maker_add(&m, "fp8", "F8_E4M3", "[2]", "xy", 2);
    maker_write(&m, dir, "model.safetensors");
    struct weights *w = open_fine(dir);
    assert_true(weights_is_mlx(w));
    assert_int_equal(weights_count(w), 6);
    assert_true(str_is(weights_entry(w, 0)->name, "a"));
    assert_true(str_is(weights_entry(w, 5)->name, "scalar"));
    assert_null(weights_entry(w, 6));
    assert_null(weights_find(w, S("c")));

    const struct weights_entry *b = get(w, "b");
    assert_int_equal(b->t.dtype, BF16);
    assert_int_equal(b->t.rank, 2);
    assert_int_equal(b->t.stride[0], 3);
    assert_int_equal(b->bytes, 12);
    assert_memory_equal(b->t.at, half, sizeof half);
    assert_string_equal(b->dtype, "BF16");
    assert_non_null(strstr(b->file, "/model.safetensors"));
    assert_null(get(w, "a")->t.at);
    assert_string_equal(get(w, "a")->dtype, "I64");
    assert_int_equal(get(w, "a")->t.shape[0], 2);
    assert_int_equal(get(w, "empty")->bytes, 0);
    assert_int_equal(get(w, "scalar")->t.rank, 1);
    assert_float_equal(first_f32(get(w, "scalar")), 1, 0);
    assert_null(get(w, "deep")->t.at);
    assert_int_equal(get(w, "fp8")->t.dtype, FP8);
    weights_close(w);
    temp_free(dir);
}

static void opens_an_empty_checkpoint(void **state) {
    (void)state;
    char *dir = temp_dir();
    temp_write(dir, "model.safetensors", S("\2\0\0\0\0\0\0\0{}"));
    struct weights *w = open_fine(dir);
    assert_int_equal(weights_count(w), 0);
    assert_false(weights_is_mlx(w));
    assert_int_equal(weights_bytes(w), 10);
    weights_close(w);
    temp_free(dir);
}

/* Tensors in another order than their data, and names that need escapes. */
static void takes_any_order(void **state) {
    (void)state;
    struct buf file = { 0 };
    struct tensor_list list = { 0 };
    struct err err = { 0 };
    maker_file(&file, S("{\"z\":{\"data_offsets\":[1,2],\"dtype\":\"U8\",\"shape\":[1]},"
                        "\"a\\n\\u00e9\":{\"shape\":[1],\"data_offsets\":[0,1],"
                        "\"dtype\":\"U8\"}}  "),
               S("xy"));
    if (!safetensors_read(buf_view(&file), "f", &list, &err)) fail_msg("%s", err.text);
    assert_int_equal(list.n, 2);
    assert_true(str_is(list.at[1].name, "a\n\xc3\xa9"));
    assert_int_equal(*(char *)list.at[0].t.at, 'y');
    tensor_list_free(&list);
    buf_free(&file);
}

/* ST-25: the data may begin anywhere. */
static void reads_at_odd_addresses(void **state) {
    (void)state;
    for (size_t odd = 0; odd < 8; odd++) {
        struct maker m = { 0 };
        struct buf file = { 0 };
        struct tensor_list list = { 0 };
        struct err err = { 0 };
        add_f32(&m, "x", 0.75f);
        maker_bytes(&m, odd, &file);
        assert_true(safetensors_read(buf_view(&file), "f", &list, &err));
        assert_float_equal(first_f32(&list.at[0]), 0.75f, 0);
        tensor_list_free(&list);
        buf_free(&file);
        maker_free(&m);
    }
}

static void write_one(const char *dir, const char *file, const char *tensor, float value) {
    struct maker m = { 0 };
    add_f32(&m, tensor, value);
    maker_write(&m, dir, file);
}

static void opens_shards(void **state) {
    (void)state;
    char *dir = temp_dir();
    write_one(dir, "model-00001-of-00002.safetensors", "a", 1);
    write_one(dir, "model-00002-of-00002.safetensors", "b", 2);
    struct weights *w = open_fine(dir);              /* without an index */
    assert_float_equal(first_f32(get(w, "b")), 2, 0);
    weights_close(w);
    write_one(dir, "other.safetensors", "a", 3);
    temp_write(dir, "model.safetensors.index.json",
               S("{\"metadata\":{\"total_size\":-1e30},\"weight_map\":{\"b\":"
                 "\"model-00002-of-00002.safetensors\",\"a\":\"other.safetensors\"}}"));
    w = open_fine(dir);                              /* the index counts */
    assert_float_equal(first_f32(get(w, "a")), 3, 0);
    assert_non_null(strstr(get(w, "a")->file, "other"));
    assert_int_equal(weights_count(w), 2);
    weights_close(w);
    write_one(dir, "model.safetensors", "a", 4);     /* IX-07: the single file wins */
    w = open_fine(dir);
    assert_float_equal(first_f32(get(w, "a")), 4, 0);
    assert_int_equal(weights_count(w), 1);
    weights_close(w);
    temp_free(dir);
}

static void in_dir(char *path, const char *dir, const char *name) {
    snprintf(path, 512, "%.400s/%.100s", dir, name);
}

/* A download cache: snapshots/REVISION/model.safetensors -> ../../blobs/HASH. */
static void follows_links_into_a_blob_store(void **state) {
    (void)state;
    char *top = temp_dir(), dir[512], path[512];
    in_dir(dir, top, "blobs");
    assert_int_equal(mkdir(dir, 0700), 0);
    write_one(dir, "abc123", "a", 5);
    in_dir(dir, top, "snapshots");
    assert_int_equal(mkdir(dir, 0700), 0);
    in_dir(dir, top, "snapshots/main");
    assert_int_equal(mkdir(dir, 0700), 0);
    in_dir(path, dir, "model.safetensors");
    assert_int_equal(symlink("../../blobs/abc123", path), 0);
    struct weights *w = open_fine(dir);
    assert_float_equal(first_f32(get(w, "a")), 5, 0);
    weights_close(w);
    assert_int_equal(unlink(path), 0);
    write_one(dir, "real.safetensors", "a", 6);
    assert_int_equal(symlink("real.safetensors", path), 0);
    w = open_fine(dir);
    assert_float_equal(first_f32(get(w, "a")), 6, 0);
    weights_close(w);
    temp_free(top);
}

/* ST-23: many small tensors stay cheap to find. */
static void indexes_many_tensors(void **state) {
    (void)state;
    enum { N = 100000 };
    struct maker m = { 0 };
    struct buf file = { 0 };
    struct tensor_list list = { 0 };
    struct err err = { 0 };
    char name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "t%d", i);
        maker_add(&m, name, "U8", "[1]", "x", 1);
    }
    maker_bytes(&m, 0, &file);
    assert_true(safetensors_read(buf_view(&file), "f", &list, &err));
    assert_int_equal(list.n, N);
    uint32_t at = 0;
    assert_true(map_get(&list.names, S("t99999"), &at));
    assert_int_equal(at, N - 1);
    tensor_list_free(&list);
    buf_free(&file);
    maker_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_a_single_file),
        cmocka_unit_test(opens_an_empty_checkpoint),
        cmocka_unit_test(takes_any_order),
        cmocka_unit_test(reads_at_odd_addresses),
        cmocka_unit_test(opens_shards),
        cmocka_unit_test(follows_links_into_a_blob_store),
        cmocka_unit_test(indexes_many_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

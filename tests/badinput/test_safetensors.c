/* test_safetensors.c - hostile and broken model.safetensors files: each is refused by one
 * sentence that names the file, or accepted where the format allows it. Rows carry the
 * number of the catalogue: ST-xx. */
#include "../maker.h"
#include "weights/weights.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <cmocka.h>

static char *dir;

/* Opens dir; NULL part: must open. */
static void check(const char *id, const char *part) {
    struct err err = { 0 };
    struct weights *w = weights_open(dir, &err);
    bool opened = w;
    weights_close(w);
    if (!part && !opened) fail_msg("%s: refused: %s", id, err.text);
    if (!part) return;
    if (opened) fail_msg("%s: taken, wanted \"%s\"", id, part);
    if (!strstr(err.text, part) || !strstr(err.text, dir))
        fail_msg("%s: got \"%s\", wanted \"%s\"", id, err.text, part);
    for (const char *p = err.text; *p; p++) assert_true((unsigned char)*p >= 0x20);
}

static void check_file(const char *id, struct str bytes, const char *part) {
    temp_write(dir, "model.safetensors", bytes);
    check(id, part);
}

/* ---- by the first bytes ---- */

#define B(literal) { literal, sizeof(literal) - 1 }

static const struct { const char *id; struct str bytes; const char *part; } raw[] = {
    { "ST-01", B(""), "empty" },
    { "ST-01", B("\1"), "no safetensors file" },
    { "ST-01", B("\1\0\0\0\0\0\0"), "no safetensors file" },
    { "ST-02", B("\0\0\0\0\0\0\0\0"), "not a safetensors file" },
    { "ST-02", B("\0\0\0\0\0\0\0\0{}"), "not a safetensors file" },
    { "ST-03", B("\1\0\0\0\0\0\0\0{"), "not a safetensors file" },
    { "ST-03", B("\2\0\0\0\0\0\0\0{}"), NULL },
    { "ST-04", B("\0\0\0\0\0\0\0\200{}"), "not a safetensors file" },
    { "ST-04", B("\377\377\377\377\377\377\377\377{}"), "not a safetensors file" },
    { "ST-04", B("\370\377\377\377\377\377\377\377{}"), "not a safetensors file" },
    { "ST-06", B("\3\0\0\0\0\0\0\0{}"), "not a safetensors file" },
    { "ST-08", B("\3\0\0\0\0\0\0\0 {}"), "not a safetensors file" },
    { "ST-08", B("\5\0\0\0\0\0\0\0\357\273\277{}"), "not a safetensors file" },
    { "ST-08", B("\2\0\0\0\0\0\0\0[]"), "not a safetensors file" },
    { "ST-08", B("\2\0\0\0\0\0\0\0\"\""), "not a safetensors file" },
    { "ST-08", B("\2\0\0\0\0\0\0\00012"), "not a safetensors file" },
    { "ST-34", B("\0\0\0\0\0\0\0\2{}"), "big-endian" },
    { "ST-34", B("\037\213\010\0\0\0\0\0\0\3"), "gzip" },
    { "ST-34", B("PK\3\4\24\0\0\0\0\0"), "zip" },
    { "ST-34", B("\200\2}q\0X\1\0\0\0"), "pickle" },
    { "ST-34", B("GGUF\3\0\0\0\0\0\0\0"), "GGUF" },
    { "ST-34", B("<!DOCTYPE html><html>"), "web page" },
    { "ST-34", B("<html><body>Not found</body></html>"), "web page" },
    { "ST-34", B("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n"), "LFS" },
};

static void by_first_bytes(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(raw); i++) check_file(raw[i].id, raw[i].bytes, raw[i].part);
}

/* ---- by header ---- */

#define T(shape, offsets) "{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define X(shape, offsets) "{\"x\":" T(shape, offsets) "}"

static const struct { const char *id, *header; int data; const char *part; } headers[] = {
    { "ST-00", X("[4]", "[0,4]"), 4, NULL },
    { "ST-07", "{\"\xff\":" T("[1]", "[0,1]") "}", 1, "invalid UTF-8" },
    { "ST-07", "{\"\xc0\x80\":" T("[1]", "[0,1]") "}", 1, "invalid UTF-8" },
    { "ST-07", "{\"\\ud800\":" T("[1]", "[0,1]") "}", 1, "lone surrogate" },
    { "ST-07", "{\"a\\u0000b\":" T("[1]", "[0,1]") "}", 1, "NUL" },
    { "ST-09", X("[1]", "[0,1]") "    ", 1, NULL },
    { "ST-09", X("[1]", "[0,1]") "x", 1, "something follows" },
    { "ST-09", X("[1]", "[0,1]") "{}", 1, "something follows" },
    { "ST-10", X("[5]", "[0,5]"), 4, "tensor x: data_offsets 0 to 5, but there are 4" },
    { "ST-10", X("[1099511627776]", "[0,1099511627776]"), 4, "tensor x: data_offsets" },
    { "ST-10", X("[4]", "[18446744073709551612,18446744073709551615]"), 4, "tensor x:" },
    { "ST-10", X("[4]", "[18446744073709551612,0]"), 4, "tensor x:" },
    { "ST-11", X("[4]", "[4,0]"), 4, "tensor x: data_offsets 4 to 0" },
    { "ST-11", X("[4]", "[0,0]"), 0, "tensor x: its shape takes 4 bytes" },
    { "ST-12", "{\"x\":" T("[1]", "[0,1]") ",\"y\":" T("[1]", "[2,3]") "}", 3,
      "tensor y: a hole" },
    { "ST-12", X("[1]", "[1,2]"), 2, "tensor x: a hole" },
    { "ST-12", X("[1]", "[0,1]"), 2, "1 bytes after the last tensor" },
    { "ST-12", "{}", 1, "1 bytes after the last tensor" },
    { "ST-13", "{\"x\":" T("[2]", "[0,2]") ",\"y\":" T("[2]", "[1,3]") "}", 3,
      "tensor y: overlaps" },
    { "ST-13", "{\"x\":" T("[2]", "[0,2]") ",\"y\":" T("[2]", "[0,2]") "}", 2, "overlaps" },
    { "ST-13", "{\"x\":" T("[4]", "[0,4]") ",\"y\":" T("[2]", "[1,3]") "}", 4,
      "tensor y: overlaps" },
    { "ST-14", X("[1]", "[-1,1]"), 1, "tensor x: expected a whole number" },
    { "ST-14", X("[1]", "[0,1.0]"), 1, "tensor x: expected a whole number" },
    { "ST-14", X("[1]", "[0,1e0]"), 1, "tensor x: expected a whole number" },
    { "ST-14", X("[1]", "[0,\"1\"]"), 1, "tensor x: expected a number" },
    { "ST-14", X("[1]", "[0,null]"), 1, "tensor x: expected a number" },
    { "ST-14", X("[1]", "[0,18446744073709551616]"), 1, "tensor x: expected a whole number" },
    { "ST-14", X("[1]", "[0]"), 1, "tensor x: fewer than two" },
    { "ST-14", X("[1]", "[]"), 1, "tensor x: fewer than two" },
    { "ST-14", X("[1]", "[0,1,1]"), 1, "tensor x: more than two" },
    { "ST-14", X("[1]", "1"), 1, "tensor x: expected a list" },
    { "ST-15", X("[-1]", "[0,1]"), 1, "tensor x: expected a whole number" },
    { "ST-15", X("[-1,-1]", "[0,1]"), 1, "tensor x: expected a whole number" },
    { "ST-15", X("[4294967296,4294967296]", "[0,0]"), 0, "tensor x: its shape is too large" },
    { "ST-15", X("[9223372036854775807,2]", "[0,1]"), 1, "tensor x: its shape is too large" },
    { "ST-15", X("[9223372036854775808]", "[0,1]"), 1, "tensor x: expected a whole number" },
    { "ST-15", X("[18446744073709551616]", "[0,1]"), 1, "tensor x: expected a whole number" },
    { "ST-15", X("[1e30]", "[0,1]"), 1, "tensor x: expected a whole number" },
    { "ST-15", X("[0,9223372036854775807,2]", "[0,0]"), 0, "tensor x: its shape is too large" },
    { "ST-16", X("[4]", "[0,3]"), 3, "tensor x: its shape takes 4 bytes" },
    { "ST-16", "{\"x\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
      "tensor x: its shape takes 16 bytes" },
    { "ST-16", "{\"x\":{\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
      "tensor x: unknown dtype" },
    { "ST-16", "{\"x\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
      "tensor x: unknown dtype" },
    { "ST-16", "{\"x\":{\"dtype\":\"\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
      "tensor x: unknown dtype" },
    { "ST-16", "{\"x\":{\"dtype\":null,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
      "tensor x: expected a string" },
    { "ST-17", X("[]", "[0,1]"), 1, NULL },
    { "ST-17", X("[1,1,1,1,1,1,1,1]", "[0,1]"), 1, NULL },
    { "ST-17", X("[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "tensor x: more than 8 dimensions" },
    { "ST-18", X("[0]", "[0,0]"), 0, NULL },
    { "ST-18", X("[3,0,5]", "[0,0]"), 0, NULL },
    { "ST-19", "{\"x\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
      "tensor x: its shape is too large or not whole bytes" },
    { "ST-19", "{\"x\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, NULL },
    { "ST-20", "{\"x\":" T("[1]", "[0,1]") ",\"x\":" T("[1]", "[1,2]") "}", 2,
      "tensor x: a second tensor" },
    { "ST-20", "{\"x\":" T("[1]", "[0,1]") ",\"\\u0078\":" T("[1]", "[1,2]") "}", 2,
      "tensor x: a second tensor" },
    { "ST-20", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, "a second __metadata__" },
    { "ST-20", "{\"x\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
      1, "tensor x: unexpected or repeated key" },
    { "ST-20", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor x: tensor without" },
    { "ST-20", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"z\":1}}", 1,
      "tensor x: unexpected or repeated key" },
    { "ST-20", "{\"x\":[1]}", 1, "tensor x: expected an object" },
    { "ST-21", "{\"__metadata__\":[]}", 0, "expected an object" },
    { "ST-21", "{\"__metadata__\":{\"a\":1}}", 0, "expected a string" },
    { "ST-21", "{\"__metadata__\":{\"a\":null}}", 0, "expected a string" },
    { "ST-21", "{\"__metadata__\":{\"format\":\"pt\",\"a\":\"b\"}}", 0, NULL },
    { "ST-22", "{\"\":" T("[1]", "[0,1]") "}", 1, "tensor name empty" },
    { "ST-22", "{\"a\\nb\\u001b[31m\":" T("[2]", "[0,1]") "}", 1, "tensor a" },
    { "ST-22", "{\"../../x\":" T("[1]", "[0,1]") "}", 1, NULL },
    { "ST-24", "{\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", 1, "expected an object" },
    { "ST-30", "{\"x\":", 0, "expected a value" },
};

static void by_header(void **state) {
    (void)state;
    char data[64] = { 0 };
    for (size_t i = 0; i < COUNT(headers); i++) {
        struct buf file = { 0 };
        maker_file(&file, str_of(headers[i].header), (struct str){ data, (size_t)headers[i].data });
        check_file(headers[i].id, buf_view(&file), headers[i].part);
        buf_free(&file);
    }
}

/* ---- large ones ---- */

/* before, then `n` times each, then after: one header. */
static void check_many(const char *id, const char *before, const char *each, size_t n,
                       const char *after, const char *part) {
    struct buf header = { 0 }, file = { 0 };
    buf_str(&header, str_of(before));
    for (size_t i = 0; i < n; i++) buf_str(&header, str_of(each));
    buf_str(&header, str_of(after));
    maker_file(&file, buf_view(&header), S("x"));
    check_file(id, buf_view(&file), part);
    buf_free(&header);
    buf_free(&file);
}

static void by_size(void **state) {
    (void)state;
    check_many("ST-17", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1", ",1", 1000000,
               "],\"data_offsets\":[0,1]}}", "more than 8 dimensions");
    check_many("ST-21", "{\"__metadata__\":{\"a\":\"", "0123456789", 100000,
               "\"},\"x\":" T("[1]", "[0,1]") "}", NULL);
    check_many("ST-22", "{\"", "0123456789", 103, "\":" T("[1]", "[0,1]") "}", "longer than 1024");
    check_many("ST-22", "{\"", "0123456789", 100000, "\":" T("[1]", "[0,1]") "}",
               "longer than 1024");
    check_many("ST-24", "{\"x\":{\"dtype\":", "[", 100, "", "expected a string");
    check_many("ST-24", "{\"x\":{\"dtype\":", "[", 100000, "", "expected a string");
    check_many("ST-24", "{\"__metadata__\":{\"x\":", "{\"x\":", 100000, "", "expected a string");
}

/* ST-05: the longest header allowed, and one byte more. */
static void by_length_limit(void **state) {
    (void)state;
    static const struct { const char *length, *part; } cases[] = {
        { "\0\341\365\5\0\0\0\0", NULL },                /* 100,000,000 */
        { "\1\341\365\5\0\0\0\0", "not a safetensors file" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        const size_t len = 8 + 100000000 + i;
        char *file = mem_new(len);
        memset(file, ' ', len);
        memcpy(file, cases[i].length, 8);
        memcpy(file + 8, "{}", 2);
        check_file("ST-05", (struct str){ file, len }, cases[i].part);
        free(file);
    }
}

/* ---- every byte, every bit ---- */

static void small_file(struct buf *file) {
    struct maker m = { 0 };
    maker_metadata(&m, "pt");
    maker_add(&m, "a", "BF16", "[2,2]", "12345678", 8);
    maker_add(&m, "b.weight", "U8", "[3]", "abc", 3);
    maker_bytes(&m, 0, file);
    maker_free(&m);
}

/* ST-30 */
static void cut_at_every_byte(void **state) {
    (void)state;
    struct buf file = { 0 };
    small_file(&file);
    check_file("whole", buf_view(&file), NULL);
    for (size_t n = 0; n < file.len; n++)
        check_file("ST-30", (struct str){ file.at, n }, "model.safetensors: ");
    buf_free(&file);
}

/* ST-31: a flip is refused, or the file still tiles: then every tensor must lie inside of it. */
static void every_bit_flipped(void **state) {
    (void)state;
    struct buf file = { 0 };
    int taken = 0, refused = 0;
    small_file(&file);
    for (size_t bit = 0; bit < file.len * 8; bit++) {
        struct err err = { 0 };
        file.at[bit / 8] = (char)(file.at[bit / 8] ^ 1 << bit % 8);
        temp_write(dir, "model.safetensors", buf_view(&file));
        struct weights *w = weights_open(dir, &err);
        file.at[bit / 8] = (char)(file.at[bit / 8] ^ 1 << bit % 8);
        if (!w) {
            assert_true(err.text[0]);
            refused++;
            continue;
        }
        taken++;
        size_t sum = 0;
        unsigned char all = 0;
        for (size_t i = 0; i < weights_count(w); i++) {
            const struct weights_entry *e = weights_entry(w, i);
            sum += e->bytes;
            for (size_t j = 0; e->t.at && j < e->bytes; j++) all |= ((unsigned char *)e->t.at)[j];
        }
        assert_true(sum <= file.len && (all || !sum));
        weights_close(w);
    }
    buf_free(&file);
    assert_true(taken > 0 && refused > taken);
}

/* ---- not files, and links ---- */

static void make_path(char *path, const char *name) {
    snprintf(path, 512, "%.400s/%.100s", dir, name);
    remove(path);
}

static void things_that_are_no_files(void **state) {
    (void)state;
    char path[512];
    make_path(path, "model.safetensors");
    assert_int_equal(mkfifo(path, 0600), 0);
    check("ST-33", "not a regular file");
    make_path(path, "model.safetensors");
    assert_int_equal(mkdir(path, 0700), 0);
    check("ST-33", "not a regular file");
    make_path(path, "model.safetensors");
    assert_int_equal(symlink("/dev/zero", path), 0);
    check("IX-03", "a link out of its directory");
    make_path(path, "model.safetensors");
    assert_int_equal(symlink("../x", path), 0);
    check("IX-03", "a link out of its directory");
    make_path(path, "model.safetensors");
    assert_int_equal(symlink("../../blobs/../x", path), 0);
    check("IX-03", "a link out of its directory");
    make_path(path, "model.safetensors");
    assert_int_equal(symlink("../../blobs/..", path), 0);
    check("IX-03", "a link out of its directory");
    make_path(path, "model.safetensors");
    assert_int_equal(symlink("model.safetensors", path), 0);
    check("IX-03", "a link to model.safetensors");
    make_path(path, "model.safetensors");
    assert_int_equal(symlink("nowhere", path), 0);
    check("IX-03", "a link to nowhere");
    make_path(path, "model.safetensors");
    if (geteuid() == 0) return;                          /* root reads everything */
    temp_write(dir, "model.safetensors", S("\2\0\0\0\0\0\0\0{}"));
    assert_int_equal(chmod(path, 0), 0);
    check("ST-33", "Permission denied");
}

/* ---- the index ---- */

#define INDEX(lines) "{\"weight_map\":{" lines "}}"
#define A1 "\"a\":\"model-1.safetensors\""

static const struct { const char *id, *index, *part; } indexes[] = {
    { "IX-00", INDEX(A1 ",\"b\":\"model-2.safetensors\""), NULL },
    { "IX-01", "{}", "no weight_map" },
    { "IX-01", "{\"weight_map\":{}}", "no weight_map" },
    { "IX-01", "{\"weight_map\":[]}", "expected an object" },
    { "IX-01", "{\"weight_map\":null}", "expected an object" },
    { "IX-01", "[]", "expected an object" },
    { "IX-01", "", "expected an object" },
    { "IX-01", INDEX("\"a\":1"), "expected a string" },
    { "IX-01", "{\"weight_map\":{" A1 "},\"weight_map\":{" A1 "}}", "a second weight_map" },
    { "IX-01", INDEX(A1 "," A1), "tensor a is listed twice" },
    { "IX-02", INDEX("\"a\":\"../model-1.safetensors\""), "tensor a: \"../model" },
    { "IX-02", INDEX("\"a\":\"/etc/x.safetensors\""), "tensor a: \"/etc" },
    { "IX-02", INDEX("\"a\":\"x\\\\y.safetensors\""), "tensor a: \"x" },
    { "IX-02", INDEX("\"a\":\"x\\u0000.safetensors\""), "tensor a: \"x" },
    { "IX-02", INDEX("\"a\":\"C:x.safetensors\""), "tensor a: \"C:x" },
    { "IX-02", INDEX("\"a\":\"\""), "tensor a: \"\"" },
    { "IX-02", INDEX("\"a\":\".\""), "tensor a: \".\"" },
    { "IX-02", INDEX("\"a\":\"..\""), "tensor a: \"..\"" },
    { "IX-02", INDEX("\"a\":\".safetensors\""), "tensor a: \".safe" },
    { "IX-02", INDEX("\"a\":\"config.json\""), "tensor a: \"config.json\"" },
    { "IX-04", INDEX("\"a\":\"model-9.safetensors\""), "model-9.safetensors: No such file" },
    { "IX-04", INDEX("\"b\":\"model-1.safetensors\""), "tensor b is not in model-1" },
    { "IX-04", INDEX(A1 ",\"b\":\"model-3.safetensors\""), "tensor a: a second tensor" },
    { "IX-05", "{\"metadata\":{\"total_size\":-1},\"weight_map\":{" A1 "}}", NULL },
    { "IX-05", "{\"metadata\":{\"total_size\":1.5e30},\"weight_map\":{" A1 "}}", NULL },
    { "IX-08", INDEX("\"A\":\"model-1.safetensors\""), "tensor A is not in model-1" },
};

static void shard(const char *file, const char *tensor, const char *other) {
    struct maker m = { 0 };
    maker_add(&m, tensor, "U8", "[1]", "x", 1);
    if (other) maker_add(&m, other, "U8", "[1]", "x", 1);
    maker_write(&m, dir, file);
}

static void by_index(void **state) {
    (void)state;
    char path[512];
    make_path(path, "model.safetensors");
    shard("model-1.safetensors", "a", NULL);
    shard("model-2.safetensors", "b", NULL);
    shard("model-3.safetensors", "b", "a");
    for (size_t i = 0; i < COUNT(indexes); i++) {
        temp_write(dir, "model.safetensors.index.json", str_of(indexes[i].index));
        check(indexes[i].id, indexes[i].part);
    }
    struct buf index = { 0 };                            /* IX-02: a name of 5 KB */
    buf_str(&index, S("{\"weight_map\":{\"a\":\""));
    for (int i = 0; i < 5000; i++) buf_char(&index, 'x');
    buf_str(&index, S(".safetensors\"}}"));
    temp_write(dir, "model.safetensors.index.json", buf_view(&index));
    check("IX-02", "is not the name of a shard");
    buf_clear(&index);                                   /* IX-06 */
    buf_str(&index, S("{\"weight_map\":{"));
    for (int i = 0; i < 5000; i++)
        buf_format(&index, "%s\"t%d\":\"%d.safetensors\"", i ? "," : "", i, i);
    buf_str(&index, S("}}"));
    temp_write(dir, "model.safetensors.index.json", buf_view(&index));
    check("IX-06", "more than 4096 shards");
    buf_free(&index);
    make_path(path, "model.safetensors.index.json");
    check("two shards, one tensor", "a second tensor of that name");
    make_path(path, "model-3.safetensors");
    check("shards alone", NULL);
    make_path(path, "model-1.safetensors");
    make_path(path, "model-2.safetensors");
    check("nothing there", "no model.safetensors");
    shard("model-00001-of-00002.safetensors", "a", NULL);
    check("a shard of two", "1 of 2 shards are there");
}

static void directories_that_are_none(void **state) {
    (void)state;
    struct err err = { 0 };
    assert_null(weights_open("/nonexistent", &err));
    assert_non_null(strstr(err.text, "/nonexistent: No such file"));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    err = (struct err){ 0 };
    assert_null(weights_open("/dev/null", &err));
    assert_non_null(strstr(err.text, "Not a directory"));
}

static int setup(void **state) {
    (void)state;
    dir = temp_dir();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    temp_free(dir);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(by_first_bytes), TEST(by_header), TEST(by_size), TEST(by_length_limit),
        TEST(cut_at_every_byte), TEST(every_bit_flipped), TEST(things_that_are_no_files),
        TEST(by_index), TEST(directories_that_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

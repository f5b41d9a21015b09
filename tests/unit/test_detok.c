/* test_detok.c - decoder chains over tokens, at once and as a stream: each stream must add up to
 * the same text. The texts are what the `tokenizers` package gives for these chains. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tokens/tokenizer.h"

#define FILE_OF(decoder) "{\"decoder\":" decoder ",\"model\":{\"type\":\"WordLevel\"," \
    "\"unk_token\":\"a\",\"vocab\":{\"a\":0,\"b\":1,\"_\":2,\"__\":3,\"_a_\":4,\"ab\":5," \
    "\"</w>\":6,\"a</w>\":7,\"|\":8,\"<pad>\":9,\"##b\":10,\".\":11,\"<0xE2>\":12," \
    "\"<0x82>\":13,\"<0xAC>\":14,\"n't\":15,\"do\":16,\"\xe2\x96\x81\":17," \
    "\"\xe2\x96\x81" "a\":18,\"\xc4\xa0\xc3\xa2\":19}}}"
#define STRIP(start, stop) "{\"type\":\"Strip\",\"content\":\"_\",\"start\":" #start ",\"stop\":" \
    #stop "}"
#define SEQUENCE(...) "{\"type\":\"Sequence\",\"decoders\":[" __VA_ARGS__ "]}"
#define REPLACE(from, to) "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" from "\"}," \
    "\"content\":\"" to "\"}"
#define FUSE "{\"type\":\"Fuse\"}"

static const struct row { const char *file, *text; int ids[8], n; } rows[] = {
    { FILE_OF("null"), "a b", { 0, 1 }, 2 },
    { FILE_OF(STRIP(1, 0)), "ab_", { 2, 0, 2, 1, 3 }, 5 },
    { FILE_OF(STRIP(1, 1)), "a", { 4 }, 1 },
    { FILE_OF(SEQUENCE(FUSE "," STRIP(1, 0))), "_a_b", { 3, 0, 2, 1 }, 4 },
    { FILE_OF(SEQUENCE(FUSE "," STRIP(3, 0))), "a_", { 2, 3, 0, 2 }, 4 },
    { FILE_OF(SEQUENCE(FUSE "," STRIP(0, 2))), "a_b_", { 0, 2, 1, 3, 2 }, 5 },
    { FILE_OF(SEQUENCE(FUSE "," STRIP(0, 2))), "__a", { 3, 0, 2, 2 }, 4 },
    { FILE_OF(SEQUENCE(FUSE "," REPLACE("ab_", "x"))), "aaxb", { 0, 0, 5, 2, 1 }, 5 },
    { FILE_OF(SEQUENCE(FUSE "," REPLACE("ab_", "x"))), "aab", { 0, 0, 1 }, 3 },
    { FILE_OF(SEQUENCE(REPLACE("_", " ") "," FUSE)), "  a a b", { 3, 0, 4, 1 }, 4 },
    { FILE_OF("{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}"), "a ba", { 7, 1, 7 }, 3 },
    { FILE_OF("{\"type\":\"CTC\",\"pad_token\":\"<pad>\",\"word_delimiter_token\":\"|\","
              "\"cleanup\":true}"), "ab aa", { 0, 0, 1, 8, 0, 9, 0 }, 7 },
    { FILE_OF("{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}"), "ab a. don't",
      { 0, 10, 0, 11, 16, 15 }, 6 },
    { FILE_OF("{\"type\":\"ByteFallback\"}"), "a\xe2\x82\xac" "b", { 0, 12, 13, 14, 1 }, 5 },
    { FILE_OF("{\"type\":\"ByteFallback\"}"), "\xef\xbf\xbd\xef\xbf\xbd" "b\xef\xbf\xbd",
      { 12, 13, 1, 12 }, 4 },
    { FILE_OF("{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":"
              "\"always\"}"), "a a", { 18, 18 }, 2 },
    { FILE_OF("{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":"
              "\"never\"}"), " a a", { 18, 18 }, 2 },
};

static void test_chains(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        const struct row *r = &rows[i];
        struct err err = { 0 };
        struct buf all = { 0 }, sum = { 0 };
        struct tokenizer *t = tokenizer_blank();
        if (!tokenizer_json_read(t, str_of(r->file), &err) || !tokenizer_ready(t, &err))
            fail_msg("row %zu: %s", i, err.text);
        tok_decode(t, r->ids, r->n, true, &all);
        if (!str_is(buf_view(&all), r->text))
            fail_msg("row %zu: \"%s\", not \"%s\"", i, buf_c(&all), r->text);
        struct detok *d = detok_open(t, true);
        for (int round = 0; round < 2; round++) {     /* a flush leaves it as new */
            buf_clear(&sum);
            for (int k = 0; k < r->n; k++) detok_push(d, r->ids[k], &sum);
            detok_flush(d, &sum);
            assert_true(str_eq(buf_view(&sum), buf_view(&all)));
        }
        detok_close(d);
        buf_free(&all);
        buf_free(&sum);
        tok_close(t);
    }
}

/* A step that looks at a token as a whole cannot come behind one that joins all. */
static void test_refused(void **state) {
    struct err err = { 0 };
    (void)state;
    struct tokenizer *t = tokenizer_blank();
    assert_false(tokenizer_json_read(t, S(FILE_OF(SEQUENCE(FUSE ",{\"type\":\"ByteFallback\"}"))),
                                     &err));
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    tok_close(t);
}

static const struct { const char *file; int id; const char *piece; } pieces[] = {
    { FILE_OF("null"), 4, "_a_" },
    { FILE_OF("null"), 99, "" },
    { FILE_OF(SEQUENCE(FUSE "," STRIP(1, 0))), 2, "_" },
    { FILE_OF(SEQUENCE(REPLACE("_", " ") "," FUSE "," STRIP(1, 0))), 4, " a " },
    { FILE_OF("{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}"), 7, "a " },
    { FILE_OF("{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}"), 10, "b" },
    { FILE_OF("{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}"), 1, " b" },
    { FILE_OF(SEQUENCE("{\"type\":\"ByteFallback\"}," FUSE)), 12, "\xe2" },
    { FILE_OF("{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\","
              "\"prepend_scheme\":\"always\"}"), 18, " a" },
    { FILE_OF("{\"type\":\"ByteLevel\"}"), 5, "ab" },
    { FILE_OF("{\"type\":\"ByteLevel\"}"), 19, " \xe2" },
    { FILE_OF("{\"type\":\"ByteLevel\"}"), 17, "\xe2\x96\x81" },
};

/* What a token is made of, wherever it stands. */
static void test_pieces(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(pieces); i++) {
        struct err err = { 0 };
        struct buf piece = { 0 };
        struct tokenizer *t = tokenizer_blank();
        if (!tokenizer_json_read(t, str_of(pieces[i].file), &err) || !tokenizer_ready(t, &err))
            fail_msg("row %zu: %s", i, err.text);
        tok_piece(t, pieces[i].id, &piece);
        if (!str_is(buf_view(&piece), pieces[i].piece))
            fail_msg("row %zu: \"%s\"", i, buf_c(&piece));
        buf_free(&piece);
        tok_close(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_chains),
                                        cmocka_unit_test(test_pieces),
                                        cmocka_unit_test(test_refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_pull_strings.c - strings, spaces, ids and pairs of JSON as the pull reader takes them eight
 * bytes at a time, and UTF-8: what ends a run is found wherever it stands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/pull.h"
#include "base/utf8.h"

enum { LONG = 40 };

/* A string of n letters with `odd` at position i; whether it reads, and gives what it should. */
static bool reads(size_t n, size_t i, struct str odd, struct str want) {
    struct buf text = { 0 }, plain = { 0 };
    struct str got = { 0 };
    for (size_t k = 0; k < 2 * n; k++) buf_char(&text, ' ');
    buf_char(&text, '"');
    for (size_t k = 0; k < n; k++) {
        buf_str(&text, k == i ? odd : S("x"));
        buf_str(&plain, k == i ? want : S("x"));
    }
    buf_str(&text, S("\" \n"));
    struct pull j = pull_open(buf_view(&text));
    bool done = pull_string(&j, &got) && pull_end(&j);
    if (done && !str_eq(got, buf_view(&plain)))
        fail_msg("%zu of %zu: \"%.*s\"", i, n, STR_ARG(got));
    pull_close(&j);
    buf_free(&text);
    buf_free(&plain);
    return done;
}

static void test_every_place(void **state) {
    (void)state;
    for (size_t n = 1; n < LONG; n++)
        for (size_t i = 0; i < n; i++) {
            assert_true(reads(n, i, S("y"), S("y")));
            assert_true(reads(n, i, S("\x7f"), S("\x7f")));
            assert_true(reads(n, i, S("\\n"), S("\n")));
            assert_true(reads(n, i, S("\\u00e9"), S("\xc3\xa9")));
            assert_true(reads(n, i, S("\xc3\xa2"), S("\xc3\xa2")));
            assert_true(reads(n, i, S("\xe2\x96\x81"), S("\xe2\x96\x81")));
            assert_true(reads(n, i, S(" "), S(" ")));
            assert_false(reads(n, i, S("\""), S("")));
            assert_false(reads(n, i, S("\n"), S("")));
            assert_false(reads(n, i, S("\x1f"), S("")));
            assert_false(reads(n, i, ((struct str){ "\0", 1 }), S("")));
            assert_false(reads(n, i, S("\xff"), S("")));
            assert_false(reads(n, i, S("\xe2\x96"), S("")));
            assert_false(reads(n, i, S("\\x"), S("")));
        }
}

static void test_ids(void **state) {
    static const struct { const char *text; bool done; uint64_t id; } rows[] = {
        { "[0]", true, 0 }, { "[7 ]", true, 7 }, { "[250000]", true, 250000 },
        { "[16777216]", true, 16777216 }, { "[16777217]", false, 0 }, { "[-1]", false, 0 },
        { "[1.0]", false, 0 }, { "[1e2]", false, 0 }, { "[01]", false, 0 }, { "[1", false, 0 },
        { "[10000000000000000]", false, 0 }, { "[99999999999999999999999999]", false, 0 },
        { "[\"1\"]", false, 0 }, { "[9999999,       0]", true, 9999999 },
        { "[12345678,      0]", true, 12345678 }, { "[123456789,     0]", false, 0 },
        { "[1234567.0,     0]", false, 0 }, { "[1234567e1,     0]", false, 0 },
        { "[12345/        ]", false, 0 }, { "[12345:        ]", false, 0 },
        { "[1234\xb5         ]", false, 0 }, { "[16777216       ]", true, 16777216 },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint64_t id = 0;
        struct pull j = pull_open(str_of(rows[i].text));
        bool done = pull_array(&j) && pull_next(&j) && pull_u64(&j, 1 << 24, &id);
        uint64_t zero;
        while (done && pull_next(&j)) done = pull_u64(&j, 0, &zero);
        done = done && pull_end(&j);
        if (done != rows[i].done || (done && id != rows[i].id)) fail_msg("%s", rows[i].text);
        pull_close(&j);
    }
}

/* Each row is a list of one pair; two spaces stand for none up to many. taken: by pull_pair. */
static void test_pairs(void **state) {
    static const struct { const char *text; bool taken; } rows[] = {
        { "  [  \"a\"  ,  \"bc\"  ]", true }, { "  [  \"\"  ,  \"\"  ]", true },
        { "[\"\xc4\xa0\",\"\xe2\x96\x81\"]", true }, { "[\"a\",\"\\n\"]", false },
        { "[\"\\u0041\",\"b\"]", false }, { "[\"a\",\"b\",\"c\"]", false },
        { "[\"a\"]", false }, { "[\"a\" \"b\"]", false }, { "[\"a\",\"b\"", false },
        { "[\"a\",\"b", false }, { "[\"a\",\"", false }, { "[\"a\",", false }, { "[\"a", false },
        { "[\"\xff\",\"b\"]", false }, { "[\"a\",\"\xc4\"]", false },
        { "[\"a\n\",\"b\"]", false },
        { "[1,\"b\"]", false }, { "[\"a\",[]]", false }, { "\"a b\"", false }, { "", false },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int n = 0; n < LONG; n++) {
            struct buf text = { 0 };
            struct str left, right, rest = str_of(rows[i].text);
            for (; rest.len; rest = str_from(rest, 1)) {
                bool spaces = str_starts(rest, "  ");
                if (!spaces) buf_char(&text, rest.at[0]);
                for (int k = 0; spaces && k < n; k++) buf_char(&text, k ? ' ' : '\n');
                if (spaces) rest = str_from(rest, 1);
            }
            struct pull j = pull_open(buf_view(&text));
            if (pull_pair(&j, &left, &right) != rows[i].taken)
                fail_msg("%s with %d spaces", rows[i].text, n);
            assert_null(j.error);
            if (rows[i].taken) assert_true(pull_end(&j));
            else assert_true(str_eq(str_from(text.at ? buf_view(&text) : rest, j.offset),
                                    buf_view(&text)));
            pull_close(&j);
            buf_free(&text);
        }
}

/* Bytes drawn from those at the borders of what a character may have; each checked as a whole and
 * a character at a time. */
static void test_utf8(void **state) {
    static const unsigned char borders[] = {
        'a', 'b', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xc4, 0xdf, 0xe0,
        0xe1, 0xed, 0xef, 0xf0, 0xf4, 0xf5, 0xff,
    };
    uint64_t draw = 1;
    int n_valid = 0;
    (void)state;
    for (int i = 0; i < 2000000; i++) {
        char text[24];
        size_t n = 0, want_len = (size_t)i % sizeof text;
        while (n < want_len) {
            draw = draw * 6364136223846793005u + 1442695040888963407u;
            unsigned r = (unsigned)(draw >> 33);
            bool border = !(r & 0x300);
            text[n++] = (char)(border ? borders[r % COUNT(borders)] : r % 3 ? 'x' : 0xc4);
            if (n < want_len && text[n - 1] == (char)0xc4 && r & 0x7000) text[n++] = (char)0xa0;
        }
        struct str s = { text, n };
        size_t at = 0;
        uint32_t cp;
        for (int step = 1; at < n && step; at += (size_t)step)
            step = utf8_next(str_from(s, at), &cp);
        if (utf8_valid(s) != (at == n)) fail_msg("%d: %zu bytes", i, n);
        n_valid += at == n;
    }
    assert_in_range(n_valid, 100000, 1900000);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_place),
                                        cmocka_unit_test(test_ids),
                                        cmocka_unit_test(test_pairs),
                                        cmocka_unit_test(test_utf8) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

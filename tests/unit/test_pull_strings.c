/* test_pull_strings.c - strings, spaces and ids of JSON as the pull reader takes them eight bytes
 * at a time: what ends a run is found wherever it stands. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "base/pull.h"

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
        { "[\"1\"]", false, 0 },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        uint64_t id = 0;
        struct pull j = pull_open(str_of(rows[i].text));
        bool done = pull_array(&j) && pull_next(&j) && pull_u64(&j, 1 << 24, &id) && !pull_next(&j)
            && pull_end(&j);
        if (done != rows[i].done || (done && id != rows[i].id)) fail_msg("%s", rows[i].text);
        pull_close(&j);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_place),
                                        cmocka_unit_test(test_ids) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

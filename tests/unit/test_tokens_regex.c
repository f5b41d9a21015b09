/* test_tokens_regex.c - Oniguruma's syntax on PCRE2: what differs between the two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "tokens/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* All matches, in brackets; what lies between them as it is. */
static void marked(const char *pattern, const char *text, struct buf *out) {
    struct err err = { 0 };
    struct regex *re = regex_new(str_of(pattern), &err);
    if (!re) fail_msg("%s: %s", pattern, err.text);
    struct regex_walk walk = regex_walk_open(re);
    struct str s = str_of(text);
    size_t done = 0, begin, end;
    regex_walk_text(&walk, s);
    while (regex_walk_next(&walk, &begin, &end)) {
        buf_str(out, str_cut(s, done, begin));
        buf_char(out, '[');
        buf_str(out, str_cut(s, begin, end));
        buf_char(out, ']');
        done = end;
    }
    buf_str(out, str_from(s, done));
    regex_walk_close(&walk);
    regex_free(re);
}

static void test_matches(void **state) {
    static const char *const rows[][3] = {
        { "\\p{N}{1,3}", "12345", "[123][45]" },
        { "a{2}+", "aaaaa", "[aaaa]a" },              /* a repeat of a repeat, not possessive */
        { "a{1,2}+b", "aaab", "[aaab]" },
        { "a{2}?b", "aab b", "[aab] [b]" },           /* "perhaps twice", not lazy */
        { "a{,2}b", "aab", "[aab]" },
        { "a++a", "aaa", "aaa" },
        { "x{", "x{", "[x{]" },
        { "\\s+", "a \t\xc2\xa0\xe3\x80\x80" "b", "a[ \t\xc2\xa0\xe3\x80\x80]b" },
        { "\\s", "\xe1\xa0\x8e", "\xe1\xa0\x8e" },    /* U+180E is no space since Unicode 6.3 */
        { "[^\\s]", "\xe1\xa0\x8e", "[\xe1\xa0\x8e]" },
        { "[\\S]", "\xe1\xa0\x8e ", "[\xe1\xa0\x8e] " },
        { "\\h+", "12afG", "[12af]G" },
        { "\\w+", "a_1\xcc\x81-b", "[a_1\xcc\x81]-[b]" },
        { "\\bb", "ab b", "ab [b]" },
        { "\\Bb", "ab b", "a[b] b" },
        { "[\\p{L}&&[^\\p{Lu}]]+", "aBcd", "[a]B[cd]" },
        { "[a-z&&[^aeiou]&&[^x]]+", "abxcd", "a[b]x[cd]" },
        { "[^a-z&&[^aeiou]]", "abE", "[a]b[E]" },
        { "[a[bc]]+", "abcd", "[abc]d" },
        { "[[^a]]", "ab", "a[b]" },
        { "[]a]+", "]a", "[]a]" },
        { "\\p{Han}", "\xe3\x80\x81\xe5\xa4\xa9", "\xe3\x80\x81[\xe5\xa4\xa9]" },
        { "\\p{^L}", "a1", "a[1]" },
        { "\\p{Letter}\\p{Uppercase_Letter}", "aB", "[aB]" },
        { "\\u0041", "A", "[A]" },
        { "^b$", "a\nb\nc", "a\n[b]\nc" },            /* lines, as Ruby has it */
        { "x*", "axb", "[]a[x]b[]" },
        { "(?i:'s)", "'S'\xc5\xbf", "['S]['\xc5\xbf]" },
        { "(?<=a)b", "ab b", "a[b] b" },
        { "(a)\\1", "aab", "[aa]b" },
        { "\xe5\xa4\xa9{2}", "\xe5\xa4\xa9\xe5\xa4\xa9", "[\xe5\xa4\xa9\xe5\xa4\xa9]" },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf out = { 0 };
        marked(rows[i][0], rows[i][1], &out);
        if (!str_is(buf_view(&out), rows[i][2]))
            fail_msg("%s on %s: %s, not %s", rows[i][0], rows[i][1], buf_c(&out), rows[i][2]);
        buf_free(&out);
    }
}

/* Linux 6.3: from then on no memory of this process becomes executable. By number, for older
 * headers lack the names. */
enum { SET_MDWE = 65, MDWE_REFUSE_EXEC_GAIN = 1 };

/* Does PCRE2 compile for the processor? */
static bool jit_works(void) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)"a+b", 3, 0, &code, &at, NULL);
    if (!re) return true;
    bool works = pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) == 0;
    pcre2_code_free(re);
    return works;
}

static int matches_without_jit(void) {
    enum { ALL_RIGHT, WRONG, NOT_DENIED };
    static const char *const rows[][3] = {
        { "\\p{N}{1,3}", "12345", "[123][45]" },
        { "\\s+(?!\\S)|\\s+", "a  b   ", "a[ ][ ]b[   ]" },
        { "\\p{L}++|[^\\p{L}]", "ab, cd", "[ab][,][ ][cd]" },
    };
    if (prctl(SET_MDWE, MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0 || jit_works()) return NOT_DENIED;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct buf out = { 0 };
        marked(rows[i][0], rows[i][1], &out);
        bool same = str_eq(buf_view(&out), str_of(rows[i][2]));
        buf_free(&out);
        if (!same) return WRONG;
    }
    return ALL_RIGHT;
}

/* Where a system denies memory that is written and then run, the interpreter does the work. First
 * of the tests: executable memory that others left could be used again. */
static void test_without_jit(void **state) {
    (void)state;
    int status = 0;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(matches_without_jit());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 2) {
        print_message("SKIPPED: this kernel cannot deny executable memory (Linux 6.3 can)\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_refused(void **state) {
    static const char *const patterns[] = { "[a", "(a", "a)", "\\", "\\p{", "\\pL", "[[:alpha:]]",
                                            "[\\W]", "[]", "\\p{NoSuchScript}", "[a&&]", "\\C" };
    (void)state;
    for (size_t i = 0; i < COUNT(patterns); i++) {
        struct err err = { 0 };
        struct regex *re = regex_new(str_of(patterns[i]), &err);
        if (re) fail_msg("%s was taken", patterns[i]);
        assert_non_null(strstr(err.text, "not supported"));
    }
}

static void test_literal(void **state) {
    (void)state;
    struct regex *re = regex_literal(S(".+"));
    struct regex_walk walk = regex_walk_open(re);
    size_t begin, end;
    regex_walk_text(&walk, S("a.+.+"));
    assert_true(regex_walk_next(&walk, &begin, &end));
    assert_int_equal(begin, 1);
    assert_true(regex_walk_next(&walk, &begin, &end));
    assert_int_equal(end, 5);
    assert_false(regex_walk_next(&walk, &begin, &end));
    regex_walk_close(&walk);
    regex_free(re);
}

/* TK-09. Steps are bounded: what needs more is no match, and the walk ends. */
static void test_limit(void **state) {
    struct buf text = { 0 };
    struct err err = { 0 };
    size_t begin, end;
    (void)state;
    for (int i = 0; i < 40; i++) buf_char(&text, 'a');
    buf_char(&text, '!');
    struct regex *re = regex_new(S("(a+a?)+$"), &err);
    assert_non_null(re);
    struct regex_walk walk = regex_walk_open(re);
    regex_walk_text(&walk, buf_view(&text));
    assert_false(regex_walk_next(&walk, &begin, &end));
    regex_walk_close(&walk);
    regex_free(re);
    buf_free(&text);
}

/* TK-09. A word too long for the limits is cut, and those behind it are found as if it were not
 * there. */
static void test_behind_long(void **state) {
    struct buf text = { 0 };
    struct err err = { 0 };
    size_t begin, end, done = 0, n_x = 0, longest = 0;
    (void)state;
    while (text.len < 1 << 20) buf_str(&text, S("ab"));
    buf_str(&text, S("xx abab x"));
    struct regex *re = regex_new(S("(?:a|b)+c?|x"), &err);
    assert_non_null(re);
    struct regex_walk walk = regex_walk_open(re);
    regex_walk_text(&walk, buf_view(&text));
    while (regex_walk_next(&walk, &begin, &end)) {
        assert_true(begin == done || text.at[done] == ' ');
        n_x += end - begin == 1;
        longest = MAX(longest, end - begin);
        done = end;
    }
    assert_int_equal(done, text.len);
    assert_int_equal(n_x, 3);
    assert_in_range(longest, 1 << 10, (1 << 20) - 1);
    regex_walk_close(&walk);
    regex_free(re);
    buf_free(&text);
}

/* White space at the end of a line: in a run of it, what a search finds behind a match or from its
 * begin, in linear time also without a JIT. */
static void test_blank_end(void **state) {
    static const struct { const char *regex, *text; size_t found[4]; } cases[] = {
        { "\\s+$", "a  b  ", { 4, 6 } }, { "\\s+$", "   \n  x", { 0, 3 } },
        { "a\\s|\\s+$", "a   ", { 0, 2, 2, 4 } }, { "\\s+$", "  x", { 0 } },
        { "x|\\s+$", "x \n", { 0, 1, 1, 3 } }, { "(?:x|\\s+$)", "x \n", { 0, 1, 1, 3 } },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = { 0 };
        struct regex *re = regex_new(str_of(cases[i].regex), &err);
        assert_non_null(re);
        struct regex_walk walk = regex_walk_open(re);
        size_t begin, end, n = 0;
        regex_walk_text(&walk, str_of(cases[i].text));
        for (; n < 4 && regex_walk_next(&walk, &begin, &end); n += 2) {
            assert_int_equal(begin, cases[i].found[n]);
            assert_int_equal(end, cases[i].found[n + 1]);
        }
        assert_true(n == 4 || !cases[i].found[n + 1]);
        regex_walk_close(&walk);
        regex_free(re);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_jit),
        cmocka_unit_test(test_matches), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_literal), cmocka_unit_test(test_limit),
        cmocka_unit_test(test_behind_long), cmocka_unit_test(test_blank_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

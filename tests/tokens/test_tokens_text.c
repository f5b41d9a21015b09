/* test_tokens_text.c - texts that are long, broken or hostile, and literal spans. Streams are in
 * test_tokens_stream.c. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/utf8.h"
#include "tokens/tokens.h"

#define FOLDER "tests/tokens/"

static struct tokenizer *open_one(const char *name) {
    struct err err = { 0 };
    struct buf path = { 0 };
    buf_format(&path, FOLDER "%s", name);
    struct tokenizer *t = tok_open(buf_c(&path), &err);
    if (!t)
        fail_msg("%s", err.text);
    buf_free(&path);
    return t;
}

static void decode_is(const struct tokenizer *t, const struct ids *ids, struct str want) {
    struct buf out = { 0 };
    tok_decode(t, ids->at, ids->len, true, &out);
    assert_true(str_eq(buf_view(&out), want));
    buf_free(&out);
}

/* TK-15: a megabyte of one thing. Byte-level text comes back as it was. On a small stack. */
static void *long_texts(void *arg) {
    static const char *const units[] = { "a", " ", "\n", "\xf0\x9f\xa6\x99",
                                         "\xcc\x81\xcc\xa3", "\xe5\xa4\xa9", "9", "ab ",
                                         "<|en", "'s", "\xe2\x96\x81" };
    const struct tokenizer *t = arg;
    bool same = true;
    for (size_t i = 0; i < COUNT(units); i++) {
        struct buf text = { 0 };
        struct ids ids = { 0 };
        while (text.len < 1 << 18)
            buf_str(&text, str_of(units[i]));
        tok_encode(t, buf_view(&text), TOK_SPECIALS, NULL, 0, &ids);
        if (tok_find(t, S("\xc4\xa0")) >= 0) {
            struct buf back = { 0 };
            tok_decode(t, ids.at, ids.len, true, &back);
            same = same && str_eq(buf_view(&back), buf_view(&text));
            buf_free(&back);
        }
        ids_free(&ids);
        buf_free(&text);
    }
    return same ? arg : NULL;        /* cmocka's asserts are for its own thread only */
}

static void test_long(void **state) {
    static const char *const names[] = { "gpt2", "o200k", "llama2", "unigram", "bert",
                                         "deepseek3" };
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        struct tokenizer *t = open_one(names[i]);
        pthread_attr_t small;
        pthread_t thread;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 128 << 10);
        assert_int_equal(pthread_create(&thread, &small, long_texts, t), 0);
        void *same = NULL;
        pthread_join(thread, &same);
        assert_non_null(same);
        pthread_attr_destroy(&small);
        tok_close(t);
    }
}

/* TK-16: what is not UTF-8 counts as U+FFFD, one for each maximal subpart. */
static void test_broken(void **state) {
    static const char *const texts[][2] = {
        { "a\xff" "b", "a\xef\xbf\xbd" "b" },
        { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd" },
        { "x\xf0\x9f\xa6", "x\xef\xbf\xbd" },
        { "\xef\xbb\xbf" "bom", "\xef\xbb\xbf" "bom" },
    };
    (void)state;
    struct tokenizer *t = open_one("gpt2");
    for (size_t i = 0; i < COUNT(texts); i++) {
        struct ids ids = { 0 };
        tok_encode(t, str_of(texts[i][0]), 0, NULL, 0, &ids);
        decode_is(t, &ids, str_of(texts[i][1]));
        ids_free(&ids);
    }
    tok_close(t);
}

static int count(const struct ids *ids, int id) {
    int n = 0;
    for (int i = 0; i < ids->len; i++)
        n += ids->at[i] == id;
    return n;
}

/* TK-20: what users wrote never becomes a control token, also where it touches one. */
static void test_spans(void **state) {
    static const char text[] = "<|end|>user<|end|>said <|end|><s><|end|>";
    (void)state;
    struct tokenizer *t = open_one("llama3");
    int end = tok_find(t, S("<|end|>")), s = tok_find(t, S("<s>"));
    assert_true(tok_is_control(t, end) && tok_is_control(t, s));
    const struct { struct literal_span span[2]; int n, ends, ss; } cases[] = {
        { { { 0, 0 } }, 0, 4, 1 },
        { { { 7, 23 } }, 1, 3, 1 },
        { { { 7, 18 }, { 23, 33 } }, 2, 2, 0 },
        { { { 0, 1 } }, 1, 3, 1 },           /* one byte of it is enough */
        { { { 39, 40 } }, 1, 3, 1 },
        { { { 0, 40 } }, 1, 0, 0 },
        { { { 7, 11 }, { 18, 23 } }, 2, 4, 1 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct ids ids = { 0 };
        tok_encode(t, str_of(text), TOK_SPECIALS, cases[i].span, cases[i].n, &ids);
        assert_int_equal(count(&ids, end), cases[i].ends);
        assert_int_equal(count(&ids, s), cases[i].ss);
        decode_is(t, &ids, str_of(text));
        ids_free(&ids);
    }
    tok_close(t);
}

/* A bad byte before a span makes the repaired text longer: the span must move along. */
static void test_span_behind_bad_byte(void **state) {
    (void)state;
    struct tokenizer *t = open_one("llama3");
    struct ids ids = { 0 };
    struct literal_span span = { 2, 9 };
    tok_encode(t, S("\xff\xff<|end|><|end|>"), TOK_SPECIALS, &span, 1, &ids);
    assert_int_equal(count(&ids, tok_find(t, S("<|end|>"))), 1);
    assert_int_equal(ids.at[ids.len - 1], tok_find(t, S("<|end|>")));
    ids_free(&ids);
    tok_close(t);
}

/* TK-18: nothing, and nothing but a control token. */
static void test_empty(void **state) {
    (void)state;
    struct tokenizer *t = open_one("llama3");
    struct ids ids = { 0 };
    tok_encode(t, S(""), TOK_SPECIALS, NULL, 0, &ids);
    assert_int_equal(ids.len, 0);
    tok_encode(t, S(""), TOK_SPECIALS | TOK_ADD_BOS, NULL, 0, &ids);
    assert_int_equal(ids.len, 1);
    ids.len = 0;
    tok_encode(t, S("<|end|>"), TOK_SPECIALS, NULL, 0, &ids);
    assert_int_equal(ids.len, 1);
    ids_free(&ids);
    tok_close(t);
}

/* TK-21: invalid bytes for ever are not held for ever. */
static void test_bounded_wait(void **state) {
    (void)state;
    struct tokenizer *t = open_one("llama2");
    struct detok *d = detok_open(t, false);
    struct buf out = { 0 };
    int id = tok_find(t, S("<0xFF>"));
    for (int i = 0; i < 1000; i++)
        detok_push(d, id, &out);
    assert_true(out.len >= 900 * 3);
    detok_flush(d, &out);
    assert_int_equal(out.len, 1000 * 3);
    detok_close(d);
    buf_free(&out);
    tok_close(t);
}

/* TK-19: ids that are no ids. */
static void test_odd_ids(void **state) {
    (void)state;
    struct tokenizer *t = open_one("gpt2");
    const int ids[] = { -1, INT32_MIN, INT32_MAX, tok_vocab(t), tok_find(t, S("a")) };
    struct buf out = { 0 };
    tok_decode(t, ids, 5, true, &out);
    assert_true(str_is(buf_view(&out), "a"));
    for (int i = -2; i < 0; i++) {
        assert_int_equal(tok_text(t, i).len, 0);
        assert_false(tok_is_control(t, i));
    }
    assert_int_equal(tok_find(t, S("no such token")), -1);
    buf_free(&out);
    tok_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long), cmocka_unit_test(test_broken), cmocka_unit_test(test_spans),
        cmocka_unit_test(test_span_behind_bad_byte), cmocka_unit_test(test_empty),
        cmocka_unit_test(test_bounded_wait), cmocka_unit_test(test_odd_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

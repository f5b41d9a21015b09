/* test_tokens_stream.c - the detokenizer as a stream: a test for each trap, and random ids over
 * every tokenizer of the folders beside this file. Pieces are whole characters and add up to
 * what decoding at once gives. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/utf8.h"
#include "tokens/tokens.h"

#define FOLDER "tests/tokens"

static struct tokenizer *open_one(const char *name) {
    struct err err = { 0 };
    struct buf path = { 0 };
    buf_format(&path, FOLDER "/%s%s", name, str_starts(str_of(name), "gguf-") ? "/vocab.gguf" : "");
    struct tokenizer *t = tok_open(buf_c(&path), &err);
    if (!t)
        fail_msg("%s", err.text);
    buf_free(&path);
    return t;
}

static void stream_is(const char *name, const char *const *tokens, int n, const char *const *pieces,
                      const char *tail) {
    struct tokenizer *t = open_one(name);
    struct detok *d = detok_open(t, false);
    struct buf out = { 0 }, all = { 0 }, sum = { 0 };
    struct ids ids = { 0 };
    for (int i = 0; i < n; i++) {
        int id = tokens[i] ? tok_find(t, str_of(tokens[i])) : 1 << 20;
        assert_true(id >= 0);
        ids_put(&ids, id);
        buf_clear(&out);
        detok_push(d, id, &out);
        assert_true(utf8_valid(buf_view(&out)));
        if (!str_is(buf_view(&out), pieces[i]))
            fail_msg("%s: piece %d is \"%s\", not \"%s\"", name, i, buf_c(&out), pieces[i]);
        buf_str(&sum, buf_view(&out));
    }
    buf_clear(&out);
    detok_flush(d, &out);
    assert_true(str_is(buf_view(&out), tail));
    buf_str(&sum, buf_view(&out));
    tok_decode(t, ids.at, ids.len, false, &all);
    assert_true(str_eq(buf_view(&all), buf_view(&sum)));
    detok_close(d);
    ids_free(&ids);
    buf_free(&out);
    buf_free(&all);
    buf_free(&sum);
    tok_close(t);
}

/* (tokens), then the piece that each gives; `tail` comes at the end. NULL: an id too large. */
#define STREAM(name, tail, tokens, ...) do { \
        static const char *const t[] = { UNPACK tokens }; \
        static const char *const p[] = { __VA_ARGS__ }; \
        assert_int_equal(COUNT(t), COUNT(p)); \
        stream_is(name, t, (int)COUNT(t), p, tail); \
    } while (0)
#define UNPACK(...) __VA_ARGS__

/* A code point over four tokens; one that never ends; one that is broken off. */
static void incomplete_character_waits(void **state) {
    (void)state;
    STREAM("gpt2", "", ("\xc3\xb0", "\xc5\x81", "\xc2\xa6", "\xc4\xbb", "a"),
           "", "", "", "\xf0\x9f\xa6\x99", "a");
    STREAM("gpt2", "\xef\xbf\xbd", ("a", "\xc3\xb0", "\xc5\x81"), "a", "", "");
    STREAM("gpt2", "", ("\xc3\xb0", "a", "\xc2\xac"), "", "\xef\xbf\xbd" "a", "\xef\xbf\xbd");
}

/* One leading space of the whole text goes, and only where the decoder strips it. */
static void leading_space_goes_where_stripped(void **state) {
    (void)state;
    STREAM("llama2", "", ("\xe2\x96\x81", "\xe2\x96\x81", "a"), "", " ", "a");
    STREAM("gemma", "", ("\xe2\x96\x81", "\xe2\x96\x81", "a"), " ", " ", "a");
    STREAM("metaspace-never", "", ("\xe2\x96\x81", "a"), " ", "a");
    STREAM("metaspace-first", "", ("\xe2\x96\x81", "a"), "", "a");
}

static void byte_level_space_is_not_delayed(void **state) {
    (void)state;
    STREAM("gpt2", "", ("\xc4\xa0", "a", "\xc4\xa0"), " ", "a", " ");
    STREAM("gpt2", "", ("\xc4\xa0", "\xc4\xa0", "a"), " ", " ", "a");
}

/* No space goes before punctuation; WordPiece's own decoder does so, as its file asks. */
static void spaces_are_not_cleaned_up(void **state) {
    (void)state;
    STREAM("gpt2", "", ("a", "\xc4\xa0", ".", "\xc4\xa0", "!"), "a", " ", ".", " ", "!");
    STREAM("llama2", "", ("a", "\xe2\x96\x81", "."), "a", " ", ".");
    STREAM("bert", "", ("a", "##a", "a", "."), "a", "a", " a", ".");
}

/* Added tokens are their own text, spaces too; special ones are silent, and ids beyond the
 * vocabulary nothing. */
static void added_tokens_and_odd_ids(void **state) {
    (void)state;
    STREAM("gpt2", "", ("a", "new york", "  ", "b"), "a", "new york", "  ", "b");
    STREAM("gpt2", "", ("a", "<|end|>", NULL, "<mask>", "b"), "a", "", "", "", "b");
    STREAM("gpt2", "", ("\xc3\xb0", NULL, "\xc5\x81", "\xc2\xa6", "\xc4\xbb"),
           "", "", "", "", "\xf0\x9f\xa6\x99");
}

/* A run of byte tokens waits for its end, and is judged as a whole. */
static void byte_fallback_over_tokens(void **state) {
    (void)state;
    STREAM("llama2", "", ("<0xF0>", "<0x9F>", "<0xA6>", "<0x99>", "a"), "", "", "", "",
           "\xf0\x9f\xa6\x99" "a");
    STREAM("llama2", "\xef\xbf\xbd\xef\xbf\xbd", ("a", "<0x41>", "<0xFF>"), "a", "", "");
}

/* ---- random ids ---- */

static uint32_t draw(uint64_t *state, uint32_t below) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % below;
}

/* Ids of all kinds: any, those of a short range (byte tokens stand together), control tokens, and
 * such as are none. */
static void random_ids(const struct tokenizer *t, const struct ids *control, uint64_t *seed,
                       struct ids *out) {
    uint32_t vocab = (uint32_t)tok_vocab(t), near = draw(seed, vocab), n = 1 + draw(seed, 48);
    bool bytes = draw(seed, 2);
    out->len = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t kind = draw(seed, 20);
        int id = (int)draw(seed, vocab);
        if (kind == 0) id = tok_vocab(t) + (int)draw(seed, 9);
        else if (kind == 1) id = -1 - (int)draw(seed, 3);
        else if (kind == 2 && control->len) id = control->at[draw(seed, (uint32_t)control->len)];
        else if (bytes) id = (int)((near + draw(seed, 24)) % vocab);
        ids_put(out, id);
    }
}

static void adds_up(const char *name, const struct tokenizer *t, struct detok *d, bool specials,
                    const struct ids *ids) {
    struct buf all = { 0 }, sum = { 0 };
    tok_decode(t, ids->at, ids->len, specials, &all);
    for (int i = 0; i <= ids->len; i++) {
        size_t old = sum.len;
        if (i < ids->len) detok_push(d, ids->at[i], &sum);
        else detok_flush(d, &sum);
        if (!utf8_valid(str_from(buf_view(&sum), old)))
            fail_msg("%s: piece %d of %d is no whole UTF-8", name, i, ids->len);
    }
    if (!str_eq(buf_view(&all), buf_view(&sum)))
        fail_msg("%s: as a stream \"%s\", at once \"%s\"", name, buf_c(&sum), buf_c(&all));
    buf_free(&all);
    buf_free(&sum);
}

static void random_folder(const char *name) {
    enum { ROUNDS = 2000 };
    struct tokenizer *t = open_one(name);
    struct ids ids = { 0 }, control = { 0 };
    uint64_t seed = 7;
    for (int i = 0; i < tok_vocab(t); i++)
        if (tok_is_added(t, i)) ids_put(&control, i);
    struct detok *plain = detok_open(t, false), *full = detok_open(t, true);
    for (int i = 0; i < ROUNDS; i++) {
        random_ids(t, &control, &seed, &ids);
        adds_up(name, t, i % 2 ? full : plain, i % 2, &ids);
    }
    detok_close(plain);
    detok_close(full);
    ids_free(&ids);
    ids_free(&control);
    tok_close(t);
}

static void random_ids_of_every_kind(void **state) {
    (void)state;
    DIR *dir = opendir(FOLDER);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (!strchr(e->d_name, '.')) {
            random_folder(e->d_name);
            n++;
        }
    closedir(dir);
    assert_true(n >= 40);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(incomplete_character_waits),
        cmocka_unit_test(leading_space_goes_where_stripped),
        cmocka_unit_test(byte_level_space_is_not_delayed),
        cmocka_unit_test(spaces_are_not_cleaned_up), cmocka_unit_test(added_tokens_and_odd_ids),
        cmocka_unit_test(byte_fallback_over_tokens), cmocka_unit_test(random_ids_of_every_kind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

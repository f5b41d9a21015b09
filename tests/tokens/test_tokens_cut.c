/* test_tokens_cut.c - TK-22: vocabulary files cut off at many places are refused, or hold fewer
 * tokens; none crashes. And a GGUF file made here, whole and cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tokens/build.h"

typedef bool reader(struct tokenizer *, struct str, struct err *);

static bool reads(reader *read, struct str file, int *vocab) {
    struct tokenizer *t = tokenizer_blank();
    struct err err = { 0 };
    struct ids ids = { 0 };
    char *copy = mem_str(file);      /* so that a byte read behind the end is found */
    bool done = read(t, (struct str){ copy, file.len }, &err) && tokenizer_ready(t, &err);
    assert_true(done == !err.text[0]);
    if (done) {
        tok_encode(t, S("Hello, world! 天地 \xff <0x41>"), TOK_SPECIALS, NULL, 0, &ids);
        for (int i = 0; i < ids.len; i++)
            assert_in_range(ids.at[i], 0, tok_vocab(t) - 1);
        *vocab = tok_vocab(t);
    }
    ids_free(&ids);
    tok_close(t);
    free(copy);
    return done;
}

static bool cl100k(struct tokenizer *t, struct str file, struct err *err) {
    return tiktoken_read(t, file, build_pre_find(S("cl100k")), err);
}

/* Every prefix at the ends of the file, every 37th between: a whole file takes its time. */
static void cut(const char *path, reader *read, bool refused) {
    struct buf file = { 0 };
    struct err err = { 0 };
    int whole = 0, part = 0;
    assert_true(buf_read_file(&file, path, 1 << 24, &err));
    assert_true(reads(read, buf_view(&file), &whole));
    for (size_t n = 0; n < file.len; n += n < 200 || n + 200 > file.len ? 1 : 37)
        if (reads(read, str_cut(buf_view(&file), 0, n), &part)) {
            assert_false(refused);
            assert_true(part <= whole);
        }
    buf_free(&file);
}

static void test_sentencepiece(void **state) {
    (void)state;
    cut("tests/tokens/spm-bpe-plain/tokenizer.model", sentencepiece_read, false);
    cut("tests/tokens/spm-unigram-user/tokenizer.model", sentencepiece_read, false);
}

static void test_tiktoken(void **state) {
    (void)state;
    cut("tests/tokens/tiktoken/cl100k_base.tiktoken", cl100k, false);
    cut("tests/tokens/tekken-file/tekken.json", tekken_read, true);
}

static void put_number(struct buf *b, uint64_t n, size_t size) {
    buf_put(b, &n, size);
}

static void put_text(struct buf *b, const char *s) {
    put_number(b, strlen(s), 8);
    buf_str(b, str_of(s));
}

static void put_list(struct buf *b, const char *key, const char *const *text, uint64_t n) {
    put_text(b, key);
    put_number(b, 9, 4);
    put_number(b, 8, 4);
    put_number(b, n, 8);
    for (uint64_t i = 0; i < n; i++)
        put_text(b, text[i]);
}

static void test_gguf(void **state) {
    static const char *const tokens[] = { "a", "b", "ab", "<s>" }, *const merges[] = { "a b" };
    struct buf b = { 0 };
    int vocab = 0;
    (void)state;
    buf_str(&b, S("GGUF"));
    put_number(&b, 3, 4);
    put_number(&b, 0, 8);
    put_number(&b, 5, 8);
    put_text(&b, "general.alignment");
    put_number(&b, 4, 4);
    put_number(&b, 32, 4);
    put_text(&b, "tokenizer.ggml.model");
    put_number(&b, 8, 4);
    put_text(&b, "gpt2");
    put_list(&b, "tokenizer.ggml.tokens", tokens, 4);
    put_list(&b, "tokenizer.ggml.merges", merges, 1);
    put_text(&b, "tokenizer.ggml.bos_token_id");
    put_number(&b, 4, 4);
    put_number(&b, 3, 4);
    assert_true(reads(gguf_vocab_read, buf_view(&b), &vocab));
    assert_int_equal(vocab, 4);
    for (size_t n = 0; n < b.len; n++)
        assert_false(reads(gguf_vocab_read, str_cut(buf_view(&b), 0, n), &vocab));
    /* Every byte made large: lengths and counts beyond the file. */
    for (size_t i = 0; i < b.len; i++) {
        char old = b.at[i];
        b.at[i] = (char)0xff;
        reads(gguf_vocab_read, buf_view(&b), &vocab);
        b.at[i] = old;
    }
    buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentencepiece), cmocka_unit_test(test_tiktoken),
        cmocka_unit_test(test_gguf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

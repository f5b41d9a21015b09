/* test_tokens_literal.c - TK-20 where a model spells control tokens by itself: each kind of model
 * has such a token among its pieces, and what users wrote must still not become it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "tokens/tokens.h"

#define ADDED(id, text) "\"added_tokens\":[{\"id\":" #id ",\"content\":\"" text \
    "\",\"special\":true,\"normalized\":false,\"single_word\":true}],"
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false," \
    "\"use_regex\":false},"

/* single_word, so that "a<s>" is not found as an added token and comes to the model, which is
 * what the original does: `with` are its ids, `plain` ours for a text of users. */
static const struct row { const char *id, *body, *text, *with, *plain; } rows[] = {
    { "Unigram", ADDED(1, "<s>") "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":"
      "[[\"<unk>\",0],[\"<s>\",0],[\"a\",-1],[\"<\",-2],[\"s\",-2],[\">\",-2]]}",
      "a<s>a", "2 1 2", "2 3 4 5 2" },
    { "Unigram, a run of unknown", ADDED(1, "<s>") "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,"
      "\"vocab\":[[\"<unk>\",0],[\"<s>\",-99],[\"a\",-1]]}", "a<s>a", "2 1 2", "2 0 2" },
    { "Unigram after NFKC", ADDED(1, "<s>") "\"normalizer\":{\"type\":\"NFKC\"},"
      "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":"
      "[[\"<unk>\",0],[\"<s>\",0],[\"a\",-1],[\"<\",-2],[\"s\",-2],[\">\",-2]]}",
      "\xef\xbc\x9cs\xef\xbc\x9e", "1", "3 4 5" },
    { "BPE by merges", ADDED(5, "<s>") "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"<\":1,"
      "\"s\":2,\">\":3,\"<s\":4,\"<s>\":5},\"merges\":[\"< s\",\"<s >\"]}", "a<s>", "0 5",
      "0 4 3" },
    { "BPE by merges, long", ADDED(5, "<s>") "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,"
      "\"<\":1,\"s\":2,\">\":3,\"<s\":4,\"<s>\":5},\"merges\":[\"< s\",\"<s >\"]}",
      "a<s>aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
      "0 5 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0",
      "0 4 3 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0" },
    { "BPE by a character", ADDED(1, "\u00a7") "\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\","
      "\"vocab\":{\"a\":0,\"\u00a7\":1,\"u\":2},\"merges\":[]}", "a\u00a7", "0 1", "0 2" },
    { "BPE, whole words", ADDED(3, "ab") BYTES "\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,"
      "\"vocab\":{\"a\":0,\"b\":1,\"abb\":2,\"ab\":3,\"bb\":4},\"merges\":[\"b b\"]}", "ab", "3",
      "0 1" },
    { "padding that is a character", ADDED(1, "!") "\"model\":{\"type\":\"BPE\",\"vocab\":"
      "{\"a\":0,\"!\":1},\"merges\":[]}", "a!", "0 1", "0 1" },
    { "WordPiece", ADDED(2, "##cd") "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\","
      "\"vocab\":{\"u\":0,\"ab\":1,\"##cd\":2,\"##c\":3,\"##d\":4}}", "abcd", "1 2", "1 3 4" },
    { "WordPiece, the word", ADDED(1, "ab") "\"pre_tokenizer\":{\"type\":\"Whitespace\"},"
      "\"normalizer\":{\"type\":\"Lowercase\"},\"model\":{\"type\":\"WordPiece\","
      "\"unk_token\":\"u\",\"vocab\":{\"u\":0,\"ab\":1,\"x\":2}}", "x AB", "2 1", "2 0" },
    { "WordLevel", ADDED(1, "<s>") "\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":3},"
      "\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"u\",\"vocab\":"
      "{\"u\":0,\"<s>\":1,\"abc\":2}}", "abc<s>", "2 1", "2 0" },
};

static char folder[64], path[96], config[96];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tokens-literal-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    snprintf(config, sizeof config, "%s/tokenizer_config.json", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(path);
    unlink(config);
    return rmdir(folder);
}

static void put_file(const char *name, const char *begin, const char *body, const char *end) {
    FILE *f = fopen(name, "wb");
    assert_non_null(f);
    fprintf(f, "%s%s%s", begin, body, end);
    assert_int_equal(fclose(f), 0);
}

static struct tokenizer *open_row(const struct row *row, const char *ends) {
    struct err err = { 0 };
    put_file(path, "{", row->body, "}");
    put_file(config, "", ends, "");
    struct tokenizer *t = tok_open(folder, &err);
    if (!t) fail_msg("%s: %s", row->id, err.text);
    return t;
}

static void check(const struct tokenizer *t, const struct row *row, unsigned flags,
                  const struct literal_span *span, int n_spans, const char *want) {
    struct ids ids = { 0 };
    struct buf got = { 0 };
    tok_encode(t, str_of(row->text), flags, span, n_spans, &ids);
    for (int i = 0; i < ids.len; i++)
        buf_format(&got, "%s%d", i ? " " : "", ids.at[i]);
    if (strcmp(buf_c(&got), want) != 0)
        fail_msg("%s (flags %u, %d spans): %s, not %s", row->id, flags, n_spans, buf_c(&got), want);
    buf_free(&got);
    ids_free(&ids);
}

static void every_model(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct tokenizer *t = open_row(&rows[i], "{}");
        size_t n = strlen(rows[i].text);
        /* One byte of a word that users wrote is enough. */
        const struct literal_span spans[] = { { 0, n }, { 0, 1 }, { n - 1, n } };
        check(t, &rows[i], TOK_SPECIALS, NULL, 0, rows[i].with);
        check(t, &rows[i], 0, NULL, 0, rows[i].plain);
        for (size_t s = 0; s < COUNT(spans); s++)
            check(t, &rows[i], TOK_SPECIALS, &spans[s], 1, rows[i].plain);
        tok_close(t);
    }
}

/* A word that was read as a control token outside of what users wrote is not remembered for what
 * they did write. */
static void same_word_both_ways(void **state) {
    (void)state;
    static const struct row row = { "both ways", "\"added_tokens\":[{\"id\":6,\"content\":\"|\","
        "\"special\":true,\"normalized\":false},{\"id\":5,\"content\":\"<s>\",\"special\":true,"
        "\"single_word\":true,\"normalized\":false}],\"model\":{\"type\":\"BPE\",\"vocab\":"
        "{\"a\":0,\"<\":1,\"s\":2,\">\":3,\"<s\":4,\"<s>\":5,\"|\":6},"
        "\"merges\":[\"< s\",\"<s >\"]}", "a<s>|a<s>|a<s>", NULL, NULL };
    struct tokenizer *t = open_row(&row, "{}");
    struct literal_span span = { 5, 9 };
    check(t, &row, TOK_SPECIALS, &span, 1, "0 5 6 0 4 3 6 0 5");
    tok_close(t);
}

/* What stands for the unknown is no command, but where it ends an answer as well. */
static void the_end_as_the_unknown(void **state) {
    (void)state;
    static const struct row row = { "end", ADDED(1, "</s>") "\"model\":{\"type\":\"BPE\","
        "\"unk_token\":\"</s>\",\"vocab\":{\"a\":0,\"</s>\":1},\"merges\":[]}", "abc",
        NULL, NULL };
    static const char *const ends[] = { "{}", "{\"eos_token\":\"</s>\"}",
                                        "{\"bos_token\":\"</s>\"}" };
    for (size_t i = 0; i < COUNT(ends); i++) {
        struct tokenizer *t = open_row(&row, ends[i]);
        check(t, &row, TOK_SPECIALS, NULL, 0, "0 1 1");
        check(t, &row, 0, NULL, 0, i ? "0" : "0 1 1");
        tok_close(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_model),
                                        cmocka_unit_test(the_end_as_the_unknown),
                                        cmocka_unit_test(same_word_both_ways) };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}

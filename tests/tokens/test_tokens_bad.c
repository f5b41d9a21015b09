/* test_tokens_bad.c - tokenizer files that must be refused with a sentence, or taken as documented.
 *
 * A row is the model and whatever else goes into the file; `says` is a part of the sentence, or
 * NULL when the file must open. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "tokens/tokens.h"

#define BPE "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static const struct row { const char *id, *body, *says; } rows[] = {
    { "plain", BPE, NULL },
    { "TK-01 empty", "", "no model" },
    { "TK-01 version", "\"version\":\"2.0\"," BPE, "version" },
    { "TK-01 type", "\"model\":{\"type\":\"X\",\"vocab\":{}}", "unknown model type" },
    { "TK-01 no type", "\"model\":{\"vocab\":{\"a\":0}}", "no type" },
    { "TK-01 no vocabulary", "\"model\":{\"type\":\"BPE\",\"merges\":[]}", "vocabulary" },
    { "TK-02 negative", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}", "id" },
    { "TK-02 2^31",
      "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2147483648},\"merges\":[]}", "id" },
    { "TK-02 fraction", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]}", "id" },
    { "TK-02 same id", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}",
      "the id of another" },
    { "TK-02 same token", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"a\":2},\"merges\":[]}",
      "twice" },
    { "TK-02 gap", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":9},\"merges\":[]}", NULL },
    { "TK-03 unknown part", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}",
      "not in the vocabulary" },
    { "TK-03 unknown whole",
      "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\",\"b\"]]}",
      "not in the vocabulary" },
    { "TK-03 one part", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}",
      "not two parts" },
    { "TK-03 three parts",
      "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[[\"a\",\"a\",\"a\"]]}",
      "two parts" },
    { "TK-03 three words",
      "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}",
      "not two parts" },
    { "TK-03 no merges", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}", "without merges" },
    { "TK-03 both forms",
      "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"aba\":3},"
      "\"merges\":[\"a b\",[\"ab\",\"a\"]]}", NULL },
    { "TK-03 merges first", "\"model\":{\"merges\":[\"a b\"],\"type\":\"BPE\","
      "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}}", NULL },
    { "TK-03 type, then merges", "\"model\":{\"type\":\"BPE\",\"merges\":[\"a b\"],"
      "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2}}", NULL },
    /* Each merge makes of two symbols one, whatever it makes: no circle goes on for ever. */
    { "TK-04 to itself", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\":1},"
      "\"merges\":[[\"a\",\"\"],[\"\",\"a\"]]}", NULL },
    { "TK-04 of itself", "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2},"
      "\"merges\":[[\"aa\",\"aa\"],[\"a\",\"a\"],[\"aa\",\"aa\"]]}", NULL },
    { "dropout", "\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"vocab\":{\"a\":0},\"merges\":[]}",
      "dropout" },
    { "two models", BPE "," BPE, "two models" },
    { "TK-06 bad UTF-8",
      "\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xff\":0},\"merges\":[]}", "UTF-8" },
    { "TK-07 odd byte tokens", "\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,"
      "\"vocab\":{\"<0x-1>\":0,\"<0xZZ>\":1,\"<0x100>\":2,\"<0x4A>\":3,\"<0x4a>\":4},"
      "\"merges\":[]}", NULL },
    { "TK-08 empty added", "\"added_tokens\":[{\"id\":3,\"content\":\"\",\"special\":true}]," BPE,
      NULL },
    { "TK-08 nested", "\"added_tokens\":[{\"id\":3,\"content\":\"<a>\",\"special\":true},"
      "{\"id\":4,\"content\":\"<a><a>\",\"special\":true}]," BPE, NULL },
    { "added without text", "\"added_tokens\":[{\"id\":3}]," BPE, "content" },
    { "added id", "\"added_tokens\":[{\"id\":-3,\"content\":\"x\"}]," BPE, "range" },
    { "TK-09 invalid class",
      "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[z-a]\"},"
      "\"behavior\":\"Isolated\",\"invert\":false}," BPE, "regex" },
    { "TK-09 unclosed", "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a\"},"
      "\"behavior\":\"Isolated\",\"invert\":false}," BPE, "class" },
    { "TK-09 repeat",
      "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a{1000000}\"},"
      "\"behavior\":\"Isolated\",\"invert\":false}," BPE, "regex" },
    { "TK-09 nested quantifier", "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":"
      "\"(a+)+$\"},\"behavior\":\"Isolated\",\"invert\":false}," BPE, NULL },
    { "TK-09 empty matches", "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"x*\"},"
      "\"behavior\":\"Isolated\",\"invert\":false}," BPE, NULL },
    { "TK-09 no pattern", "\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\"}," BPE,
      "pattern" },
    { "TK-09 behavior", "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},"
      "\"behavior\":\"No\"}," BPE, "unknown word" },
    { "unknown pre_tokenizer", "\"pre_tokenizer\":{\"type\":\"No\"}," BPE, "\"No\"" },
    { "FixedLength 0", "\"pre_tokenizer\":{\"type\":\"FixedLength\",\"length\":0}," BPE, "length" },
    { "TK-10 unknown", "\"normalizer\":{\"type\":\"No\"}," BPE, "\"No\"" },
    { "TK-10 replace", "\"normalizer\":{\"type\":\"Replace\",\"content\":\"x\"}," BPE, "pattern" },
    { "TK-11 truncation", "\"truncation\":{\"max_length\":2147483648},\"padding\":{\"strategy\":"
      "{\"Fixed\":2147483648}}," BPE, NULL },
    { "TK-12 infinite", "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",1e999]]}",
      "score" },
    { "TK-12 NaN",
      "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\",NaN]]}", "value" },
    { "TK-12 unk",
      "\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",0]]}", "unk_id" },
    { "TK-12 shape", "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"a\"]]}", "score" },
    { "Unigram", "\"model\":{\"type\":\"Unigram\",\"unk_id\":null,\"vocab\":[[\"a\",-1]]}", NULL },
    { "TK-13 not base64",
      "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"*\"},"
      BPE, "base64" },
    { "TK-13 truncated", "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":"
      "\"AAAAAA==\"}," BPE, "precompiled_charsmap" },
    { "TK-13 offsets", "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":"
      "\"BAAAAP////8A\"}," BPE, NULL },
    { "WordPiece without unk", "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"vocab\":"
      "{\"a\":0}}", "unk_token" },
    { "post_processor", "\"post_processor\":{\"type\":\"No\"}," BPE, "\"No\"" },
    { "template without ids", "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
      "[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}]}," BPE, "no id" },
    { "template id", "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
      "[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":"
      "{\"x\":{\"ids\":[77]}}}," BPE, "77" },
    { "decoder", "\"decoder\":{\"type\":\"No\"}," BPE, "\"No\"" },
    { "not an object", "\"model\":[]", "object" },
    { "deep",
      "\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "deep" },
};

static char folder[64];

static void put_file(const char *name, const char *begin, const char *body, const char *end) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fprintf(f, "%s%s%s", begin, body, end);
    assert_int_equal(fclose(f), 0);
}

static void drop_file(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/tokens-bad-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state) {
    (void)state;
    drop_file("tokenizer.json");
    drop_file("tokenizer_config.json");
    return rmdir(folder);
}

/* A tokenizer that opens must also stand a text and odd ids. */
static void use(const struct tokenizer *t) {
    static const char text[] = "ab <a><a> aaaa\xff <0x4A> J";
    struct ids ids = { 0 };
    struct buf out = { 0 };
    tok_encode(t, (struct str){ text, sizeof text }, TOK_SPECIALS | TOK_ADD_BOS, NULL, 0, &ids);
    for (int i = 0; i < ids.len; i++)
        assert_in_range(ids.at[i], 0, tok_vocab(t) - 1);
    const int odd[] = { -1, 0, 1 << 30, tok_vocab(t) };
    tok_decode(t, odd, 4, true, &out);
    ids_free(&ids);
    buf_free(&out);
}

static void test_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct err err = { 0 };
        put_file("tokenizer.json", "{", rows[i].body, "}");
        struct tokenizer *t = tok_open(folder, &err);
        if (rows[i].says && t)
            fail_msg("%s: opened", rows[i].id);
        if (rows[i].says && !strstr(err.text, rows[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].id, err.text, rows[i].says);
        if (!rows[i].says && !t)
            fail_msg("%s: %s", rows[i].id, err.text);
        if (t) {
            assert_int_equal(err.code, ERR_NONE);
            use(t);
        }
        tok_close(t);
    }
}

/* Every prefix of a file is refused, and none crashes. */
static void test_cut(void **state) {
    (void)state;
    const char *whole = "{\"added_tokens\":[{\"id\":3,\"content\":\"<a>\",\"special\":true}],"
        "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]},"
        "\"post_processor\":{\"type\":\"RobertaProcessing\",\"sep\":[\"a\",0],\"cls\":[\"b\",1]},"
        "\"decoder\":{\"type\":\"Fuse\"}," BPE "}";
    char *cut = strdup(whole);
    for (size_t n = strlen(whole); n--;) {
        struct err err = { 0 };
        cut[n] = 0;
        put_file("tokenizer.json", "", cut, "");
        struct tokenizer *t = tok_open(folder, &err);
        assert_null(t);
        assert_true(err.text[0]);
    }
    free(cut);
}

/* TK-10: a becomes aa, 40 times over. */
static void test_growth(void **state) {
    (void)state;
    struct buf b = { 0 };
    struct err err = { 0 };
    buf_str(&b, S("\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["));
    for (int i = 0; i < 40; i++)
        buf_format(&b, "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}",
                   i ? "," : "");
    buf_str(&b, S("]}," BPE));
    put_file("tokenizer.json", "{", buf_c(&b), "}");
    assert_null(tok_open(folder, &err));
    assert_non_null(strstr(err.text, "too long"));
    buf_free(&b);
}

/* TK-14: special tokens that the vocabulary has not, among others. */
static void test_config(void **state) {
    static const struct { const char *text, *says; int bos, eos, n; } configs[] = {
        { "{}", NULL, -1, -1, 1 },
        { "{\"bos_token\":\"a\",\"eos_token\":{\"content\":\"b\"}}", NULL, 0, 1, 1 },
        { "{\"bos_token\":\"a\",\"add_bos_token\":true,\"model_max_length\":Infinity}", NULL, 0, -1,
          2 },
        { "{\"bos_token\":\"a\",\"eos_token\":\"b\",\"add_bos_token\":true,\"add_eos_token\":true}",
          NULL, 0, 1, 3 },
        { "{\"bos_token\":\"<new>\",\"add_bos_token\":true,\"added_tokens_decoder\":{\"3\":"
          "{\"content\":\"<new>\",\"special\":true,\"normalized\":false}}}", NULL, 3, -1, 2 },
        { "{\"added_tokens_decoder\":{\"3\":{\"content\":7}}}", "tokenizer_config.json", -1, -1,
          0 },
        { "{\"bos_token\":null,\"add_bos_token\":true}", NULL, -1, -1, 1 },
        { "{\"bos_token\":\"nope\"}", "nope", -1, -1, 0 },
        { "{\"bos_token\":", "tokenizer_config.json", -1, -1, 0 },
        { "[]", "tokenizer_config.json", -1, -1, 0 },
    };
    (void)state;
    put_file("tokenizer.json", "{", BPE, "}");
    for (size_t i = 0; i < COUNT(configs); i++) {
        struct err err = { 0 };
        struct ids ids = { 0 };
        put_file("tokenizer_config.json", configs[i].text, "", "");
        struct tokenizer *t = tok_open(folder, &err);
        assert_true(!t == (configs[i].says != NULL));
        if (!t) {
            assert_non_null(strstr(err.text, configs[i].says));
            continue;
        }
        assert_int_equal(tok_bos(t), configs[i].bos);
        assert_int_equal(tok_eos(t), configs[i].eos);
        tok_encode(t, S("ab"), TOK_SPECIALS | TOK_ADD_BOS, NULL, 0, &ids);
        assert_int_equal(ids.len, configs[i].n);
        ids_free(&ids);
        tok_close(t);
    }
    drop_file("tokenizer_config.json");
}

/* Where tokenizer_config.json does not say. */
static void test_special_map(void **state) {
    struct err err = { 0 };
    (void)state;
    put_file("tokenizer.json", "{", BPE, "}");
    put_file("special_tokens_map.json", "{\"bos_token\":\"zz\",",
             "\"eos_token\":{\"content\":\"b\"}", "}");
    struct tokenizer *t = tok_open(folder, &err);
    assert_non_null(t);
    assert_int_equal(tok_bos(t), -1);
    assert_int_equal(tok_eos(t), 1);
    tok_close(t);
    put_file("special_tokens_map.json", "{", "", "");
    assert_null(tok_open(folder, &err));
    assert_non_null(strstr(err.text, "special_tokens_map.json"));
    drop_file("special_tokens_map.json");
}

/* TK-01 */
static void test_missing(void **state) {
    struct err err = { 0 };
    (void)state;
    drop_file("tokenizer.json");
    assert_null(tok_open(folder, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows), cmocka_unit_test(test_cut), cmocka_unit_test(test_growth),
        cmocka_unit_test(test_config), cmocka_unit_test(test_special_map),
        cmocka_unit_test(test_missing),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}

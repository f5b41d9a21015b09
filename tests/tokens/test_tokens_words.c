/* test_tokens_words.c - where a text is cut into words that no file names: BPE without a
 * pre-tokenizer at SentencePiece's spaces, if no merge leads over one; and tekken's special tokens
 * that its list leaves out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tokens/build.h"

#define SP "\xe2\x96\x81"
#define HEAD "{\"version\":\"1.0\"," \
    "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"" SP "\"}," \
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":true," \
    "\"vocab\":{\"?\":0,\"a\":1,\"b\":2,\"" SP "\":3,\"" SP "b\":4,\"a" SP "b\":5," \
    "\"" SP SP "\":6,\"ab\":7},"
#define WORDS "[\"" SP "\",\"b\"],[\"" SP "\",\"" SP "\"],[\"a\",\"b\"]"

static struct tokenizer *opened(const char *file, bool (*read)(struct tokenizer *, struct str,
                                                               struct err *)) {
    struct tokenizer *t = tokenizer_blank();
    struct err err = { 0 };
    if (!read(t, str_of(file), &err) || !tokenizer_ready(t, &err))
        fail_msg("%s", err.text);
    return t;
}

/* As it stands, and 100 times in a row, so that words are remembered and the text is long. */
static void gives(const struct tokenizer *t, const char *text, const int *want, int n) {
    struct buf many = { 0 };
    struct ids ids = { 0 };
    for (int times = 1; times <= 100; times += 99) {
        buf_clear(&many);
        ids.len = 0;
        for (int i = 0; i < times; i++)
            buf_str(&many, str_of(text));
        tok_encode(t, buf_view(&many), TOK_SPECIALS, NULL, 0, &ids);
        if (ids.len != n * times)
            fail_msg("\"%s\" %d times: %d ids", text, times, ids.len);
        for (int i = 0; i < ids.len; i++)
            assert_int_equal(ids.at[i], want[i % n]);
    }
    ids_free(&ids);
    buf_free(&many);
}

static void cut_at_spaces(void **state) {
    struct tokenizer *t = opened(HEAD "\"merges\":[" WORDS "]}}", tokenizer_json_read);
    static const int two[] = { 1, 4, 1 }, spaces[] = { 1, 6, 4, 2 }, odd[] = { 0, 4, 0, 3, 1 };
    (void)state;
    gives(t, "a ba", two, 3);
    gives(t, "a   bb", spaces, 4);
    gives(t, "xy bz a", odd, 5);
    tok_close(t);
}

/* Here a merge leads from "a" over the space: cut, the text would miss it. */
static void not_where_a_merge_leads_over(void **state) {
    struct tokenizer *t = opened(HEAD "\"merges\":[" WORDS ",[\"a\",\"" SP "b\"]]}}",
                                 tokenizer_json_read);
    static const int one[] = { 5, 1, 6, 3 };
    (void)state;
    gives(t, "a ba   ", one, 4);
    tok_close(t);
}

static void tekken_fills_its_specials(void **state) {
    static const char file[] =
        "{\"config\":{\"pattern\":\"a|b\",\"default_vocab_size\":6,"
        "\"default_num_special_tokens\":4},\"special_tokens\":["
        "{\"rank\":0,\"token_str\":\"<unk>\"},{\"rank\":1,\"token_str\":\"<s>\"}],"
        "\"vocab\":[{\"rank\":0,\"token_bytes\":\"YQ==\"},{\"rank\":1,\"token_bytes\":\"Yg==\"}]}";
    struct tokenizer *t = opened(file, tekken_read);
    static const int want[] = { 4, 3, 5, 2, 1 };
    struct buf out = { 0 };
    (void)state;
    gives(t, "a<SPECIAL_3>b<SPECIAL_2><s>", want, 5);
    tok_decode(t, want, 5, false, &out);
    assert_true(str_is(buf_view(&out), "ab"));
    buf_free(&out);
    tok_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_at_spaces), cmocka_unit_test(not_where_a_merge_leads_over),
        cmocka_unit_test(tekken_fills_its_specials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* fuzz_tokenizer.c - any bytes as tokenizer.json, and as a text to encode with it.
 *
 * What comes before the first NUL is the file; behind it come two numbers, a literal span, and the
 * text. The pieces of a stream must add up to what decoding at once gives. */
#include <stdlib.h>
#include "base/utf8.h"
#include "tokens/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *t, struct str text, struct literal_span span) {
    struct ids ids = { 0 };
    struct buf all = { 0 }, sum = { 0 };
    tok_encode(t, text, TOK_SPECIALS | TOK_ADD_BOS, &span, 1, &ids);
    struct detok *d = detok_open(t, true);
    for (int i = 0; i < ids.len; i++) {
        if (ids.at[i] < 0 || ids.at[i] >= tok_vocab(t)) abort();
        detok_push(d, ids.at[i], &sum);
        if (!utf8_valid(buf_view(&sum))) abort();
    }
    detok_flush(d, &sum);
    detok_close(d);
    tok_decode(t, ids.at, ids.len, true, &all);
    if (!str_eq(buf_view(&all), buf_view(&sum))) abort();
    buf_free(&all);
    buf_free(&sum);
    ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str all = { (const char *)data, size };
    size_t end = 0;
    while (end < size && data[end]) end++;
    struct str file = str_cut(all, 0, end), rest = str_from(all, end + 1);
    struct literal_span span = { 0, 0 };
    if (rest.len >= 2) {
        size_t a = (uint8_t)rest.at[0], b = (uint8_t)rest.at[1];
        rest = str_cut(str_from(rest, 2), 0, 1 << 12);
        span = (struct literal_span){ MIN(MIN(a, b), rest.len), MIN(MAX(a, b), rest.len) };
    }
    struct err err = { 0 };
    struct tokenizer *t = tokenizer_blank();
    if (tokenizer_json_read(t, file, &err) && tokenizer_ready(t, &err))
        use(t, rest, span);
    else if (!err.text[0])
        abort();
    tok_close(t);
    return 0;
}

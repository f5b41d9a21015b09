/* fuzz_sentencepiece.c - any bytes as tokenizer.model.
 *
 * What opens must encode its own bytes into ids that it has, and decode them to UTF-8. */
#include <stdlib.h>
#include "base/utf8.h"
#include "tokens/build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str file = { (const char *)data, size };
    struct err err = { 0 };
    struct ids ids = { 0 };
    struct buf out = { 0 };
    struct tokenizer *t = tokenizer_blank();
    if (sentencepiece_read(t, file, &err) && tokenizer_ready(t, &err)) {
        tok_encode(t, str_cut(file, 0, 1 << 10), TOK_SPECIALS | TOK_ADD_BOS, NULL, 0, &ids);
        for (int i = 0; i < ids.len; i++)
            if (ids.at[i] < 0 || ids.at[i] >= tok_vocab(t)) abort();
        tok_decode(t, ids.at, ids.len, true, &out);
        if (!utf8_valid(buf_view(&out))) abort();
    } else if (!err.text[0]) {
        abort();
    }
    ids_free(&ids);
    buf_free(&out);
    tok_close(t);
    return 0;
}

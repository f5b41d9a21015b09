/* fuzz_vocabulary.c - any bytes as the vocabulary files other than tokenizer.json
 * and SentencePiece's.
 *
 * The first byte chooses the reader. What opens must encode and decode. */
#include <stdlib.h>
#include "base/utf8.h"
#include "tokens/build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool tiktoken(struct tokenizer *t, struct str file, struct err *err) {
    return tiktoken_read(t, file, build_pre_find(S("qwen2")), err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool (*const readers[])(struct tokenizer *, struct str, struct err *) = {
        plamo_read, gguf_vocab_read, tiktoken, tekken_read, rwkv_read,
    };
    if (!size) return 0;
    struct str file = { (const char *)data + 1, size - 1 };
    struct err err = { 0 };
    struct ids ids = { 0 };
    struct buf out = { 0 };
    struct tokenizer *t = tokenizer_blank();
    if (readers[data[0] % COUNT(readers)](t, file, &err) && tokenizer_ready(t, &err)) {
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

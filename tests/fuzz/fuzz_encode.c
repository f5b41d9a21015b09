/* fuzz_encode.c - any bytes as a text, for small vocabularies of every kind in tests/tokens.
 *
 * The first byte chooses the vocabulary, three more are flags and a literal span. The rest is
 * encoded, and is ids as well: a stream's pieces are UTF-8 and add up to what decoding at once
 * gives, and no control token comes from a text of users. Run it from the top folder. */
#include <stdio.h>
#include <stdlib.h>
#include "base/utf8.h"
#include "tokens/tokens.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "gpt2", "gpt2-prefix", "llama3", "qwen2", "qwen35", "o200k", "tekken", "kimi", "deepseek3",
    "deepseek1", "starcoder", "falcon", "clip", "prefix-unk", "behaviors", "byte-normalizer",
    "strip-nfkd", "llama2", "gemma", "metaspace-first", "metaspace-always", "unigram",
    "unigram-bytes", "unigram-charsmap", "bert", "bert-cased", "wordlevel", "fixed", "scripts",
    "spm-bpe", "spm-bpe-plain", "spm-unigram", "spm-unigram-user", "tiktoken", "tekken-file",
    "rwkv", "plamo", "gguf-bert/vocab.gguf", "gguf-rwkv/vocab.gguf", "gguf-plamo2/vocab.gguf",
};

static const struct tokenizer *tokenizer_of(size_t i) {
    static struct tokenizer *open[COUNT(names)];
    struct err err = { 0 };
    struct buf path = { 0 };
    if (!open[i]) {
        buf_format(&path, "tests/tokens/%s", names[i]);
        open[i] = tok_open(buf_c(&path), &err);
        if (!open[i]) {
            fprintf(stderr, "%s\n", err.text);
            abort();
        }
        buf_free(&path);
    }
    return open[i];
}

static void decode(const struct tokenizer *t, const int *ids, int n, bool specials) {
    struct buf all = { 0 }, sum = { 0 };
    struct detok *d = detok_open(t, specials);
    for (int i = 0; i < n; i++) {
        size_t old = sum.len;
        detok_push(d, ids[i], &sum);
        if (!utf8_valid(str_from(buf_view(&sum), old))) abort();
    }
    detok_flush(d, &sum);
    detok_close(d);
    tok_decode(t, ids, n, specials, &all);
    if (!str_eq(buf_view(&all), buf_view(&sum))) abort();
    buf_free(&all);
    buf_free(&sum);
}

/* What stands for the unknown is the only control token that a text of users may become. */
static void no_commands(const struct tokenizer *t, const struct ids *ids) {
    int unk = tok_find(t, S("<unk>")), bert = tok_find(t, S("[UNK]"));
    for (int i = 0; i < ids->len; i++)
        if (tok_is_control(t, ids->at[i]) && ids->at[i] != unk && ids->at[i] != bert) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 4 || size > 1 << 13) return 0;
    const struct tokenizer *t = tokenizer_of(data[0] % COUNT(names));
    struct str text = { (const char *)data + 4, size - 4 };
    struct ids ids = { 0 }, plain = { 0 };
    struct literal_span span = { MIN(MIN(data[2], data[3]), text.len),
                                 MIN(MAX(data[2], data[3]), text.len) };
    struct literal_span whole = { 0, text.len };
    tok_encode(t, text, data[1] & 3, &span, 1, &ids);
    for (int i = 0; i < ids.len; i++)
        if (ids.at[i] < 0 || ids.at[i] >= tok_vocab(t)) abort();
    decode(t, ids.at, ids.len, data[1] & 4);
    ids.len = 0;
    tok_encode(t, text, 0, NULL, 0, &ids);
    tok_encode(t, text, TOK_SPECIALS, &whole, 1, &plain);
    if (ids.len != plain.len) abort();
    for (int i = 0; i < ids.len; i++)
        if (ids.at[i] != plain.at[i]) abort();
    no_commands(t, &ids);
    ids.len = 0;
    for (size_t i = 0; i < text.len; i++)
        ids_put(&ids, (int)((uint8_t)text.at[i] * 7u + i % 5) % (tok_vocab(t) + 9) - 3);
    decode(t, ids.at, ids.len, data[1] & 4);
    ids_free(&ids);
    ids_free(&plain);
    return 0;
}

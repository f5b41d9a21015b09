/* tokens.h - text to ids and back. Knows nothing of models or requests. */
#pragma once
#include "base/buf.h"

/* A growing list; a zeroed one is empty. */
struct ids { int *at; int len, cap; };
void ids_put(struct ids *, int id);
void ids_free(struct ids *);

struct tokenizer;                    /* immutable once open; shared by all threads */

/* A folder with tokenizer.json or another known vocabulary file (tekken.json, tiktoken's, RWKV's,
 * tokenizer.model) and, beside it, tokenizer_config.json for bos and the like; or a GGUF file. */
struct tokenizer *tok_open(const char *dir, struct err *);
void tok_close(struct tokenizer *);

/* Parts of a text in which control tokens are not recognised: what users wrote. Ordered,
 * not overlapping. Nothing there becomes one, not even by the model's own pieces. */
struct literal_span { size_t begin, end; };

enum tok_flags {
    TOK_SPECIALS = 1,                /* control tokens in the text are found (outside of spans) */
    TOK_ADD_BOS = 2                  /* what the post-processor adds: bos, perhaps eos */
};
/* Any bytes are taken: invalid UTF-8 counts as U+FFFD. What lies beyond 256 MiB is left out. */
void tok_encode(const struct tokenizer *, struct str text, unsigned flags,
                const struct literal_span *, int n_spans, struct ids *out);

int  tok_vocab(const struct tokenizer *);            /* ids are below this */
/* As spelt in the file; -1, or the empty view: none. */
int  tok_find(const struct tokenizer *, struct str token);
const char *tok_type(const struct tokenizer *);      /* "BPE", "Unigram", "WordPiece", ... */
struct str tok_text(const struct tokenizer *, int id);
bool tok_is_control(const struct tokenizer *, int id);           /* a special added token */
bool tok_is_added(const struct tokenizer *, int id);             /* special or not */
int  tok_bos(const struct tokenizer *);              /* -1: none */
int  tok_eos(const struct tokenizer *);              /* tokenizer_config's eos_token; -1: none */

/* All ids at once. specials: control tokens are written out as well. */
void tok_decode(const struct tokenizer *, const int *ids, int n, bool specials, struct buf *out);

/* A token's own bytes: no space is taken from it as if it began a text, and it may be a part of a
 * character. Control tokens as spelt; nothing for an id without a spelling. */
void tok_piece(const struct tokenizer *, int id, struct buf *out);

/* A stream: push gives complete UTF-8 only; the sum of all pieces, the flush included, is
 * byte for byte what tok_decode gives for all ids at once. */
struct detok;
struct detok *detok_open(const struct tokenizer *, bool specials);
void detok_push(struct detok *, int id, struct buf *out);
void detok_flush(struct detok *, struct buf *out);
void detok_close(struct detok *);

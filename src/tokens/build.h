/* build.h - tokenizers from the other file formats, put together from the parts that
 * tokenizer.json would name. */
#pragma once
#include "tokens/tokenizer.h"

/* GGUF's and SentencePiece's numbers agree. */
enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER, PIECE_UNUSED,
                  PIECE_BYTE };

struct build_piece { struct str text; double score; enum piece_type type; };

struct build_spm {
    const struct build_piece *piece; /* [n] by id */
    size_t n;
    bool unigram, byte_fallback, dummy_prefix, remove_extra_spaces;
    int unk, bos, eos;               /* -1: none */
    struct str charsmap;             /* bytes; empty: none */
};
/* A SentencePiece model: BPE by scores, or Unigram. */
bool build_sentencepiece(struct tokenizer *, const struct build_spm *, struct err *);

/* PLaMo's model of n tokens by id. */
bool build_plamo(struct tokenizer *, const struct build_piece *, size_t n, struct err *);

/* RWKV's: each token is bytes, which may be anything; all 256 single ones must be there. */
bool build_rwkv_put(struct tokenizer *, struct str bytes, uint64_t id, struct err *);
bool build_rwkv_done(struct tokenizer *, struct err *);

/* Steps from a JSON text of our own, as tokenizer.json has them. */
bool build_parts(struct tokenizer *, struct parts *, const char *json, struct err *);

/* A byte-level pre-tokenizer with these regexes, one after the other, and its decoder.
 * digits: single digits are cut out before that. */
bool build_byte_level(struct tokenizer *, const char *const *regex, int n, bool digits,
                      struct err *);

/* A token of bytes, spelt in their stand-ins. */
bool build_put_bytes(struct tokenizer *, struct str bytes, uint64_t id, struct err *);
/* The ranks of a byte-level vocabulary are the ids from `first` on. */
bool build_ranked(struct tokenizer *, int first, struct err *);

/* The regex that vocabularies without one stand for, by the names that GGUF uses; n: how many. */
struct build_pre {
    const char *names;               /* with spaces between them */
    const char *regex[4];
    bool digits, whole_words;
    bool bos;                        /* where the file does not say, a text begins with bos */
};
const struct build_pre *build_pre_find(struct str name);          /* NULL: unknown */

/* Readers of whole files. */
bool sentencepiece_read(struct tokenizer *, struct str file, struct err *);
bool tiktoken_read(struct tokenizer *, struct str file, const struct build_pre *, struct err *);
bool rwkv_read(struct tokenizer *, struct str file, struct err *);
bool plamo_read(struct tokenizer *, struct str file, struct err *);
bool tekken_read(struct tokenizer *, struct str file, struct err *);
/* Whether all of the metadata is there. */
bool gguf_head_whole(struct str file);
bool gguf_vocab_read(struct tokenizer *, struct str file, struct err *);

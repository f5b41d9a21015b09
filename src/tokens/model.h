/* model.h - what turns one word into ids: BPE, Unigram, WordPiece or WordLevel. */
#pragma once
#include "tokens/tokens.h"
#include "tokens/vocab.h"

struct pull;
struct arena;

struct tok_model {
    const struct tok_model_kind *kind;
    struct vocab *vocab;             /* the tokenizer's */
    struct str unk_token, prefix, suffix;
    bool fuse_unk, byte_fallback, ignore_merges;
    bool bytes;                      /* words are bytes whose stand-ins are in the vocabulary */
    int unk;                         /* -1: none */
    int max_chars;                   /* WordPiece: longer words are unknown */
    void *own;                       /* merges and the like */
};

struct tok_model_kind {
    const char *type;
    const char *prefix;              /* of word pieces inside a word; NULL: none */
    /* Reads a field of "model" that the kind alone knows; false: error. *known: it did. */
    bool (*field)(struct tok_model *, struct pull *, struct str key, bool *known, struct err *);
    /* When all is read. */
    bool (*ready)(struct tok_model *, struct err *);
    void *(*space_new)(const struct tok_model *);    /* what one encode call works with */
    void (*space_free)(void *space);
    /* plain: the word was written by users, so no command of the vocabulary is found in it
     * (vocab_is_command). What stands for the unknown may still come. */
    void (*encode)(const struct tok_model *, void *space, struct str word, bool plain,
                   struct ids *);
    void (*close)(struct tok_model *);
};

extern const struct tok_model_kind model_bpe, model_unigram, model_wordpiece, model_wordlevel,
    model_rwkv, model_plamo;

/* <0x00> to <0xff> as ids, -1 where the vocabulary lacks one. False: it lacks one. */
bool model_byte_tokens(const struct vocab *, int to[256]);

/* A merge by ids, for vocabularies that have ranks instead of a list: the rank of a new pair is
 * the next number. What it makes is found by its spelling. */
bool bpe_add_merge(struct tok_model *, struct str left, struct str right, struct err *);

/* All merges were given; a model may have none. */
void bpe_no_more_merges(struct tok_model *);

/* For vocabularies without merges, where whatever two tokens make a token: every such pair, with
 * the rank of what it makes. rank is by id, UINT32_MAX: nothing makes it. False: err, too many. */
bool bpe_all_pairs(struct tok_model *, const uint32_t *rank, struct err *err);

/* The next token of a Unigram model. found: texts may be cut into it. */
bool unigram_put(struct tok_model *, struct str piece, double score, bool found, struct err *err);

/* tokenizer.h - a tokenizer's insides: what the readers of the file formats fill. */
#pragma once
#include "base/arena.h"
#include "tokens/added.h"
#include "tokens/model.h"
#include "tokens/normalize.h"
#include "tokens/part.h"
#include "tokens/presplit.h"

enum { FRAME_MAX = 32 };

struct tokenizer {
    struct arena arena;              /* strings of the parts */
    struct vocab vocab;
    struct tok_model model;
    struct parts normalizers, presplits, decoders;
    uint64_t next_id;                /* every id from the model's count to here is taken */
    struct added_set *raw, *normalized;              /* by where the tokens are looked for */
    int before[FRAME_MAX], after[FRAME_MAX];         /* what the post-processor puts around */
    int n_before, n_after;
    int bos, eos;                    /* -1: none */
    bool track;                      /* texts carry origins */
};

struct tokenizer *tokenizer_blank(void);         /* for a reader to fill; tok_close */

/* A token as "added_tokens" has it; a model's token of that spelling keeps its id, others get the
 * next free one. Call after the vocabulary is complete. False: err. */
bool tokenizer_add(struct tokenizer *, struct str text, unsigned added_flags, bool normalized,
                   struct err *);
/* The same from an object of "added_tokens", or of tokenizer_config's "added_tokens_decoder". */
struct pull;
bool tokenizer_added_read(struct tokenizer *, struct pull *, struct err *);
/* When all is read: finds the rows of parts, checks, derives. */
bool tokenizer_ready(struct tokenizer *, struct err *);

/* Readers: each fills an empty tokenizer from the bytes of a file. */
bool tokenizer_json_read(struct tokenizer *, struct str text, struct err *);
/* tokenizer_config.json: bos, eos and whether to add them. */
bool tokenizer_config_read(struct tokenizer *, struct str text, struct err *);
/* special_tokens_map.json: bos and eos where they are not known yet. */
bool tokenizer_special_map_read(struct tokenizer *, struct str text, struct err *);

/* vocab.h - the spellings of a vocabulary: id to text, text to id, flags per id.
 *
 * All spellings lie in one pool, an id holds an offset and a length, and the hash
 * table holds ids only, so that 250,000 tokens take some 10 MB. */
#pragma once
#include "base/buf.h"

enum { VOCAB_ID_MAX = (1 << 24) - 1, VOCAB_TOKEN_BYTES_MAX = 1 << 20 };

enum vocab_flag {
    VOCAB_HERE = 1,                  /* the id has a spelling */
    VOCAB_ADDED = 2,                 /* it is an added token */
    VOCAB_CONTROL = 4                /* and a special one */
};

struct vocab_entry { uint32_t at, len; };
struct vocab_slot { uint32_t id_plus_1, hash; };     /* 0: free; few spellings are compared */

struct vocab {
    struct buf pool;
    struct vocab_entry *entry;       /* [cap]; by id */
    uint8_t *flags;                  /* [cap] */
    struct vocab_slot *slot;         /* [n_slots] hash table */
    size_t n_slots, used, cap;
    int n;                           /* ids are below this */
    int count;                       /* ids that have a spelling */
};

/* Both reasons are sentences' ends, "has the id of another token" and the like; NULL: done. */
const char *vocab_put(struct vocab *, struct str text, uint64_t id);
/* An id that another spelling finds already: only id to text. */
const char *vocab_alias(struct vocab *, struct str text, uint64_t id);
/* Makes all that vocab_alias took findable, at once, which is much faster than one by one.
 * -1: done; else an id whose spelling is there twice. */
int vocab_index(struct vocab *);
void vocab_reserve(struct vocab *, size_t n);
int vocab_find(const struct vocab *, struct str text);            /* -1: none */
/* vocab_find in steps, for whoever has many to find: each but the last only asks memory for what
 * the next will read, so that several searches wait at once. */
uint32_t vocab_hash(struct str text);
uint64_t vocab_seed(void);           /* drawn once per process; for hash tables of what files say */
static inline void vocab_ask_slot(const struct vocab *v, uint32_t hash) {
    if (v->n_slots)
        __builtin_prefetch(&v->slot[hash & (v->n_slots - 1)]);
}
int vocab_ask_entry(const struct vocab *, uint32_t hash);            /* the likely id; -1: none */
static inline void vocab_ask_text(const struct vocab *v, int likely) {
    if (likely >= 0 && likely < v->n)
        __builtin_prefetch(v->pool.at + v->entry[likely].at);
}
int vocab_find_likely(const struct vocab *, struct str text, uint32_t hash, int likely);
/* Both one after the other. Tries `guess` first: cheaper where ids are likely to follow. */
int vocab_find_joined(const struct vocab *, struct str left, struct str right, int guess);
struct str vocab_text(const struct vocab *, int id);              /* empty: none */
uint8_t vocab_flags(const struct vocab *, int id);                /* 0: no such id */
void vocab_mark(struct vocab *, int id, uint8_t flags);
/* A control token that ordinary text must not become. One that is a printable ASCII character is
 * none: some vocabularies call "!" their padding, and nothing else can spell it. */
bool vocab_is_command(const struct vocab *, int id);
void vocab_free(struct vocab *);

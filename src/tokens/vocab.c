/* vocab.c - the spellings of a vocabulary in one pool with one hash table.
 *
 * The hash is seeded once per process: a hostile file cannot choose collisions. */
#include "tokens/vocab.h"
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <stdatomic.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

/* Two threads may both draw; the first to store wins, and all use that one. */
static _Atomic uint64_t chosen;

static uint64_t draw_seed(void) {
    uint64_t now = 0, drawn = 0;
    if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn || !drawn)
        drawn = 0x9e3779b97f4a7c15u;
    atomic_compare_exchange_strong(&chosen, &now, drawn);
    return atomic_load(&chosen);
}

static inline uint64_t seed_now(void) {
    uint64_t seed = atomic_load_explicit(&chosen, memory_order_relaxed);
    return seed ? seed : draw_seed();
}

uint64_t vocab_seed(void) {
    return seed_now();
}

uint32_t vocab_hash(struct str text) {
    uint64_t h = XXH3_64bits_withSeed(text.at, text.len, seed_now());
    return (uint32_t)(h ^ h >> 32);
}

/* Tokens are short: a call for each comparison takes longer than the comparison. */
static inline bool same_bytes(const char *a, const char *b, size_t n) {
    uint64_t x, y, all = 0;
    uint32_t u, v;
    if (n >= sizeof x) {
        for (size_t i = 0; i + sizeof x < n; i += sizeof x) {
            memcpy(&x, a + i, sizeof x);
            memcpy(&y, b + i, sizeof y);
            all |= x ^ y;
        }
        memcpy(&x, a + n - sizeof x, sizeof x);
        memcpy(&y, b + n - sizeof y, sizeof y);
        return !(all | (x ^ y));
    }
    if (n >= sizeof u) {
        memcpy(&u, a, sizeof u);
        memcpy(&v, b, sizeof v);
        all = u ^ v;
        memcpy(&u, a + n - sizeof u, sizeof u);
        memcpy(&v, b + n - sizeof v, sizeof v);
        return !(all | (u ^ v));
    }
    for (size_t i = 0; i < n; i++)
        all |= (uint64_t)(a[i] ^ b[i]);
    return !all;
}

struct str vocab_text(const struct vocab *v, int id) {
    /* While every text is empty the pool has no address. */
    if (id < 0 || id >= v->n || !v->pool.at)
        return (struct str){ 0 };
    return (struct str){ v->pool.at + v->entry[id].at, v->entry[id].len };
}

uint8_t vocab_flags(const struct vocab *v, int id) {
    return id < 0 || id >= v->n ? 0 : v->flags[id];
}

bool vocab_is_command(const struct vocab *v, int id) {
    if (!(vocab_flags(v, id) & VOCAB_CONTROL))
        return false;
    struct str s = vocab_text(v, id);
    return s.len != 1 || s.at[0] < '!' || s.at[0] > '~';
}

void vocab_mark(struct vocab *v, int id, uint8_t flags) {
    if (id >= 0 && id < v->n)
        v->flags[id] |= flags;
}

static void slots_insert(struct vocab *v, uint32_t id, uint32_t hash) {
    size_t i = hash & (v->n_slots - 1);
    while (v->slot[i].id_plus_1)
        i = (i + 1) & (v->n_slots - 1);
    v->slot[i] = (struct vocab_slot){ id + 1, hash };
    v->used++;
}

static void slots_grow(struct vocab *v, size_t n_slots) {
    struct vocab_slot *slot = v->slot;
    size_t old = v->n_slots;
    v->slot = mem_array(n_slots, sizeof *v->slot);
    mem_filled_soon(v->slot, n_slots * sizeof *v->slot);
    v->n_slots = n_slots;
    v->used = 0;
    for (size_t i = 0; i < old; i++)
        if (slot[i].id_plus_1)
            slots_insert(v, slot[i].id_plus_1 - 1, slot[i].hash);
    free(slot);
}

static void ids_grow(struct vocab *v, size_t cap) {
    v->entry = mem_grow(v->entry, cap, sizeof *v->entry);
    v->flags = mem_grow(v->flags, cap, sizeof *v->flags);
    mem_filled_soon(v->entry, cap * sizeof *v->entry);
    memset(v->entry + v->cap, 0, (cap - v->cap) * sizeof *v->entry);
    memset(v->flags + v->cap, 0, cap - v->cap);
    v->cap = cap;
}

void vocab_reserve(struct vocab *v, size_t n) {
    size_t n_slots = v->n_slots ? v->n_slots : 64;
    while (n_slots < n + n / 2)
        n_slots *= 2;
    if (n_slots != v->n_slots)
        slots_grow(v, n_slots);
    if (n > v->cap)
        ids_grow(v, n);
}

static int find_hashed(const struct vocab *v, struct str text, uint32_t hash) {
    if (!v->n_slots)
        return -1;
    size_t mask = v->n_slots - 1;
    for (size_t i = hash & mask; v->slot[i].id_plus_1; i = (i + 1) & mask) {
        if (v->slot[i].hash != hash)
            continue;
        int id = (int)(v->slot[i].id_plus_1 - 1);
        if (str_eq(vocab_text(v, id), text))
            return id;
    }
    return -1;
}

int vocab_ask_entry(const struct vocab *v, uint32_t hash) {
    size_t mask = v->n_slots - 1;
    for (size_t i = hash & mask; v->n_slots && v->slot[i].id_plus_1; i = (i + 1) & mask)
        if (v->slot[i].hash == hash) {
            __builtin_prefetch(&v->entry[v->slot[i].id_plus_1 - 1]);
            return (int)(v->slot[i].id_plus_1 - 1);
        }
    return -1;
}

int vocab_find_likely(const struct vocab *v, struct str text, uint32_t hash, int likely) {
    if (likely < 0)
        return -1;                   /* no slot had the hash */
    struct vocab_entry e = v->entry[likely];
    if (e.len == text.len && same_bytes(v->pool.at + e.at, text.at, e.len))
        return likely;
    return find_hashed(v, text, hash);
}

int vocab_find(const struct vocab *v, struct str text) {
    return find_hashed(v, text, vocab_hash(text));
}

int vocab_find_joined(const struct vocab *v, struct str left, struct str right, int guess) {
    struct str s = guess >= 0 && guess < v->n ? vocab_text(v, guess) : (struct str){ 0 };
    if (s.len && s.len == left.len + right.len && same_bytes(s.at, left.at, left.len)
        && same_bytes(s.at + left.len, right.at, right.len))
        return guess;
    struct buf both = { 0 };
    buf_str(&both, left);
    buf_str(&both, right);
    int id = vocab_find(v, buf_view(&both));
    buf_free(&both);
    return id;
}

const char *vocab_alias(struct vocab *v, struct str text, uint64_t id) {
    if (id > VOCAB_ID_MAX)
        return "has an id that is too large";
    if (text.len > VOCAB_TOKEN_BYTES_MAX)
        return "is too long";
    if (v->pool.len + text.len > UINT32_MAX)
        return "does not fit: the vocabulary is too large";
    if (id >= v->cap)
        ids_grow(v, id < 1024 ? 2048 : id + id / 2);
    if (v->flags[id] & VOCAB_HERE)
        return "has the id of another token";
    v->entry[id] = (struct vocab_entry){ (uint32_t)v->pool.len, (uint32_t)text.len };
    v->flags[id] |= VOCAB_HERE;
    buf_str(&v->pool, text);
    v->count++;
    if ((int)id >= v->n)
        v->n = (int)id + 1;
    return NULL;
}

const char *vocab_put(struct vocab *v, struct str text, uint64_t id) {
    uint32_t hash = vocab_hash(text);
    if (find_hashed(v, text, hash) >= 0)
        return "is listed twice";
    const char *wrong = vocab_alias(v, text, id);
    if (wrong)
        return wrong;
    if ((v->used + 1) * 3 > v->n_slots * 2)
        slots_grow(v, v->n_slots ? v->n_slots * 2 : 64);
    slots_insert(v, (uint32_t)id, hash);
    return NULL;
}

/* The table is larger than the caches, so each insertion waits for memory: the slots of the tokens
 * to come are asked for ahead. */
int vocab_index(struct vocab *v) {
    enum { AHEAD = 16 };
    uint32_t hash[AHEAD];
    vocab_reserve(v, (size_t)v->count);
    for (int i = 0; i < v->n + AHEAD; i++) {
        int id = i - AHEAD;
        if (id >= 0 && (v->flags[id] & VOCAB_HERE)) {
            uint32_t h = hash[id % AHEAD];
            size_t at = h & (v->n_slots - 1);
            for (; v->slot[at].id_plus_1; at = (at + 1) & (v->n_slots - 1)) {
                int old = (int)(v->slot[at].id_plus_1 - 1);
                if (v->slot[at].hash == h && old != id
                    && str_eq(vocab_text(v, old), vocab_text(v, id)))
                    return id;
                if (old == id)
                    break;
            }
            v->used += !v->slot[at].id_plus_1;
            v->slot[at] = (struct vocab_slot){ (uint32_t)id + 1, h };
        }
        if (i < v->n) {
            hash[i % AHEAD] = vocab_hash(vocab_text(v, i));
            __builtin_prefetch(&v->slot[hash[i % AHEAD] & (v->n_slots - 1)], 1);
        }
    }
    return -1;
}

void vocab_free(struct vocab *v) {
    buf_free(&v->pool);
    free(v->entry);
    free(v->flags);
    free(v->slot);
    memset(v, 0, sizeof *v);
}

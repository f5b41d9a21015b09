/* map.c - byte strings to 32-bit values, linear probing, at most 70 % full. */
#include "base/map.h"

#include <stdlib.h>
#include <sys/random.h>
#include <xxhash.h>

/* Drawn at the first use; threads that race for it agree on the winner's. */
static uint64_t seed(void) {
    static uint64_t value;
    uint64_t drawn = 0, none = 0, now = __atomic_load_n(&value, __ATOMIC_RELAXED);
    if (now) return now;
    if (getrandom(&drawn, sizeof drawn, GRND_NONBLOCK) != (ssize_t)sizeof drawn)
        drawn = (uint64_t)(uintptr_t)&value * 0x9E3779B97F4A7C15u;
    __atomic_compare_exchange_n(&value, &none, drawn | 1, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
    return __atomic_load_n(&value, __ATOMIC_RELAXED);
}

static uint32_t hash_of(struct str key) {
    return (uint32_t)XXH3_64bits_withSeed(key.at ? key.at : "", key.len, seed()) | 1;
}

/* The entry of key, or the empty one (hash 0) where it belongs. */
static struct map_entry *slot_of(const struct map *m, struct str key, uint32_t hash) {
    size_t i = hash & (m->cap - 1);
    while (m->at[i].hash && (m->at[i].hash != hash || !str_eq(m->at[i].key, key)))
        i = (i + 1) & (m->cap - 1);
    return &m->at[i];
}

void map_reserve(struct map *m, size_t n) {
    size_t cap = MAX(m->cap, (size_t)16);
    while (cap / 10 * 7 < n) cap *= 2;
    if (cap == m->cap) return;
    struct map bigger = { mem_array(cap, sizeof *m->at), m->n, cap };
    for (size_t i = 0; i < m->cap; i++)
        if (m->at[i].hash) *slot_of(&bigger, m->at[i].key, m->at[i].hash) = m->at[i];
    free(m->at);
    *m = bigger;
}

bool map_put(struct map *m, struct str key, uint32_t value) {
    map_reserve(m, m->n + 1);
    uint32_t hash = hash_of(key);
    struct map_entry *e = slot_of(m, key, hash);
    if (e->hash) return false;
    *e = (struct map_entry){ key, value, hash };
    m->n++;
    return true;
}

bool map_get(const struct map *m, struct str key, uint32_t *value) {
    if (!m->n) return false;
    const struct map_entry *e = slot_of(m, key, hash_of(key));
    if (e->hash && value) *value = e->value;
    return e->hash != 0;
}

void map_free(struct map *m) {
    free(m->at);
    *m = (struct map){ 0 };
}

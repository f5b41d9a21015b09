/* ledger.h - a model that computes nothing but a trail, for the tests of cache and batch.
 *
 * Every paged layer writes, at each position, a number that depends on the number before it
 * and on the id; every recurrent layer keeps such a number and how many ids went into it. Both
 * go through the views that kernels get, and everything a kernel could read is compared with
 * what the ids say. The device is host memory. */
#pragma once
#include "cache/inside.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LEDGER_LAYERS = 8 };

static size_t ledger_alloc_limit = SIZE_MAX, ledger_alloc_bytes;

static void *ledger_alloc(struct device *dev, size_t bytes) {
    (void)dev;
    if (bytes > ledger_alloc_limit) return NULL;
    ledger_alloc_bytes += bytes;
    void *at = malloc(bytes);
    memset(at, 0xa5, bytes);
    return at;
}

static void ledger_free(struct device *dev, void *at, size_t bytes) {
    (void)dev;
    ledger_alloc_bytes -= bytes;
    free(at);
}

static void ledger_copy(struct device *dev, void *to, const void *from, size_t bytes) {
    (void)dev;
    memcpy(to, from, bytes);
}

static const struct device_ops ledger_ops = {
    .name = "ledger", .alloc = ledger_alloc, .free = ledger_free,
    .copy_in = ledger_copy, .copy_out = ledger_copy, .move = ledger_copy,
};

static inline uint64_t ledger_mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u)) * 0xbf58476d1ce4e5b9u;
    return (x ^ (x >> 29)) * 0x94d049bb133111ebu + 1;
}

static inline uint64_t ledger_start(int layer, int variant) {
    return ledger_mix((uint64_t)layer + 17, (uint64_t)variant);
}

static inline uint64_t *ledger_at(const struct kv_view *v, int seq, int pos) {
    int page = v->table[seq * v->pages_max + pos / v->page_tokens];
    assert_true(page >= 0);
    return (uint64_t *)(void *)((char *)v->pages + (size_t)page * v->page_bytes) +
           pos % v->page_tokens;
}

/* One row of one paged layer; returns what it wrote. */
static inline uint64_t ledger_paged(const struct cache *c, int layer, int window, int seq,
                                    const int *ids, int pos, int variant) {
    struct kv_view v = cache_kv(c, layer);
    uint64_t trail = ledger_start(layer, variant);
    for (int p = 0; p < pos; p++) {
        trail = ledger_mix(trail, (uint64_t)ids[p]);
        if (!window || p > pos - window) assert_int_equal(*ledger_at(&v, seq, p), trail);
    }
    return *ledger_at(&v, seq, pos) = ledger_mix(trail, (uint64_t)ids[pos]);
}

static inline uint64_t ledger_recurrent(const struct cache *c, int layer, int seq, const int *ids,
                                        int pos, int variant) {
    struct state_view v = cache_state(c, layer);
    uint64_t *state = (uint64_t *)(void *)((char *)v.slots + (size_t)v.slot[seq] * v.slot_bytes);
    uint64_t trail = ledger_start(layer, variant);
    for (int p = 0; p < pos; p++) trail = ledger_mix(trail, (uint64_t)ids[p]);
    if (pos) {
        assert_int_equal(state[0], trail);
        assert_int_equal(state[1], pos);
    }
    state[0] = ledger_mix(trail, (uint64_t)ids[pos]);
    state[1] = (uint64_t)pos + 1;
    return state[0];
}

/* Row `pos` of the sequence that was bound as `seq`, through all layers. */
static inline uint64_t ledger_row(const struct cache *c, const struct state_need *layer,
                                  int n_layers, int seq, const int *ids, int pos, int variant) {
    uint64_t all = 0;
    for (int l = 0; l < n_layers; l++) {
        if (layer[l].per_token)
            all = ledger_mix(all, ledger_paged(c, l, layer[l].window, seq, ids, pos, variant));
        if (layer[l].per_sequence)
            all = ledger_mix(all, ledger_recurrent(c, l, seq, ids, pos, variant));
    }
    return all;
}

/* What ledger_row gives, from the ids alone. */
static inline uint64_t ledger_expect(const struct state_need *layer, int n_layers, const int *ids,
                                     int pos, int variant) {
    uint64_t all = 0;
    for (int l = 0; l < n_layers; l++) {
        uint64_t trail = ledger_start(l, variant);
        for (int p = 0; p <= pos; p++) trail = ledger_mix(trail, (uint64_t)ids[p]);
        if (layer[l].per_token) all = ledger_mix(all, trail);
        if (layer[l].per_sequence) all = ledger_mix(all, trail);
    }
    return all;
}

/* The free list and the index agree with the pages, and `held` of them have holders. */
static inline void ledger_check_pool(const struct pages *p, int held) {
    int n_free = 0, n_kept = 0, chained = 0, last = -1;
    for (int i = p->head; i >= 0; i = p->at[i].next, n_free++) {
        assert_int_equal(p->at[i].holders, 0);
        assert_int_equal(p->at[i].prev, last);
        last = i;
    }
    assert_int_equal(p->tail, last);
    for (int i = 0; i < p->n; i++) n_kept += p->at[i].kept;
    for (int b = 0; b < p->n_buckets; b++)
        for (int i = p->bucket[b]; i >= 0; i = p->at[i].chain, chained++)
            assert_true(p->at[i].kept);
    assert_int_equal(n_free, p->n_free);
    assert_int_equal(n_kept, p->n_kept);
    assert_int_equal(chained, n_kept);
    assert_int_equal(p->n - n_free, held);
}

/* Nobody holds anything. */
static inline void ledger_check_empty(const struct cache *c) {
    for (int g = 0; g < c->plan.n_groups; g++) ledger_check_pool(&c->pool[g], 0);
    ledger_check_pool(&c->snapshots, 0);
    for (int s = 0; s < c->plan.n_slots; s++) assert_false(c->seat[s].taken);
}

/* Small numbers that repeat for a seed. */
static inline int ledger_draw(uint64_t *state, int below) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (int)((*state >> 33) % (uint64_t)below);
}

/* Bytes for exactly so many pages in the full group (and the least elsewhere), when the options
 * say seqs_max etc.; found by trying, since the plan shares bytes out. */
static inline size_t ledger_bytes(const struct state_need *layer, int n_layers,
                                  struct cache_options o, int pages) {
    struct plan plan;
    size_t low = 1, high = (size_t)1 << 32;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        o.bytes = middle;
        if (plan_make(&plan, layer, n_layers, &o, NULL) && plan.pages[0] >= pages) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* prefix.c - which kept pages and snapshots a prompt can start from, and which states
 * are worth a snapshot.
 *
 * A hash stands for a whole prefix (it chains), so groups and snapshots are looked up
 * independently, and a prefix survives the loss of pages it would not read again. */
#include "cache/inside.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

enum { SNAPSHOT_EVERY = 512 };

void prefix_key(const struct cache *c, struct page_key *key, uint64_t salt,
                const uint64_t parent[2], const int *ids) {
    key->salt = salt;
    memcpy(key->parent, parent, sizeof key->parent);
    memcpy(key->ids, ids, sizeof key->ids);
    unsigned char text[sizeof key->salt + sizeof key->parent + sizeof key->ids];
    memcpy(text, &key->salt, sizeof key->salt);
    memcpy(text + sizeof key->salt, key->parent, sizeof key->parent);
    memcpy(text + sizeof key->salt + sizeof key->parent, key->ids, sizeof key->ids);
    XXH128_hash_t h = XXH3_128bits_withSecret(text, sizeof text, c->secret, sizeof c->secret);
    key->hash[0] = h.low64;
    key->hash[1] = h.high64;
}

static void key_at(const struct cache *c, struct page_key *key, uint64_t salt, const int *ids,
                   int page) {
    static const uint64_t root[2];
    prefix_key(c, key, salt, page ? c->chain[page - 1] : root, ids + page * CACHE_PAGE_TOKENS);
}

int prefix_first(const struct cache *c, int g, int n_tokens) {
    int window = c->plan.window[g];
    return window && n_tokens > window ? (n_tokens - window) / CACHE_PAGE_TOKENS : 0;
}

/* Pages of the longest prefix that can be used. *branch: of the longest that could be if
 * there were a snapshot. Fills c->chain up to the first. */
static int find_usable(struct cache *c, uint64_t salt, const int *ids, int n_pages, int *branch) {
    int best = 0, run[CACHE_GROUPS_MAX] = { 0 };
    struct page_key key;
    for (int i = 0; i < n_pages; i++) {
        bool usable = true;
        key_at(c, &key, salt, ids, i);
        memcpy(c->chain[i], key.hash, sizeof key.hash);
        for (int g = 0; g < c->plan.n_groups; g++) {
            int first = prefix_first(c, g, (i + 1) * CACHE_PAGE_TOKENS);
            run[g] = pages_find(&c->pool[g], &key) >= 0 ? run[g] + 1 : 0;
            /* A full group that lost a page cannot be used any further. */
            if (!run[g] && !c->plan.window[g]) return best;
            usable &= run[g] >= i + 1 - first;
        }
        if (usable && c->plan.n_groups) *branch = i + 1;
        if (usable && (!c->plan.recurrent || pages_find(&c->snapshots, &key) >= 0)) best = i + 1;
    }
    return best;
}

static void move_slot(struct cache *c, int to, int from) {
    for (int l = 0; l < c->n_layers; l++) {
        const struct plan_layer *p = &c->layer[l];
        if (!p->slot_bytes) continue;
        char *slots = c->memory + p->slots_at;
        c->dev->op->move(c->dev, slots + (size_t)to * p->slot_bytes,
                         slots + (size_t)from * p->slot_bytes, p->slot_bytes);
    }
}

/* A snapshot is held by nobody: holding and dropping it marks it as used now. */
static void snapshot_touch(struct cache *c, int i) {
    pages_hold(&c->snapshots, i);
    pages_drop(&c->snapshots, i);
}

void prefix_attach(struct cache *c, struct cache_seq *seq, const int *ids, int n) {
    struct seat *seat = &c->seat[seq->slot];
    struct page_key key;
    int branch = 0, limit = MIN(n / CACHE_PAGE_TOKENS, c->plan.pages_max);
    int n_pages = c->options.reuse ? find_usable(c, seq->salt, ids, limit, &branch) : 0;
    seat->branch = c->plan.recurrent && branch > n_pages ? branch * CACHE_PAGE_TOKENS : 0;
    if (!n_pages) return;
    for (int i = 0; i < n_pages; i++) {
        key_at(c, &key, seq->salt, ids, i);
        for (int g = 0; g < c->plan.n_groups; g++) {
            bool needed = i >= prefix_first(c, g, n_pages * CACHE_PAGE_TOKENS);
            seat->page[g][i] = needed ? pages_find(&c->pool[g], &key) : -1;
            if (needed) pages_hold(&c->pool[g], seat->page[g][i]);
            else seat->gone[g] = i + 1;
        }
    }
    seq->n_pages = n_pages;
    seq->n_tokens = seq->n_reused = n_pages * CACHE_PAGE_TOKENS;
    memcpy(seq->hash, key.hash, sizeof seq->hash);
    if (!c->plan.recurrent) return;
    int from = pages_find(&c->snapshots, &key);
    move_slot(c, seq->slot, c->plan.n_slots + from);
    snapshot_touch(c, from);
}

void snapshot_take(struct cache *c, struct cache_seq *seq, const struct page_key *key) {
    struct seat *seat = &c->seat[seq->slot];
    struct pages *s = &c->snapshots;
    int i = pages_find(s, key);
    if (i >= 0) {
        snapshot_touch(c, i);
        return;
    }
    bool replace = seat->due_rolls && seat->rolling >= 0 &&
                   s->at[seat->rolling].serial == seat->rolling_serial;
    if (replace) pages_forget(s, seat->rolling);
    i = pages_take(s);
    if (i < 0) return;
    move_slot(c, c->plan.n_slots + i, seq->slot);
    pages_keep(s, i, key);
    pages_drop(s, i);
    if (!seat->due_rolls) return;
    seat->rolling = i;
    seat->rolling_serial = s->at[i].serial;
}

/* Lengths that double are kept for good, those between only until the next: a long prompt
 * must not push out everyone else's snapshots. */
static bool is_lasting(int length) {
    int steps = length / SNAPSHOT_EVERY;
    return (steps & (steps - 1)) == 0;
}

/* Worth keeping: the last length that the same prompt could start from, the length at which
 * another prompt was seen to part from this one, every so many tokens against preemption, and
 * while it generates the last full page, from which the next turn of a chat goes on. */
int cache_stop(struct cache *c, const struct cache_seq *seq, int n) {
    assert(seq->open && n > seq->n_tokens);
    struct seat *seat = &c->seat[seq->slot];
    seat->due = 0;
    if (!c->snapshots.n) return n;
    int at = seq->n_tokens, stop = n, due = 0;
    if (n == at + 1) {
        if (n % CACHE_PAGE_TOKENS) return n;
        seat->due_rolls = n % SNAPSHOT_EVERY || !is_lasting(n);
        return seat->due = n;
    }
    int last = (n - 1) / CACHE_PAGE_TOKENS * CACHE_PAGE_TOKENS;
    int every = at / SNAPSHOT_EVERY * SNAPSHOT_EVERY + SNAPSHOT_EVERY;
    seat->due_rolls = false;
    if (last > at) stop = due = last;
    if (seat->branch > at && seat->branch < stop) stop = due = seat->branch;
    if (every < stop) {
        stop = due = every;
        seat->due_rolls = !is_lasting(every);
    }
    seat->due = due;
    return stop;
}

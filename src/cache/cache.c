/* cache.c - the memory, the sequences that sit in it, and the views that kernels get.
 *
 * Who has which page is pages.c, what a prompt can start from is prefix.c, how the
 * memory is divided is plan.c. */
#include "cache/inside.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static void draw_secret(struct cache *c) {
    for (size_t n = 0; n < sizeof c->secret;) {
        ssize_t got = getrandom(c->secret + n, sizeof c->secret - n, 0);
        if (got > 0) n += (size_t)got;
    }
}

static void open_seats(struct cache *c) {
    size_t n_groups = (size_t)c->plan.n_groups, pages_max = (size_t)c->plan.pages_max;
    c->seat = mem_array((size_t)c->plan.n_slots, sizeof *c->seat);
    c->lists = mem_array((size_t)c->plan.n_slots * n_groups * pages_max, sizeof(int));
    int *next = c->lists;
    for (int s = 0; s < c->plan.n_slots; s++) {
        for (size_t g = 0; g < n_groups; g++, next += pages_max) c->seat[s].page[g] = next;
    }
}

struct cache *cache_open(struct device *dev, const struct state_need *layer, int n_layers,
                         const struct cache_options *o, struct err *err) {
    struct plan plan;
    struct cache_options own = *o;
    size_t bytes = 0, all = 0;
    if (dev->op->memory) dev->op->memory(dev, &own.device_free, &all);
    if (!plan_make(&plan, layer, n_layers, &own, err)) return NULL;
    char *memory = dev->op->alloc(dev, plan.bytes);
    if (!memory) {
        err_code(err, ERR_MEMORY, "the device has no %zu bytes for a cache of %d sequences of up "
                 "to %d tokens", plan.bytes, o->seqs_max, o->tokens_max);
        return NULL;
    }
    struct cache *c = mem_new(sizeof *c);
    *c = (struct cache){ .dev = dev, .options = *o, .plan = plan, .n_layers = n_layers,
                         .memory = memory, .stride = 1 };
    c->layer = mem_array((size_t)n_layers, sizeof *c->layer);
    bool fits = plan_layout(&plan, layer, n_layers, c->layer, &bytes);
    assert(fits && bytes == plan.bytes);
    (void)fits;
    size_t table = (size_t)plan.n_slots * (size_t)plan.pages_max;
    c->tables = (int *)(void *)(memory + bytes - plan_tables_bytes(&plan));
    c->slots = c->tables + (size_t)plan.n_groups * table;
    c->stage = mem_array(MAX(table, (size_t)plan.n_slots), sizeof *c->stage);
    c->chain = mem_array((size_t)plan.pages_max, sizeof *c->chain);
    for (int g = 0; g < plan.n_groups; g++) pages_open(&c->pool[g], plan.pages[g]);
    pages_open(&c->snapshots, plan.n_snapshots);
    open_seats(c);
    draw_secret(c);
    return c;
}

void cache_close(struct cache *c) {
    if (!c) return;
    free(c->lists);
    free(c->seat);
    pages_close(&c->snapshots);
    for (int g = 0; g < c->plan.n_groups; g++) pages_close(&c->pool[g]);
    free(c->chain);
    free(c->stage);
    free(c->layer);
    c->dev->op->free(c->dev, c->memory, c->plan.bytes);
    free(c);
}

size_t cache_bytes(const struct state_need *layer, int n_layers, const struct cache_options *o) {
    struct plan plan;
    plan_make(&plan, layer, n_layers, o, NULL);
    return plan.bytes;
}

bool cache_begin(struct cache *c, struct cache_seq *seq, const int *ids, int n) {
    assert(!seq->open && n > 0);
    int s = 0;
    while (s < c->plan.n_slots && c->seat[s].taken) s++;
    if (s == c->plan.n_slots) return false;
    struct seat *seat = &c->seat[s];
    seat->taken = true;
    seat->asked = n;
    seat->branch = seat->due = 0;
    seat->rolling = -1;
    memset(seat->gone, 0, sizeof seat->gone);
    *seq = (struct cache_seq){ .salt = seq->salt, .slot = s, .open = true };
    for (int g = 0; g < c->plan.n_groups; g++) seq->page[g] = seat->page[g];
    prefix_attach(c, seq, ids, n - 1);
    return true;
}

bool cache_extend(struct cache *c, struct cache_seq *seq, int n) {
    assert(seq->open && n > 0 && n <= c->options.rows_max);
    if (n > c->options.tokens_max - seq->n_tokens) return false;
    int pages = (seq->n_tokens + n + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
    for (int g = 0; g < c->plan.n_groups; g++)
        if (pages - seq->n_pages > c->pool[g].n_free) return false;
    for (; seq->n_pages < pages; seq->n_pages++) {
        for (int g = 0; g < c->plan.n_groups; g++)
            seq->page[g][seq->n_pages] = pages_take(&c->pool[g]);
    }
    return true;
}

bool cache_fits(const struct cache *c, struct cache_seq *const *seq, const int *length,
                int n_seqs) {
    for (int g = 0; g < c->plan.n_groups; g++) {
        int64_t more = 0;
        for (int i = 0; i < n_seqs; i++) {
            assert(seq[i]->open);
            int end = MIN(length[i], c->options.tokens_max);
            int held = seq[i]->n_pages - c->seat[seq[i]->slot].gone[g];
            int pages = (end + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS - seq[i]->n_pages;
            /* A window gives back what it leaves: it never holds more than its working set. */
            if (c->plan.window[g]) pages = MIN(pages, c->plan.working[g] - held);
            more += MAX(pages, 0);
        }
        if (more > c->pool[g].n_free) return false;
    }
    return true;
}

/* A page is full: everyone may find it, and the sequence's hash moves on. */
static void finish_page(struct cache *c, struct cache_seq *seq, struct page_key *key) {
    struct seat *seat = &c->seat[seq->slot];
    int i = seq->n_tokens / CACHE_PAGE_TOKENS - 1;
    prefix_key(c, key, seq->salt, seq->hash, seat->tail);
    memcpy(seq->hash, key->hash, sizeof seq->hash);
    for (int g = 0; g < c->plan.n_groups && c->options.reuse; g++)
        pages_keep(&c->pool[g], seq->page[g][i], key);
}

static void let_go_behind_windows(struct cache *c, struct cache_seq *seq) {
    struct seat *seat = &c->seat[seq->slot];
    for (int g = 0; g < c->plan.n_groups; g++) {
        int first = prefix_first(c, g, seq->n_tokens);
        for (; seat->gone[g] < first; seat->gone[g]++) {
            pages_drop(&c->pool[g], seq->page[g][seat->gone[g]]);
            seq->page[g][seat->gone[g]] = -1;
        }
    }
}

void cache_commit(struct cache *c, struct cache_seq *seq, const int *ids, int n) {
    assert(seq->open && n > 0 && seq->n_tokens + n <= seq->n_pages * CACHE_PAGE_TOKENS);
    struct seat *seat = &c->seat[seq->slot];
    struct page_key key;
    for (int i = 0; i < n; i++) {
        seat->tail[seq->n_tokens++ % CACHE_PAGE_TOKENS] = ids[i];
        if (seq->n_tokens % CACHE_PAGE_TOKENS == 0) finish_page(c, seq, &key);
    }
    if (seat->due && seq->n_tokens == seat->due) snapshot_take(c, seq, &key);
    let_go_behind_windows(c, seq);
    /* Counted here, because a begin may be taken back before anything ran. */
    if (seat->asked) {
        c->tokens_asked += (uint64_t)seat->asked;
        c->tokens_reused += (uint64_t)seq->n_reused;
        seat->asked = 0;
    }
}

void cache_release(struct cache *c, struct cache_seq *seq) {
    if (seq->open) {
        struct seat *seat = &c->seat[seq->slot];
        /* From the end: a prefix is worth more than what follows it, so it goes last. */
        for (int g = 0; g < c->plan.n_groups; g++)
            for (int i = seq->n_pages - 1; i >= seat->gone[g]; i--)
                pages_drop(&c->pool[g], seq->page[g][i]);
        seat->taken = false;
    }
    *seq = (struct cache_seq){ .salt = seq->salt };
}

/* Tables as wide as the longest of these sequences, in powers of two: what is copied per
 * step follows what is used, and the width seldom changes. */
void cache_bind(struct cache *c, struct cache_seq *const *seq, int n_seqs) {
    assert(n_seqs >= 0 && n_seqs <= c->plan.n_slots);
    int stride = 1, longest = 0;
    for (int i = 0; i < n_seqs; i++) longest = MAX(longest, seq[i]->n_pages);
    while (stride < longest) stride *= 2;
    c->stride = stride = MIN(stride, c->plan.pages_max);
    size_t table = (size_t)c->plan.n_slots * (size_t)c->plan.pages_max;
    for (int g = 0; g < c->plan.n_groups; g++) {
        for (int i = 0; i < n_seqs; i++) {
            int *row = c->stage + (size_t)i * (size_t)stride;
            memcpy(row, seq[i]->page[g], (size_t)seq[i]->n_pages * sizeof *row);
            for (int p = seq[i]->n_pages; p < stride; p++) row[p] = -1;
        }
        c->dev->op->copy_in(c->dev, c->tables + (size_t)g * table, c->stage,
                            (size_t)n_seqs * (size_t)stride * sizeof(int));
    }
    for (int i = 0; i < n_seqs; i++) c->stage[i] = seq[i]->slot;
    c->dev->op->copy_in(c->dev, c->slots, c->stage, (size_t)n_seqs * sizeof(int));
}

int cache_width(const struct cache *c) {
    return c->stride;
}

struct kv_view cache_kv(const struct cache *c, int layer) {
    assert(layer >= 0 && layer < c->n_layers && c->layer[layer].group >= 0);
    const struct plan_layer *l = &c->layer[layer];
    size_t table = (size_t)c->plan.n_slots * (size_t)c->plan.pages_max;
    return (struct kv_view){ .pages = c->memory + l->pages_at, .page_bytes = l->page_bytes,
                             .table = c->tables + (size_t)l->group * table,
                             .pages_max = c->stride, .page_tokens = CACHE_PAGE_TOKENS,
                             .dtype = l->dtype };
}

struct state_view cache_state(const struct cache *c, int layer) {
    assert(layer >= 0 && layer < c->n_layers && c->layer[layer].slot_bytes);
    const struct plan_layer *l = &c->layer[layer];
    return (struct state_view){ .slots = c->memory + l->slots_at, .slot_bytes = l->slot_bytes,
                                .slot = c->slots };
}

struct cache_stats cache_stats(const struct cache *c) {
    struct cache_stats s = { .bytes = c->plan.bytes, .tokens_max = c->options.tokens_max,
                             .reuse = c->options.reuse, .tokens_reused = c->tokens_reused,
                             .tokens_asked = c->tokens_asked, .snapshots = c->snapshots.n,
                             .snapshots_kept = c->snapshots.n_kept };
    for (int g = 0; g < c->plan.n_groups; g++) {
        const struct pages *p = &c->pool[g];
        s.evictions += p->evictions;
        if (!c->plan.window[g] && p->n < c->plan.pages_max)
            s.tokens_max = MIN(s.tokens_max, p->n * CACHE_PAGE_TOKENS);
        if (p->n <= s.pages) continue;
        s.pages = p->n;
        s.pages_held = p->n - p->n_free;
        s.pages_kept = p->n_kept;
    }
    return s;
}

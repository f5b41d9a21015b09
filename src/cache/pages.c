/* pages.c - holders, the free list and the content index of a pool of pages. */
#include "cache/pages.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void pages_open(struct pages *p, int n) {
    assert(n >= 0 && n <= 1 << 28);
    *p = (struct pages){ .head = -1, .tail = -1, .n_buckets = 1 };
    while (p->n_buckets < n) p->n_buckets *= 2;
    p->at = mem_array((size_t)n, sizeof *p->at);
    p->bucket = mem_array((size_t)p->n_buckets, sizeof *p->bucket);
    for (int b = 0; b < p->n_buckets; b++) p->bucket[b] = -1;
    p->n = p->n_free = n;
    for (int i = 0; i < n; i++) {
        p->at[i].prev = i - 1;
        p->at[i].next = i + 1 < n ? i + 1 : -1;
        p->at[i].chain = -1;
    }
    if (n) {
        p->head = 0;
        p->tail = n - 1;
    }
}

void pages_close(struct pages *p) {
    free(p->at);
    free(p->bucket);
    *p = (struct pages){ .head = -1, .tail = -1 };
}

static void unlink_free(struct pages *p, int i) {
    struct page *g = &p->at[i];
    if (g->prev >= 0) p->at[g->prev].next = g->next;
    else p->head = g->next;
    if (g->next >= 0) p->at[g->next].prev = g->prev;
    else p->tail = g->prev;
    p->n_free--;
}

static void link_head(struct pages *p, int i) {
    struct page *g = &p->at[i];
    g->prev = -1;
    g->next = p->head;
    if (p->head >= 0) p->at[p->head].prev = i;
    else p->tail = i;
    p->head = i;
    p->n_free++;
}

static void link_tail(struct pages *p, int i) {
    struct page *g = &p->at[i];
    g->next = -1;
    g->prev = p->tail;
    if (p->tail >= 0) p->at[p->tail].next = i;
    else p->head = i;
    p->tail = i;
    p->n_free++;
}

static int *bucket_of(const struct pages *p, const struct page_key *key) {
    return &p->bucket[key->hash[0] & (uint64_t)(p->n_buckets - 1)];
}

static void unkeep(struct pages *p, int i) {
    int *at = bucket_of(p, &p->at[i].key);
    while (*at != i) at = &p->at[*at].chain;
    *at = p->at[i].chain;
    p->at[i].chain = -1;
    p->at[i].kept = false;
    p->n_kept--;
}

int pages_take(struct pages *p) {
    int i = p->head;
    if (i < 0) return -1;
    unlink_free(p, i);
    if (p->at[i].kept) {
        unkeep(p, i);
        p->evictions++;
    }
    p->at[i].holders = 1;
    p->at[i].serial = ++p->serial;
    return i;
}

void pages_hold(struct pages *p, int i) {
    assert(i >= 0 && i < p->n);
    if (!p->at[i].holders++) unlink_free(p, i);
}

void pages_drop(struct pages *p, int i) {
    assert(i >= 0 && i < p->n && p->at[i].holders > 0);
    if (--p->at[i].holders) return;
    if (p->at[i].kept) link_tail(p, i);
    else link_head(p, i);
}

/* The hash alone would do against accidents; the ids are compared because prompts come
 * from strangers, and a page of somebody else's prompt must not answer for ours. */
static bool same_key(const struct page_key *a, const struct page_key *b) {
    return a->salt == b->salt && a->hash[0] == b->hash[0] && a->hash[1] == b->hash[1] &&
           a->parent[0] == b->parent[0] && a->parent[1] == b->parent[1] &&
           !memcmp(a->ids, b->ids, sizeof a->ids);
}

int pages_find(const struct pages *p, const struct page_key *key) {
    if (!p->n) return -1;
    int i = *bucket_of(p, key);
    while (i >= 0 && !same_key(&p->at[i].key, key)) i = p->at[i].chain;
    return i;
}

void pages_keep(struct pages *p, int i, const struct page_key *key) {
    assert(i >= 0 && i < p->n && p->at[i].holders > 0 && !p->at[i].kept);
    int other = pages_find(p, key);
    if (other >= 0) {
        /* Two sequences computed the same page. Held ones live longer. */
        if (p->at[other].holders) return;
        pages_forget(p, other);
    }
    int *bucket = bucket_of(p, key);
    p->at[i].key = *key;
    p->at[i].kept = true;
    p->at[i].chain = *bucket;
    *bucket = i;
    p->n_kept++;
}

void pages_forget(struct pages *p, int i) {
    assert(i >= 0 && i < p->n);
    if (!p->at[i].kept) return;
    unkeep(p, i);
    if (p->at[i].holders) return;
    unlink_free(p, i);
    link_head(p, i);
}

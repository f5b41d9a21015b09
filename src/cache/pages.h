/* pages.h - page numbers of one pool: who holds them, what they contain, which goes next.
 *
 * Knows no memory and no sequences. A page that nobody holds stays findable by its
 * content until it is taken for something else, least recently used first. The same
 * pool keeps snapshots of recurrent state, which nobody holds at all. */
#pragma once
#include "cache/cache.h"

/* What a page (or a snapshot at the end of a page) stands for: everything a sequence of
 * this salt has seen up to and including these ids. The parent's hash stands for what came
 * before them; {0, 0} at the beginning. */
struct page_key {
    uint64_t salt, parent[2], hash[2];
    int ids[CACHE_PAGE_TOKENS];
};

struct page {
    struct page_key key;             /* of a kept one */
    int holders;                     /* 0: it is in the list of free pages */
    int prev, next;                  /* of that list, taken from its head; -1: none */
    int chain;                       /* next in its bucket, of kept ones */
    bool kept;                       /* findable */
    uint64_t serial;                 /* of the last taking: whether it is still what it was */
};

struct pages {
    struct page *at;                 /* [n] */
    int *bucket;                     /* [n_buckets], a power of two */
    int n, n_free, n_kept, n_buckets;
    int head, tail;                  /* of the free list */
    uint64_t evictions, serial;
};

void pages_open(struct pages *, int n);      /* n 0: an empty pool, which finds and gives nothing */
void pages_close(struct pages *);

/* A page with one holder; what it was kept for is forgotten. -1: none is free. */
int  pages_take(struct pages *);
void pages_hold(struct pages *, int page);   /* one more holder */
/* One holder less. Without any, a kept page goes to the end of the free list, another to its
 * head. */
void pages_drop(struct pages *, int page);

/* The page kept for the key, compared in full; -1: none. Changes nothing. */
int  pages_find(const struct pages *, const struct page_key *);
/* A held page is full and findable from now on. A page that is kept for the same key
 * already loses that when nobody holds it, else it stays the one that is found. */
void pages_keep(struct pages *, int page, const struct page_key *);
/* No longer findable; first to be taken when free. */
void pages_forget(struct pages *, int page);

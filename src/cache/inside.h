/* inside.h - what the files of the cache share; nobody else includes it. */
#pragma once
#include "cache/pages.h"
#include "cache/plan.h"

struct seat {                        /* the cache's half of an open sequence; number: the slot */
    int *page[CACHE_GROUPS_MAX];     /* [pages_max] each */
    int gone[CACHE_GROUPS_MAX];      /* pages before this one were let go */
    int tail[CACHE_PAGE_TOKENS];     /* the ids of the page that is not full yet */
    int asked;                       /* ids cache_begin got; 0 once counted */
    int branch;                      /* so far the pages of others reach, though no state does */
    int due;                         /* a commit that ends here takes a snapshot; 0: none */
    bool due_rolls;                  /* it replaces the one before of this kind */
    int rolling;                     /* that one, while its serial is still this; -1: none */
    uint64_t rolling_serial;
    bool taken;
};

struct cache {
    struct device *dev;
    struct cache_options options;
    struct plan plan;
    struct plan_layer *layer;        /* [n_layers] */
    int n_layers;
    char *memory;                    /* of the device, plan.bytes */
    int *tables, *slots;             /* of the device: [n_groups][n_slots * pages_max], [n_slots] */
    int *stage;                      /* host: one group's table while it is built */
    int stride;                      /* pages per sequence in the tables, as bound */
    int *lists;                      /* all pages of all seats */
    struct seat *seat;               /* [n_slots] */
    struct pages pool[CACHE_GROUPS_MAX];
    struct pages snapshots;          /* page i is slot n_slots + i */
    uint64_t (*chain)[2];            /* [pages_max] hashes of the prompt that begins */
    unsigned char secret[192];       /* of the hash: new in every process, nobody can aim at it */
    uint64_t tokens_reused, tokens_asked;
};

/* The key of the page with these ids after `parent`. */
void prefix_key(const struct cache *, struct page_key *, uint64_t salt, const uint64_t parent[2],
                const int *ids);
/* Attaches the longest usable prefix of at most n tokens to a zeroed sequence that has its
 * seat. Sets n_pages, n_tokens, n_reused and hash. */
void prefix_attach(struct cache *, struct cache_seq *, const int *ids, int n);
/* First page that a sequence of this many tokens still reads. */
int  prefix_first(const struct cache *, int group, int n_tokens);
/* The state of a sequence at the end of the page with this key. */
void snapshot_take(struct cache *, struct cache_seq *, const struct page_key *);

/* cache.h - pages for attention, slots for recurrent state, prefix reuse.
 *
 * The cache owns all of this memory. A sequence holds page numbers and one
 * slot number, never pointers, so it can be preempted and resumed.
 *
 * Layers with the same window form a group; a group has its own pool of pages and a
 * sequence has a page list per group, because a window lets go of pages that a full
 * layer still needs. Pages that nobody holds keep their content until they are
 * needed (least recently used first), so a later prompt with the same beginning finds
 * them: by a keyed 128-bit hash of (salt, parent page's hash, the ids of the page), ids compared
 * as well. Recurrent state cannot be cut at will, so it is kept as snapshots: copies
 * of a slot at page-aligned lengths, made at the lengths cache_stop names.
 * A prefix is used up to the longest page-aligned length at which every group still has
 * the pages it would read, and at which there is a snapshot where layers are recurrent.
 *
 * One thread (the engine's) calls all of this. Nothing here allocates after open. */
#pragma once
#include "device/device.h"

struct state_need {                  /* what one layer asks for */
    size_t per_token;                /* bytes, paged, grows with the sequence */
    size_t per_sequence;             /* bytes, fixed: convolution tails, SSM and delta states */
    int window;                      /* positions older than this are never read again; 0: none */
    enum dtype dtype;                /* of what is paged: F32, BF16, I8 or FP8 */
};

enum { CACHE_PAGE_TOKENS = 32, CACHE_GROUPS_MAX = 4 };

struct cache_options {
    size_t bytes;                    /* 0: as much as seqs_max sequences of tokens_max need, at most
                                        half of the free memory, or 7/8 of the device's own */
    size_t device_free;              /* of a device with a memory of its own; 0: the host's counts.
                                        cache_open finds it */
    int seqs_max;                    /* sequences that hold pages at a time */
    int tokens_max;                  /* longest sequence (context) */
    int rows_max;                    /* most rows one sequence adds in a step */
    bool reuse;                      /* keep and find prefixes */
};

struct cache_seq {                   /* zeroed: holds nothing */
    int *page[CACHE_GROUPS_MAX];     /* [pages of tokens_max], owned by the cache; -1: let go */
    int n_pages, slot, n_tokens, n_reused;
    uint64_t salt;                   /* set by the caller; those of other salts share nothing */
    uint64_t hash[2];                /* of everything up to the last full page */
    bool open;
};

struct cache;
struct cache *cache_open(struct device *, const struct state_need *layer, int n_layers,
                         const struct cache_options *, struct err *);
void cache_close(struct cache *);    /* NULL: nothing to do. No sequence may be open */

/* Takes a sequence's place and attaches the longest kept prefix of ids, at most n - 1
 * tokens. Sets n_tokens and n_reused to it. False: no place free. */
bool cache_begin(struct cache *, struct cache_seq *, const int *ids, int n);
/* Room for n more tokens after n_tokens, n <= rows_max. False: full, preempt someone, or longer
 * than tokens_max; nothing changed. */
bool cache_extend(struct cache *, struct cache_seq *, int n);
/* ids[0..n) were computed at positions n_tokens...: they count from now on, full pages
 * become findable, pages behind every window are let go, a snapshot is taken where due. */
void cache_commit(struct cache *, struct cache_seq *, const int *ids, int n);
/* Lets go of everything (content stays findable); the seq is zeroed but for its salt. */
void cache_release(struct cache *, struct cache_seq *);
/* A step of this sequence, n ids of which are known, should not run past this length
 * (> n_tokens, <= n): the state there is worth keeping, and a commit that ends there keeps it.
 * n when it does not matter. */
int  cache_stop(struct cache *, const struct cache_seq *, int n);
/* Whether all of these could grow, side by side, to length[i] tokens without anyone else
 * giving up pages. Open sequences only. */
bool cache_fits(const struct cache *, struct cache_seq *const *seq, const int *length, int n_seqs);

/* Makes the views below describe these sequences, in this order, until the next call. */
void cache_bind(struct cache *, struct cache_seq *const *seq, int n_seqs);
/* Pages that the bound tables have room for: kv_view.pages_max of all layers. */
int cache_width(const struct cache *);
struct kv_view    cache_kv(const struct cache *, int layer);
struct state_view cache_state(const struct cache *, int layer);

struct cache_stats {
    size_t bytes;                    /* device memory */
    int pages, pages_held, pages_kept;   /* of the largest group; held by sequences; findable */
    int snapshots, snapshots_kept;   /* of recurrent state */
    int tokens_max;                  /* longest sequence that fits alone */
    bool reuse;
    uint64_t tokens_reused, tokens_asked, evictions;
};
struct cache_stats cache_stats(const struct cache *);
/* Bytes that cache_open would take, or the fewest it could do with where it would fail; 0 on
 * overflow or options out of range. For memory estimates. */
size_t cache_bytes(const struct state_need *layer, int n_layers, const struct cache_options *);

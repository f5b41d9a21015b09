/* plan.h - how the memory of a cache is divided: groups, pages of each, slots.
 *
 * Arithmetic only, so that a memory estimate needs no device. */
#pragma once
#include "cache/cache.h"

enum { CACHE_ALIGN = 256 };          /* of every region inside the allocation */

struct plan {
    int n_groups;
    int window[CACHE_GROUPS_MAX];    /* 0: full; comes first where there is one */
    int pages[CACHE_GROUPS_MAX];     /* of the pool */
    int working[CACHE_GROUPS_MAX];   /* most pages that one sequence holds at a time */
    int pages_max;                   /* of a sequence of tokens_max */
    int n_slots, n_snapshots;        /* slots of sequences, slots of snapshots after them */
    bool recurrent;
    size_t slot_bytes;               /* of one sequence, all layers */
    size_t bytes;
};

/* False: the options are out of range, sums overflow, or (ERR_MEMORY) not even the least
 * fits; plan->bytes is then that least, or 0. */
bool plan_make(struct plan *, const struct state_need *layer, int n_layers,
               const struct cache_options *, struct err *);
/* -1: the layer has no pages. */
int  plan_group(const struct plan *, const struct state_need *);
/* Where a layer's regions begin; sets *bytes to the end of the last one. plan_make has
 * checked that nothing overflows. */
struct plan_layer {
    int group;
    enum dtype dtype;
    size_t page_bytes, slot_bytes, pages_at, slots_at;
};
bool plan_layout(const struct plan *, const struct state_need *layer, int n_layers,
                 struct plan_layer *out, size_t *bytes);
/* Where the tables begin (after the layers): [n_groups][n_slots * pages_max], then [n_slots]. */
size_t plan_tables_bytes(const struct plan *);

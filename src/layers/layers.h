/* layers.h - the parts a decoder block is made of.
 *
 * A mixer moves information between positions, an ffn works on one position.
 * Each declares its weights and its state and runs one batch; the code is the
 * same on every device. */
#pragma once
#include "cache/cache.h"
#include "spec/spec.h"
#include "weights/bind.h"

struct scratch {                     /* the pass arena: bumps inside one device allocation */
    char *at;
    size_t used_bytes, cap_bytes, peak_bytes;    /* at NULL: only measures */
};

struct pass {                        /* one forward pass, on the stack of model_queue */
    struct device *dev;
    struct cache *cache;
    const struct decoder_spec *spec;
    struct scratch *scratch;
    struct rows rows;
    const int *variant;              /* [n_seqs] of rope frequencies */
    int layer;
    struct tensor *stream;           /* what the running part's result is added to, times */
    float residual;                  /*   residual; NULL: it goes through a norm first */
    bool added;                      /* the part has done that itself: see out_run */
};

struct mixer {
    const char *name;
    size_t weights_size;
    void (*bind)(struct binder *, const struct decoder_spec *, const struct layer_spec *,
                 void *weights);
    /* kv: F32, BF16, I8 or FP8, for keys and values of heads. */
    struct state_need (*need)(const struct decoder_spec *, const struct layer_spec *,
                              enum dtype kv);
    /* y [rows, dim] from x [rows, dim], both borrowed. y is empty where out_run has added. */
    void (*run)(struct pass *, const struct layer_spec *, const void *weights,
                struct tensor *y, const struct tensor *x);
};

struct ffn {
    const char *name;
    size_t weights_size;
    void (*bind)(struct binder *, const struct decoder_spec *, const struct layer_spec *,
                 void *weights);
    void (*run)(struct pass *, const struct layer_spec *, const void *weights,
                struct tensor *y, const struct tensor *x);
};

struct norm_weights { struct tensor w, b; };             /* [n] F32 each; at NULL: none */
struct block_weights { struct norm_weights norm[4]; void *mixer, *ffn; };

void block_bind(struct binder *, const struct decoder_spec *, const struct layer_spec *,
                struct block_weights *);
void block_run(struct pass *, const struct layer_spec *, const struct block_weights *,
               struct tensor *x);
/* The spec's norm with these weights over the last axis of x. */
void norm_bind(struct binder *, const struct decoder_spec *, struct norm_weights *, enum slot);
void norm_run(struct pass *, const struct norm_weights *, struct tensor *y, const struct tensor *x);

/* The last product of a part: y = w x, or at once added to the block's stream. */
void out_run(struct pass *, struct tensor *y, const struct linear *w, const struct tensor *x);

/* The layer's view of the cache; an empty one in a pass without cache, which only measures. */
struct kv_view pass_kv(const struct pass *, int layer);
struct state_view pass_state(const struct pass *, int layer);

/* [rows of the pass, cols] of the scratch; gone when the block ends. */
struct tensor scratch_rows(struct pass *, enum dtype, int64_t cols);
void *scratch_bytes(struct scratch *, size_t bytes);

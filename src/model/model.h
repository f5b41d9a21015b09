/* model.h - a loaded model: spec and weights on one device, read-only. */
#pragma once
#include "batch/batch.h"
#include "families/family.h"

struct model_options {
    struct device *device;           /* borrowed, outlives the model */
    int rows_max, seqs_max, logits_max;      /* of one batch */
    struct pack_place pack;
    /* 0 to 1, NULL: nobody asks; the second for weights that are packed now, once. */
    void (*progress)(void *to, double done), (*packing)(void *to, double done);
    void *to;
};

struct model;
struct model *model_open(const char *dir, const struct model_options *, struct err *);
void model_close(struct model *);
const struct decoder_spec *model_spec(const struct model *);
const struct family *model_family(const struct model *);
/* [n_layers] what each layer keeps, for cache_open. kv: F32, BF16 or I8, which
 * only keys and values of heads become: latents are BF16 then, states always F32. */
void model_need(const struct model *, struct state_need *layer, enum dtype kv);

int64_t model_params(const struct model *);              /* values in all its tensors */
size_t model_weights_bytes(const struct model *);                /* of its files */
/* How most of its weights are stored: "affine 4-bit g64", "bf16". */
void model_format(const struct model *, char *text, size_t size);

/* Called with every layer's whole output: layer -1 is the embedding. For tests and traces. */
struct probe { void (*layer)(void *to, int layer, const struct tensor *x); void *to; };

/* Runs the batch against the cache (cache_bind was called with its sequences). Returns logits
 * F32 [n_logits, vocab] in host memory, valid until the next run; NULL with a sentence when
 * the device failed. */
float *model_run(struct model *, struct cache *, const struct batch *, const struct probe *,
                 struct err *);

/* A JSON object for `inspect`: family, spec, tensors, keys nobody read, memory. Reads
 * headers only. */
bool model_inspect(const char *dir, int context, enum dtype kv, struct buf *json, struct err *);

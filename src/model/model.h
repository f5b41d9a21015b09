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
/* [n_layers] what each layer keeps, for cache_open. kv: F32, BF16, I8 or FP8, which
 * only keys and values of heads become: latents are BF16 then, states always F32. */
void model_need(const struct model *, struct state_need *layer, enum dtype kv);

int64_t model_params(const struct model *);              /* values in all its tensors */
size_t model_weights_bytes(const struct model *);                /* of its files */
/* How most of its weights are stored: "affine 4-bit g64", "bf16". */
void model_format(const struct model *, char *text, size_t size);
/* Whether most of them have fewer bits than a float or a bf16. */
bool model_quantized(const struct model *);

/* Called with every layer's whole output: layer -1 is the embedding. For tests and traces. */
struct probe { void (*layer)(void *to, int layer, const struct tensor *x); void *to; };

/* A batch goes to the device in one call and its results come back in others, so that a caller may
 * ask for the next batch first. */

/* Asks for a pass of the batch against the cache (cache_bind was called with its sequences), and,
 * where the device can (model_draws), for a token for each of its logits: draw [n_logits]. An id
 * may be DRAWN - i: the token drawn for logit i of the batch before. turn: 0 and 1 in turns. */
void model_queue(struct model *, struct cache *, const struct batch *, const struct draw *,
                 int turn, const struct probe *);
/* Whether tokens are drawn on the device. */
bool model_draws(const struct model *);
/* Waits for the batch of that turn: the tokens that were drawn for its n logits, valid until the
 * turn comes again. NULL with a sentence when the device failed. */
const int *model_tokens(struct model *, int turn, struct err *);
/* Waits for the last batch: its first n logits, F32 [n, vocab] in host memory, valid until the next
 * batch. NULL with a sentence when the device failed. */
float *model_logits(struct model *, int n, struct err *);

/* A JSON object for `inspect`: family, spec, tensors, keys nobody read, memory. Reads
 * headers only. */
bool model_inspect(const char *dir, int context, enum dtype kv, struct buf *json, struct err *);

/* binder.h - what the files of the binder share. Inside weights/ only. */
#pragma once
#include "base/map.h"
#include "weights/bind.h"
#include "weights/safetensors.h"

struct quant_config {                    /* what config.json says of quantization */
    struct config *config;               /* NULL: nothing */
    enum { QUANT_MLX, QUANT_FP8, QUANT_COMPRESSED, QUANT_MXFP4 } method;
    int bits, group;                     /* of all paths; 0: not said */
    const char *mode;                    /* of MLX: a row of quant_modes; NULL: not said */
    int64_t block[2];                    /* rows and columns that share a scale of FP8 */
    struct quant_path { int bits, group; const char *mode; bool off; } *path;
    size_t n_paths, paths_cap;
    struct map paths;                    /* module path to index */
    struct arena names;
};

struct claim { enum slot slot; int layer; };

struct binder {
    struct weights *w;                   /* NULL: a recording binder */
    struct arena *arena;
    struct device *dev;
    const struct name_rule *rules[2];    /* the family's, then names_hf */
    int n_layers, layer;                 /* layer -1: none yet */
    /* What stands before the rules' names in this file: "language_model." before lm_head,
     * "language_model.model." or "model.language_model." for the leading "model.". */
    char *prefix, *stem;
    struct claim *claim;                 /* [weights_count]; W_END: nobody's */
    struct tensor **product;             /* what bind_product was told */
    size_t n_products, products_cap;
    struct quant_config quant;
    int64_t k_rows;                      /* of kv_b per head, as the layer's W_K_UP took it */
    struct err err;
    bind_want *want;                     /* of a recording binder */
    void *to;
};

enum { BASE_MAX = SAFETENSORS_NAME_MAX + 256 };

/* Where a slot's tensor is: its name without a suffix. */
struct site { enum slot slot; unsigned fix; bool each; char base[BASE_MAX]; };

/* The first rule of the slot whose tensor exists; expert fills {e}. False: none, no error. */
bool bind_locate(struct binder *, enum slot, int64_t expert, struct site *);
/* The same, and the error that names what is missing. */
bool bind_require(struct binder *, enum slot, int64_t expert, struct site *);
/* base + suffix, claimed for the site's slot; NULL: not there. */
const struct weights_entry *bind_entry(struct binder *, const struct site *, const char *suffix);
bool bind_failed(const struct binder *);
/* The weight as a contiguous tensor of that shape (rank 2 or 3, [.., out, in]): a view, packed or
 * plain, or a copy where the site says TRANSPOSED. */
bool bind_weight(struct binder *, const struct site *, int rank, const int64_t *shape,
                 struct tensor *);
/* The bias beside it as F32 of n values, copied; `there` says whether it must exist or must not. */
bool bind_site_bias(struct binder *, const struct site *, int64_t n, bool there, struct tensor *);

/* A slot as the recording binder names it, reported with this shape. experts > 0: so many of
 * them, one by one or as a stack, as the name has it. */
void bind_report(struct binder *, enum slot, int64_t experts, const char *suffix, bool matrix,
                 int rank, const int64_t *shape);
/* Whether the family's own rules name this slot. */
bool bind_family_has(const struct binder *, enum slot);

/* ---- quantization ---- */

bool quant_config_read(struct quant_config *, struct config *, struct err *);
void quant_config_free(struct quant_config *);
/* Whether the config agrees that the module is packed so; the error says how not. */
bool quant_config_agrees(const struct quant_config *, struct str module, const char *mode, int bits,
                         int group, const char *file, struct err *);

/* MLX's modes, and what they are called there. bits 0: what the tensors say. */
struct quant_mode { const char *name; enum dtype dtype, scales; int bits, group; };
extern const struct quant_mode quant_modes[];            /* ends with a name of NULL */

/* A quantized matrix, when the site has one (*done): a view. False: it has one that is wrong. */
bool bind_quantized(struct binder *, const struct site *, int rank, const int64_t *shape,
                    struct tensor *, bool *done);

/* ---- shapes, and what is said about them ---- */

struct bind_shape_text { char text[96]; };
/* "[2, 3]". By value, so that two may stand in one message. */
struct bind_shape_text bind_shape_text(int rank, const int64_t *shape);
bool bind_wrong_shape(struct binder *, const struct weights_entry *, int rank, const int64_t *want);
/* A readable tensor of a plain float dtype. */
bool bind_float_or_fail(struct binder *, const struct weights_entry *);
/* Whether t has the wanted shape but for the last axis, which has `cols`. A stack may also lie
 * flat: [n*out, in] for [n, out, in]. */
bool bind_same_rows(const struct tensor *, int rank, const int64_t *want, int64_t cols);
/* A contiguous view of rank 2 or 3. */
struct tensor bind_shaped(void *at, enum dtype, int rank, const int64_t *shape);

/* bind.h - from names to slots: gives each layer its tensors, once, at load.
 *
 * Every tensor of the checkpoint is claimed by a slot or dropped by a rule. A slot
 * without a tensor, a wrong shape, or a tensor left over is a load error that names
 * it. Quantization is recognised by the tensors beside a weight (.scales, .biases,
 * .weight_scale_inv, _blocks) and its bits and groups by their dtypes and shapes; the
 * config is a cross-check. Errors stick in the binder; binder_finish reports the first.
 *
 * What is returned are views into the mapping, at any address. Small vectors become F32
 * copies; a matrix stored transposed is copied once. Both live in the model's arena.
 * After the first error every call returns zeroed tensors. */
#pragma once
#include "base/arena.h"
#include "device/device.h"
#include "spec/config.h"
#include "weights/names.h"
#include "weights/weights.h"

struct binder;
struct binder *binder_open(struct weights *, struct config *, struct device *, struct arena *,
                           const struct name_rule *family_names, int n_layers, struct err *);
/* Hands the device what was bound: the tensors with a claim, and the arena. Nothing that an op
 * reads may change afterwards. */
bool binder_adopt(struct binder *, struct err *);
/* Lets the device put the matrices that are multiplied with into an order of its own, if it wants
 * to: `packed` of their tensors is then set, where they stand. What the file was read for is let
 * go of. progress may be NULL. */
void binder_pack(struct binder *, const struct pack_place *, void (*progress)(void *, double),
                 void *to);
bool binder_finish(struct binder *, struct err *);       /* also frees it; checks leftovers */
/* A binder without a file, for tools that make checkpoints: reports every tensor that is asked
 * for, by the plainest name that the rules know. What it returns has no address, but vectors
 * are zeros. bind_has is false. */
struct bind_want { const char *name; enum slot slot; int layer, rank; int64_t shape[3];
                   unsigned fix; bool matrix; };     /* matrix: may be quantized, [.., out, in] */
typedef void bind_want(void *to, const struct bind_want *);
struct binder *binder_record(struct arena *, const struct name_rule *family_names, int n_layers,
                             bind_want *, void *to);
void binder_layer(struct binder *, int layer);           /* what {l} stands for from now on */

bool bind_has(struct binder *, enum slot);               /* a tensor of that slot exists */
/* [out, in]; bias: the tensor must have one, else it must have none. */
void bind_linear(struct binder *, struct linear *, enum slot, int64_t out, int64_t in, bool bias);
/* `whole` cut into parts by rows where the file has it fused, else each part alone.
 * bias: bit i says that part i has one. */
void bind_parts(struct binder *, struct linear *const *part, enum slot whole, const enum slot *slot,
                const int64_t *out, int n_parts, int64_t in, unsigned bias);
/* The layer, or the model, will multiply with this matrix, which stays where it is until the model
 * is closed. The calls that bind a linear say so themselves; bind_table does not. */
void bind_product(struct binder *, struct tensor *);
/* A matrix for each head: [n, out, in]. W_K_UP [heads, rank, nope] and W_V_UP [heads, v, rank]
 * are also cut from W_KV_B [heads*(nope + v), rank]; ask for W_K_UP first. */
void bind_heads(struct binder *, struct linear *, enum slot, int64_t n, int64_t out, int64_t in);
/* Experts, stacked or one by one: lin[n] views. gate NULL: not gated. All in the arena. */
void bind_experts(struct binder *, struct linear **gate, struct linear **up, struct linear **down,
                  int n, int64_t hidden, int64_t dim, bool bias);
/* F32 [n], or [rows, n]. */
void bind_vector(struct binder *, struct tensor *, enum slot, int64_t n);
void bind_matrix(struct binder *, struct tensor *, enum slot, int64_t rows, int64_t n);
void bind_bias_of(struct binder *, struct tensor *, enum slot, int64_t n);   /* NAME.bias, F32 */
void bind_table(struct binder *, struct tensor *, enum slot, int64_t rows, int64_t cols);
void *bind_new(struct binder *, size_t bytes);           /* zeroed, lives as long as the model */
bool bind_fail(struct binder *, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For inspect: what claimed the i-th entry of weights; layer -1: none. NULL: nobody yet. */
const char *binder_claim(const struct binder *, size_t i, int *layer);

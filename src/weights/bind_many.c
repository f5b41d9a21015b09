/* bind_many.c - weights that come as one matrix for each head or each expert. */
#include "weights/binder.h"
#include "weights/quant.h"

#include <stdlib.h>
#include <string.h>

/* ---- heads ---- */

/* k part of kv_b: the first nope rows of each head, turned to [heads, rank, nope]. A packed one
 * is unpacked: its groups lie along the rank, which becomes the row. */
static struct tensor k_up(struct binder *b, const struct tensor *kv, int64_t heads, int64_t rank,
                          int64_t nope) {
    int64_t per = kv->shape[1];
    bool plain = kv->dtype != FP8 && !dtype_grouped(kv->dtype);
    enum dtype dtype = plain ? kv->dtype : F32;
    size_t size = dtype_bytes(dtype);
    char *to = arena_new(b->arena, (size_t)(heads * rank * nope) * size);
    float *row = mem_array((size_t)rank, sizeof *row);
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < nope; i++) {
            int64_t offset = (h * per + i) * rank;
            const char *from = (const char *)kv->at + (size_t)offset * size;
            if (!plain) {
                row_of(row, kv, offset, (size_t)rank);
                from = (const char *)row;
            }
            /* Row i of k becomes column i: the scores are then taken in the latent space, and the
             * cache needs to keep the latent only. */
            for (int64_t j = 0; j < rank; j++)
                memcpy(to + (size_t)((h * rank + j) * nope + i) * size, from + (size_t)j * size,
                       size);
        }
    free(row);
    return tensor_3d(to, dtype, heads, rank, nope);
}

/* W_K_UP or W_V_UP out of W_KV_B, whose rows are, head by head, nope rows for k and v for v. */
static void cut_kv_b(struct binder *b, struct linear *lin, enum slot slot, int64_t heads,
                     int64_t out, int64_t in) {
    struct site site;
    struct tensor kv;
    int64_t rank = slot == W_K_UP ? out : in;
    if (!bind_require(b, W_KV_B, 0, &site)) return;
    const struct weights_entry *e = bind_entry(b, &site, site.fix & EXACT ? "" : ".weight");
    int64_t rows = e->t.rank == 2 ? e->t.shape[0] : 0, per = rows / heads;
    /* W_K_UP says where k ends, W_V_UP must then fill the rest exactly. */
    bool fits = rows > 0 && rows % heads == 0 &&
                (slot == W_K_UP ? per > in : b->k_rows + out == per);
    if (!fits) {
        bind_fail(b, "%s: tensor %.*s has %lld rows, which do not fit %lld heads", e->file,
                  STR_ARG(e->name), (long long)rows, (long long)heads);
        return;
    }
    if (!bind_weight(b, &site, 3, (int64_t[]){ heads, per, rank }, &kv)) return;
    if (slot == W_K_UP) {
        b->k_rows = in;
        lin->w = k_up(b, &kv, heads, rank, in);
    } else {
        lin->w = tensor_part(&kv, 1, b->k_rows, out);
    }
}

/* kv_b is reported once, when both of its parts are known. */
static void record_heads(struct binder *b, struct linear *lin, enum slot slot, int64_t n,
                         int64_t out, int64_t in) {
    lin->w = tensor_3d(NULL, F32, n, out, in);
    if (slot == W_K_UP) {
        b->k_rows = in;
    } else if (slot == W_V_UP && b->k_rows) {
        int64_t shape[] = { n * (b->k_rows + out), in };
        bind_report(b, W_KV_B, 0, ".weight", true, 2, shape);
    } else {
        bind_report(b, slot, 0, ".weight", true, 3, (int64_t[]){ n, out, in });
    }
}

void bind_heads(struct binder *b, struct linear *lin, enum slot slot, int64_t n, int64_t out,
                int64_t in) {
    struct site site;
    *lin = (struct linear){ 0 };
    if (b->want) record_heads(b, lin, slot, n, out, in);
    if (b->want || bind_failed(b)) return;
    bool here = bind_locate(b, slot, 0, &site);
    if (!here && (slot == W_K_UP || slot == W_V_UP)) cut_kv_b(b, lin, slot, n, out, in);
    else if (bind_require(b, slot, 0, &site))
        bind_weight(b, &site, 3, (int64_t[]){ n, out, in }, &lin->w);
    if (bind_failed(b)) *lin = (struct linear){ 0 };
}

/* ---- experts ---- */

/* The tensors of one expert, found by its number. */
static bool one_expert(struct binder *b, struct linear *lin, enum slot slot, int64_t expert,
                       int64_t out, int64_t in, bool bias) {
    struct site site;
    return bind_require(b, slot, expert, &site) &&
           bind_weight(b, &site, 2, (int64_t[]){ out, in }, &lin->w) &&
           bind_site_bias(b, &site, out, bias, &lin->bias);
}

/* The bias of a stack, [n, out] as F32. */
static bool stack_bias(struct binder *b, const struct site *site, int64_t n, int64_t out,
                       bool there, struct tensor *t) {
    const char *end = site->fix & EXACT ? "_bias" : ".bias";
    const struct weights_entry *e = bind_entry(b, site, end);
    if (!there && !e) return true;
    if (!e || !there)
        return bind_fail(b, "%s: the tensor %s%s is %s", weights_dir(b->w), site->base, end,
                         there ? "missing" : "there, but the model has no such bias");
    if (!e->t.at || e->t.rank != 2 || e->t.shape[0] != n || e->t.shape[1] != out ||
        (e->t.dtype != F32 && e->t.dtype != BF16 && e->t.dtype != F16))
        return bind_fail(b, "%s: tensor %.*s is not [%lld, %lld] of floats", e->file,
                         STR_ARG(e->name), (long long)n, (long long)out);
    float *to = arena_new(b->arena, (size_t)(n * out) * sizeof *to);
    floats_of(to, e->t.at, e->t.dtype, (size_t)(n * out));
    *t = tensor_2d(to, F32, n, out);
    return true;
}

/* lin[n] of a slot that lies stacked or one by one. */
static bool experts(struct binder *b, struct linear *lin, enum slot slot, int64_t n, int64_t out,
                    int64_t in, bool bias, unsigned *fix) {
    struct site site;
    struct tensor w, biases = { 0 };
    if (!bind_require(b, slot, 0, &site)) return false;
    *fix = site.fix;
    if (site.each) {
        for (int64_t i = 0; i < n; i++)
            if (!one_expert(b, &lin[i], slot, i, out, in, bias)) return false;
        return true;
    }
    if (!bind_weight(b, &site, 3, (int64_t[]){ n, out, in }, &w) ||
        !stack_bias(b, &site, n, out, bias, &biases))
        return false;
    for (int64_t i = 0; i < n; i++) {
        lin[i].w = tensor_at(&w, i);
        if (bias) lin[i].bias = tensor_at(&biases, i);
    }
    return true;
}

/* Half `which` of a fused gate and up. */
static struct linear half(struct binder *b, const struct linear *both, int which,
                          bool interleaved) {
    int64_t n = both->w.shape[0] / 2;
    struct linear lin = { 0 };
    lin.w = interleaved ? tensor_every(&both->w, which, 2)
                        : tensor_part(&both->w, 0, which * n, n);
    if (!both->bias.at) return lin;
    if (!interleaved) {
        lin.bias = tensor_part(&both->bias, 0, which * n, n);
        return lin;
    }
    float *to = arena_new(b->arena, (size_t)n * sizeof *to);
    for (int64_t i = 0; i < n; i++) to[i] = ((const float *)both->bias.at)[2 * i + which];
    lin.bias = tensor_1d(to, F32, n);
    return lin;
}

/* Gate and up in one tensor: halves one after the other, or row by row in turn. */
static bool fused_experts(struct binder *b, struct linear *gate, struct linear *up, int n,
                          int64_t hidden, int64_t dim, bool bias) {
    struct linear *both = mem_array((size_t)n, sizeof *both);
    unsigned fix = 0;
    bool ok = experts(b, both, W_X_GATE_UP, n, 2 * hidden, dim, bias, &fix);
    for (int i = 0; ok && i < n; i++) {
        gate[i] = half(b, &both[i], 0, fix & INTERLEAVED);
        up[i] = half(b, &both[i], 1, fix & INTERLEAVED);
    }
    free(both);
    return ok;
}

/* Reports all experts of a slot; lin NULL where the slot is not one of its own. */
static void record_one(struct binder *b, struct linear *lin, enum slot slot, int64_t n, int64_t out,
                       int64_t in, bool bias) {
    bind_report(b, slot, n, ".weight", true, 2, (int64_t[]){ out, in });
    if (bias) bind_report(b, slot, n, ".bias", false, 1, &out);
    for (int64_t i = 0; lin && i < n; i++) lin[i].w = tensor_2d(NULL, F32, out, in);
}

static void record_experts(struct binder *b, struct linear *gate, struct linear *up,
                           struct linear *down, int64_t n, int64_t hidden, int64_t dim, bool bias) {
    if (gate && bind_family_has(b, W_X_GATE_UP)) {
        record_one(b, NULL, W_X_GATE_UP, n, 2 * hidden, dim, bias);
        for (int64_t i = 0; i < n; i++) gate[i].w = up[i].w = tensor_2d(NULL, F32, hidden, dim);
    } else {
        if (gate) record_one(b, gate, W_X_GATE, n, hidden, dim, bias);
        record_one(b, up, W_X_UP, n, hidden, dim, bias);
    }
    record_one(b, down, W_X_DOWN, n, dim, hidden, bias);
}

void bind_experts(struct binder *b, struct linear **gate, struct linear **up, struct linear **down,
                  int n, int64_t hidden, int64_t dim, bool bias) {
    size_t bytes = (size_t)n * sizeof **up;
    struct linear *g = gate ? arena_new(b->arena, bytes) : NULL;
    struct linear *u = arena_new(b->arena, bytes), *d = arena_new(b->arena, bytes);
    unsigned fix;
    if (gate) *gate = g;
    *up = u;
    *down = d;
    if (b->want) {
        record_experts(b, g, u, d, n, hidden, dim, bias);
        return;
    }
    /* A fused tensor goes before separate ones, as in every family that has both in its history. */
    bool ok = gate && bind_has(b, W_X_GATE_UP)
                  ? fused_experts(b, g, u, n, hidden, dim, bias)
                  : (!gate || experts(b, g, W_X_GATE, n, hidden, dim, bias, &fix)) &&
                        experts(b, u, W_X_UP, n, hidden, dim, bias, &fix);
    ok = ok && experts(b, d, W_X_DOWN, n, dim, hidden, bias, &fix);
    for (int i = 0; ok && i < n; i++) {
        if (g) bind_product(b, &g[i].w);
        bind_product(b, &u[i].w);
        bind_product(b, &d[i].w);
    }
}

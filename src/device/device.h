/* device.h - the one boundary between model code and CPU or CUDA code.
 *
 * An op reads tensors and writes tensors. Dtype and quantization are in the
 * tensor, so the table does not grow with formats. Ops never allocate, never
 * wait and never fail: a launch error sticks to the device and sync reports
 * it. That is also what makes a decode step capturable as one CUDA graph.
 *
 * Exactness: what an op computes for a row depends on that row (and on the
 * state of its sequence) alone: neither on how many rows there are nor on the
 * number of threads. Activations are F32 on the CPU. Rows are the tokens of a
 * batch, [rows, cols] or [rows, heads, cols]; the last axis is contiguous, the
 * others may be strided views unless an op says otherwise. y may be x where
 * an op says "in place". */
#pragma once
#include "device/tensor.h"

enum act  { ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_QUICK_GELU, ACT_RELU, ACT_RELU2,
            ACT_SIGMOID, ACT_SOFTPLUS, ACT_SWIGLU_CLAMP };
enum norm { NORM_RMS, NORM_RMS_PLUS1, NORM_LAYER };
enum rope { ROPE_NONE, ROPE_HALVES, ROPE_PAIRS };              /* what rotates together */
enum score { SCORE_SOFTMAX, SCORE_SIGMOID, SCORE_SOFTMAX_OF_TOP };

/* How the packed rows of a batch map to sequences. The arrays lie where the
 * device can read them. Rows of a sequence are consecutive, positions ascend. */
struct rows {
    int n_rows, n_seqs;
    const int *pos;                  /* [n_rows] position in its sequence */
    const int *seq;                  /* [n_rows] sequence, 0 .. n_seqs-1 */
    const int *first;                /* [n_seqs + 1] first row of each */
};

struct rope_args {
    const struct rows *rows;
    const float *freq;               /* [variants, dims/2] radians per position */
    const int *variant;              /* [n_seqs] row of freq; NULL: 0 */
    enum rope pairing;
    float magnitude;                 /* cos and sin are multiplied by it; YaRN's attention factor */
};

struct gate_args {
    enum act act;
    float alpha, limit;              /* of ACT_SWIGLU_CLAMP; limit 0: none */
};

/* Products of the same rows, and what becomes of them. v[i] = w[i] x + bias[i]. */
enum products_end {
    PRODUCTS_STORE,                  /* y[i] = v[i] */
    PRODUCTS_ADD,                    /* y[0] += scale * v[0] */
    PRODUCTS_GATE                    /* y[0] = act(v[0]) * v[1], see gate */
};
enum { PRODUCTS_MAX = 3 };
struct products {
    const struct tensor *x;
    const struct linear *w[PRODUCTS_MAX];
    struct tensor *y[PRODUCTS_MAX];  /* [rows, out] */
    int n;                           /* matrices */
    const struct linear *then;       /* reads y[0], and nothing else does; NULL: others do */
    enum products_end end;
    float scale;
    struct gate_args act;
};

struct kv_view {                     /* one layer, one batch: what a kernel may touch */
    void *pages;                     /* page p begins at pages + p * page_bytes: k and v of its
                                        tokens, and the scales of bytes, as the device likes them */
    size_t page_bytes;
    const int *table;                /* [n_seqs, pages_max] page of each page_tokens positions;
                                        -1: let go, outside every window */
    int pages_max, page_tokens;
    enum dtype dtype;                /* F32, BF16, or, never with v_in_k, I8 or FP8 (e4m3): then 8
                                        bytes more a kv head and token, the scales of its k and v */
};

struct attend {                      /* arguments of the attention ops */
    const struct rows *rows;
    struct kv_view kv;
    int heads, kv_heads, k_dim, v_dim;
    bool v_in_k;                     /* MLA: a cached row is one latent, v its first v_dim values */
    bool tiled;                      /* head h reads kv head h % kv_heads; else
                                        h / (heads/kv_heads) */
    int window;                      /* a position sees the last `window` ones; 0: all */
    int chunk;                       /* sees only its own chunk of this many; 0: none */
    const float *sinks;              /* [heads] one more logit in each softmax; NULL: none */
    float scale, softcap;            /* softcap 0: none */
};

struct heads_args {                  /* what makes q, k, v ready for attention */
    struct tensor *q, *k, *v;        /* [rows, heads, dim], q and k in place */
    const struct tensor *q_norm, *k_norm;        /* as norm's w */
    bool normed;                     /* q and k of every head, before they turn */
    enum norm kind;
    float eps;
    struct rope_args rope;
    int64_t dims;                    /* that turn */
    const struct attend *attend;     /* where k and v are stored */
};

struct state_view {                  /* recurrent state of one layer: a slot per sequence */
    void *slots;                     /* slot s begins at slots + s * slot_bytes */
    size_t slot_bytes;
    const int *slot;                 /* [n_seqs] */
};

struct ssm_args {                    /* Mamba-2, arXiv 2405.21060 */
    const struct rows *rows;
    struct state_view state;         /* [heads, head_dim, state] F32, a head's numbers in an
                                        order of the device's own */
    const struct tensor *x;          /* [rows, heads, head_dim] */
    const struct tensor *b, *c;      /* [rows, groups, state] */
    const struct tensor *dt;         /* [rows, heads], before bias and softplus */
    const float *dt_bias, *a_log, *d;    /* [heads] */
    float dt_min, dt_max;
};

struct delta_args {                  /* gated delta rule, arXiv 2412.06464 */
    const struct rows *rows;
    struct state_view state;         /* [v_heads, k_dim, v_dim] F32, likewise */
    const struct tensor *q, *k;      /* [rows, k_heads, k_dim], before the l2 norm */
    const struct tensor *v;          /* [rows, v_heads, v_dim] */
    const struct tensor *a, *b;      /* [rows, v_heads] before softplus; before sigmoid */
    const float *dt_bias, *a_log;    /* [v_heads] decay = exp(-exp(a_log) softplus(a + dt_bias)) */
};

struct route_args {
    int experts, active, groups, groups_active;      /* groups 0 or 1: no groups */
    enum score score;
    int group_top;                   /* a group's score is the sum of its best 1 or 2 */
    bool renormalize;
    float renormalize_eps, scale;
    const float *bias;               /* [experts] added for choosing only; NULL: none */
};

struct expert_args {
    const struct linear *gate, *up, *down;       /* [experts] each; gate NULL: not gated */
    int experts;
    const struct tensor *ids;        /* [rows, active] I32 */
    const struct tensor *share;      /* [rows, active] F32 */
    float *hidden;                   /* scratch [rows*active, 2*expert hidden + dim] */
    int *order;                      /* scratch [2*rows*active + experts + 1] */
    struct gate_args act;
    /* stream NULL, or a tensor to which y may be added at once, times residual: then *added is set,
     * and what y holds does not matter. The bits are those of `add`. */
    struct tensor *stream;
    float residual;
    bool *added;
};

/* How a row's token is drawn: the top_k best, of those the most likely that hold top_p of the mass,
 * of those the ones at least min_p times as likely as the best; then the temperature. */
struct draw {
    double chance;                   /* uniform in [0, 1) */
    float temperature;               /* 0: the best, whatever else is here */
    float top_p, min_p;              /* 1, 0: off; top_p 1 without top_k */
    int top_k;                       /* at most DRAW_TOP_K_MAX; 0: off */
};
enum { DRAW_TOP_K_MAX = 256, DRAWN = -2 };

struct draws {                       /* addresses of the device but for `told` */
    const struct draw *how;          /* [n] */
    int n;
    int *drawn;                      /* [n] the tokens; -1: no logit is finite, or one is NaN */
    int *told;                       /* [2][told_max] the same, of op->shared memory */
    int told_max;
    const int *turn;                 /* which half of told: 0 or 1 */
};

struct device {
    const struct device_ops *op;
    void *impl;
    int ordinal;
};

struct device_options {
    int ordinal, threads;            /* threads 0: as many as there are */
    const char *isa;                 /* NULL: the best */
    bool rounded;                    /* may round rows where they meet weights: a CPU to 8 bits
                                        with packed ones, a GPU to bf16 */
    bool fast;                       /* many rows may be summed in another order than few: then a
                                        row's bits depend on how many there are */
};

/* Matrices that products will be given, for a device that would rather have them in an order of
 * its own. */
struct pack_place {                  /* zeroed: packed in memory */
    bool off;                        /* never packed */
    const char *dir;                 /* a folder of files, made where it is missing; NULL: memory */
    size_t file_min;                 /* bytes from which on a file is worth it */
};
struct pack_item {
    struct tensor *w;
    uint64_t at;                     /* where it lies in the files it came from */
};
struct pack_job {
    const struct pack_item *item;    /* [n] */
    size_t n;
    struct pack_place place;
    const char *model;               /* the path of its folder */
    unsigned char source[16];        /* other bytes, other contents of that folder */
    void (*let_go)(void *to, const struct tensor *w);    /* the matrix is not read any more */
    void (*progress)(void *to, double done);             /* 0 to 1, only while it packs */
    void *to;
};

struct device_ops {
    const char *name;
    bool host_memory;                /* the host reads its memory: results need no copy_out */
    bool kv_bytes;                   /* kv_store and attention know pages of I8 and of FP8 */

    /* life and memory */
    bool (*open)(struct device *, const struct device_options *, struct err *);
    void (*close)(struct device *);
    /* "cpu, avx512, 2 threads" */
    void (*describe)(const struct device *, char *text, size_t size);
    void *(*alloc)(struct device *, size_t bytes);        /* NULL: no device memory left */
    void (*free)(struct device *, void *, size_t bytes);
    /* Weights and tables of the host that ops will be given addresses into: from now on these
     * stand for a copy on the device. The bytes must not change or go. False: no memory left. */
    bool (*adopt)(struct device *, const void *at, size_t bytes);
    /* Optional. Sets quant.packed of the items that it packed. What cannot be packed or kept is
     * used as it is, and the log says why. The device owns the packed weights. */
    void (*pack)(struct device *, const struct pack_job *);
    /* That was all for now: the copies are made. NULL: there are none. False: the err says how
     * much is needed and how much there is. */
    bool (*adopted)(struct device *, struct err *);
    /* Bytes that alloc may still give, and all there are. NULL: the host's. */
    void (*memory)(const struct device *, size_t *free_bytes, size_t *all_bytes);
    void (*copy_in)(struct device *, void *to, const void *from, size_t bytes);
    void (*copy_out)(struct device *, void *to, const void *from, size_t bytes);
    /* Inside the device. */
    void (*move)(struct device *, void *to, const void *from, size_t bytes);
    bool (*sync)(struct device *, struct err *);
    /* Optional, both or none: for devices on which starting an op is dear. replay: true: the ops
     * that were kept under this key are started again, with what they were given then. False: the
     * caller gives them, and `record_end` closes their list, which may be kept. The key holds all
     * that decides which ops there are and what they are given; free forgets every list. */
    bool (*replay)(struct device *, const void *key, size_t bytes);
    void (*record_end)(struct device *);

    /* Optional, all of these or none, for devices that run on while the host does something
     * else. shared: memory of the host that draws write; freed with unshare. mark: `reached` of the
     * same i (0 or 1) waits for all that was asked for before. */
    void *(*shared)(struct device *, size_t bytes);
    void (*unshare)(struct device *, void *);
    void (*mark)(struct device *, int i);
    bool (*reached)(struct device *, int i, struct err *);
    /* A token for each row of logits [n, vocab]. */
    void (*sample)(struct device *, const struct tensor *logits, const struct draws *);
    /* ids[i] = drawn[DRAWN - ids[i]] where ids[i] <= DRAWN: tokens the host does not know yet. */
    void (*feed)(struct device *, int *ids, int n, const int *drawn);

    /* dense */
    /* y[r] = table[ids[r]] * scale; also gathers rows. ids I32 [rows]. */
    void (*embed)(struct device *, struct tensor *y, const struct tensor *table,
                  const struct tensor *ids, float scale);
    /* y[r] = w x[r] + bias. w [out, in]; or w [heads, out, in] with x [rows, heads, in] and
     * y [rows, heads, out], a matrix for each head. */
    void (*linear)(struct device *, struct tensor *y, const struct linear *,
                   const struct tensor *x);
    /* Optional: several ops at once, with the bits that they have one by one. False: nothing was
     * done, and the caller gives them one by one. */
    bool (*products)(struct device *, const struct products *);
    /* Over the last axis, in place allowed. w: NULL, [cols], or [heads, cols]; b: NULL or
     * [cols]. */
    void (*norm)(struct device *, struct tensor *y, const struct tensor *w, const struct tensor *b,
                 const struct tensor *x, enum norm kind, float eps);
    /* In place on [rows, heads, dims], dims being the part that rotates. */
    void (*rope)(struct device *, struct tensor *x, const struct rope_args *);
    /* y = act(gate) * up, or act(gate) without up; in place on either. gate may be
     * [rows, heads, 1]: one for all columns of a head. */
    void (*gate)(struct device *, struct tensor *y, const struct tensor *gate,
                 const struct tensor *up, const struct gate_args *);
    /* y += scale * x */
    void (*add)(struct device *, struct tensor *y, const struct tensor *x, float scale);
    void (*copy)(struct device *, struct tensor *y, const struct tensor *x);  /* between views */
    /* In place: x = x * scale, then limit to +-clip, then cap * tanh(x / cap); 0 skips a step. */
    void (*scale)(struct device *, struct tensor *x, float scale, float clip, float cap);
    /* x[r] *= 1 + beta * log(1 + floor((pos[r] + 1*shift) / original)): Llama 4's and Ministral's
     * temperature for long contexts. */
    void (*temperature)(struct device *, struct tensor *x, const struct rows *, float beta,
                        float original, int shift);

    /* mixing over the packed rows of a batch */
    /* Optional: norm and rope of q and k, then kv_store, as products says. q and k may stay as they
     * were where attention of the same rows comes next: nothing else may read them then. */
    bool (*heads)(struct device *, const struct heads_args *);
    void (*kv_store)(struct device *, const struct attend *, const struct tensor *k,
                     const struct tensor *v);             /* v NULL with v_in_k */
    void (*attention)(struct device *, struct tensor *y, const struct tensor *q,
                      const struct attend *);             /* y [rows, heads, v_dim] */
    /* Causal depthwise convolution; the slot holds the last kernel-1 inputs, F32. y not x. */
    void (*conv)(struct device *, struct tensor *y, const struct tensor *w,
                 const struct tensor *bias, const struct tensor *x, const struct rows *,
                 const struct state_view *, enum act);
    void (*ssm)(struct device *, struct tensor *y, const struct ssm_args *);
    void (*delta)(struct device *, struct tensor *y, const struct delta_args *);

    /* experts; ties go to the lower index */
    void (*route)(struct device *, struct tensor *ids, struct tensor *share,
                  const struct tensor *logits, const struct route_args *);
    void (*experts)(struct device *, struct tensor *y, const struct tensor *x,
                    const struct expert_args *);
};

/* The first row of a sequence that starts at position 0 finds its state zeroed by the op:
 * nobody clears slots. */

extern const struct device_ops device_cpu;
extern const struct device_ops device_null;      /* every op does nothing: measures scratch */

/* What the shared object of the CUDA device exports, as `mlxcel_cuda`. */
struct cuda_entry {
    size_t ops_bytes, tensor_bytes;  /* of struct device_ops and tensor where it was built */
    const struct device_ops *ops;
    const char *(*unusable)(void);   /* why there is no GPU that can be used; NULL: there is one */
};

/* "cpu", "cuda"; "auto" or NULL: cuda where there is a GPU, and the log says which and why. NULL:
 * the err says what there is. */
const struct device_ops *device_find(const char *name, struct err *);

/* attention_kernels.h - the inner loops of attention that an instruction set may bring.
 *
 * Their arithmetic: a score is one sum in ascending dimension, but of a latent 16 of them (the
 * dimension modulo 16), folded as a tree; a column of the output takes its values in ascending
 * order, one multiply-add each; the sum of a softmax has 16 lanes (the position in the step modulo
 * 16), folded likewise. So nothing depends on how many queries
 * are taken together. All sets but generic agree in every bit; it rounds products and sums
 * apart and has libm's exponential. Kernels that round (bf16 queries, keys, weights and values)
 * have sums of their own, which depend on a row alone as well. */
#pragma once
#include "device/tensor.h"

/* STEP_TOKENS keys share one look at the maximum; a row of scores has room for all of them, and
 * whole vectors may be read and written there. Rows lie an odd number of lines apart: else they
 * would share places in the cache. */
enum { STEP_TOKENS = 128, SCORE_ROW = STEP_TOKENS + 16 };

/* Rows of one kv head in one page, F32, BF16, I8 or FP8 (e4m3): keys are [dim, tokens], values and
 * a latent's keys [tokens, dim]. Bytes: a token's numbers are multiples of its scale. Of what is
 * read soon memory is asked for as many bytes as there are here. */
struct cpu_kv {
    const char *at; size_t row_bytes; enum dtype dtype; const float *scales;
    const char *soon;                /* NULL: nothing */
};

struct cpu_softmax { float scale, softcap; };            /* softcap 0: none */
struct cpu_running { float max, sum; };                  /* -INFINITY and 0 at first */

struct cpu_attention_kernels {
    /* score[j * SCORE_ROW + i] = q[j * dim ..] . k[i], i < n, j < n_q */
    void (*scores)(float *score, const float *q, int n_q, const struct cpu_kv *k, int n, int dim);
    /* the same of a latent; not bytes. */
    void (*latent_scores)(float *score, const float *q, int n_q, const struct cpu_kv *k, int n,
                          int dim);
    /* Scores of a step become weights; those outside [begin, end) become 0, up to n. Returns what
     * the sums so far must be multiplied with; 1 when the maximum is the old one. */
    float (*soften)(float *score, int begin, int end, int n, const struct cpu_softmax *,
                    struct cpu_running *);
    /* y[j * dim ..] += sum of p[j * SCORE_ROW + i] v[i], i < n <= STEP_TOKENS, j < n_q */
    void (*weigh)(float *y, const float *p, int n_q, const struct cpu_kv *v, int n, int dim);
};

extern const struct cpu_attention_kernels cpu_attention_generic, cpu_attention_avx2,
    cpu_attention_avx512, cpu_attention_neon;

/* What a set may bring that rounds queries and weights to bf16, over bf16 or bytes in pages of
 * pairs (attention.h): of so many tokens, and heads of up to so many dimensions. A page of bytes is
 * made bf16 on the stack, which may be small. */
enum { ROUNDED_TOKENS = 32, ROUNDED_DIM = 256, ROUNDED_BYTES_DIM = 128 };

struct cpu_attention_rounded {
    /* Queries [n_q, dim] become what `scores` reads, in place; dim a multiple of 32. */
    void (*round)(float *q, int n_q, int dim);
    /* score[j * SCORE_ROW + i] = q[j] . k[i], of a page's tokens i, j < n_q */
    void (*scores)(float *score, const float *q, int n_q, const struct cpu_kv *k, int dim);
    /* y[j * dim ..] += sum of p[j * SCORE_ROW + i] v[i], i < n <= STEP_TOKENS, j < n_q, of pages
     * one after the other, from the first one's first token on. Tokens of the last one from n on
     * need not have been written; their weights are 0. dim is a multiple of 16. */
    void (*weigh)(float *y, const float *p, int n_q, const struct cpu_kv *pages, int n, int dim);
};

extern const struct cpu_attention_rounded cpu_attention_amx;

/* Asks for so many bytes of what is read soon (NULL: nothing), into the second-level cache, and
 * returns what comes behind them. */
static inline __attribute__((always_inline)) const char *cpu_fetch(const char *soon, size_t bytes) {
    if (!soon) return soon;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(soon + i, 0, 2);
    return soon + bytes;
}

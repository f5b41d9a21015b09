/* linear_job.h - a product of a matrix and rows, as the files of `linear` pass it around. */
#pragma once
#include "device/cpu/linear.h"

struct cpu_job {
    const struct cpu_kernels *kernels;
    const struct cpu_scratch *scratch;           /* NULL: none, and not rounded */
    struct cpu_matrix w;             /* of head 0 */
    const float *bias;               /* NULL: none */
    bool fine;
    struct cpu_rows rows;            /* of head 0 */
    int64_t cols, begin, end;        /* columns of w; its rows to do */
    int64_t heads, blocks;           /* blocks of CPU_TILE_OUTS rows in a head */
    int64_t w_head, x_head, y_head, bias_head;   /* elements from head to head */
};

/* Row r of x, or where row r of y begins: at column `begin` of the products. */
static inline const float *cpu_job_x(const struct cpu_job *j, int64_t head, int64_t r) {
    return j->rows.x + head * j->x_head
        + (j->rows.x_row ? j->rows.x_row[r] : r) * j->rows.x_stride;
}

static inline float *cpu_job_y(const struct cpu_job *j, int64_t head, int64_t r) {
    return j->rows.y + head * j->y_head
        + (j->rows.y_row ? j->rows.y_row[r] : r) * j->rows.y_stride;
}

static inline bool cpu_job_rounds(const struct cpu_job *j) {
    return j->scratch && !j->scratch->exact;
}

static inline void cpu_job_add_bias(const struct cpu_job *j, int64_t head, float *y, int64_t out,
                                    int64_t n) {
    if (!j->bias)
        return;
    const float *bias = j->bias + head * j->bias_head + out;
    for (int64_t i = 0; i < n; i++)
        y[i] += bias[i];
}

/* A matrix whose rows begin row_stride elements apart. */
struct cpu_matrix cpu_matrix_of(const struct tensor *, int64_t row_stride);

/* The way over 8 bits: whether it is open for this product, whether two products of the same rows
 * can go it together, and n products of the same rows, at most INT8_MATRICES. */
bool cpu_int8_applies(const struct cpu_job *);
bool cpu_int8_together(const struct cpu_job *, const struct cpu_job *);
void cpu_int8_run(struct pool *, const struct cpu_job *, int n);

/* The way over bf16, one product at a time. */
bool cpu_bf16_applies(const struct cpu_job *);
void cpu_bf16_run(struct pool *, const struct cpu_job *);

/* The way of many rows in floats, the same. */
bool cpu_chains_applies(struct pool *, const struct cpu_job *);
void cpu_chains_run(struct pool *, const struct cpu_job *);

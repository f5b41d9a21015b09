/* linear_bf16.c - cuts the product of bf16 weights and rounded rows in pieces for the threads and
 * the caches. The arithmetic is in linear_bf16.h.
 *
 * First all rows are rounded, into the scratch. Then a piece takes blocks of some rows of w, and
 * all rows of x go by, chunk after chunk. Many rows: linear_chains.c, where the set has kernels for
 * them. */
#include "device/cpu/linear_job.h"

#include <assert.h>

enum {
    PIECE_BYTES = 64 << 10,          /* of weights, as in linear.c */
    PIECES = 4                       /* for each thread at least, where it matters */
};

struct bf16_job {
    const struct cpu_job *job;
    const struct cpu_bf16_kernels *kernels;
    int64_t row, n_rows;             /* rows of x of this run */
    int64_t cols;                    /* of a row in the scratch */
    int64_t outs;                    /* rows of w in a block */
    uint16_t *x;
};

static int64_t padded_cols(const struct cpu_job *j) {
    return (j->cols + BF16_STEP - 1) / BF16_STEP * BF16_STEP;
}

static int64_t chunk_bytes(const struct cpu_job *j) {
    return j->kernels->bf16->rows * padded_cols(j) * (int64_t)sizeof(uint16_t);
}

bool cpu_bf16_applies(const struct cpu_job *j) {
    return cpu_job_rounds(j) && j->kernels->bf16 && j->w.dtype == BF16 && j->heads == 1
        && chunk_bytes(j) <= (int64_t)j->scratch->bytes;
}

/* Rows [BF16_TOGETHER begin, BF16_TOGETHER end) or as many as there are; a chunk is a multiple. */
static void round_rows(void *to, int64_t begin, int64_t end) {
    const struct bf16_job *o = to;
    for (; begin < end; begin++) {
        const float *x[BF16_TOGETHER];
        const int64_t row = begin * BF16_TOGETHER;
        const int64_t chunk = row / o->kernels->rows * o->kernels->rows;
        const int n = (int)MIN(BF16_TOGETHER, o->n_rows - row);
        for (int r = 0; r < n; r++)
            x[r] = cpu_job_x(o->job, 0, o->row + row + r);
        o->kernels->round(o->x + chunk * o->cols, (int)MIN(o->kernels->rows, o->n_rows - chunk),
                          (int)(row - chunk), n, x, o->job->cols);
    }
}

static void run_blocks(void *to, int64_t begin, int64_t end) {
    const struct bf16_job *o = to;
    const struct cpu_job *j = o->job;
    for (; begin < end; begin++) {
        const int64_t out = j->begin + begin * o->outs;
        struct cpu_bf16_block b = {
            .w = j->w.at + out * j->w.row_bytes, .row_bytes = j->w.row_bytes,
            .outs = (int)MIN(o->outs, j->end - out), .cols = j->cols,
        };
        for (int64_t row = 0; row < o->n_rows; row += o->kernels->rows) {
            float *y[BF16_ROWS];
            b.x = o->x + row * o->cols;
            b.rows = (int)MIN(o->kernels->rows, o->n_rows - row);
            for (int r = 0; r < b.rows; r++)
                y[r] = cpu_job_y(j, 0, o->row + row + r) + (out - j->begin);
            o->kernels->multiply(y, &b);
            for (int r = 0; r < b.rows; r++)
                cpu_job_add_bias(j, 0, y[r], out, b.outs);
        }
    }
}

/* As many rows at a time as the scratch holds. */
void cpu_bf16_run(struct pool *pool, const struct cpu_job *j) {
    struct bf16_job o = { .job = j, .kernels = j->kernels->bf16, .cols = padded_cols(j),
                          .x = j->scratch->at };
    const int64_t room = (int64_t)j->scratch->bytes / chunk_bytes(j) * o.kernels->rows;
    const int64_t threads = pool ? pool_threads(pool) : 1;
    assert(o.kernels->rows <= BF16_ROWS);
    for (; o.row < j->rows.n; o.row += room) {
        o.n_rows = MIN(room, j->rows.n - o.row);
        o.outs = o.kernels->outs;
        if (o.n_rows > o.kernels->few_rows)
            o.outs *= MAX(1, MIN(o.kernels->outs_many, (j->end - j->begin) / (PIECES * threads))
                                 / o.outs);
        const int64_t blocks = (j->end - j->begin + o.outs - 1) / o.outs;
        const int64_t block_bytes = j->w.row_bytes * o.outs * MIN(o.n_rows, 64);
        const int64_t some = (o.n_rows + BF16_TOGETHER - 1) / BF16_TOGETHER;
        if (pool && some > 1)
            pool_run(pool, some, 1, round_rows, &o);
        else
            round_rows(&o, 0, some);
        if (pool)
            pool_run(pool, blocks, MAX(1, PIECE_BYTES / MAX(1, block_bytes)), run_blocks, &o);
        else
            run_blocks(&o, 0, blocks);
    }
}

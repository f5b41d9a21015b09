/* linear.c - cuts the product of a matrix and rows in pieces for the threads and the caches.
 * The arithmetic is in the kernels of an instruction set.
 *
 * A few rows: a kernel multiplies the weights as it unpacks them. More:
 * a tile of weights is unpacked to floats that stay in the first-level cache, and all rows
 * go by, 48 at a time so that their lanes, which outlive a tile, stay near as well. Many:
 * linear_chains.c, where the set has kernels for it. */
#include "device/cpu/linear_job.h"
#include "device/cpu/pack.h"

#include <assert.h>
#include <string.h>

/* A build that zeroes all locals would spend more on the tile of few rows than the product. */
#define UNSET __attribute__((uninitialized))

enum { PIECE_BYTES = 64 << 10 };     /* of weights: long for a prefetcher, short for a balance */

static int64_t packed_bytes(const struct tensor *t, int64_t elements) {
    if (!dtype_grouped(t->dtype))
        return elements * (int64_t)dtype_bytes(t->dtype);
    assert(elements % t->quant.group == 0);
    return elements / 8 * t->quant.bits;
}

static int64_t scale_bytes(const struct tensor *t, int64_t elements) {
    if (!dtype_grouped(t->dtype))
        return 0;
    return elements / t->quant.group * (int64_t)dtype_bytes(t->quant.scale_dtype);
}

static void check_dtype(const struct tensor *t) {
    const struct quant *q = &t->quant;
    assert(dtype_weights(t->dtype));
    if (t->dtype == FP8)
        assert(q->scales && q->cols > 0 && q->block_rows > 0 && q->block_cols > 0 && q->first >= 0);
    if (!dtype_grouped(t->dtype))
        return;
    assert(q->scales && t->shape[t->rank - 1] % q->group == 0);
    if (t->dtype != MLX_AFFINE) {
        assert(q->bits == 4 && q->group == (t->dtype == MXFP4 ? 32 : 16));
        return;
    }
    assert(q->bits >= 2 && q->bits <= 8 && q->bits != 7);
    assert(q->group == 32 || q->group == 64 || q->group == 128);
    assert(q->scale_dtype == F32 || q->scale_dtype == F16 || q->scale_dtype == BF16);
    assert(q->biases);
}

struct cpu_matrix cpu_matrix_of(const struct tensor *t, int64_t row_stride) {
    const struct quant *q = &t->quant;
    check_dtype(t);
    struct cpu_matrix m = {
        .at = t->at,
        .scales = q->scales,
        .biases = q->biases,
        .packed = q->packed,
        .row_bytes = packed_bytes(t, row_stride),
        .scale_row_bytes = scale_bytes(t, row_stride),
        .dtype = t->dtype,
        .scale_dtype = q->scale_dtype,
        .bits = q->bits,
        .group = q->group,
        .first = q->first,
        .cols = q->cols,
        .block_rows = q->block_rows,
        .block_cols = q->block_cols,
    };
    if (t->dtype == FP8)             /* from one row of blocks to the next */
        m.scale_row_bytes = (q->cols + q->block_cols - 1) / q->block_cols
            * (int64_t)dtype_bytes(q->scale_dtype);
    return m;
}

static struct cpu_matrix of_head(const struct cpu_job *j, int64_t head) {
    struct cpu_matrix m = j->w;
    if (head == 0)
        return m;
    struct tensor t = { .dtype = m.dtype, .quant.scale_dtype = m.scale_dtype,
                        .quant.bits = (uint8_t)m.bits, .quant.group = (uint16_t)m.group };
    m.at += packed_bytes(&t, head * j->w_head);
    if (m.dtype == FP8)
        m.first += head * j->w_head;
    if (dtype_grouped(m.dtype))
        m.scales += scale_bytes(&t, head * j->w_head);
    if (m.dtype == MLX_AFFINE)
        m.biases += scale_bytes(&t, head * j->w_head);
    return m;
}

/* At most CPU_TILE_OUTS rows of w, from `out`, times rows [row, row + n_rows) of x. */
static void run_tile(const struct cpu_job *j, const struct cpu_matrix *m, int64_t head, int64_t out,
                     int n_outs, int64_t row, int n_rows) {
    _Alignas(64) UNSET float w[CPU_TILE_OUTS * CPU_TILE_COLS];
    _Alignas(64) UNSET float acc[CPU_TILE_ROWS * CPU_TILE_OUTS * CPU_LANES];
    const float *x[CPU_TILE_ROWS];
    const int padded = (n_outs + 3) & ~3;
    if (padded > n_outs)
        memset(w + n_outs * CPU_TILE_COLS, 0,
               (size_t)(padded - n_outs) * CPU_TILE_COLS * sizeof *w);
    memset(acc, 0, (size_t)n_rows * CPU_TILE_OUTS * CPU_LANES * sizeof *acc);

    for (int64_t begin = 0; begin < j->cols; begin += CPU_TILE_COLS) {
        int n = (int)MIN(CPU_TILE_COLS, j->cols - begin);
        for (int i = 0; i < n_outs; i++)
            j->kernels->unpack(w + i * CPU_TILE_COLS, m, out + i, begin, n);
        for (int r = 0; r < n_rows; r++)
            x[r] = cpu_job_x(j, head, row + r) + begin;
        j->kernels->tile(acc, w, x, n_rows, padded, n);
    }
    for (int r = 0; r < n_rows; r++) {
        float sums[CPU_TILE_OUTS], *y = cpu_job_y(j, head, row + r) + (out - j->begin);
        j->kernels->sum(sums, acc + r * CPU_TILE_OUTS * CPU_LANES, padded);
        memcpy(y, sums, (size_t)n_outs * sizeof *y);
        cpu_job_add_bias(j, head, y, out, n_outs);
    }
}

static bool run_few(const struct cpu_job *j, const struct cpu_matrix *m, int64_t head, int64_t out,
                    int64_t end) {
    const int n = (int)j->rows.n;
    const float *x[CPU_FEW_ROWS];
    float *y[CPU_FEW_ROWS];
    for (int r = 0; r < n; r++) {
        x[r] = cpu_job_x(j, head, r);
        y[r] = cpu_job_y(j, head, r) + (out - j->begin);
    }
    if (!j->kernels->few || !j->kernels->few(y, m, out, end - out, x, n, j->cols))
        return false;
    for (int r = 0; r < n; r++)
        cpu_job_add_bias(j, head, y[r], out, end - out);
    return true;
}

static void run_outs(const struct cpu_job *j, int64_t head, int64_t out, int64_t end) {
    struct cpu_matrix m = of_head(j, head);
    if (j->rows.n <= CPU_FEW_ROWS && run_few(j, &m, head, out, end))
        return;
    for (; out < end; out += CPU_TILE_OUTS)
        for (int64_t row = 0; row < j->rows.n; row += CPU_TILE_ROWS)
            run_tile(j, &m, head, out, (int)MIN(CPU_TILE_OUTS, end - out), row,
                     (int)MIN(CPU_TILE_ROWS, j->rows.n - row));
}

/* Blocks of all heads are numbered through. */
static void run_blocks(void *to, int64_t begin, int64_t end) {
    const struct cpu_job *j = to;
    while (begin < end) {
        int64_t head = begin / j->blocks, block = begin % j->blocks;
        int64_t n = MIN(end - begin, j->blocks - block);
        int64_t out = j->begin + block * CPU_TILE_OUTS;
        run_outs(j, head, out, MIN(j->end, out + n * CPU_TILE_OUTS));
        begin += n;
    }
}

static void run_job(struct pool *pool, struct cpu_job *j) {
    if (j->end <= j->begin || j->rows.n <= 0)
        return;
    if (cpu_int8_applies(j)) {
        cpu_int8_run(pool, j, 1);
        return;
    }
    if (cpu_chains_applies(pool, j)) {
        cpu_chains_run(pool, j);
        return;
    }
    if (cpu_bf16_applies(j)) {
        cpu_bf16_run(pool, j);
        return;
    }
    j->blocks = (j->end - j->begin + CPU_TILE_OUTS - 1) / CPU_TILE_OUTS;
    int64_t block_bytes = MAX(1, j->w.row_bytes * CPU_TILE_OUTS * MIN(j->rows.n, 64));
    if (pool)
        pool_run(pool, j->heads * j->blocks, MAX(1, PIECE_BYTES / block_bytes), run_blocks, j);
    else
        run_blocks(j, 0, j->heads * j->blocks);
}

static struct cpu_job job_of(const struct cpu_kernels *k, const struct cpu_scratch *scratch,
                             struct tensor *y, const struct linear *l, const struct tensor *x) {
    const struct tensor *w = &l->w;
    const int last = w->rank - 1;
    assert((w->rank == 2 || w->rank == 3) && x->rank == w->rank && y->rank == w->rank);
    assert(x->dtype == F32 && y->dtype == F32 && x->shape[0] == y->shape[0]);
    assert(x->shape[last] == w->shape[last] && y->shape[last] == w->shape[last - 1]);
    assert(last == 1 || (x->shape[1] == w->shape[0] && y->shape[1] == w->shape[0]));
    struct cpu_job j = {
        .kernels = k,
        .scratch = scratch,
        .w = cpu_matrix_of(w, w->stride[last - 1]),
        .bias = l->bias.at,
        .fine = l->fine,
        .rows = { .x = x->at, .y = y->at, .x_stride = x->stride[0], .y_stride = y->stride[0],
                  .n = x->shape[0] },
        .cols = w->shape[last],
        .end = w->shape[last - 1],
        .heads = 1,
    };
    if (last == 2) {
        j.heads = w->shape[0];
        j.w_head = w->stride[0];
        j.x_head = x->stride[1];
        j.y_head = y->stride[1];
        j.bias_head = l->bias.rank == 2 ? l->bias.stride[0] : 0;
    }
    return j;
}

void cpu_linear(struct pool *pool, const struct cpu_kernels *k, const struct cpu_scratch *scratch,
                struct tensor *y, const struct linear *l, const struct tensor *x) {
    struct cpu_job j = job_of(k, scratch, y, l, x);
    run_job(pool, &j);
}

void cpu_linear_many(struct pool *pool, const struct cpu_kernels *k,
                     const struct cpu_scratch *scratch, struct tensor *const *y,
                     const struct linear *const *l, int n, const struct tensor *x) {
    struct cpu_job jobs[INT8_MATRICES];
    int held = 0;
    for (int i = 0; i < n; i++) {
        struct cpu_job j = job_of(k, scratch, y[i], l[i], x);
        const bool rounded = cpu_int8_applies(&j) && j.end > 0 && j.rows.n > 0;
        if (held && (held == INT8_MATRICES || !rounded || !cpu_int8_together(jobs, &j))) {
            cpu_int8_run(pool, jobs, held);
            held = 0;
        }
        if (rounded)
            jobs[held++] = j;
        else
            run_job(pool, &j);
    }
    if (held)
        cpu_int8_run(pool, jobs, held);
}

void cpu_linear_rows(struct pool *pool, const struct cpu_kernels *k,
                     const struct cpu_scratch *scratch, const struct linear *l,
                     const struct cpu_rows *rows, int64_t begin, int64_t end) {
    assert(l->w.rank == 2 && begin >= 0 && end <= l->w.shape[0]);
    struct cpu_job j = {
        .kernels = k,
        .scratch = scratch,
        .w = cpu_matrix_of(&l->w, l->w.stride[0]),
        .bias = l->bias.at,
        .fine = l->fine,
        .rows = *rows,
        .cols = l->w.shape[1],
        .begin = begin,
        .end = end,
        .heads = 1,
    };
    /* y begins at column 0 of its row whatever part of it is asked for. */
    j.rows.y += begin;
    run_job(pool, &j);
}

void cpu_dequantize_row(const struct tensor *t, int64_t row, float *out) {
    assert(t->rank == 2);
    if (t->quant.packed) {
        cpu_pack_row(out, t, row);
        return;
    }
    struct cpu_matrix m = cpu_matrix_of(t, t->stride[0]);
    float w[CPU_TILE_COLS];
    for (int64_t begin = 0; begin < t->shape[1]; begin += CPU_TILE_COLS) {
        int n = (int)MIN(CPU_TILE_COLS, t->shape[1] - begin);
        cpu_kernels_generic.unpack(w, &m, row, begin, n);
        memcpy(out + begin, w, (size_t)n * sizeof *out);
    }
}

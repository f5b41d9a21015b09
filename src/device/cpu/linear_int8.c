/* linear_int8.c - cuts the product of affine weights and rows of 8 bits in pieces for the
 * threads and the caches. The arithmetic is in linear_int8.h.
 *
 * First all rows are rounded, into the scratch. Then a piece takes blocks of 32 rows of w, weaves
 * some of their columns into a panel that stays in a near cache, and all rows of x go by. */
#include "device/cpu/linear_job.h"

#include <assert.h>

/* As in linear.c: nothing here is read before it is written. */
#define UNSET __attribute__((uninitialized))

enum { BLOCK = INT8_PANELS * INT8_PANEL, PIECE_BYTES = 64 << 10 };

struct int8_job {
    const struct cpu_job *job;
    const struct cpu_int8_kernels *kernels;
    int64_t row, n_rows;             /* rows of x of this run */
    int64_t stride, groups;          /* of a row in the scratch: columns, groups */
    bool flat;
    int8_t *q;                       /* scratch: tiles one after another */
    float *scale, *sum;
};

/* Columns that a row takes in the scratch: whole chains, which flat tiles are made of. */
static int64_t padded(const struct cpu_job *j) {
    const int64_t unit = (int64_t)INT8_CHAINS * j->w.group;
    return (j->cols + unit - 1) / unit * unit;
}

/* Of one row. The scratch begins at a line, and so do its parts: three lines are to spare. */
static int64_t row_bytes(const struct cpu_job *j) {
    return padded(j) + padded(j) / j->w.group * 2 * (int64_t)sizeof(float);
}

bool cpu_int8_applies(const struct cpu_job *j) {
    return j->scratch && j->kernels->int8 && j->w.dtype == MLX_AFFINE && j->heads == 1
        && INT8_ROWS * row_bytes(j) + 3 * 64 <= (int64_t)j->scratch->bytes;
}

/* Tiles are as equal as can be: 8 rows are two of 4, for a tile of 2 waits for its own sums. */
static int64_t n_tiles(const struct int8_job *o) {
    return (o->n_rows + INT8_ROWS - 1) / INT8_ROWS;
}

static int64_t tile_begin(const struct int8_job *o, int64_t tile) {
    return tile * o->n_rows / n_tiles(o);
}

static struct cpu_int8_tile tile_at(const struct int8_job *o, int64_t tile) {
    const int64_t begin = tile_begin(o, tile);
    return (struct cpu_int8_tile){
        .q = o->q + begin * o->stride,
        .scale = o->scale + begin * o->groups,
        .sum = o->sum + begin * o->groups,
        .rows = (int)(tile_begin(o, tile + 1) - begin),
        .stride = o->flat ? o->stride : 0,
    };
}

static void quantize_tiles(void *to, int64_t begin, int64_t end) {
    const struct int8_job *o = to;
    const struct cpu_matrix *w = &o->job->w;
    for (int64_t i = begin; i < end; i++) {
        const struct cpu_int8_tile t = tile_at(o, i);
        for (int r = 0; r < t.rows; r++)
            o->kernels->quantize(&t, r, cpu_job_x(o->job, 0, o->row + tile_begin(o, i) + r),
                                 o->job->cols, w->group, w->bits);
    }
}

/* The bytes that are woven after columns [begin, begin + n) of a block, for the kernel to ask for
 * while it multiplies. Beyond the last block there may be nothing, which does no harm. */
static void look_ahead(const struct int8_job *o, struct cpu_woven *woven, int64_t out,
                       int64_t begin, int n) {
    const struct cpu_matrix *w = &o->job->w;
    begin += n;
    if (begin >= o->job->cols)
        out += BLOCK, begin = 0;
    n = out < o->job->end ? (int)MIN(INT8_COLS, o->job->cols - begin) : 0;
    const int lines = (n / 8 * w->bits + 63) / 64;
    woven->ahead = (uintptr_t)w->at + (uintptr_t)(out * w->row_bytes + begin / 8 * w->bits);
    woven->ahead_stride = (uintptr_t)w->row_bytes;
    woven->ahead_lines = lines;
    woven->ahead_row = 0;
    woven->ahead_line = 0;
    woven->ahead_rows = (int)MIN(BLOCK, MAX(0, o->job->end - out));
    woven->ahead_pace = (int)((lines * BLOCK * w->group) / (MAX(n, 1) * n_tiles(o)) + 1);
}

/* One block of w times all rows of this run. */
static void run_block(const struct int8_job *o, struct cpu_woven *woven, int64_t out, int outs) {
    const struct cpu_job *j = o->job;
    const struct cpu_matrix *w = &j->w;
    for (int64_t begin = 0; begin < j->cols; begin += INT8_COLS) {
        const int n = (int)MIN(INT8_COLS, j->cols - begin);
        for (int p = 0; p * INT8_PANEL < outs; p++)
            o->kernels->weave(woven, p, w, out + p * INT8_PANEL,
                              MIN(INT8_PANEL, outs - p * INT8_PANEL), begin, n);
        look_ahead(o, woven, out, begin, n);
        for (int64_t i = 0; i < n_tiles(o); i++) {
            struct cpu_int8_tile t = tile_at(o, i);
            const int64_t r = tile_begin(o, i);
            float *y[INT8_ROWS];
            for (int k = 0; k < t.rows; k++)
                y[k] = cpu_job_y(j, 0, o->row + r + k) + (out - j->begin);
            t.q += begin * t.rows;
            t.scale += begin / w->group * t.rows;
            t.sum += begin / w->group * t.rows;
            o->kernels->multiply(y, woven, &t, n, w->group, w->bits, outs, begin > 0);
        }
    }
    for (int64_t r = 0; r < o->n_rows; r++)
        cpu_job_add_bias(j, 0, cpu_job_y(j, 0, o->row + r) + (out - j->begin), out, outs);
}

static void run_few(const struct int8_job *o, int64_t out, int64_t end) {
    const struct cpu_job *j = o->job;
    const struct cpu_int8_tile t = tile_at(o, 0);
    float *y[INT8_ROWS];
    for (int r = 0; r < t.rows; r++)
        y[r] = cpu_job_y(j, 0, o->row + r) + (out - j->begin);
    o->kernels->few(y, &j->w, out, end - out, &t, j->cols);
    for (int r = 0; r < t.rows; r++)
        cpu_job_add_bias(j, 0, y[r], out, end - out);
}

static void run_blocks(void *to, int64_t begin, int64_t end) {
    const struct int8_job *o = to;
    const struct cpu_job *j = o->job;
    UNSET struct cpu_woven woven;
    if (o->flat) {
        run_few(o, j->begin + begin * BLOCK, MIN(j->end, j->begin + end * BLOCK));
        return;
    }
    for (int64_t b = begin; b < end; b++) {
        const int64_t out = j->begin + b * BLOCK;
        run_block(o, &woven, out, (int)MIN(BLOCK, j->end - out));
    }
}

/* As many rows at a time as the scratch holds. */
void cpu_int8_run(struct pool *pool, const struct cpu_job *j) {
    const int64_t n = j->rows.n, blocks = (j->end - j->begin + BLOCK - 1) / BLOCK;
    const int64_t room = ((int64_t)j->scratch->bytes - 3 * 64) / row_bytes(j) / INT8_ROWS
        * INT8_ROWS;
    for (int64_t row = 0; row < n; row += room) {
        struct int8_job o = { .job = j, .kernels = j->kernels->int8, .row = row,
                              .n_rows = MIN(room, n - row), .stride = padded(j) };
        o.groups = o.stride / j->w.group;
        o.flat = o.kernels->few && o.n_rows <= INT8_FEW;
        o.q = j->scratch->at;
        o.scale = (float *)(void *)(o.q + o.n_rows * o.stride);
        o.sum = o.scale + o.n_rows * o.groups;
        const int64_t block_bytes = j->w.row_bytes * BLOCK * MIN(o.n_rows, 64);
        const int64_t grain = MAX(1, PIECE_BYTES / MAX(1, block_bytes));
        /* A row or two are rounded sooner than another thread hears of it. */
        if (!pool || o.n_rows <= 2)
            quantize_tiles(&o, 0, n_tiles(&o));
        else
            pool_run(pool, n_tiles(&o), 1, quantize_tiles, &o);
        if (pool)
            pool_run(pool, blocks, grain, run_blocks, &o);
        else
            run_blocks(&o, 0, blocks);
    }
}

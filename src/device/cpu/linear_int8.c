/* linear_int8.c - cuts the product of weights and rounded rows in pieces for the threads
 * and the caches. The arithmetic is in linear_int8.h. Several matrices that meet the same rows are
 * one run: the rows are rounded once, and no thread waits between the matrices.
 *
 * First all rows are rounded, into the scratch. Then a piece takes blocks of some panels of w, and
 * all rows of x go by, tile after tile. Panels that are not packed are woven first, some of their
 * columns at a time, into a buffer that stays in a near cache. */
#include "device/cpu/linear_job.h"

#include <assert.h>

/* As in linear.c: nothing here is read before it is written. */
#define UNSET __attribute__((uninitialized))

enum {
    PIECE_BYTES = 64 << 10,          /* of weights, as in linear.c, */
    PIECE_BYTES_MAX = 256 << 10,     /* and more where a thread has many: a stream that begins */
    PIECES = 8,                      /* waits for memory. Of a thread, at least */
    LINE = 64,
    AHEAD_BYTES = 4096,              /* what a lone tile asks for lies so far ahead */
    AHEAD_TILES = 8,                 /* with more tiles than these the memory has time enough */
    /* Groups of INT8_COLS columns of 8 bits and F32 scales, of the smallest group. */
    WOVEN_BYTES = INT8_COLS * QUANT_PANEL + INT8_COLS / 32 * 8 * QUANT_PANEL,
    NARROW_BYTES = WOVEN_BYTES - INT8_COLS * QUANT_PANEL / 2        /* the same of 4 bits */
};

struct int8_job {
    const struct cpu_job *jobs;      /* [n] */
    int n;
    int64_t first[INT8_MATRICES + 1];            /* blocks of the matrices before each */
    const struct cpu_int8_kernels *kernels;
    int64_t row, n_rows, tiles;      /* rows of x of this run, and the tiles they are */
    int64_t cols, groups;            /* of a row in the scratch */
    bool wide;
    int8_t *q;                       /* scratch: tiles one after another */
    float *scale, *sum;
};

/* In the scratch every row takes whole lines, and so every tile begins at one. */
static int64_t padded_cols(const struct cpu_job *j) {
    return (j->cols + LINE - 1) / LINE * LINE;
}

static bool is_wide(const struct cpu_job *j) {
    return j->w.bits == 8 || j->fine;
}

static int64_t row_bytes(const struct cpu_job *j) {
    return padded_cols(j) * (is_wide(j) ? 2 : 1)
        + j->cols / j->w.group * 2 * (int64_t)sizeof(float);
}

/* Most rows in a tile. */
static int tile_rows(const struct int8_job *o) {
    return o->wide ? o->kernels->rows_wide : o->kernels->rows;
}

bool cpu_int8_applies(const struct cpu_job *j) {
    const enum dtype dtype = j->w.dtype;
    return cpu_job_rounds(j) && j->kernels->int8 && (dtype == MLX_AFFINE || dtype == MXFP4)
        && j->heads == 1 && INT8_ROWS * row_bytes(j) <= (int64_t)j->scratch->bytes;
}

/* Tiles are as equal as can be: 8 rows are two of 4, for a tile of 2 waits for its own sums. */
static int64_t tile_begin(const struct int8_job *o, int64_t tile) {
    return tile * o->n_rows / o->tiles;
}

static struct cpu_int8_tile tile_at(const struct int8_job *o, int64_t begin, int64_t end) {
    return (struct cpu_int8_tile){
        .q = o->q + begin * o->cols * (o->wide ? 2 : 1),
        .scale = o->scale + begin * o->groups,
        .sum = o->sum + begin * o->groups,
        .rows = (int)(end - begin),
        .wide = o->wide,
    };
}

static void quantize_tiles(void *to, int64_t begin, int64_t end) {
    const struct int8_job *o = to;
    const struct cpu_job *j = o->jobs;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = tile_begin(o, i);
        const struct cpu_int8_tile t = tile_at(o, row, tile_begin(o, i + 1));
        for (int r = 0; r < t.rows; r++)
            o->kernels->quantize(&t, r, cpu_job_x(j, 0, o->row + row + r), j->cols, j->w.group);
    }
}

/* Columns [begin, ...) of a block, `w`, times all rows of this run. The tiles share in asking for
 * the `next` bytes that will be read after these: those of the next block, or for a lone
 * tile what lies a little ahead. */
static void run_tiles(const struct int8_job *o, const struct cpu_job *j, struct cpu_panels *w,
                      int64_t out, int64_t begin, uintptr_t next, int64_t next_bytes) {
    const int64_t tiles = o->tiles, lines = (next_bytes + LINE - 1) / LINE;
    const int64_t times = w->groups * tiles;
    w->pace = tiles > AHEAD_TILES ? 0 : (int)((lines + times - 1) / times);
    for (int64_t i = 0, row = 0, next_row; i < tiles; i++, row = next_row) {
        next_row = tile_begin(o, i + 1);
        struct cpu_int8_tile t = tile_at(o, row, next_row);
        float *y[INT8_ROWS];
        for (int k = 0; k < t.rows; k++)
            y[k] = cpu_job_y(j, 0, o->row + row + k) + (out - j->begin);
        t.q += begin * t.rows * (o->wide ? 2 : 1);
        t.scale += begin / w->group * t.rows;
        t.sum += begin / w->group * t.rows;
        w->ahead = next + (uintptr_t)(i * w->pace * w->groups * LINE);
        o->kernels->multiply(y, w, &t, begin > 0);
    }
}

/* n columns from `begin` of the packed panels from row `out`. */
static struct cpu_panels packed_panels(const struct cpu_matrix *m, int64_t out, int outs,
                                       int64_t begin, int64_t n) {
    const int64_t panel = QUANT_PANEL * (m->row_bytes + 2 * m->scale_row_bytes);
    return (struct cpu_panels){
        .at = !m->packed ? NULL : m->packed + out / QUANT_PANEL * panel
            + begin / m->group * cpu_pack_group_bytes(m->bits, m->group, m->scale_dtype),
        .stride = panel, .bits = m->bits, .group = m->group, .scales = m->scale_dtype,
        .groups = (int)(n / m->group), .outs = outs,
    };
}

/* Packed: the panels are read where they lie. Few rows take all columns at once, so that memory
 * is read in one stream. */
static void run_packed(const struct int8_job *o, const struct cpu_job *j, int64_t out, int outs) {
    const struct cpu_matrix *m = &j->w;
    const int64_t step = o->tiles > 1 ? INT8_COLS : j->cols;
    for (int64_t begin = 0; begin < j->cols; begin += step) {
        struct cpu_panels w = packed_panels(m, out, outs, begin, MIN(step, j->cols - begin));
        const int64_t bytes = w.groups * cpu_pack_group_bytes(w.bits, w.group, w.scales)
            * ((outs + QUANT_PANEL - 1) / QUANT_PANEL);
        const int64_t ahead = o->tiles > 1 ? o->kernels->panels * w.stride : AHEAD_BYTES;
        run_tiles(o, j, &w, out, begin, (uintptr_t)w.at + (uintptr_t)ahead, bytes);
    }
}

/* n columns of at most 16 rows of w in `to`, as this run wants them. */
static void weave_panel(const struct int8_job *o, const struct cpu_matrix *m, unsigned char *to,
                        int64_t row, int rows, int64_t begin, int64_t n) {
    _Alignas(LINE) UNSET unsigned char narrow[NARROW_BYTES];
    const bool packed = m->packed && row % QUANT_PANEL == 0;
    if (!o->kernels->widen || (!packed && !cpu_pack_nibbles(m->dtype, m->bits))) {
        o->kernels->weave(to, m, row, rows, begin, n);
        return;
    }
    struct cpu_panels from = packed_panels(m, row, rows, begin, n);
    if (packed) {                    /* the same panel's next columns, or the next block's panel */
        const bool last = begin + n == o->jobs->cols;
        const int64_t next = last ? row + o->kernels->panels * QUANT_PANEL : row;
        from.ahead = (uintptr_t)packed_panels(m, next, rows, last ? 0 : begin + n, n).at;
    } else {
        o->kernels->weave(narrow, m, row, rows, begin, n);
        from.at = narrow;
        from.ahead = (uintptr_t)narrow;
    }
    o->kernels->widen(to, &from);
}

/* Not packed, or not as tiles want it. Rows that are woven next are asked for by the weaver. */
static void run_woven(const struct int8_job *o, const struct cpu_job *j, unsigned char *woven,
                      int64_t out, int outs) {
    const struct cpu_matrix *m = &j->w;
    const int bits = cpu_pack_nibbles(m->dtype, m->bits) && !o->kernels->widen ? 4 : 8;
    for (int64_t begin = 0; begin < j->cols; begin += INT8_COLS) {
        const int64_t n = MIN(INT8_COLS, j->cols - begin);
        struct cpu_panels w = {
            .at = woven, .stride = WOVEN_BYTES, .bits = bits, .group = m->group,
            .scales = cpu_pack_scales(m->dtype, m->scale_dtype),
            .groups = (int)(n / m->group), .outs = outs,
        };
        for (int p = 0; p * QUANT_PANEL < outs; p++)
            weave_panel(o, m, woven + p * WOVEN_BYTES, out + p * QUANT_PANEL,
                        MIN(QUANT_PANEL, outs - p * QUANT_PANEL), begin, n);
        run_tiles(o, j, &w, out, begin, 0, 0);
    }
}

/* Panels of a packed matrix cannot be cut: a matrix whose first row is inside one is read as it
 * is. */
static void run_block(const struct int8_job *o, const struct cpu_job *j, unsigned char *woven,
                      int64_t block) {
    const int most = o->kernels->panels * QUANT_PANEL;
    const int64_t out = j->begin + block * most;
    const int outs = (int)MIN(most, j->end - out);
    if (j->w.packed && j->begin % QUANT_PANEL == 0 && !o->kernels->widen)
        run_packed(o, j, out, outs);
    else
        run_woven(o, j, woven, out, outs);
    for (int64_t r = 0; r < o->n_rows; r++)
        cpu_job_add_bias(j, 0, cpu_job_y(j, 0, o->row + r) + (out - j->begin), out, outs);
}

/* Blocks of all matrices are numbered through. */
static void run_blocks(void *to, int64_t begin, int64_t end) {
    const struct int8_job *o = to;
    _Alignas(LINE) UNSET unsigned char woven[INT8_PANELS * WOVEN_BYTES];
    for (int i = 0; begin < end; begin++) {
        while (begin >= o->first[i + 1])
            i++;
        run_block(o, &o->jobs[i], woven, begin - o->first[i]);
    }
}

bool cpu_int8_together(const struct cpu_job *a, const struct cpu_job *b) {
    return a->cols == b->cols && a->w.group == b->w.group && is_wide(a) == is_wide(b);
}

/* The rows of one run, as many as the scratch holds. */
static void run_rows(struct pool *pool, struct int8_job *o) {
    const struct cpu_job *jobs = o->jobs;
    const struct cpu_int8_kernels *all = jobs->kernels->int8;
    o->kernels = all->few && o->n_rows <= all->few_rows ? all->few : all;
    o->tiles = (o->n_rows + tile_rows(o) - 1) / tile_rows(o);
    o->q = jobs->scratch->at;
    o->scale = (float *)(void *)(o->q + o->n_rows * o->cols * (o->wide ? 2 : 1));
    o->sum = o->scale + o->n_rows * o->groups;
    const int block = o->kernels->panels * QUANT_PANEL;
    for (int i = 0; i < o->n; i++)
        o->first[i + 1] = o->first[i] + (jobs[i].end - jobs[i].begin + block - 1) / block;
    const int64_t block_bytes = MAX(1, jobs->w.row_bytes * block * MIN(o->n_rows, 64));
    const int64_t share = o->first[o->n] * block_bytes / (pool ? pool_threads(pool) : 1) / PIECES;
    const int64_t piece = MIN(MAX((int64_t)PIECE_BYTES, share), (int64_t)PIECE_BYTES_MAX);
    const int64_t grain = MAX(1, piece / block_bytes);
    /* A row or two are rounded sooner than another thread hears of it. */
    if (!pool || o->n_rows <= 2)
        quantize_tiles(o, 0, o->tiles);
    else
        pool_run(pool, o->tiles, 1, quantize_tiles, o);
    if (pool)
        pool_run(pool, o->first[o->n], grain, run_blocks, o);
    else
        run_blocks(o, 0, o->first[o->n]);
}

void cpu_int8_run(struct pool *pool, const struct cpu_job *jobs, int n) {
    struct int8_job o = { .jobs = jobs, .n = n, .cols = padded_cols(jobs),
                          .groups = jobs->cols / jobs->w.group, .wide = is_wide(jobs) };
    const int64_t room = (int64_t)jobs->scratch->bytes / row_bytes(jobs) / INT8_ROWS * INT8_ROWS;
    assert(n >= 1 && n <= INT8_MATRICES);
    for (; o.row < jobs->rows.n; o.row += room) {
        o.n_rows = MIN(room, jobs->rows.n - o.row);
        run_rows(pool, &o);
    }
}

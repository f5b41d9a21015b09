/* linear_chains.c - cuts the product of a matrix and many rows in pieces for the threads and the
 * caches. The arithmetic is in linear_chains.h.
 *
 * First all rows are sorted, into the scratch. Then a piece takes panels of w, one after another:
 * a panel is unpacked and sorted once, into its thread's part of the scratch, and of it a
 * quarter at a time, which stays in the second-level cache, meets all groups of rows. */
#include "device/cpu/linear_job.h"

#include <assert.h>
#include <string.h>

#define UNSET __attribute__((uninitialized))

enum {
    PIECE_BYTES = 64 << 10,          /* of weights, as in linear.c */
    LEAST_PLAIN = 9, LEAST_OTHER = 24,           /* with fewer rows a panel costs too much, */
    LEAST_LONG = 64,                 /* of whatever length */
    ROW_FLOATS = CPU_TILE_COLS + 16  /* from row to row while they are unpacked: not the same
                                      * lines of a cache for all */
};

struct chains_job {
    const struct cpu_job *job;
    const struct cpu_chains_kernels *kernels;
    int64_t row, n_rows;             /* rows of x of this run, */
    int64_t groups, group_rows;      /* and how they are cut */
    int64_t steps, group;            /* of a lane; floats that a quarter of a group takes, */
    int64_t quarter;                 /* and that of all groups */
    float *x, *panels;               /* quarters of groups; a panel for each thread */
    int64_t panel;                   /* floats that a panel takes */
    int threads;
    bool alone;                      /* without a pool */
};

static const struct cpu_chains_kernels *kernels_of(const struct cpu_job *j) {
    return cpu_bf16_applies(j) ? j->kernels->bf16->chains : j->kernels->chains;
}

static int64_t div_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* The sizes that kernels and columns give. */
static struct chains_job sizes_of(const struct cpu_chains_kernels *k, int threads, int64_t cols) {
    struct chains_job o = { .kernels = k, .threads = threads,
                            .steps = div_up(cols, CPU_LANES * k->word) };
    o.group = CHAINS_LANES * chains_group_lane(o.steps, k->rows);
    o.panel = CPU_LANES * chains_panel_lane(o.steps, k->outs);
    return o;
}

static struct chains_job job_of(struct pool *pool, const struct cpu_job *j) {
    struct chains_job o = sizes_of(kernels_of(j), pool ? pool_threads(pool) : 1, j->cols);
    o.job = j;
    o.panels = j->scratch->at;
    o.x = o.panels + o.threads * o.panel;
    o.alone = !pool;
    return o;
}

size_t cpu_chains_bytes(const struct cpu_chains_kernels *k, int threads, int64_t cols,
                        int64_t rows) {
    const struct chains_job o = sizes_of(k, threads, cols);
    return (size_t)(threads * o.panel + div_up(rows, k->rows) * CHAINS_QUARTERS * o.group)
        * sizeof(float);
}

/* The rows that the scratch has room for. */
static int64_t room_of(const struct chains_job *o) {
    const int64_t floats = (int64_t)(o->job->scratch->bytes / sizeof(float));
    return (floats - o->threads * o->panel) / (CHAINS_QUARTERS * o->group) * o->kernels->rows;
}

/* Whether panels are sorted where they lie, not unpacked before. */
static bool is_plain(const struct cpu_job *j, const struct cpu_chains_kernels *k) {
    return (j->w.dtype == F32 || j->w.dtype == F16 || j->w.dtype == BF16)
        && j->cols % (CPU_LANES * k->word) == 0;
}

/* Rows with which a panel pays. */
static int64_t least_rows(const struct cpu_job *j, const struct cpu_chains_kernels *k) {
    const int64_t least = k->word == 1 && is_plain(j, k) ? LEAST_PLAIN : LEAST_OTHER;
    return k->cols_row ? MAX(least, MIN(LEAST_LONG, j->cols / k->cols_row)) : least;
}

bool cpu_chains_applies(struct pool *pool, const struct cpu_job *j) {
    if (!j->scratch || j->heads != 1 || !kernels_of(j))
        return false;
    const struct chains_job o = job_of(pool, j);
    return j->rows.n >= least_rows(j, o.kernels)
        && room_of(&o) >= MIN(j->rows.n, CPU_TILE_ROWS);
}

static int rows_of(const struct chains_job *o, int64_t group) {
    return (int)MIN(o->group_rows, o->n_rows - group * o->group_rows);
}

static void sort_groups(void *to, int64_t begin, int64_t end) {
    const struct chains_job *o = to;
    for (; begin < end; begin++) {
        const float *x[CHAINS_ROWS_MAX];
        for (int r = 0; r < rows_of(o, begin); r++)
            x[r] = cpu_job_x(o->job, 0, o->row + begin * o->group_rows + r);
        o->kernels->sort_x(o->x + begin * o->group, o->quarter, x, rows_of(o, begin),
                           o->job->cols);
    }
}

/* A row as it lies or in floats, with zeros behind it. */
static void unpack_row(const struct chains_job *o, float *w, int64_t row, int64_t begin, int n) {
    const struct cpu_job *j = o->job;
    if (o->kernels->word == 1) {
        j->kernels->unpack(w, &j->w, row, begin, n);
        return;
    }
    const size_t size = sizeof *w / (size_t)o->kernels->word;
    memcpy(w, j->w.at + row * j->w.row_bytes + begin * (int64_t)size, (size_t)n * size);
    memset((unsigned char *)w + (size_t)n * size, 0, CPU_LANES * sizeof *w);
}

/* CHAINS_OUTS rows of w, or as many as there are. */
static void unpack_outs(const struct chains_job *o, float *panel, int64_t out, int n_outs) {
    _Alignas(64) UNSET float w[CHAINS_OUTS * ROW_FLOATS];
    const struct cpu_job *j = o->job;
    const int step = CPU_LANES * o->kernels->word;
    /* All rows at once: their streams from memory overlap. */
    if (is_plain(j, o->kernels) && n_outs == CHAINS_OUTS) {
        o->kernels->sort(panel, j->w.at + out * j->w.row_bytes, j->w.dtype, j->w.row_bytes, 0,
                         o->steps, j->cols);
        return;
    }
    if (n_outs < CHAINS_OUTS)
        memset(w + n_outs * ROW_FLOATS, 0,
               (size_t)(CHAINS_OUTS - n_outs) * ROW_FLOATS * sizeof *w);
    for (int64_t begin = 0; begin < j->cols; begin += CPU_TILE_COLS) {
        const int n = (int)MIN(CPU_TILE_COLS, j->cols - begin);
        for (int i = 0; i < n_outs; i++)
            unpack_row(o, w + i * ROW_FLOATS, out + i, begin, n);
        o->kernels->sort(panel, (const unsigned char *)w, o->kernels->word == 1 ? F32 : BF16,
                         ROW_FLOATS * sizeof *w, begin / step, o->steps,
                         (n + step - 1) / step * step);
    }
}

static void unpack_panel(const struct chains_job *o, float *panel, int64_t out, int n_outs) {
    for (int i = 0; i < o->kernels->outs; i += CHAINS_OUTS)
        unpack_outs(o, panel + i, out + i, MIN(CHAINS_OUTS, MAX(0, n_outs - i)));
}

/* Groups [group, group + n) times a panel. */
static void run_groups(const struct chains_job *o, const float *panel, int64_t out, int n_outs,
                       int64_t group, int64_t n) {
    static const int quarters[CHAINS_QUARTERS] = { 0, 2, 1, 3 };     /* as the tree adds them */
    _Alignas(64) UNSET float sums[2][CHAINS_BLOCK_ROWS * CHAINS_OUTS_MAX];
    const int outs = o->kernels->outs;
    const int64_t w_quarter = o->panel / CHAINS_QUARTERS, row = group * o->group_rows;
    for (int i = 0; i < CHAINS_QUARTERS; i++) {
        const int q = quarters[i];
        for (int64_t g = 0; g < n; g++)
            o->kernels->multiply(sums[i / 2] + g * o->group_rows * outs, panel + q * w_quarter,
                                 o->x + q * o->quarter + (group + g) * o->group,
                                 rows_of(o, group + g), o->steps, i % 2);
    }
    for (int64_t r = 0; r < MIN(n * o->group_rows, o->n_rows - row); r++) {
        float *y = cpu_job_y(o->job, 0, o->row + row + r) + (out - o->job->begin);
        o->kernels->add(y, sums[0] + r * outs, sums[1] + r * outs, n_outs);
        cpu_job_add_bias(o->job, 0, y, out, n_outs);
    }
}

static void run_panels(void *to, int64_t begin, int64_t end) {
    const struct chains_job *o = to;
    const int64_t block = CHAINS_BLOCK_ROWS / o->group_rows;
    float *panel = o->panels + (o->alone ? 0 : pool_index()) * o->panel;
    for (; begin < end; begin++) {
        const int64_t out = o->job->begin + begin * o->kernels->outs;
        const int n_outs = (int)MIN(o->kernels->outs, o->job->end - out);
        unpack_panel(o, panel, out, n_outs);
        for (int64_t group = 0; group < o->groups; group += block)
            run_groups(o, panel, out, n_outs, group, MIN(block, o->groups - group));
    }
}

/* As many rows at a time as the scratch holds. */
void cpu_chains_run(struct pool *pool, const struct cpu_job *j) {
    struct chains_job o = job_of(pool, j);
    const int64_t room = room_of(&o), panels = div_up(j->end - j->begin, o.kernels->outs);
    for (; o.row < j->rows.n; o.row += room) {
        o.n_rows = MIN(room, j->rows.n - o.row);
        o.groups = div_up(o.n_rows, o.kernels->rows);
        o.group_rows = div_up(o.n_rows, o.groups);
        o.quarter = o.groups * o.group;
        const int64_t panel_bytes = j->w.row_bytes * o.kernels->outs * MIN(o.n_rows, 64);
        if (pool) {
            pool_run(pool, o.groups, 1, sort_groups, &o);
            pool_run(pool, panels, MAX(1, PIECE_BYTES / MAX(1, panel_bytes)), run_panels, &o);
        } else {
            sort_groups(&o, 0, o.groups);
            run_panels(&o, 0, panels);
        }
    }
}

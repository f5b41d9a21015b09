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
    LEAST_PLAIN = 9, LEAST_OTHER = 24,           /* with fewer rows a panel costs too much */
    BLOCK_GROUPS = 96,               /* whose sums a thread keeps while quarters come */
    ROW_FLOATS = CPU_TILE_COLS + 16  /* from row to row while they are unpacked: not the same
                                      * lines of a cache for all */
};

struct chains_job {
    const struct cpu_job *job;
    const struct cpu_chains_kernels *kernels;
    int64_t row, n_rows;             /* rows of x of this run */
    int64_t steps, group;            /* of a lane; floats that a quarter of a group takes, */
    int64_t quarter;                 /* and that of all groups */
    float *x, *panels;               /* quarters of groups; a panel for each thread */
    int64_t panel;                   /* floats that a panel takes */
    bool alone;                      /* without a pool */
};

static int64_t steps_of(const struct cpu_job *j) {
    return (j->cols + CPU_LANES - 1) / CPU_LANES;
}

static int64_t group_floats(const struct cpu_job *j) {
    return CHAINS_LANES * chains_group_lane(steps_of(j));
}

static int64_t panel_floats(const struct cpu_job *j) {
    return CPU_LANES * chains_panel_lane(steps_of(j));
}

/* The groups that the scratch has room for beside the panels. */
static int64_t room_of(struct pool *pool, const struct cpu_job *j) {
    const int64_t threads = pool ? pool_threads(pool) : 1;
    const int64_t floats = (int64_t)(j->scratch->bytes / sizeof(float));
    return (floats - threads * panel_floats(j)) / (CHAINS_QUARTERS * group_floats(j));
}

/* Whether panels are sorted where they lie, not unpacked before. */
static bool is_plain(const struct cpu_job *j) {
    return (j->w.dtype == F32 || j->w.dtype == F16 || j->w.dtype == BF16)
        && j->cols % CPU_LANES == 0;
}

bool cpu_chains_applies(struct pool *pool, const struct cpu_job *j) {
    return j->scratch && j->kernels->chains && j->heads == 1
        && j->rows.n >= (is_plain(j) ? LEAST_PLAIN : LEAST_OTHER)
        && room_of(pool, j) * CHAINS_ROWS >= MIN(j->rows.n, CPU_TILE_ROWS);
}

static int rows_of(const struct chains_job *o, int64_t group) {
    return (int)MIN(CHAINS_ROWS, o->n_rows - group * CHAINS_ROWS);
}

static void sort_groups(void *to, int64_t begin, int64_t end) {
    const struct chains_job *o = to;
    for (; begin < end; begin++) {
        const float *x[CHAINS_ROWS];
        for (int r = 0; r < rows_of(o, begin); r++)
            x[r] = cpu_job_x(o->job, 0, o->row + begin * CHAINS_ROWS + r);
        o->kernels->sort_x(o->x + begin * o->group, o->quarter, x, rows_of(o, begin),
                           o->job->cols);
    }
}

static void unpack_panel(const struct chains_job *o, float *panel, int64_t out, int n_outs) {
    _Alignas(64) UNSET float w[CHAINS_OUTS * ROW_FLOATS];
    const struct cpu_job *j = o->job;
    /* All rows at once: their streams from memory overlap. */
    if (is_plain(j) && n_outs == CHAINS_OUTS) {
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
            j->kernels->unpack(w + i * ROW_FLOATS, &j->w, out + i, begin, n);
        o->kernels->sort(panel, (const unsigned char *)w, F32, ROW_FLOATS * sizeof *w,
                         begin / CPU_LANES, o->steps, (n + CPU_LANES - 1) / CPU_LANES * CPU_LANES);
    }
}

/* Groups [group, group + n) times a panel. */
static void run_groups(const struct chains_job *o, const float *panel, int64_t out, int n_outs,
                       int64_t group, int64_t n) {
    enum { SUMS = CHAINS_ROWS * CHAINS_OUTS };
    static const int quarters[CHAINS_QUARTERS] = { 0, 2, 1, 3 };     /* as the tree adds them */
    _Alignas(64) UNSET float sums[2][BLOCK_GROUPS * SUMS];
    const int64_t w_quarter = o->panel / CHAINS_QUARTERS;
    for (int i = 0; i < CHAINS_QUARTERS; i++) {
        const int q = quarters[i];
        for (int64_t g = 0; g < n; g++)
            o->kernels->multiply(sums[i / 2] + g * SUMS, panel + q * w_quarter,
                                 o->x + q * o->quarter + (group + g) * o->group,
                                 rows_of(o, group + g), o->steps, i % 2);
    }
    for (int64_t r = 0; r < MIN(n * CHAINS_ROWS, o->n_rows - group * CHAINS_ROWS); r++) {
        float *y = cpu_job_y(o->job, 0, o->row + group * CHAINS_ROWS + r) + (out - o->job->begin);
        o->kernels->add(y, sums[0] + r * CHAINS_OUTS, sums[1] + r * CHAINS_OUTS, n_outs);
        cpu_job_add_bias(o->job, 0, y, out, n_outs);
    }
}

static void run_panels(void *to, int64_t begin, int64_t end) {
    const struct chains_job *o = to;
    const int64_t groups = (o->n_rows + CHAINS_ROWS - 1) / CHAINS_ROWS;
    float *panel = o->panels + (o->alone ? 0 : pool_index()) * o->panel;
    for (; begin < end; begin++) {
        const int64_t out = o->job->begin + begin * CHAINS_OUTS;
        const int n_outs = (int)MIN(CHAINS_OUTS, o->job->end - out);
        unpack_panel(o, panel, out, n_outs);
        for (int64_t group = 0; group < groups; group += BLOCK_GROUPS)
            run_groups(o, panel, out, n_outs, group, MIN(BLOCK_GROUPS, groups - group));
    }
}

/* As many rows at a time as the scratch holds. */
void cpu_chains_run(struct pool *pool, const struct cpu_job *j) {
    struct chains_job o = { .job = j, .kernels = j->kernels->chains, .steps = steps_of(j),
                            .group = group_floats(j), .panels = j->scratch->at,
                            .panel = panel_floats(j), .alone = !pool };
    const int64_t room = room_of(pool, j) * CHAINS_ROWS;
    const int64_t panels = (j->end - j->begin + CHAINS_OUTS - 1) / CHAINS_OUTS;
    o.x = o.panels + (pool ? pool_threads(pool) : 1) * o.panel;
    for (; o.row < j->rows.n; o.row += room) {
        o.n_rows = MIN(room, j->rows.n - o.row);
        const int64_t groups = (o.n_rows + CHAINS_ROWS - 1) / CHAINS_ROWS;
        o.quarter = groups * o.group;
        const int64_t panel_bytes = j->w.row_bytes * CHAINS_OUTS * MIN(o.n_rows, 64);
        if (pool) {
            pool_run(pool, groups, 1, sort_groups, &o);
            pool_run(pool, panels, MAX(1, PIECE_BYTES / MAX(1, panel_bytes)), run_panels, &o);
        } else {
            sort_groups(&o, 0, groups);
            run_panels(&o, 0, panels);
        }
    }
}

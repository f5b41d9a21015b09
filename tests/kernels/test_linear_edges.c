/* test_linear_edges.c - products at the edges of what kernels take together: as many rows, outputs
 * and columns as the constants of a set say, one less, one more, and the sums of two of them, so
 * that a run consists of whole pieces and of a rest of another kind. Every number of rows is met
 * with every number of outputs and of columns, and these with each other; the bits are those of one
 * row after the other. Nothing that is read or written has room behind it. */
#include "draws.h"
#include "device/cpu/isa.h"
#include "device/cpu/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { EDGES_MAX = 96, MOST = 640,   /* rows, and outputs */
       SMALL = 40, SMALL_COLS = 130,
       FEW = 2 };                    /* numbers of rows, where not all are tried */

/* Ascending, no number twice; the first `small` ones are small. */
struct edges { int n, small; int64_t at[EDGES_MAX]; };

static void edge(struct edges *e, int64_t at, int64_t most) {
    int i = 0;
    if (at < 1 || at > most) return;
    while (i < e->n && e->at[i] < at) i++;
    if (i < e->n && e->at[i] == at) return;
    assert_true(e->n < EDGES_MAX);
    memmove(&e->at[i + 1], &e->at[i], (size_t)(e->n++ - i) * sizeof *e->at);
    e->at[i] = at;
}

/* Of pieces, which may be 0: there is no such piece. step: what numbers are multiples of. */
static struct edges edges_of(const int64_t *piece, int n, int64_t step, int64_t most,
                             int64_t small) {
    struct edges e = { 0 };
    edge(&e, step, most);
    for (int i = 0; i < n; i++) {
        const int64_t a = (piece[i] + step - 1) / step * step;
        for (int64_t at = a - step; a && at <= a + step; at += step) edge(&e, at, most);
        for (int k = 0; k <= i && a; k++) {
            const int64_t b = (piece[k] + step - 1) / step * step;
            if (b) edge(&e, a + b, most), edge(&e, a + b + step, most);
        }
    }
    while (e.small < e.n && e.at[e.small] <= small) e.small++;
    return e;
}

/* What is multiplied how. group: of affine weights; 0: bf16. */
struct way { const char *name; int bits, group; bool exact, fine, packed; };

struct sizes { struct edges rows, outs, cols; };

/* Whole groups. */
static int64_t block_rows(const struct cpu_chains_kernels *k) {
    return k ? CHAINS_BLOCK_ROWS / k->rows * k->rows : 0;
}

static struct sizes sizes_of(const struct cpu_kernels *k, const struct way *w) {
    int64_t rows[8] = { 0 }, outs[8] = { 0 }, cols[8] = { 0 };
    const int64_t step = w->group ? w->group : 1;
    const bool wide = w->bits == 8 || w->fine;
    if (w->group && !w->exact) {
        const struct cpu_int8_kernels *a = k->int8, *few = a->few;
        rows[0] = wide ? a->rows_wide : a->rows;
        rows[1] = INT8_ROWS, rows[2] = a->few_rows;
        rows[3] = !few ? 0 : wide ? few->rows_wide : few->rows;
        outs[0] = QUANT_PANEL, outs[1] = a->panels * QUANT_PANEL;
        outs[2] = few ? few->panels * QUANT_PANEL : 0;
        cols[0] = CPU_PACK_COLS, cols[1] = INT8_COLS;
    } else if (!w->exact && k->bf16) {
        const struct cpu_bf16_kernels *b = k->bf16;
        rows[0] = BF16_TOGETHER, rows[1] = b->few_rows, rows[2] = b->rows;
        rows[3] = b->chains ? b->chains->rows : 0;
        rows[4] = block_rows(b->chains);
        outs[0] = b->outs, outs[1] = b->outs_many, outs[2] = b->chains ? b->chains->outs : 0;
        cols[0] = BF16_STEP, cols[1] = 2 * CPU_TILE_COLS;
    } else {
        rows[0] = CPU_FEW_ROWS, rows[1] = CPU_TILE_ROWS;
        rows[2] = k->chains ? k->chains->rows : 0, rows[3] = block_rows(k->chains);
        outs[0] = CPU_TILE_OUTS, outs[1] = k->chains ? k->chains->outs : 0;
        cols[0] = CPU_LANES, cols[1] = CPU_TILE_COLS;
    }
    return (struct sizes){ edges_of(rows, 8, 1, MOST, SMALL),
                           edges_of(outs, 8, 1, MOST, SMALL),
                           edges_of(cols, 8, step, 2 * INT8_COLS, SMALL_COLS) };
}

static uint16_t *small_numbers(int64_t n) {      /* bf16, 2^-9 to 2^-5 and their negatives */
    uint16_t *at = malloc((size_t)n * sizeof *at);
    assert_non_null(at);
    for (int64_t i = 0; i < n; i++)
        at[i] = (uint16_t)((draw() & 0x81ff) + 0x3b00);
    return at;
}

/* A matrix [outs, cols] and what it lies in. */
struct matrix { struct linear l; void *at[4]; };

static struct matrix matrix_of(const struct way *w, int64_t outs, int64_t cols) {
    const int64_t n = outs * cols;
    struct matrix m = { 0 };
    if (!w->group) {
        m.at[0] = small_numbers(n);
        m.l.w = tensor_2d(m.at[0], BF16, outs, cols);
        return m;
    }
    unsigned char *q = m.at[0] = malloc((size_t)(n * w->bits / 8));
    for (int64_t i = 0; i < n * w->bits / 8; i++) q[i] = (unsigned char)draw();
    m.at[1] = small_numbers(n / w->group), m.at[2] = small_numbers(n / w->group);
    m.l.w = tensor_2d(q, MLX_AFFINE, outs, cols);
    m.l.w.quant = (struct quant){ .scales = m.at[1], .biases = m.at[2], .scale_dtype = BF16,
                                  .group = (uint16_t)w->group, .bits = (uint8_t)w->bits };
    m.l.fine = w->fine;
    if (!w->packed) return m;
    m.at[3] = aligned_alloc(CPU_PACK_ALIGN, cpu_packed_bytes(&m.l.w));
    cpu_pack(m.at[3], &m.l.w, 0, (outs + QUANT_PANEL - 1) / QUANT_PANEL);
    m.l.w.quant.packed = m.at[3];
    return m;
}

static void matrix_free(struct matrix *m) {
    for (int i = 0; i < 4; i++) free(m->at[i]);
}

/* Room for few rows, which go through it in several runs, or for all. */
static struct cpu_scratch scratch_of(const struct cpu_kernels *k, const struct way *w, bool all,
                                     int64_t cols) {
    const int64_t padded = (cols + 255) / 64 * 64, rows = all ? MOST : 36;
    struct cpu_scratch s = { .exact = w->exact };
    if (w->group && !w->exact) s.bytes = (size_t)(rows * padded * 4 + 256);
    else if (!w->exact && k->bf16)
        s.bytes = (size_t)((all ? rows + k->bf16->rows : k->bf16->rows) * padded * 2);
    const struct cpu_chains_kernels *chains = w->exact || !k->bf16 ? k->chains : k->bf16->chains;
    if (chains) s.bytes += cpu_chains_bytes(chains, 2, cols, all ? MOST : CPU_TILE_ROWS);
    s.bytes = (s.bytes + 127) & ~(size_t)63;
    s.at = aligned_alloc(64, s.bytes);
    return s;
}

/* Where a run of some rows takes place. */
struct place { struct pool *pool; const struct cpu_scratch *scratch; };

/* The last n of `most` rows. */
static void check_run(const struct place *p, const struct cpu_kernels *k, const struct way *w,
                      const struct matrix *m, const float *x, const float *want, int64_t most,
                      int64_t n) {
    const int64_t outs = m->l.w.shape[0], cols = m->l.w.shape[1];
    float *y = malloc((size_t)(n * outs) * sizeof *y);
    struct tensor xs = tensor_2d((float *)(uintptr_t)x + (most - n) * cols, F32, n, cols);
    struct tensor ys = tensor_2d(y, F32, n, outs);
    memset(y, 0xff, (size_t)(n * outs) * sizeof *y);
    cpu_linear(p->pool, k, p->scratch, &ys, &m->l, &xs);
    if (memcmp(y, want + (most - n) * outs, (size_t)(n * outs) * sizeof *y) != 0)
        fail_msg("%s, %s: %d rows times [%d, %d]%s: other bits than one row after the other",
                 k->name, w->name, (int)n, (int)outs, (int)cols, p->pool ? ", on a pool" : "");
    free(y);
}

/* A matrix of these sizes and all numbers of rows, or a few. turn: which. */
static void check_matrix(struct pool *pool, const struct cpu_kernels *k, const struct way *w,
                         const struct edges *rows, int64_t outs, int64_t cols, bool all,
                         int *turn) {
    const int64_t most = all ? rows->at[rows->n - 1] : rows->at[rows->small - 1];
    struct matrix m = matrix_of(w, outs, cols);
    struct cpu_scratch some = scratch_of(k, w, false, cols), much = scratch_of(k, w, true, cols);
    float *x = numbers(most * cols), *want = numbers(most * outs);
    for (int64_t r = 0; r < most; r++) {
        struct tensor xs = tensor_2d(x + r * cols, F32, 1, cols);
        struct tensor ys = tensor_2d(want + r * outs, F32, 1, outs);
        cpu_linear(NULL, k, &much, &ys, &m.l, &xs);
    }
    for (int i = 0; i < (all ? rows->n : FEW); i++, ++*turn) {
        const struct place p = { *turn & 1 ? pool : NULL, *turn & 2 ? &much : &some };
        check_run(&p, k, w, &m, x, want, most, rows->at[all ? i : *turn % rows->small]);
    }
    free(x), free(want), free(some.at), free(much.at);
    matrix_free(&m);
}

static void check_way(struct pool *pool, const struct cpu_kernels *k, const struct way *w) {
    const struct sizes s = sizes_of(k, w);
    int turn = 0;
    for (int o = 0; o < s.outs.n; o++)
        for (int c = 0; c < s.cols.n; c++) {
            const bool all = c == o % s.cols.small || o == c % s.outs.small;
            check_matrix(pool, k, w, &s.rows, s.outs.at[o], s.cols.at[c], all, &turn);
        }
}

/* Whether two sets multiply in this way with the same kernels. */
static bool alike(const struct cpu_kernels *a, const struct cpu_kernels *b, const struct way *w) {
    if (w->group && !w->exact) return a->int8 == b->int8;
    if (!w->exact && (a->bf16 || b->bf16)) return a->bf16 == b->bf16;
    return a->unpack == b->unpack && a->tile == b->tile && a->sum == b->sum && a->few == b->few
        && a->chains == b->chains;
}

static void pairs_of_edges(void **state) {
    (void)state;
    static const struct way ways[] = {
        { .name = "bf16" }, { .name = "bf16 in F32", .exact = true },
        { .name = "4 bits", .bits = 4, .group = 64 },
        { .name = "4 bits in F32", .bits = 4, .group = 64, .exact = true },
        { .name = "4 bits, packed", .bits = 4, .group = 64, .packed = true },
        { .name = "4 bits, fine", .bits = 4, .group = 32, .packed = true, .fine = true },
        { .name = "6 bits, packed", .bits = 6, .group = 64, .packed = true },
        { .name = "8 bits, packed", .bits = 8, .group = 64, .packed = true },
    };
    struct pool *pool = pool_open(2);
    const struct cpu_kernels *k;
    for (int i = 0; (k = cpu_isa(i)); i++)
        for (size_t w = 0; w < COUNT(ways); w++)
            if (!i || !alike(k, cpu_isa(i - 1), &ways[w])) check_way(pool, k, &ways[w]);
    pool_close(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(pairs_of_edges) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

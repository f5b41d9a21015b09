/* linear_few.cu - products of a few rows on Hopper: which matrices have them, what a launch of up
 * to three of them is, and the rows as fragments. The kernels are linear_ring.cu (plain weights)
 * and linear_packed.cu. */
#include "device/cuda/linear_few.h"

bool cuda_streams(const struct cuda *c, const struct tensor &w) {
    const int64_t cols = w.shape[1];
    if (!c->rounded || !c->hopper || w.rank != 2 || cols % 64 || cols > CUDA_FEW_COLS ||
        w.shape[0] > 1 << 24 || !aligned(w.at, 16))
        return false;
    return w.dtype == BF16 ? w.stride[0] % 8 == 0 : cuda_packs(w);
}

/* All slices of a tile in one warp where there are tiles enough, which plain weights have sooner;
 * where the parts of a launch have other numbers of slices, that is the only way. */
static int spread_of(const struct cuda *c, const struct few_job &j,
                     const struct cuda_products &a) {
    const int slices = cuda_slices(a.w[0]);
    for (int i = 1; i < a.n; i++)
        if (cuda_slices(a.w[i]) != slices) return 1;
    const bool enough = a.w[0].dtype == BF16 && a.w[0].shape[0] >= 4096;
    return !enough && j.units < 5 * c->processors ? slices : 1;
}

/* -1: of no power of two. */
static int log2_of(int n) {
    return n & (n - 1) ? -1 : 31 - __builtin_clz((unsigned)n);
}

/* Where a part of the launch is. False: it can not be described to the copy engine. */
static bool describe_part(struct cuda *c, struct few_part *p, CUtensorMap *map,
                          const struct tensor &w) {
    const struct quant &q = w.quant;
    p->w = (const char *)w.at;
    p->scales = (const char *)q.scales;
    p->biases = (const char *)q.biases;
    p->slice = (int)cuda_slice(w);
    p->outs = (int)w.shape[0];
    if (w.dtype == BF16) return cuda_ring_map(map, w);
    if (!cuda_pack(c, w)) return false;
    if (w.dtype != FP8) return true;
    const struct cuda_packed *is = cuda_is_packed(c, w.at);
    p->scales = (const char *)is->scales;
    p->blocks.first = (int)(q.first / q.cols);
    p->blocks.down = (int)MIN(q.block_rows, (int64_t)1 << 30);
    p->blocks.down_shift = log2_of(p->blocks.down);
    p->blocks.across = (int)((q.cols + q.block_cols - 1) / q.block_cols);
    p->blocks.shift = q.block_cols >= q.cols ? 31 : log2_of((int)q.block_cols);
    return true;
}

/* See format_fp8_even. */
static bool is_even(const struct few_part &p, const struct tensor &w) {
    const struct few_blocks &b = p.blocks;
    return w.dtype == FP8 && b.down_shift >= 0 && b.down % TILE == 0 && b.first % TILE == 0 &&
           b.shift >= 7 && w.shape[1] % 128 == 0 && p.slice <= 32 * 128;
}

bool cuda_few_describe(struct cuda *c, struct few_job *j, const struct cuda_products &a) {
    const struct quant &q = a.w[0].quant;
    int tiles = 0;
    j->even = j->whole = true;
    for (int i = 0; i < a.n; i++) {
        struct few_part &p = j->part[i];
        if (!describe_part(c, &p, &j->map[i], a.w[i])) return false;
        const struct cuda_packed *packed = cuda_is_packed(c, a.w[i].at);
        const bool scaled = packed && packed->scaled;
        if (i > 0 && scaled != j->scaled) return false;
        j->scaled = scaled;
        j->even = j->even && scaled && is_even(p, a.w[i]);
        j->whole = j->whole && packed && packed->whole;
        p.bias = a.bias[i];
        p.y = a.y[i];
        p.y_row = a.y_row[i];
        p.tiles = tiles += (int)blocks_of(p.outs, TILE);
    }
    j->cols = (int)a.w[0].shape[1];
    j->group_shift = q.group == 32 ? 5 : q.group == 64 ? 6 : 7;
    j->strips = a.end == PRODUCTS_GATE ? 2 : 1;
    j->units = tiles / j->strips;
    j->spread = spread_of(c, *j, a);
    j->n_rows = a.n_rows;
    j->end = a.end;
    j->act = a.act;
    j->scale = a.scale;
    return true;
}

__global__ static void round_few(char *few, const float *x, int64_t x_row, int cols) {
    after_previous();
    let_next_begin();
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < cols) few_put(few, (int)blockIdx.y, c, cols, x[blockIdx.y * x_row + c]);
}

char *cuda_few_next(struct cuda *c) {
    return c->few[c->few_turn ^ 1];
}

void cuda_few_done(struct cuda *c, struct cuda_few is) {
    c->few_turn ^= 1;
    c->few_is = is;
}

/* The rows as fragments: those of before, where the same rows were rounded last. */
static const char *few_of(struct cuda *c, const struct cuda_products &a, int cols) {
    const struct cuda_few *is = &c->few_is;
    cuda_settle(c);
    if (is->x == a.x && is->x_row == a.x_row && is->n_rows >= a.n_rows && is->cols == cols)
        return c->few[c->few_turn];
    char *to = cuda_few_next(c);
    cuda_start(c, round_few, dim3(blocks_of(cols, 256), (unsigned)a.n_rows), 256, 0, to, a.x,
               a.x_row, cols);
    cuda_few_done(c, { a.x, a.x_row, a.n_rows, cols });
    return to;
}

/* Whether the norm that waits can be done by this product. Blocks that are late read its rows while
 * others write their outputs. */
static bool takes_norm(const struct cuda *c, const struct cuda_products &a, int cols) {
    const struct cuda_norm &m = *c->norm;
    const uintptr_t at = (uintptr_t)m.x | (uintptr_t)m.gain | (uintptr_t)m.y;
    if (!m.x || m.y != a.x || m.y_row != a.x_row || m.n_rows != a.n_rows || m.cols != cols ||
        at % 16 || (m.x_row | m.y_row) % 4)
        return false;
    for (int i = 0; i < a.n; i++)
        if (a.y[i] && a.y[i] < m.x + m.n_rows * m.x_row && m.x < a.y[i] + a.n_rows * a.y_row[i])
            return false;
    return true;
}

bool cuda_linear_few(struct cuda *c, const struct cuda_products &a) {
    struct few_job j = {};
    const struct tensor &w = a.w[0];
    const int cols = (int)w.shape[1];
    const bool gates = a.end == PRODUCTS_GATE && w.shape[0] % 64 == 0 &&
                       w.shape[0] <= CUDA_FEW_COLS;
    if (!cuda_few_describe(c, &j, a)) return false;
    if (takes_norm(c, a, cols)) {
        j.norm = *c->norm;
        j.norm_few = cuda_few_next(c);
        c->norm->x = NULL;
        cuda_few_done(c, { a.x, a.x_row, a.n_rows, cols });
    } else j.x = few_of(c, a, cols);
    if (gates) j.next = cuda_few_next(c);
    if (w.dtype == BF16) cuda_ring(c, j);
    else cuda_packed_few(c, j, w);
    if (gates) cuda_few_done(c, { a.y[0], a.y_row[0], a.n_rows, j.part[0].outs });
    return true;
}

/* linear_many.cu - products of many rows on Hopper: rows are rounded, unless the op before left
 * them so, packed weights are unpacked, and linear_wgmma.cu multiplies. */
#include "device/cuda/linear_wgmma.h"

/* FAST_ROWS: from so many on tiles fill the chip without slices. */
enum { ADD_ROWS = 256, PACKED_ROWS = 48, FAST_ROWS = 1024 };

__global__ static void round_rows(__nv_bfloat16 *to, const float *x, int64_t x_row, int64_t cols) {
    let_next_begin();
    after_previous();
    const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (i >= cols) return;
    const float4 *from = (const float4 *)(x + blockIdx.y * x_row + i);
    const float4 u = from[0], v = from[1];
    __nv_bfloat162 w[4] = { __floats2bfloat162_rn(u.x, u.y), __floats2bfloat162_rn(u.z, u.w),
                            __floats2bfloat162_rn(v.x, v.y), __floats2bfloat162_rn(v.z, v.w) };
    *(uint4 *)(to + blockIdx.y * cols + i) = *(const uint4 *)w;
}

__nv_bfloat16 *cuda_many_next(struct cuda *c, int64_t rows, int64_t cols) {
    const bool fits = c->many[0] && rows > FEW_ROWS && cols % 8 == 0 && rows * cols <= CUDA_ROUNDED;
    return fits ? c->many[c->many_turn ^ 1] : NULL;
}

void cuda_many_done(struct cuda *c, struct cuda_few is) {
    c->many_turn ^= 1;
    c->many_is = is;
}

/* Those of before, where the same rows were rounded last. */
static const __nv_bfloat16 *rows_of(struct cuda *c, const struct cuda_products &a, int cols) {
    const struct cuda_few *is = &c->many_is;
    if (is->x == a.x && is->x_row == a.x_row && is->n_rows >= a.n_rows && is->cols == cols)
        return c->many[c->many_turn];
    __nv_bfloat16 *to = c->many[c->many_turn ^ 1];
    cuda_start(c, round_rows, dim3(blocks_of(cols, 8 * 128), (unsigned)a.n_rows), 128, 0, to, a.x,
               a.x_row, cols);
    cuda_many_done(c, { a.x, a.x_row, a.n_rows, cols });
    return to;
}

/* ---- packed weights: unpacked as many outputs at a time as there is room ---- */

static int64_t outs_of(const struct cuda_products &a) {
    int64_t outs = 0;
    for (int i = 0; i < a.n; i++) outs += a.w[i].shape[0];
    return outs;
}

/* Outputs from `first` on and n more of every part. */
static bool multiply_unpacked(struct cuda *c, const struct many_job &whole,
                              const struct many_plain &p, const struct cuda_products &a,
                              int64_t first, int64_t most) {
    struct many_job j = whole;
    struct many_plain own = p;
    __nv_bfloat16 *to = c->unpacked;
    for (int i = 0; i < a.n; i++) {
        const int64_t n = MIN(most, a.w[i].shape[0] - first);
        if (!cuda_plain_weights(c, a.w[i], first, n, to)) return false;
        own.w[i].at = to;
        own.w[i].shape[0] = n;
        own.w[i].stride[0] = j.cols;
        to += n * j.cols;
        j.part[i].outs = (int)n;
        if (j.part[i].bias) j.part[i].bias += first;
        if (j.part[i].y) j.part[i].y += first;
    }
    if (j.next) j.next += first;
    return cuda_multiply(c, j, own, a.end);
}

/* Matrices of other sizes than each other go all at once or one by one. */
static bool multiply_packed(struct cuda *c, struct many_job &j, const struct many_plain &p,
                            const struct cuda_products &a) {
    const int64_t room = CUDA_UNPACKED / j.cols, unit = 256;
    j.fresh = true;
    if (outs_of(a) <= room) return multiply_unpacked(c, j, p, a, 0, outs_of(a));
    if (a.end != PRODUCTS_GATE && a.n > 1) {
        bool done = true;
        for (int i = 0; i < a.n && done; i++) {
            struct cuda_products one = a;
            struct many_plain own = p;
            struct many_job of = j;
            one.n = own.n = 1;
            one.w[0] = a.w[i];
            own.w[0] = p.w[i];
            of.part[0] = j.part[i];
            done = multiply_packed(c, of, own, one);
        }
        return done;
    }
    const int64_t outs = a.w[0].shape[0], most = room / a.n / unit * unit;
    for (int64_t first = 0; first < outs; first += most)
        if (!multiply_unpacked(c, j, p, a, first, most)) return false;
    return true;
}

/* ---- */

bool cuda_goes_many(const struct tensor &w, int64_t rows) {
    return rows > FEW_ROWS && (w.dtype == BF16 || rows > PACKED_ROWS);
}

static bool takes(const struct cuda *c, const struct cuda_products &a) {
    const int64_t cols = a.w[0].shape[1];
    if (!c->many[0] || cols % 8 || 256 * 3 * cols > CUDA_UNPACKED || (uintptr_t)a.x % 16 ||
        a.x_row % 4 || (a.end == PRODUCTS_ADD && a.n_rows > ADD_ROWS))
        return false;
    for (int i = 0; i < a.n; i++) {
        const struct tensor &w = a.w[i];
        if (w.dtype == BF16 && ((uintptr_t)w.at % 16 || w.stride[0] % 8)) return false;
    }
    return true;
}

/* Rows that fit where they are rounded. */
static bool multiply_rows(struct cuda *c, const struct cuda_products &a) {
    struct many_job j = {};
    struct many_plain p = {};
    const bool packed = a.w[0].dtype != BF16, fast = c->fast && a.n_rows >= FAST_ROWS;
    j.cols = (int)a.w[0].shape[1];
    j.n_rows = a.n_rows;
    j.gate = a.act;
    j.scale = a.scale;
    p.n = a.n;
    for (int i = 0; i < a.n; i++) {
        p.w[i] = a.w[i];
        const int64_t slice = fast ? a.w[i].shape[1] : cuda_slice(a.w[i]);
        j.part[i] = (struct many_part){ a.bias[i], a.y[i], a.y_row[i], (int)a.w[i].shape[0], 0,
                                        (int)slice };
    }
    p.x = rows_of(c, a, j.cols);
    if (a.end == PRODUCTS_GATE) {
        j.next_row = a.w[0].shape[0];
        j.next = cuda_many_next(c, a.n_rows, j.next_row);
        if (a.passes && j.next) j.part[0].y = NULL;
    }
    const bool done = packed ? multiply_packed(c, j, p, a) : cuda_multiply(c, j, p, a.end);
    if (j.next) cuda_many_done(c, { a.y[0], a.y_row[0], a.n_rows, (int)j.next_row });
    return done;
}

bool cuda_products_many(struct cuda *c, const struct cuda_products &a) {
    if (!takes(c, a)) return false;
    const int room = (int)(CUDA_ROUNDED / a.w[0].shape[1]);
    if (a.n_rows <= room) return multiply_rows(c, a);
    struct cuda_products part = a;
    part.passes = false;
    bool done = true;
    for (int row = 0; row < a.n_rows && done; row += room) {
        part.n_rows = MIN(room, a.n_rows - row);
        part.x = a.x + row * a.x_row;
        for (int i = 0; i < a.n; i++) part.y[i] = a.y[i] ? a.y[i] + row * a.y_row[i] : NULL;
        done = multiply_rows(c, part);
    }
    return done;
}

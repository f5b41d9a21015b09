/* linear.cu - a matrix times rows. A warp computes a few outputs for up to eight rows, as dot.h
 * says, so a row's bits do not depend on how many there are. */
#include "device/cuda/dot.h"
#include "device/cuda/linear.h"

enum { WARPS = 4, ROWS = 8 };

struct job {
    struct tensor w;                 /* [heads, out, in] */
    const float *bias, *x;
    float *y;
    int64_t bias_head, x_row, x_head, y_row, y_head, n_rows;
};

/* Outputs and rows past the end are computed again as the last one, and not written. One row
 * leaves a warp one output: what counts there is how many loads are under way. */
template <enum reading HOW, int R, int OUTS>
__global__ static void __launch_bounds__(WARPS * 32) linear(struct job j) {
    const int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / 32) * OUTS;
    const int64_t head = blockIdx.z, outs = j.w.shape[1], top = (int64_t)blockIdx.y * ROWS;
    if (first >= outs) return;
    const int n = (int)MIN((int64_t)R, j.n_rows - top);
    int64_t row[OUTS];
    int own[R];
    float sum[OUTS][R] = {};
#pragma unroll
    for (int o = 0; o < OUTS; o++)
        row[o] = head * j.w.stride[0] + MIN(first + o, outs - 1) * j.w.stride[1];
#pragma unroll
    for (int r = 0; r < R; r++) own[r] = MIN(r, n - 1);
    dot<HOW, R, OUTS>(sum, j.w, row, j.x + top * j.x_row + head * j.x_head, j.x_row, own,
                      j.w.shape[2]);
    if (threadIdx.x % 32) return;
#pragma unroll
    for (int o = 0; o < OUTS; o++) {
        if (first + o >= outs) break;
        const float bias = j.bias ? j.bias[head * j.bias_head + first + o] : 0;
        float *y = j.y + top * j.y_row + head * j.y_head + first + o;
#pragma unroll
        for (int r = 0; r < R; r++)
            if (r < n) y[r * j.y_row] = sum[o][r] + bias;
    }
}

template <enum reading HOW, int R, int OUTS>
static void start(const struct job &j, cudaStream_t stream) {
    const dim3 grid(blocks_of(j.w.shape[1], WARPS * OUTS), blocks_of(j.n_rows, ROWS),
                    (unsigned)j.w.shape[0]);
    linear<HOW, R, OUTS><<<grid, WARPS * 32, 0, stream>>>(j);
}

template <enum reading HOW>
static void launch(const struct job &j, cudaStream_t stream) {
    if (j.n_rows == 1) start<HOW, 1, 1>(j, stream);
    else if (j.n_rows == 2) start<HOW, 2, 2>(j, stream);
    else if (j.n_rows <= 4) start<HOW, 4, 4>(j, stream);
    else start<HOW, ROWS, 4>(j, stream);
}

/* As few rows at a time as linear_ring.cu takes, or all at once: bits are the same. False: nothing
 * was done. */
static bool stream(struct cuda *c, const struct cuda_products &all) {
    struct cuda_products a = all;
    if (cuda_goes_many(a.w[0], a.n_rows)) return cuda_products_many(c, a);
    bool done = true;
    for (int row = 0; row < all.n_rows && done; row += FEW_ROWS) {
        a.n_rows = MIN((int)FEW_ROWS, all.n_rows - row);
        a.x = all.x + row * all.x_row;
        for (int i = 0; i < a.n; i++) a.y[i] = all.y[i] ? all.y[i] + row * all.y_row[i] : NULL;
        done = cuda_linear_few(c, a);
    }
    return done;
}

/* Any number of rows, of which linear_many.cu may not like how they lie. */
static void stream_rows(struct cuda *c, const struct tensor &w, const struct cuda_rows &r) {
    struct cuda_products a = {};
    a.n = 1;
    a.w[0] = w;
    a.bias[0] = r.bias;
    a.x = r.x;
    a.y[0] = r.y;
    a.x_row = r.x_row;
    a.y_row[0] = r.y_row;
    a.n_rows = (int)r.n;
    if (stream(c, a)) return;
    for (int64_t row = 0; row < r.n; row += FEW_ROWS) {
        a.n_rows = (int)MIN((int64_t)FEW_ROWS, r.n - row);
        a.x = r.x + row * r.x_row;
        a.y[0] = r.y + row * r.y_row;
        cuda_linear_few(c, a);
    }
}

/* One format and one width, so that one kernel reads all. */
static bool alike(const struct tensor &a, const struct tensor &b) {
    return a.dtype == b.dtype && a.shape[1] == b.shape[1] &&
           (a.dtype == BF16 || (a.quant.bits == b.quant.bits && a.quant.group == b.quant.group &&
                                a.quant.scale_dtype == b.quant.scale_dtype));
}

bool cuda_products(struct device *dev, const struct products *p) {
    struct cuda *c = cuda_of(dev);
    struct cuda_products a = {};
    a.n = p->n;
    a.n_rows = (int)p->x->shape[0];
    for (int i = 0; i < p->n; i++) {
        a.w[i] = cuda_view_any(dev, &p->w[i]->w);
        a.bias[i] = (const float *)cuda_there(dev, p->w[i]->bias.at);
        a.y[i] = p->y[i] ? (float *)p->y[i]->at : NULL;
        a.y_row[i] = p->y[i] ? p->y[i]->stride[0] : 0;
        if (!cuda_streams(c, a.w[i]) || !alike(a.w[0], a.w[i])) return false;
    }
    a.x = (const float *)p->x->at;
    a.x_row = p->x->stride[0];
    a.end = p->end;
    a.act = p->act;
    a.scale = p->scale;
    if (p->then) {
        const struct tensor then = cuda_view_any(dev, &p->then->w);
        a.passes = cuda_streams(c, then) && cuda_goes_many(then, a.n_rows);
    }
    const bool done = stream(c, a);
    cuda_check(dev, true);
    return done;
}

void cuda_linear(struct device *dev, struct tensor *y, const struct linear *l,
                 const struct tensor *x) {
    struct job j = {};
    j.w = cuda_view_any(dev, &l->w);
    j.bias = (const float *)cuda_there(dev, l->bias.at);
    j.x = (const float *)x->at;
    j.y = (float *)y->at;
    j.x_row = x->stride[0];
    j.y_row = y->stride[0];
    j.n_rows = x->shape[0];
    if (j.w.rank == 3) {
        j.x_head = x->stride[1];
        j.y_head = y->stride[1];
        j.bias_head = l->bias.rank == 2 ? l->bias.stride[0] : 0;
    } else {
        j.w.shape[2] = j.w.shape[1];
        j.w.shape[1] = j.w.shape[0];
        j.w.shape[0] = 1;
        j.w.stride[1] = j.w.stride[0];
        j.w.stride[0] = 0;
    }
    struct cuda *c = cuda_of(dev);
    const struct tensor w = cuda_view_any(dev, &l->w);
    const struct cuda_rows r = { j.x, j.bias, j.y, j.x_row, j.y_row, j.n_rows };
    if (cuda_streams(c, w)) {
        stream_rows(c, w, r);
        cuda_check(dev, true);
        return;
    }
    cuda_settle(c);
    cuda_view(dev, &l->w);           /* who comes here knows no packed matrices */
    if (c->rounded && w.rank == 2 && (cuda_linear_mma(c, w, r) || cuda_linear_tiles(c, w, r))) {
        cuda_check(dev);
        return;
    }
    cudaStream_t stream = c->stream;
    WITH_READING(reading_of(j.w, j.w.shape[2], rows_fit(j.x, j.x_row, j.x_head)), launch, j, stream)
    cuda_check(dev);
}

/* linear_tiles.cu - products on the tensor cores, rows rounded to bf16, of formats that have no
 * kernel of their own: FP8, MXFP4, affine ones of 8 bits. Tiles are tile.h's. */
#include "device/cuda/linear.h"
#include "device/cuda/tile.h"

enum { TILES = 2, WARPS = TILES * SLICES, ROWS = 8 * MANY, SHARED_MAX = 48 << 10 };

struct product {
    struct tensor w;                 /* [out, in] */
    const float *x, *bias;
    float *y;
    const __nv_bfloat16 *rounded;    /* [n_rows, padded]; NULL: a block rounds its one row */
    int64_t x_row, y_row, padded;
    int n_rows;
};

__device__ static void round_row(__nv_bfloat16 *to, const float *from, int64_t cols, bool far) {
    for (int64_t c = threadIdx.x; c < cols; c += blockDim.x)
        to[place_of(c, far)] = __float2bfloat16_rn(from[c]);
}

__global__ static void round_rows(struct product p, __nv_bfloat16 *to, bool far) {
    let_next_begin();
    after_previous();
    round_row(to + blockIdx.x * p.padded, p.x + blockIdx.x * p.x_row, p.w.shape[1], far);
}

template <enum reading HOW, int N>
__device__ static void tile(const struct product &p, const __nv_bfloat16 *rows, int at,
                            float (*part)[TILE][8]) {
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4;
    const int64_t first = (int64_t)blockIdx.x * TILES * TILE;
    const __nv_bfloat16 *x[N];
    float acc[N][4] = {};
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int r = at + n * 8 + g;
        x[n] = r < p.n_rows ? rows + r * p.padded : NULL;
    }
    slice_of_tile<HOW, N>(acc, p.w, first + warp / SLICES * TILE, x, warp % SLICES);
#pragma unroll
    for (int n = 0; n < N; n++) {
        __syncthreads();
        keep(part[warp], acc[n]);
        __syncthreads();
        const int t = (int)threadIdx.x / 128, o = (int)threadIdx.x % TILE;
        const int r = at + n * 8 + (int)threadIdx.x % 128 / TILE;
        const int64_t out = first + t * TILE + o;
        if (r >= p.n_rows || out >= p.w.shape[0]) continue;
        p.y[r * p.y_row + out] = sum_of(part + t * SLICES, o, r % 8) + (p.bias ? p.bias[out] : 0);
    }
}

template <enum reading HOW, bool ONE>
__global__ static void __launch_bounds__(WARPS * 32) tiles(struct product p) {
    extern __shared__ __align__(16) unsigned char row[];
    __shared__ float part[WARPS][TILE][8];
    let_next_begin();
    after_previous();
    if (ONE) {
        round_row((__nv_bfloat16 *)row, p.x, p.w.shape[1], far_pairs<HOW>());
        __syncthreads();
        tile<HOW, 1>(p, (const __nv_bfloat16 *)row, 0, part);
        return;
    }
    const int at = (int)blockIdx.y * ROWS;
    if (p.n_rows - at > 8) tile<HOW, MANY>(p, p.rounded, at, part);
    else tile<HOW, 1>(p, p.rounded, at, part);
}

template <enum reading HOW>
static void start(const struct cuda *c, const struct product &p) {
    const dim3 grid(blocks_of(p.w.shape[0], TILES * TILE), blocks_of(p.n_rows, ROWS));
    if (!p.rounded) cuda_start(c, tiles<HOW, true>, grid, WARPS * 32, (size_t)p.padded * 2, p);
    else cuda_start(c, tiles<HOW, false>, grid, WARPS * 32, 0, p);
}

bool cuda_linear_tiles(struct cuda *c, const struct tensor &w, const struct cuda_rows &r) {
    const int how = reading_of(w, w.shape[1], true);
    if (w.dtype == BF16 || !tile_fits(w, how)) return false;
    struct product p = { w, r.x, r.bias, r.y, NULL, r.x_row, r.y_row };
    p.padded = (w.shape[1] + SPAN - 1) / SPAN * SPAN;
    const int64_t most = MIN(CUDA_ROUNDED / p.padded, (int64_t)65535 * ROWS);
    if (most < ROWS) return false;
    for (int64_t at = 0; at < r.n; at += p.n_rows) {
        p.n_rows = (int)MIN(most / ROWS * ROWS, r.n - at);
        p.x = r.x + at * r.x_row;
        p.y = r.y + at * r.y_row;
        /* A row alone is rounded by every block: that is less than another kernel. */
        p.rounded = r.n == 1 && p.padded * 2 <= SHARED_MAX ? NULL : c->rounded;
        if (p.rounded) cuda_start(c, round_rows, (unsigned)p.n_rows, 256, 0, p, c->rounded,
                                  pairs_far(how));
        WITH_FORMAT(how, start, c, p)
    }
    return true;
}

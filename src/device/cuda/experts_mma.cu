/* experts_mma.cu - experts on the tensor cores, rows rounded to bf16: tiles of tile.h, of one
 * expert and up to 8 (or 32) of the rows that chose it. */
#include "device/cuda/experts.h"
#include "device/cuda/tile.h"

enum { GATE_WARPS = 2 * SLICES, DOWN_TILES = 2, ROUND_THREADS = 128,
       ALONE_MAX = 16 << 10 };

/* Rounded rows of x lie where the outputs of their first pair will be, and what becomes of gate and
 * up where those would be in F32. */
__device__ static inline __nv_bfloat16 *rounded_x(const struct expert_job &j, int row) {
    return (__nv_bfloat16 *)(j.hidden + (int64_t)row * j.active * j.width + 2 * j.n_hidden);
}

__device__ static inline __nv_bfloat16 *rounded_hidden(const struct expert_job &j, int pair) {
    return (__nv_bfloat16 *)(j.hidden + (int64_t)pair * j.width);
}

/* A block's one row, where pairs are not sorted: that is less than another kernel. */
__device__ static inline void round_row(__nv_bfloat16 *to, const struct expert_job &j, bool far) {
    const float *from = j.x + (int64_t)(blockIdx.y / j.active) * j.x_row;
    for (int c = threadIdx.x; c < j.dim; c += GATE_WARPS * 32)
        to[place_of(c, far)] = __float2bfloat16_rn(from[c]);
    __syncthreads();
}

__global__ static void round_rows(struct expert_job j, bool far) {
    let_next_begin();
    after_previous();
    const int row = (int)blockIdx.y;
    const int64_t c = (int64_t)blockIdx.x * ROUND_THREADS + threadIdx.x;
    if (c < j.dim)
        rounded_x(j, row)[place_of(c, far)] = __float2bfloat16_rn(j.x[row * j.x_row + c]);
}

/* The pairs of a block's expert: all those that sorting found, or the one of its number. */
struct share { int e, begin, end; const int *pair; };

__device__ static inline struct share share_of(const struct expert_job &j) {
    const int y = (int)blockIdx.y;
    if (!j.first) return (struct share){ j.ids[y], y, y + 1, NULL };
    return (struct share){ y, j.first[y], j.first[y + 1], j.pair };
}

__device__ static inline int pair_at(const struct share &s, int i) {
    return s.pair ? s.pair[i] : i;
}

template <enum reading HOW, int N>
__device__ static void gate_up_tile(const struct expert_job &j, const struct share &s, int at,
                                    float (*part)[TILE][8], const __nv_bfloat16 *own) {
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4;
    const int64_t out = (int64_t)blockIdx.x * TILE;
    const struct linear *l = warp < SLICES ? j.up : j.gate;
    const __nv_bfloat16 *x[N];
    float acc[N][4] = {};
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int i = at + n * 8 + g;
        x[n] = i >= s.end ? NULL : own ? own : rounded_x(j, pair_at(s, i) / j.active);
    }
    if (l) slice_of_tile<HOW, N>(acc, l[s.e].w, out, x, warp % SLICES);
#pragma unroll
    for (int n = 0; n < N; n++) {
        __syncthreads();
        keep(part[warp], acc[n]);
        __syncthreads();
        const int o = (int)threadIdx.x % TILE, r = (int)threadIdx.x / TILE, i = at + n * 8 + r;
        if (r >= 8 || i >= s.end || out + o >= j.n_hidden) continue;
        const float u = sum_of(part, o, r) + expert_bias(j.up[s.e], out + o);
        const float h = j.gate ? gated(sum_of(part + SLICES, o, r) +
                                           expert_bias(j.gate[s.e], out + o), u, j.act)
                               : act_of(j.act.act, u);
        rounded_hidden(j, pair_at(s, i))[place_of(out + o, j.far_down)] = __float2bfloat16_rn(h);
    }
}

template <enum reading HOW>
__global__ static void __launch_bounds__(GATE_WARPS * 32) gate_up(struct expert_job j) {
    extern __shared__ __align__(16) unsigned char row[];
    __shared__ float part[GATE_WARPS][TILE][8];
    __nv_bfloat16 *own = j.alone ? (__nv_bfloat16 *)row : NULL;
    let_next_begin();
    after_previous();
    if (own) round_row(own, j, far_pairs<HOW>());
    const struct share s = share_of(j);
    int at = s.begin;
    for (; s.end - at > 8; at += 8 * MANY) gate_up_tile<HOW, MANY>(j, s, at, part, own);
    if (at < s.end) gate_up_tile<HOW, 1>(j, s, at, part, own);
}

template <enum reading HOW, int N>
__device__ static void down_tile(const struct expert_job &j, const struct share &s, int at,
                                 float (*part)[TILE][8]) {
    const int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4;
    const int64_t first = (int64_t)blockIdx.x * DOWN_TILES * TILE;
    const __nv_bfloat16 *x[N];
    float acc[N][4] = {};
#pragma unroll
    for (int n = 0; n < N; n++) {
        const int i = at + n * 8 + g;
        x[n] = i < s.end ? rounded_hidden(j, pair_at(s, i)) : NULL;
    }
    slice_of_tile<HOW, N>(acc, j.down[s.e].w, first + warp / SLICES * TILE, x, warp % SLICES);
#pragma unroll
    for (int n = 0; n < N; n++) {
        __syncthreads();
        keep(part[warp], acc[n]);
        __syncthreads();
        const int tile = (int)threadIdx.x / 128, o = (int)threadIdx.x % TILE;
        const int r = (int)threadIdx.x % 128 / TILE, i = at + n * 8 + r;
        const int64_t out = first + tile * TILE + o;
        if (i >= s.end || out >= j.dim) continue;
        j.hidden[pair_at(s, i) * j.width + 2 * j.n_hidden + out] =
            sum_of(part + tile * SLICES, o, r) + expert_bias(j.down[s.e], out);
    }
}

template <enum reading HOW>
__global__ static void __launch_bounds__(DOWN_TILES * SLICES * 32) down(struct expert_job j) {
    __shared__ float part[DOWN_TILES * SLICES][TILE][8];
    let_next_begin();
    after_previous();
    const struct share s = share_of(j);
    int at = s.begin;
    for (; s.end - at > 8; at += 8 * MANY) down_tile<HOW, MANY>(j, s, at, part);
    if (at < s.end) down_tile<HOW, 1>(j, s, at, part);
}

template <enum reading HOW>
static void start_gate_up(const struct cuda *c, const struct expert_job &j, unsigned many) {
    const size_t row = !j.alone ? 0 : blocks_of(j.dim, SPAN) * SPAN * sizeof(__nv_bfloat16);
    cuda_start(c, gate_up<HOW>, dim3(blocks_of(j.n_hidden, TILE), many), GATE_WARPS * 32, row, j);
}

template <enum reading HOW>
static void start_down(const struct cuda *c, const struct expert_job &j, unsigned many) {
    cuda_start(c, down<HOW>, dim3(blocks_of(j.dim, TILE * DOWN_TILES), many),
               DOWN_TILES * SLICES * 32, 0, j);
}

bool cuda_experts_fit(const struct linear *w, int n, int how) {
    for (int i = 0; i < n; i++)
        if (!tile_fits(w[i].w, how)) return false;
    return true;
}

void cuda_experts_mma(const struct cuda *c, const struct expert_job &job, unsigned rows,
                      unsigned many, int gate_how, int down_how) {
    struct expert_job j = job;
    j.far_down = pairs_far(down_how);
    j.alone = !j.first && j.dim <= ALONE_MAX;
    if (!j.alone)
        cuda_start(c, round_rows, dim3(blocks_of(j.dim, ROUND_THREADS), rows), ROUND_THREADS, 0, j,
                   pairs_far(gate_how));
    WITH_FORMAT(gate_how, start_gate_up, c, j, many)
    WITH_FORMAT(down_how, start_down, c, j, many)
}

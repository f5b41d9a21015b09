/* experts_wgmma.cu - experts of many rows on Hopper: 64 outputs of a warpgroup times N of the rows
 * that chose an expert. A lane unpacks the weights that it has in tile.h's tiles, and the
 * warpgroup multiplies them from its registers; rows lie in shared memory.
 *
 * Steps and slices are tile.h's, the same 16 columns in each: so are a row's bits. Weights, as they
 * lie in the checkpoint, and rows come by copies that a thread asks for two spans ahead. */
#include "device/cuda/experts.h"
#include "device/cuda/hopper.h"
#include "device/cuda/tile.h"

enum { THREADS = 256, WARPS = THREADS / 32, OUTS = 64, AHEAD = 2, STAGES = AHEAD + 2,
       ROUND_THREADS = 128, X_UNITS = SPAN * 2 / 16,
       FEW_ROWS_OF = 16, MANY_ROWS_OF = 64,      /* of a tile */
       MANY_FROM = 10 };                         /* rows an expert has, in the mean */

/* What is to be done for one of the two products. */
struct wide_job {
    struct expert_job j;
    const struct linear *w[2];       /* of each warpgroup; the same: one has the next outputs */
    bool down;
    bool far;                        /* how the next product pairs columns */
    int outs, cols;
};

/* ---- where a rounded row's column lies: the 16 of a step side by side, as lanes have them ---- */

__device__ static inline int64_t step_place(int64_t c, bool far) {
    const int i = (int)c % 8, pair = far ? i % 4 * 2 + i / 4 : i;
    const int t = (int)(c % SPAN) / LANE_COLS, k = (int)(c % LANE_COLS) / 8;
    return c / SPAN * SPAN + k * 32 + pair / 4 * 16 + pair % 4 / 2 * 8 + 2 * t + pair % 2;
}

__device__ static inline __nv_bfloat16 *x_of(const struct expert_job &j, int row) {
    return (__nv_bfloat16 *)(j.hidden + (int64_t)row * j.active * j.width + 2 * j.n_hidden);
}

__device__ static inline __nv_bfloat16 *hidden_of(const struct expert_job &j, int pair) {
    return (__nv_bfloat16 *)(j.hidden + (int64_t)pair * j.width);
}

/* Whole spans: what is past the columns is zero. */
__global__ static void round_rows(struct expert_job j, bool far) {
    let_next_begin();
    after_previous();
    const int row = (int)blockIdx.y;
    const int64_t c = (int64_t)blockIdx.x * ROUND_THREADS + threadIdx.x;
    x_of(j, row)[step_place(c, far)] =
        __float2bfloat16_rn(c < j.dim ? j.x[row * j.x_row + c] : 0);
}

/* ---- a lane's scales ---- */

/* Where they are. Of groups that are more than a lane's columns lane t of four has those of the
 * span 4 p + t, and hands them out (`shares`); of others a lane has those of its own columns of
 * span p. */
template <enum reading HOW> struct scheme {
    const void *scales, *biases;
    struct fp8_row fp8[2];
    enum dtype dtype;
    int64_t row[2];                  /* of the lane's outputs, numbers from the first on */
    int cols, log;                   /* of the columns of a group */
    bool shares;

    static constexpr bool IS_BF = HOW == AFFINE_4_BF16 || HOW == AFFINE_8_BF16;
    static constexpr bool IS_AFFINE = IS_BF || HOW == AFFINE_4_F16;

    __device__ inline scheme(const struct tensor &w, const int64_t (&of)[2]) {
        scales = w.quant.scales;
        biases = w.quant.biases;
        dtype = w.quant.scale_dtype;
        cols = (int)w.shape[1];
        log = HOW == E2M1_E8M0 ? 5 : 31 - __clz(w.quant.group);
        shares = HOW == E2M1_E8M0 || (IS_AFFINE && log > 5);
        for (int r = 0; r < 2; r++) row[r] = of[r];
        for (int r = 0; r < 2 && HOW == E4M3_BLOCKS; r++) fp8[r] = fp8_row_of(w, of[r]);
    }
};

struct factors { unsigned s[2], b[2]; };

/* n of them, side by side. */
template <class T>
__device__ static inline unsigned some_of(const void *from, int64_t first, int n) {
    unsigned v = 0;
#pragma unroll
    for (int k = 0; k < 4 / (int)sizeof(T); k++)
        if (k < n) v |= (unsigned)((const T *)from)[first + k] << (8 * (int)sizeof(T) * k);
    return v;
}

template <enum reading HOW>
__device__ static inline void load_factors(struct factors &v, const struct scheme<HOW> &w, int p) {
    const int t = (int)threadIdx.x % 4;
    const int c = w.shares ? (4 * p + t) * SPAN : p * SPAN + t * LANE_COLS;
    v = {};
    if (c >= (HOW == BF16_8 ? 0 : w.cols)) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int64_t group = (w.row[r] + c) >> w.log;
        if (HOW == E4M3_BLOCKS) {
            v.s[r] = __float_as_uint(number_at(w.fp8[r].scales, w.dtype,
                                               (w.fp8[r].col + (unsigned)c) >> w.fp8[r].shift));
        } else if (HOW == E2M1_E8M0) {
            v.s[r] = some_of<unsigned char>(w.scales, group, MIN(SPAN, w.cols - c) >> w.log);
        } else if (scheme<HOW>::IS_AFFINE) {
            const int n = w.shares ? MAX(MIN(SPAN, w.cols - c) >> w.log, 1) : 1;
            v.s[r] = some_of<unsigned short>(w.scales, group, n);
            v.b[r] = some_of<unsigned short>(w.biases, group, n);
        }
    }
}

/* Row r's, for the lane's columns of a span. */
template <enum reading HOW>
__device__ static inline void take_factors(struct raw<HOW> &to, const struct factors &v, int r,
                                           int span, const struct scheme<HOW> &w) {
    const int lane = (int)threadIdx.x % 32, t = lane % 4, from = lane / 4 * 4 + span % 4;
    if (HOW == E4M3_BLOCKS) {
        to.scale = __uint_as_float(v.s[r]);
    } else if (HOW == E2M1_E8M0) {
        to.scale = float_of_e8m0(__shfl_sync(~0u, v.s[r], from) >> 8 * t & 255);
    } else if (scheme<HOW>::IS_AFFINE) {
        const int up = w.log == 6 ? t / 2 * 16 : 0, of = w.shares ? from : lane;
        to.scale = half_of<scheme<HOW>::IS_BF>(__shfl_sync(~0u, v.s[r], of) >> up & 0xffff);
        to.bias = half_of<scheme<HOW>::IS_BF>(__shfl_sync(~0u, v.b[r], of) >> up & 0xffff);
    }
}

/* ---- what comes into shared memory ---- */

template <enum reading HOW>
__device__ __host__ static constexpr int units(void) {   /* of 16 bytes, a lane's of a row */
    return HOW == BF16_8 ? 4 : HOW == AFFINE_8_BF16 || HOW == E4M3_BLOCKS ? 2 : 1;
}

template <enum reading HOW, int N> struct wide_stage {
    unsigned char x[2][N * 128];     /* 64 columns of the rows each */
    uint4 w[WARPS][2][units<HOW>()][32];
};

__device__ static inline void async_16(void *to, const void *from, bool in) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from),
                 "r"(in ? 16 : 0) : "memory");
}

/* A thread's share: a unit of every 16th row; its lane's weights of two outputs. */
template <enum reading HOW, int N> struct feed {
    const char *x, *w[2];
    unsigned row[N / 16];            /* units from x on */
    int span, spans, left;           /* left: columns from the lane's first on */

    __device__ inline void next(struct wide_stage<HOW, N> *ring) {
        struct wide_stage<HOW, N> *s = &ring[span % STAGES];
        const int unit = (int)threadIdx.x % X_UNITS, first = (int)threadIdx.x / X_UNITS;
        const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        if (span < spans) {
#pragma unroll
            for (int i = 0; i < N / 16; i++)
                async_16(s->x[unit / 8] + (first + 16 * i) * 128 + (unit % 8 ^ first % 8) * 16,
                         x + (size_t)row[i] * 16, true);
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int k = 0; k < units<HOW>(); k++)
                    async_16(&s->w[warp][r][k][lane], w[r] + 16 * k, left > 0);
        }
        x += SPAN * 2;
        for (int r = 0; r < 2; r++)
            if (left > SPAN) w[r] += SPAN / 8 * raw_bytes<HOW>();
        left -= SPAN;
        span++;
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
};

/* ---- a tile ---- */

/* Rows of a block: those of one expert, `pair` has their numbers. */
template <int N> struct wide_rows { int e, n, pair[N]; };

/* False: there is no such tile. */
template <int N>
__device__ static inline bool find_rows(struct wide_rows<N> &rows, const struct expert_job &j) {
    const int y = (int)blockIdx.y;
    if (y >= j.tiles[j.experts]) return false;
    for (int e = threadIdx.x; e < j.experts; e += THREADS)
        if (j.tiles[e] <= y && y < j.tiles[e + 1]) rows.e = e;
    __syncthreads();
    const int begin = j.first[rows.e] + (y - j.tiles[rows.e]) * N;
    const int n = MIN(N, j.first[rows.e + 1] - begin);
    for (int i = threadIdx.x; i < N; i += THREADS) rows.pair[i] = j.pair[begin + MIN(i, n - 1)];
    if (threadIdx.x == 0) rows.n = n;
    __syncthreads();
    return true;
}

/* 32 columns of each lane: two steps, which are under way when this returns. */
template <enum reading HOW, int N>
__device__ static inline void two_steps(float (&sum)[N / 2], unsigned (&a)[2][4],
                                        const struct raw<HOW> (&raw)[2], int k, uint64_t x,
                                        bool adds) {
    const struct eight low = unpack<HOW>(raw[0], k), high = unpack<HOW>(raw[1], k);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        a[h][0] = low.p[2 * h];
        a[h][1] = high.p[2 * h];
        a[h][2] = low.p[2 * h + 1];
        a[h][3] = high.p[2 * h + 1];
    }
    wgmma_begin();
    wgmma_held(sum, a[0], x, adds);
    wgmma_held(sum, a[1], x + 2, 1);
    wgmma_commit();
}

/* total[4 i + k] of a lane: output lane/4 + 8 (k/2) of its warp's 16, row 8 i + 2 (lane%4) +
 * k%2. */
template <enum reading HOW, int N>
__device__ static inline void sum_tile(float (&total)[N / 2], struct wide_stage<HOW, N> *ring,
                                       struct feed<HOW, N> &feed, const struct scheme<HOW> &w) {
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, spans = feed.spans;
    struct factors own, next;
    float sum[N / 2];
    unsigned a[2][2][4];
    load_factors<HOW>(next, w, 0);
#pragma unroll
    for (int i = 0; i < N / 2; i++) total[i] = 0;
    for (int slice = 0; slice < SLICES; slice++) {
        const int begin = spans * slice / SLICES, end = spans * (slice + 1) / SLICES;
        for (int s = begin; s < end; s++) {
            struct raw<HOW> raw[2];
            if (!w.shares || s % 4 == 0) {
                own = next;
                load_factors<HOW>(next, w, w.shares ? s / 4 + 1 : s + 1);
            }
            asm volatile("cp.async.wait_group %0;" ::"n"(AHEAD - 1) : "memory");
            writes_are_shared();
            __syncthreads();
            feed.next(ring);         /* where the span before the last one was */
            const struct wide_stage<HOW, N> &stage = ring[s % STAGES];
#pragma unroll
            for (int r = 0; r < 2; r++) {
#pragma unroll
                for (int k = 0; k < units<HOW>(); k++)
                    *(uint4 *)&raw[r].word[4 * k] = stage.w[warp][r][k][lane];
                take_factors<HOW>(raw[r], own, r, s, w);
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma_wait<1>();     /* who read these registers */
                two_steps<HOW, N>(sum, a[k % 2], raw, k,
                                  rows_of_64(stage.x[k / 2]) + k % 2 * 4, s > begin || k > 0);
            }
        }
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < N / 2 && begin < end; i++) total[i] += sum[i];
    }
}

/* ---- results ---- */

__device__ static inline void put_hidden(const struct wide_job &w, int pair, int out, float v) {
    hidden_of(w.j, pair)[step_place(out, w.far)] = __float2bfloat16_rn(out < w.outs ? v : 0);
}

/* Sums of up are handed to the threads that have those of gate. */
template <int N>
__device__ static inline void put_gated(const struct wide_job &w, const struct wide_rows<N> &rows,
                                        const float (&sum)[N / 2], float *up, int out) {
    const struct linear &gate = w.w[0][rows.e], &other = w.w[1][rows.e];
    const int own = threadIdx.x % 128, t = (int)threadIdx.x % 4;
    __syncthreads();
    for (int i = 0; threadIdx.x >= 128 && i < N / 2; i++) up[i * 128 + own] = sum[i];
    __syncthreads();
    if (threadIdx.x >= 128) return;
    float bias[2][2];
    for (int h = 0; h < 2; h++) {
        const int o = MIN(out + 8 * h, w.outs - 1);
        bias[0][h] = expert_bias(gate, o);
        bias[1][h] = expert_bias(other, o);
    }
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const int row = i / 4 * 8 + 2 * t + i % 2, h = i % 4 / 2;
        if (row >= rows.n) continue;
        const float u = up[i * 128 + own] + bias[1][h];
        put_hidden(w, rows.pair[row], out + 8 * h, gated(sum[i] + bias[0][h], u, w.j.act));
    }
}

template <int N>
__device__ static inline void put_one(const struct wide_job &w, const struct wide_rows<N> &rows,
                                      const float (&sum)[N / 2], int out) {
    const struct linear &l = w.w[0][rows.e];
    const int t = (int)threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int o = out + 8 * h;
        const float bias = expert_bias(l, MIN(o, w.outs - 1));
#pragma unroll
        for (int n = 0; n < N / 4; n++) {
            const int i = n / 2 * 4 + 2 * h + n % 2, row = n / 2 * 8 + 2 * t + n % 2;
            if (row >= rows.n) continue;
            if (!w.down) put_hidden(w, rows.pair[row], o, act_of(w.j.act.act, sum[i] + bias));
            else if (o < w.outs)
                w.j.hidden[rows.pair[row] * w.j.width + 2 * w.j.n_hidden + o] = sum[i] + bias;
        }
    }
}

template <enum reading HOW, int N, bool GATED>
__global__ static void __launch_bounds__(THREADS, N == FEW_ROWS_OF ? 3 : 2)
wide(const __grid_constant__ struct wide_job w) {
    extern __shared__ unsigned char memory[];
    __shared__ struct wide_rows<N> rows;
    struct wide_stage<HOW, N> *ring =
        (struct wide_stage<HOW, N> *)(memory + (1024 - shared_at(memory) % 1024) % 1024);
    const int group = (int)threadIdx.x / 128, warp = (int)threadIdx.x % 128 / 32;
    const int lane = (int)threadIdx.x % 32, t = lane % 4;
    const int out = (int)blockIdx.x * (GATED ? OUTS : 2 * OUTS) + (GATED ? 0 : group * OUTS) +
                    warp * TILE + lane / 4;
    let_next_begin();
    after_previous();
    if (!find_rows<N>(rows, w.j)) return;
    const struct tensor &m = w.w[GATED ? group : 0][rows.e].w;
    const int64_t row[2] = { MIN(out, w.outs - 1) * m.stride[0],
                             MIN(out + 8, w.outs - 1) * m.stride[0] };
    struct feed<HOW, N> feed;
    feed.span = 0;
    feed.spans = (w.cols + SPAN - 1) / SPAN;
    feed.left = w.cols - t * LANE_COLS;
    feed.x = (const char *)w.j.hidden;
    for (int i = 0; i < N / 16; i++) {
        const int pair = rows.pair[threadIdx.x / X_UNITS + 16 * i];
        const __nv_bfloat16 *x = w.down ? hidden_of(w.j, pair) : x_of(w.j, pair / w.j.active);
        feed.row[i] = (unsigned)(((const char *)x - feed.x) / 16) + threadIdx.x % X_UNITS;
    }
    for (int r = 0; r < 2; r++)
        feed.w[r] = (const char *)m.at + (row[r] + MIN(t * LANE_COLS, w.cols - LANE_COLS)) / 8 *
                                             raw_bytes<HOW>();
    for (int i = 0; i < AHEAD; i++) feed.next(ring);
    float total[N / 2];
    sum_tile<HOW, N>(total, ring, feed, scheme<HOW>(m, row));
    if constexpr (GATED) put_gated<N>(w, rows, total, (float *)ring, out);
    else put_one<N>(w, rows, total, out);
}

/* ---- */

template <enum reading HOW, int N, bool GATED>
static void start_wide(const struct cuda *c, const struct wide_job &w, unsigned row_tiles) {
    const size_t bytes = STAGES * sizeof(struct wide_stage<HOW, N>) + 1024;
    const int each = GATED ? OUTS : 2 * OUTS;
    const int64_t outs = w.down ? w.outs : blocks_of(w.outs, SPAN) * (int64_t)SPAN;
    cudaFuncSetAttribute(wide<HOW, N, GATED>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         (int)bytes);
    cuda_start(c, wide<HOW, N, GATED>, dim3(blocks_of(outs, each), row_tiles), THREADS, bytes, w);
}

template <enum reading HOW, int N>
static void start_gated(const struct cuda *c, const struct wide_job &w, unsigned row_tiles) {
    if (w.w[0] != w.w[1]) start_wide<HOW, N, true>(c, w, row_tiles);
    else start_wide<HOW, N, false>(c, w, row_tiles);
}

template <enum reading HOW>
static void start_rows(const struct cuda *c, const struct wide_job &w, unsigned row_tiles) {
    if (w.j.tile_rows == FEW_ROWS_OF) start_gated<HOW, FEW_ROWS_OF>(c, w, row_tiles);
    else start_gated<HOW, MANY_ROWS_OF>(c, w, row_tiles);
}

int cuda_experts_wide(const struct cuda *c, int pairs, int experts) {
    if (!c->hopper || pairs <= experts) return 0;
    return pairs < MANY_FROM * experts ? FEW_ROWS_OF : MANY_ROWS_OF;
}

void cuda_experts_wgmma(const struct cuda *c, const struct expert_job &job, unsigned rows,
                        int gate_how, int down_how) {
    struct wide_job w = { job };
    const unsigned pairs = rows * (unsigned)job.active;
    const unsigned tiles = pairs / (unsigned)job.tile_rows + (unsigned)job.experts;
    cuda_start(c, round_rows, dim3(blocks_of(job.dim, SPAN), rows), ROUND_THREADS, 0, job,
               pairs_far(gate_how));
    w.w[0] = job.gate ? job.gate : job.up;
    w.w[1] = job.up;
    w.far = pairs_far(down_how);
    w.outs = (int)job.n_hidden;
    w.cols = (int)job.dim;
    WITH_FORMAT(gate_how, start_rows, c, w, tiles)
    w.w[0] = w.w[1] = job.down;
    w.down = true;
    w.outs = (int)job.dim;
    w.cols = (int)job.n_hidden;
    WITH_FORMAT(down_how, start_rows, c, w, tiles)
}

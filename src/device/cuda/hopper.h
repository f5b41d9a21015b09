/* hopper.h - what only sm_90a has: products of a warpgroup (wgmma), copies by the tensor copy
 * engine (TMA) into shared memory, and the barriers on which they complete. Elsewhere these compile
 * to a trap: the host starts such kernels on such chips alone (`hopper` of struct cuda). */
#pragma once
#include "device/cuda/cuda.h"
#include <cuda.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER_ONLY(...) __VA_ARGS__
#else
#define HOPPER_ONLY(...) __trap()
#endif

/* Two dimensions of bf16, [rows, cols], rows `row_bytes` apart, read in boxes of 64 columns: what
 * lies outside is zero. */
bool cuda_tensor_map(CUtensorMap *, const void *at, int64_t rows, int64_t cols, int64_t row_bytes,
                     int box_rows);
/* The same in pages: [pages, rows, cols], pages `page_bytes` apart; numbers of `width` bytes, 2 or
 * 1, of which a box has 128 bytes a row. */
bool cuda_page_map(CUtensorMap *, const void *at, int64_t rows, int64_t cols, int64_t page_bytes,
                   int box_rows, size_t width);

/* The same in boxes of `box_rows` rows and 64 * box_blocks columns, cols a multiple of 64: 64
 * columns of all rows, then the next 64. */
bool cuda_tensor_map_blocks(CUtensorMap *, const void *at, int64_t rows, int64_t cols,
                            int64_t row_bytes, int box_rows, int box_blocks);
/* Pages whose boxes have all columns: 128 bytes of all rows, then the next 128. Of more columns
 * than fit 128 bytes they are a multiple of what does. */
bool cuda_page_map_whole(CUtensorMap *, const void *at, int64_t rows, int64_t cols,
                         int64_t page_bytes, int box_rows, size_t width);

__device__ static inline unsigned shared_at(const void *p) {
    return (unsigned)__cvta_generic_to_shared(p);
}

/* ---- barriers in shared memory; a wait names the parity of the phase it waits for ---- */

__device__ static inline void barrier_init(uint64_t *b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(b)), "r"(count)
                 : "memory");
}

__device__ static inline void barriers_are_set(void) {
    HOPPER_ONLY(asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"));
}

/* One arrival, and so many bytes that copies will bring. */
__device__ static inline void barrier_expect(uint64_t *b, unsigned bytes) {
    HOPPER_ONLY(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                                 shared_at(b)), "r"(bytes) : "memory"));
}

__device__ static inline void barrier_arrive(uint64_t *b) {
    asm volatile("{ .reg .b64 s; mbarrier.arrive.shared::cta.b64 s, [%0]; }" ::"r"(shared_at(b))
                 : "memory");
}

/* At the same place in the memory of block `rank` of the cluster. It says that a place may be
 * copied into again, no more: with the order of the whole cluster it would cost a fence of the
 * device. */
__device__ static inline void barrier_arrive_at(uint64_t *b, unsigned rank) {
    HOPPER_ONLY(asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;"
                             "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::
                                 "r"(shared_at(b)), "r"(rank) : "memory"));
}

__device__ static inline void barrier_wait(uint64_t *b, unsigned parity) {
    HOPPER_ONLY(asm volatile("{ .reg .pred p; AGAIN: "
                             "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;"
                             "@!p bra AGAIN; }" ::"r"(shared_at(b)), "r"(parity) : "memory"));
}

/* Four numbers at the same place in the memory of block `rank` of the cluster. */
__device__ static inline float4 numbers_of(const float *p, unsigned rank) {
    float4 v = {};
    HOPPER_ONLY(asm volatile("{ .reg .b32 there; mapa.shared::cluster.u32 there, %4, %5;"
                             "ld.shared::cluster.v4.f32 {%0,%1,%2,%3}, [there]; }"
                             : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                             : "r"(shared_at(p)), "r"(rank) : "memory"));
    return v;
}

__device__ static inline unsigned cluster_rank(void) {
    unsigned r = 0;
    HOPPER_ONLY(asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)));
    return r;
}

__device__ static inline void cluster_arrive(void) {
    HOPPER_ONLY(asm volatile("barrier.cluster.arrive.release;" ::: "memory"));
}

__device__ static inline void cluster_wait(void) {
    HOPPER_ONLY(asm volatile("barrier.cluster.wait.acquire;" ::: "memory"));
}

/* For where a block has set barriers, and said nothing else to others, so far: no fence of the
 * device is needed. */
__device__ static inline void cluster_arrive_relaxed(void) {
    HOPPER_ONLY(asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"));
}

/* The same place in the memory of block `rank` of the cluster. */
__device__ static inline unsigned at_rank(const void *p, unsigned rank) {
    unsigned there = 0;
    HOPPER_ONLY(asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there)
                    : "r"(shared_at(p)), "r"(rank)));
    return there;
}

/* Two numbers to a place at_rank, and their bytes to the barrier there. */
__device__ static inline void numbers_to(unsigned to, unsigned barrier, float2 v) {
    HOPPER_ONLY(asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::
        "r"(to), "f"(v.x), "f"(v.y), "r"(barrier) : "memory"));
}

__device__ static inline void cluster_sync(void) {
    HOPPER_ONLY(asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" :::
                                 "memory"));
}

/* Threads of one warpgroup or two meet. */
__device__ static inline void named_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Others meet there; this thread does not wait for them. */
__device__ static inline void named_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- copies ---- */

/* A box from column col and row row on. */
__device__ static inline void box_in(void *to, const CUtensorMap *from, int col, int row,
                                     uint64_t *b) {
    HOPPER_ONLY(asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_at(to)), "l"(from), "r"(col), "r"(row),
        "r"(shared_at(b)) : "memory"));
}

__device__ static inline void page_in(void *to, const CUtensorMap *from, int col, int row,
                                      int page, uint64_t *b) {
    HOPPER_ONLY(asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_at(to)), "l"(from), "r"(col), "r"(row),
        "r"(page), "r"(shared_at(b)) : "memory"));
}

/* A box to every block of the cluster in `mask`, at the same place of each. */
__device__ static inline void box_in_all(void *to, const CUtensorMap *from, int col, int row,
                                         uint64_t *b, unsigned short mask) {
    HOPPER_ONLY(asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_at(to)), "l"(from),
        "r"(col), "r"(row), "r"(shared_at(b)), "h"(mask) : "memory"));
}

/* A box of cuda_tensor_map_blocks. */
__device__ static inline void blocks_in(void *to, const CUtensorMap *from, int block, int row,
                                        uint64_t *b) {
    HOPPER_ONLY(asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_at(to)), "l"(from), "r"(0), "r"(row),
        "r"(block), "r"(shared_at(b)) : "memory"));
}

/* Bytes, a multiple of 16, that lie in one run. */
__device__ static inline void bytes_in(void *to, const void *from, unsigned bytes, uint64_t *b) {
    HOPPER_ONLY(asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
        "r"(shared_at(to)), "l"(from), "r"(bytes), "r"(shared_at(b)) : "memory"));
}

/* What threads wrote to shared memory is there for wgmma and copies. */
__device__ static inline void writes_are_shared(void) {
    HOPPER_ONLY(asm volatile("fence.proxy.async.shared::cta;" ::: "memory"));
}

/* What kernels before wrote to global memory is there for copies, after the wait for them. */
__device__ static inline void writes_are_global(void) {
    HOPPER_ONLY(asm volatile("fence.proxy.async.global;" ::: "memory"));
}

/* ---- products ---- */

/* Rows of 64 bf16 as box_in leaves them: 128 bytes each, their 16-byte units exchanged by row. The
 * 16 columns from 16 i on are 2 i further. */
__device__ static inline uint64_t rows_of_64(const void *at) {
    return (uint64_t)((shared_at(at) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 |
           (uint64_t)1 << 62;
}

/* The same memory, its rows being summed over: [16 rows, cols], every 64 columns `next` bytes
 * from the last. The 16 rows from 16 i on are 128 i further. */
__device__ static inline uint64_t rows_turned(const void *at, unsigned next) {
    return (uint64_t)((shared_at(at) & 0x3ffff) >> 4) | (uint64_t)(next >> 4) << 16 |
           (uint64_t)64 << 32 | (uint64_t)1 << 62;
}

__device__ static inline void wgmma_begin(void) {
    HOPPER_ONLY(asm volatile("wgmma.fence.sync.aligned;" ::: "memory"));
}

__device__ static inline void wgmma_commit(void) {
    HOPPER_ONLY(asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"));
}

template <int LEFT>
__device__ static inline void wgmma_wait(void) {
    HOPPER_ONLY(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory"));
}

template <int N>
__device__ static inline void registers_more(void) {
    HOPPER_ONLY(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)));
}

template <int N>
__device__ static inline void registers_less(void) {
    HOPPER_ONLY(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)));
}

/* d[64, N] = a[64, 16] b[N, 16]' + (add ? d : 0). A warp has 16 rows of d: d[4 i + k] of a lane is
 * row lane/4 + 8 (k/2), column 8 i + 2 (lane%4) + k%2. */
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
/* The registers of N sums: their names in the assembler's text, and the operands themselves. */
#define NAMES_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define NAMES_16 NAMES_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define NAMES_32 NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define NAMES_48 NAMES_32 \
    ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define NAMES_64 NAMES_48 \
    ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define NAMES_112 NAMES_64 \
    ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79" \
    ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95" \
    ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define NAMES_128 NAMES_112 \
    ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define EIGHT(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), \
    "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SUMS_8(d) EIGHT(d, 0)
#define SUMS_16(d) EIGHT(d, 0), EIGHT(d, 8)
#define SUMS_32(d) SUMS_16(d), EIGHT(d, 16), EIGHT(d, 24)
#define SUMS_48(d) SUMS_32(d), EIGHT(d, 32), EIGHT(d, 40)
#define SUMS_64(d) SUMS_48(d), EIGHT(d, 48), EIGHT(d, 56)
#define SUMS_112(d) SUMS_64(d), EIGHT(d, 64), EIGHT(d, 72), EIGHT(d, 80), EIGHT(d, 88), \
    EIGHT(d, 96), EIGHT(d, 104)
#define SUMS_128(d) SUMS_112(d), EIGHT(d, 112), EIGHT(d, 120)

/* The overload of `sums` registers, which are `n` columns; a, b, add: the next registers' names. */
#define WGMMA(sums, n, a, b, add_at) \
    __device__ static inline void wgmma(float (&d)[sums], uint64_t x, uint64_t y, int add) { \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " add_at ", 0;" \
            "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" NAMES_##sums "}, " \
            a ", " b ", p, 1, 1, 0, 0; }" \
            : SUMS_##sums(d) : "l"(x), "l"(y), "r"(add)); \
    }
WGMMA(128, 256, "%128", "%129", "%130")
WGMMA(112, 224, "%112", "%113", "%114")
WGMMA(64, 128, "%64", "%65", "%66")
WGMMA(48, 96, "%48", "%49", "%50")
WGMMA(32, 64, "%32", "%33", "%34")
WGMMA(16, 32, "%16", "%17", "%18")

/* d[64, N] = a[64, 16] b + (add ? d : 0), a from registers as mma.m16n8k16 has it. Held: b[N, 16]',
 * by rows_of_64. Turned: b[16, N], by rows_turned. */
#define WGMMA_HELD(name, turned, sums, n, a, b, add_at) \
    __device__ static inline void name(float (&d)[sums], const unsigned (&x)[4], uint64_t y, \
                                       int add) { \
        asm volatile("{ .reg .pred p; setp.ne.b32 p, " add_at ", 0;" \
            "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" NAMES_##sums "}, " \
            "{" a "}, " b ", p, 1, 1, " #turned "; }" \
            : SUMS_##sums(d) \
            : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y), "r"(add)); \
    }
WGMMA_HELD(wgmma_turned, 1, 64, 128, "%64,%65,%66,%67", "%68", "%69")
WGMMA_HELD(wgmma_turned, 1, 32, 64, "%32,%33,%34,%35", "%36", "%37")
WGMMA_HELD(wgmma_held, 0, 32, 64, "%32,%33,%34,%35", "%36", "%37")
WGMMA_HELD(wgmma_held, 0, 8, 16, "%8,%9,%10,%11", "%12", "%13")

#undef NAMES_8
#undef NAMES_16
#undef NAMES_32
#undef NAMES_48
#undef NAMES_64
#undef NAMES_112
#undef NAMES_128
#undef EIGHT
#undef SUMS_8
#undef SUMS_16
#undef SUMS_32
#undef SUMS_48
#undef SUMS_64
#undef SUMS_112
#undef SUMS_128
#undef WGMMA
#undef WGMMA_HELD
#else
template <int N>
__device__ static inline void wgmma(float (&)[N], uint64_t, uint64_t, int) { __trap(); }

template <int N>
__device__ static inline void wgmma_turned(float (&)[N], const unsigned (&)[4], uint64_t, int) {
    __trap();
}

template <int N>
__device__ static inline void wgmma_held(float (&)[N], const unsigned (&)[4], uint64_t, int) {
    __trap();
}
#endif

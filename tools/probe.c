/* probe.c - what this machine can do at this moment: bytes read per second from memory, and
 * products of 8 bits per second, with VNNI or, where there is none, with AVX2. A figure of speed
 * is printed as a share of these, measured right beside it, because a shared machine is not the
 * same machine a minute later.
 *
 *     probe [threads]        one line of JSON */
#include "base/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { BYTES = 512 << 20, PIECE = 1 << 20, PASSES = 5, ROUNDS = 2000000 };

struct probe { const uint64_t *at; _Atomic uint64_t sink; };

static void read_pieces(void *to, int64_t begin, int64_t end) {
    struct probe *p = to;
    typedef uint64_t line __attribute__((vector_size(64)));
    const line *at = (const line *)(const void *)(p->at + begin * (PIECE / 8));
    line sum[4] = { 0 };
    for (int64_t i = 0; i < (end - begin) * (PIECE / 64); i += 4)
        for (int j = 0; j < 4; j++)
            sum[j] += at[i + j];
    sum[0] += sum[1] + sum[2] + sum[3];
    p->sink += sum[0][0] + sum[0][7];
}

#define ALL(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)

#if defined __x86_64__
/* Twelve sums, since a product is done some cycles after it began. */
__attribute__((target("avx512f,avx512vnni")))
static void multiply_vnni(void *to, int64_t begin, int64_t end) {
    (void)to;
#define VNNI(i) "vpdpbusd %%zmm31, %%zmm30, %%zmm" #i "\n\t"
    for (int64_t i = 0; i < (end - begin) * ROUNDS; i++)
        __asm__ volatile(ALL(VNNI) ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                         "xmm7", "xmm8", "xmm9", "xmm10", "xmm11");
}

/* Products in pairs of 16 bits, pairs of those to 32, and the sum. */
__attribute__((target("avx2")))
static void multiply_avx2(void *to, int64_t begin, int64_t end) {
    (void)to;
#define AVX2(i) "vpmaddubsw %%ymm15, %%ymm14, %%ymm12\n\tvpmaddwd %%ymm12, %%ymm13, %%ymm12\n\t" \
                "vpaddd %%ymm12, %%ymm" #i ", %%ymm" #i "\n\t"
    for (int64_t i = 0; i < (end - begin) * ROUNDS; i++)
        __asm__ volatile(ALL(AVX2) ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",
                         "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12");
}

/* How many products an instruction has; 0: nothing to measure. */
static int multiplier(void (**run)(void *, int64_t, int64_t)) {
    bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
    *run = vnni ? multiply_vnni : multiply_avx2;
    return vnni ? 64 : __builtin_cpu_supports("avx2") ? 32 : 0;
}
#else
static int multiplier(void (**run)(void *, int64_t, int64_t)) {
    *run = NULL;
    return 0;
}
#endif

static double best(struct pool *pool, int64_t n, int64_t grain,
                   void (*run)(void *, int64_t, int64_t), struct probe *p) {
    double least = 1e30;
    for (int i = 0; i < PASSES; i++) {
        double begin = clock_s();
        pool_run(pool, n, grain, run, p);
        least = MIN(least, clock_s() - begin);
    }
    return least;
}

int main(int argc, char **argv) {
    uint64_t threads = (uint64_t)threads_available();
    if (argc > 1 && !str_u64(str_of(argv[1]), 256, &threads)) {
        fprintf(stderr, "usage: probe [threads]\n");
        return ERR_USAGE;
    }
    void *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return ERR_MEMORY;
    madvise(at, BYTES, MADV_HUGEPAGE);
    memset(at, 1, BYTES);
    struct probe p = { .at = at };
    struct pool *pool = pool_open((int)threads);
    const int n = pool_threads(pool);
    double gbs = BYTES / best(pool, BYTES / PIECE, 4, read_pieces, &p) / 1e9;
    void (*run)(void *, int64_t, int64_t);
    double products = multiplier(&run), gops = 0;
    if (run && products > 0)         /* a product and a sum are two operations */
        gops = n * 12.0 * ROUNDS * 2 * products / best(pool, n, 1, run, &p) / 1e9;
    printf("{\"threads\":%d,\"read_gb_per_s\":%.2f,\"int8_gop_per_s\":%.1f}\n", n, gbs, gops);
    pool_close(pool);
    munmap(at, BYTES);
    return 0;
}

/* bench_attention.c - how fast attention is with the heads of a Llama 3.2 1B and of a Qwen3 4B:
 * arithmetic per second for the last 512 rows of a prompt, keys and values read per second for the
 * next token of one sequence.
 *
 *     bench_attention [isa [threads]] */
#include "device/cpu/cpu.h"
#include "device/cpu/isa.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROWS_MAX = 512, CONTEXT_MAX = 8192, PAGE_TOKENS = 32, SHAPES = 2, DIM_MAX = 128, HEADS = 32,
       KV_HEADS = 8, PARTIAL_BYTES = 4 << 20 };

static const int dims[SHAPES] = { 64, DIM_MAX };
static const struct { const char *name; enum dtype dtype; } formats[] = {
    { "f32", F32 }, { "bf16", BF16 }, { "q8", I8 }, { "fp8", FP8 },
};

struct setup {
    struct cpu cpu;
    struct device dev;
    unsigned char *pages;
    int table[CONTEXT_MAX / PAGE_TOKENS], pos[ROWS_MAX], seq[ROWS_MAX];
    float *q, *y;
};

/* Of keys and values of one token, with scales. */
static size_t token_bytes(const struct attend *a) {
    const size_t numbers = (size_t)(a->kv_heads * (a->k_dim + a->v_dim));
    const size_t scales = dtype_scaled(a->kv.dtype) ? 8 * (size_t)a->kv_heads : 0;
    return numbers * dtype_bytes(a->kv.dtype) + scales;
}

/* Seconds for the last n of `context` positions: the median of some runs. */
static double measure(struct setup *s, int dim, enum dtype dtype, int n, int context) {
    double seconds[7];
    const int first[2] = { 0, n };
    const struct rows rows = { n, 1, s->pos, s->seq, first };
    struct attend a = {
        .rows = &rows, .heads = HEADS, .kv_heads = KV_HEADS, .k_dim = dim, .v_dim = dim,
        .scale = 0.125f,
        .kv = { .pages = s->pages, .dtype = dtype, .page_tokens = PAGE_TOKENS, .table = s->table,
                .pages_max = CONTEXT_MAX / PAGE_TOKENS },
    };
    a.kv.page_bytes = token_bytes(&a) * PAGE_TOKENS;
    for (int i = 0; i < n; i++) s->pos[i] = context - n + i;
    struct tensor q = tensor_3d(s->q, F32, n, HEADS, dim), y = tensor_3d(s->y, F32, n, HEADS, dim);
    for (size_t i = 0; i < COUNT(seconds); i++) {
        const int times = n == 1 ? 8 : 1;
        double begin = clock_s();
        for (int j = 0; j < times; j++) cpu_attention(&s->dev, &y, &q, &a);
        seconds[i] = (clock_s() - begin) / times;
        for (size_t k = i; k > 0 && seconds[k] < seconds[k - 1]; k--) {
            double t = seconds[k];
            seconds[k] = seconds[k - 1];
            seconds[k - 1] = t;
        }
    }
    return seconds[COUNT(seconds) / 2];
}

static void print_format(struct setup *s, int dim, size_t f) {
    static const int contexts[] = { 512, 2048, CONTEXT_MAX };
    struct attend a = { .kv_heads = KV_HEADS, .k_dim = dim, .v_dim = dim,
                        .kv.dtype = formats[f].dtype };
    printf("  %-6s", formats[f].name);
    for (size_t i = 0; i < COUNT(contexts); i++) {
        double t = measure(s, dim, formats[f].dtype, ROWS_MAX, contexts[i]);
        double seen = ROWS_MAX * (contexts[i] - ROWS_MAX / 2 + 0.5);
        printf("%10.1f", seen * 4 * HEADS * dim / t / 1e9);
    }
    for (size_t i = 0; i < COUNT(contexts); i++) {
        double t = measure(s, dim, formats[f].dtype, 1, contexts[i]);
        printf("%10.1f", (double)token_bytes(&a) * contexts[i] / t / 1e9);
    }
    printf("\n");
}

int main(int argc, char **argv) {
    static struct setup s;
    struct err e = { 0 };
    uint64_t threads = (uint64_t)threads_available();
    s.cpu.kernels = cpu_isa_find(argc > 1 ? argv[1] : NULL, &e);
    if (!s.cpu.kernels || (argc > 2 && !str_u64(str_of(argv[2]), 256, &threads))) {
        fprintf(stderr, "usage: bench_attention [isa [threads]]\n%s\n", e.text);
        return ERR_USAGE;
    }
    s.cpu.pool = pool_open((int)threads);
    s.cpu.partial.bytes = PARTIAL_BYTES;
    s.cpu.partial.at = aligned_alloc(64, PARTIAL_BYTES);
    s.dev.impl = &s.cpu;
    const size_t bytes = (size_t)CONTEXT_MAX * KV_HEADS * 2 * DIM_MAX * 4;
    s.pages = aligned_alloc(64, bytes);
    s.q = mem_array((size_t)ROWS_MAX * HEADS * DIM_MAX, sizeof *s.q);
    s.y = mem_array((size_t)ROWS_MAX * HEADS * DIM_MAX, sizeof *s.y);
    if (!s.pages || !s.cpu.partial.at) return ERR_MEMORY;
    uint32_t seed = 1;
    for (size_t i = 0; i < bytes; i += 2) {
        seed = seed * 1664525 + 1013904223;
        s.pages[i] = (unsigned char)(seed >> 24);
        s.pages[i + 1] = 0x3c;       /* as F32 and BF16 these are small numbers */
    }
    for (int i = 0; i < ROWS_MAX * HEADS * DIM_MAX; i++) s.q[i] = (float)(i % 17) - 8;
    for (int i = 0; i < CONTEXT_MAX / PAGE_TOKENS; i++) s.table[i] = i;

    printf("%s, %d threads: GFLOP/s of 512 rows, GB/s of one, whose last position is\n"
           "  %-6s%10d%10d%10d%10d%10d%10d\n", s.cpu.kernels->name, pool_threads(s.cpu.pool), "",
           512, 2048, CONTEXT_MAX, 512, 2048, CONTEXT_MAX);
    for (int i = 0; i < SHAPES; i++) {
        printf("heads of %d\n", dims[i]);
        for (size_t f = 0; f < COUNT(formats); f++) print_format(&s, dims[i], f);
    }
    pool_close(s.cpu.pool);
    free(s.cpu.partial.at);
    free(s.pages);
    free(s.q);
    free(s.y);
    return 0;
}

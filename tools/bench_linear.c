/* bench_linear.c - how fast `linear` is on the shapes of a Llama 3.2 1B: weights read per second
 * for few rows, arithmetic per second for many.
 *
 *     bench_linear [isa [threads [f32 | unpacked]]]
 *
 * The weights of a shape are as many matrices as fill 192 MiB, used in turn, so that none is in
 * a cache when its turn comes. They lie in huge pages, and are packed unless asked otherwise. */
#include "device/cpu/isa.h"
#include "device/cpu/linear.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { WEIGHT_BYTES = 192 << 20, MORE_BYTES = 320 << 20, ROWS_MAX = 512 };

static const struct { const char *name; int64_t outs, cols; } shapes[] = {
    { "q, o", 2048, 2048 }, { "k, v", 512, 2048 }, { "gate, up", 8192, 2048 },
    { "down", 2048, 8192 }, { "head", 128256, 2048 },
};
static const struct { const char *name; enum dtype dtype; int bits, group; } formats[] = {
    { "4 bits, group 64", MLX_AFFINE, 4, 64 }, { "8 bits, group 64", MLX_AFFINE, 8, 64 },
    { "BF16", BF16, 0, 0 },
};

struct setup {
    struct pool *pool;
    const struct cpu_kernels *kernels;
    const struct cpu_scratch *scratch;
    bool packed;
    unsigned char *bytes;            /* WEIGHT_BYTES and one matrix more */
    float *x, *y;
};

static struct tensor matrix_at(struct setup *s, size_t f, int64_t outs, int64_t cols,
                               size_t *bytes) {
    struct tensor w = tensor_2d(s->bytes, formats[f].dtype, outs, cols);
    w.quant = (struct quant){ .scale_dtype = BF16, .group = (uint16_t)formats[f].group,
                              .bits = (uint8_t)formats[f].bits };
    *bytes = (size_t)(outs * cols / 8 * (formats[f].bits ? formats[f].bits : 16));
    if (formats[f].bits) {
        size_t scales = (size_t)(outs * cols / formats[f].group) * 2;
        w.quant.scales = s->bytes + *bytes;
        w.quant.biases = s->bytes + *bytes + scales;
        w.quant.packed = s->packed ? s->bytes : NULL;
        *bytes += 2 * scales;
    }
    return w;
}

/* Seconds for one matrix: the median of some passes over all of them. */
static double measure(struct setup *s, struct tensor w, size_t bytes, int64_t rows) {
    double seconds[5];
    int64_t n = MAX(1, (int64_t)(WEIGHT_BYTES / bytes));
    if (rows > 16)
        n = MAX(1, n * 16 / rows / 4);
    for (size_t i = 0; i < COUNT(seconds); i++) {
        double begin = clock_s();
        for (int64_t j = 0; j < n; j++) {
            struct linear l = { .w = w };
            size_t skip = (size_t)j * bytes;
            l.w.at = (unsigned char *)w.at + skip;
            if (w.quant.bits) {
                l.w.quant.scales = (const unsigned char *)w.quant.scales + skip;
                l.w.quant.biases = (const unsigned char *)w.quant.biases + skip;
                if (s->packed)
                    l.w.quant.packed = (const unsigned char *)w.quant.packed + skip;
            }
            struct tensor x = tensor_2d(s->x, F32, rows, w.shape[1]);
            struct tensor y = tensor_2d(s->y, F32, rows, w.shape[0]);
            cpu_linear(s->pool, s->kernels, s->scratch, &y, &l, &x);
        }
        seconds[i] = (clock_s() - begin) / (double)n;
        for (size_t k = i; k > 0 && seconds[k] < seconds[k - 1]; k--) {
            double t = seconds[k];
            seconds[k] = seconds[k - 1];
            seconds[k - 1] = t;
        }
    }
    return seconds[COUNT(seconds) / 2];
}

int main(int argc, char **argv) {
    static const int64_t rows[] = { 1, 2, 4, 8, 16, 32, ROWS_MAX };
    struct err e = { 0 };
    uint64_t threads = (uint64_t)threads_available();
    struct setup s = { .kernels = cpu_isa_find(argc > 1 ? argv[1] : NULL, &e) };
    if (!s.kernels || (argc > 2 && !str_u64(str_of(argv[2]), 256, &threads))) {
        fprintf(stderr, "usage: bench_linear [isa [threads [f32 | unpacked]]]\n%s\n", e.text);
        return ERR_USAGE;
    }
    struct cpu_scratch scratch = { .bytes = 32 << 20 };
    scratch.at = aligned_alloc(64, scratch.bytes);
    scratch.exact = argc > 3 && strcmp(argv[3], "f32") == 0;
    s.scratch = &scratch;
    s.packed = argc <= 3;
    s.pool = pool_open((int)threads);
    s.bytes = mmap(NULL, (size_t)WEIGHT_BYTES + MORE_BYTES, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s.bytes == MAP_FAILED)
        return ERR_MEMORY;
    madvise(s.bytes, (size_t)WEIGHT_BYTES + MORE_BYTES, MADV_HUGEPAGE);
    s.x = mem_array((size_t)ROWS_MAX * 8192, sizeof *s.x);
    s.y = mem_array((size_t)33 * 128256, sizeof *s.y);
    uint32_t seed = 1;
    for (size_t i = 0; i < (size_t)WEIGHT_BYTES + MORE_BYTES; i += 2) {
        seed = seed * 1664525 + 1013904223;
        s.bytes[i] = (unsigned char)(seed >> 24);
        s.bytes[i + 1] = 0x3c;       /* as BF16 these are small numbers */
    }
    for (size_t i = 0; i < (size_t)ROWS_MAX * 8192; i++)
        s.x[i] = (float)(i % 17) - 8;

    printf("%s, %d threads: GB/s of weights and GFLOP/s\n", s.kernels->name, pool_threads(s.pool));
    for (size_t f = 0; f < COUNT(formats); f++) {
        printf("%s\n  %-10s", formats[f].name, "rows");
        for (size_t r = 0; r < COUNT(rows); r++)
            printf("%14lld", (long long)rows[r]);
        printf("\n");
        for (size_t i = 0; i < COUNT(shapes); i++) {
            size_t bytes;
            struct tensor w = matrix_at(&s, f, shapes[i].outs, shapes[i].cols, &bytes);
            printf("  %-10s", shapes[i].name);
            for (size_t r = 0; r < COUNT(rows); r++) {
                if (rows[r] > 16 && shapes[i].outs > 100000)
                    break;           /* a prompt needs the head for its last row alone */
                double t = measure(&s, w, bytes, rows[r]);
                double flop = 2.0 * (double)(rows[r] * shapes[i].outs * shapes[i].cols);
                printf("%7.1f %6.1f", (double)bytes / t / 1e9, flop / t / 1e9);
            }
            printf("\n");
        }
    }
    pool_close(s.pool);
    munmap(s.bytes, (size_t)WEIGHT_BYTES + MORE_BYTES);
    free(scratch.at);
    free(s.x);
    free(s.y);
    return 0;
}

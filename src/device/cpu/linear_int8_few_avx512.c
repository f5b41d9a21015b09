/* linear_int8_few_avx512.c - up to INT8_FEW rows of 8 bits times a matrix, for AVX-512 with VNNI.
 * Rows of w are read one after another as they lie in the file, a stream that the processor's
 * prefetchers follow, and nothing is written but results.
 *
 * A line is 64 values of 8 bits, or twice as many of 4, whose products a register sums in 16 parts;
 * as many lines as hold 16 groups end as one register with the sum of each group. */
#if defined __x86_64__
#include "device/cpu/linear.h"

#include <immintrin.h>
#include <string.h>

#define UNSET __attribute__((uninitialized))
#define INLINE static inline __attribute__((always_inline))

enum {
    OUTS = 4,                        /* rows of w whose chains are added up together */
    STEPS = 4,                       /* times INT8_COLS columns before that */
    ANY = 0,                         /* bits: none of 4 and 8 */
    STRETCH_BYTES = 16 * 128         /* of w, at most */
};

typedef unsigned char byte;

/* How values of 2, 3, 5 and 6 bits become bytes: 8 of them begin at a byte. */
struct spread { __m512i from, shift, mask; __mmask64 bytes; };

static struct spread spread_of(int bits) {
    byte from[64], shift[64];
    for (int i = 0; i < 64; i++) {
        from[i] = (byte)(i / 8 * bits + MIN(i % 8, bits - 1));
        shift[i] = (byte)(i % 8 * bits);
    }
    return (struct spread){ _mm512_loadu_si512(from), _mm512_loadu_si512(shift),
                            _mm512_set1_epi8((char)((1 << bits) - 1)),
                            bits < 8 ? ((__mmask64)1 << 8 * bits) - 1 : ~(__mmask64)0 };
}

/* The values of a line, in two registers for 4 bits. */
INLINE void load_line(int bits, __m512i v[2], const byte *at, const struct spread *s) {
    const __m512i low = _mm512_set1_epi8(15);
    if (bits == ANY) {
        __m512i b = _mm512_permutexvar_epi8(s->from, _mm512_maskz_loadu_epi8(s->bytes, at));
        v[0] = _mm512_and_si512(_mm512_multishift_epi64_epi8(s->shift, b), s->mask);
        return;
    }
    v[0] = _mm512_loadu_si512(at);
    if (bits == 4) {
        v[1] = _mm512_and_si512(_mm512_srli_epi16(v[0], 4), low);
        v[0] = _mm512_and_si512(v[0], low);
    }
}

/* Sums within quarters: part 4 * q + b of the result is quarter q of a[b]. */
INLINE __m512i sum_quarters(const __m512i a[4]) {
    __m512i low = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]),
                                   _mm512_unpackhi_epi32(a[0], a[1]));
    __m512i high = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]),
                                    _mm512_unpackhi_epi32(a[2], a[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
}

/* Neighbouring quarters of a, then of b. */
INLINE __m512i sum_pairs(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

/* 16 groups in ascending order from sums of quarters, of which a group has `quarters`. */
INLINE __m512i sum_groups(int quarters, const __m512i d[4]) {
    if (quarters == 1)
        return _mm512_permutexvar_epi32(
            _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0), d[0]);
    if (quarters == 2)
        return _mm512_permutexvar_epi32(
            _mm512_set_epi32(15, 11, 14, 10, 13, 9, 12, 8, 7, 3, 6, 2, 5, 1, 4, 0),
            sum_pairs(d[0], d[1]));
    return sum_pairs(sum_pairs(d[0], d[1]), sum_pairs(d[2], d[3]));
}

/* The sums of 16 groups of one row of w times each row of x. */
INLINE void stretch(int rows, int bits, int quarters, __m512i *sums, const byte *w,
                    int line_bytes, const struct spread *s, const int8_t *x, int64_t stride) {
    const int halves = bits == 4 ? 2 : 1, each = quarters == 8 ? 2 : 1, parts = MIN(quarters, 4);
    __m512i d[INT8_FEW][4];
#pragma GCC unroll 4
    for (int k = 0; k < parts; k++) {
        __m512i v[8][2];
#pragma GCC unroll 8
        for (int i = 0; i < 4 * each; i++)
            load_line(bits, v[i], w + (k * 4 * each + i) * line_bytes, s);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const int8_t *xr = x + r * stride + k * 4 * each * halves * 64;
            __m512i a[4];
#pragma GCC unroll 4
            for (int b = 0; b < 4; b++) {
                a[b] = _mm512_setzero_si512();
#pragma GCC unroll 4
                for (int h = 0; h < each * halves; h++)
                    a[b] = _mm512_dpbusd_epi32(
                        a[b], v[b * each + h / halves][h % halves],
                        _mm512_loadu_si512(xr + (b * each * halves + h) * 64));
            }
            d[r][k] = sum_quarters(a);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        sums[r] = sum_groups(quarters, d[r]);
}

INLINE __m512 load_scales(const byte *at, enum dtype dtype, int64_t g, __mmask16 mask) {
    if (dtype == F32)
        return _mm512_maskz_loadu_ps(mask, at + 4 * g);
    __m256i h = _mm256_maskz_loadu_epi16(mask, at + 2 * g);
    if (dtype == F16)
        return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* What a loop over rows of w works on. */
struct few {
    const struct cpu_matrix *m;
    const struct cpu_int8_tile *t;
    struct spread spread;
    int64_t begin, end, cols;        /* columns of this pass, and all */
};

/* One row of w: the chains of each INT8_COLS columns. */
INLINE void few_row(int rows, int bits, int quarters, const struct few *f, int64_t row,
                    __m512 (*chain)[STEPS][OUTS], int o) {
    const struct cpu_matrix *m = f->m;
    const int group = quarters * (bits == 4 ? 32 : 16), cols = 16 * group;
    const int bytes = cols / 8 * m->bits, line_bytes = bits == 4 ? 64 : 8 * m->bits;
    const byte *w = m->at + row * m->row_bytes + f->begin / 8 * m->bits;
    const byte *scales = m->scales + row * m->scale_row_bytes;
    const byte *biases = m->biases + row * m->scale_row_bytes;
    const int64_t stride = f->t->stride, groups = stride / group;
    __m512 a[INT8_FEW];
    UNSET byte copy[STRETCH_BYTES];
    for (int r = 0; r < rows; r++)
        a[r] = _mm512_setzero_ps();
    for (int64_t c = f->begin; c < f->end; c += cols, w += bytes) {
        const int64_t g = c / group, left = (f->cols - c) / group;
        const __mmask16 mask = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
        __m512i sums[INT8_FEW];
        /* Behind the last group there may be nothing to read. */
        if (left < 16) {
            memset(copy, 0, sizeof copy);
            memcpy(copy, w, (size_t)((f->cols - c) / 8 * m->bits));
            w = copy;
        }
        stretch(rows, bits, quarters, sums, w, line_bytes, &f->spread, f->t->q + c, stride);
        const __m512 s = load_scales(scales, m->scale_dtype, g, mask);
        const __m512 b = load_scales(biases, m->scale_dtype, g, mask);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const float *xs = f->t->scale + r * groups + g, *sum = f->t->sum + r * groups + g;
            if (c % INT8_COLS == 0)
                a[r] = _mm512_setzero_ps();
            a[r] = _mm512_fmadd_ps(b, _mm512_loadu_ps(sum), a[r]);
            a[r] = _mm512_fmadd_ps(_mm512_mul_ps(s, _mm512_loadu_ps(xs)),
                                   _mm512_cvtepi32_ps(sums[r]), a[r]);
            chain[r][(c - f->begin) / INT8_COLS][o] = a[r];
        }
    }
}

INLINE __m128 fold(__m512 a) {
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* Four sums at once: transposed, the last two steps are two additions. */
INLINE __m128 sum_4(const __m512 *a) {
    __m128 t0 = fold(a[0]), t1 = fold(a[1]), t2 = fold(a[2]), t3 = fold(a[3]);
    _MM_TRANSPOSE4_PS(t0, t1, t2, t3);
    return _mm_add_ps(_mm_add_ps(t0, t2), _mm_add_ps(t1, t3));
}

/* Rows past the last, of w and of x, are the last once more. */
INLINE void few_rows(int rows, int bits, int quarters, float *const *y, struct few *f, int64_t row,
                     int64_t outs) {
    UNSET __m512 chain[INT8_FEW][STEPS][OUTS];
    for (int64_t i = 0; i < outs; i += OUTS) {
        const __mmask8 mask = (__mmask8)((1u << MIN(OUTS, outs - i)) - 1);
        for (f->begin = 0; f->begin < f->t->stride; f->begin = f->end) {
            f->end = MIN(f->t->stride, f->begin + STEPS * INT8_COLS);
            for (int o = 0; o < OUTS; o++)
                few_row(rows, bits, quarters, f, row + MIN(i + o, outs - 1), chain, o);
            for (int r = 0; r < f->t->rows; r++) {
                const bool more = f->begin > 0;
                __m128 sum = _mm_maskz_loadu_ps(more ? mask : 0, y[r] + i);
                for (int s = 0; f->begin + s * INT8_COLS < f->end; s++) {
                    __m128 next = sum_4(chain[r][s]);
                    sum = s == 0 && !more ? next : _mm_add_ps(sum, next);
                }
                _mm_mask_storeu_ps(y[r] + i, mask, sum);
            }
        }
    }
}

#define FEW(name, rows, bits)                                                                    \
    static void name(float *const *y, struct few *f, int64_t row, int64_t outs) {               \
        switch (f->m->group) {                                                                   \
        case 32: few_rows(rows, bits, bits == 4 ? 1 : 2, y, f, row, outs); break;                \
        case 64: few_rows(rows, bits, bits == 4 ? 2 : 4, y, f, row, outs); break;                \
        default: few_rows(rows, bits, bits == 4 ? 4 : 8, y, f, row, outs); break;                \
        }                                                                                        \
    }

FEW(few_1_4, 1, 4)
FEW(few_2_4, 2, 4)
FEW(few_3_4, 3, 4)
FEW(few_4_4, 4, 4)
FEW(few_1_8, 1, 8)
FEW(few_2_8, 2, 8)
FEW(few_3_8, 3, 8)
FEW(few_4_8, 4, 8)
FEW(few_1_any, 1, ANY)
FEW(few_2_any, 2, ANY)
FEW(few_3_any, 3, ANY)
FEW(few_4_any, 4, ANY)

void cpu_int8_few_avx512(float *const *y, const struct cpu_matrix *m, int64_t row, int64_t outs,
                         const struct cpu_int8_tile *t, int64_t cols) {
    static void (*const run[3][INT8_FEW])(float *const *, struct few *, int64_t, int64_t) = {
        { few_1_4, few_2_4, few_3_4, few_4_4 },
        { few_1_8, few_2_8, few_3_8, few_4_8 },
        { few_1_any, few_2_any, few_3_any, few_4_any },
    };
    struct few f = { .m = m, .t = t, .spread = spread_of(m->bits), .cols = cols };
    run[m->bits == 4 ? 0 : m->bits == 8 ? 1 : 2][t->rows - 1](y, &f, row, outs);
}
#endif

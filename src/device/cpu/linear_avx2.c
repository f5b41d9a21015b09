/* linear_avx2.c - the kernels of `linear` for AVX2, FMA and F16C: the 16 lanes are two
 * registers, "lower" and "upper", in the order of additions that AVX-512 has with one.
 *
 * Functions marked INLINE are templates: called with constants, they become the loop for one
 * format. */
#if defined __x86_64__
#include "device/cpu/linear.h"
#include "device/cpu/load_avx2.h"
#include "device/small_float.h"

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { HALF = CPU_LANES / 2, OUTS = 2, ROWS = 3, GEMV_OUTS = 4, SCALES = 16 };

typedef unsigned char byte;

INLINE __m256i lanes(void) {
    return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
}

/* The first n of 8 lanes; none when n <= 0. */
INLINE __m256i first(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)MIN(n, HALF)), lanes());
}

/* The first n values of a half, zeros after them; nothing past them is read. */
static __m256 load_some(enum dtype dtype, const byte *at, int64_t n) {
    byte copy[32] = { 0 };
    size_t size = dtype == F32 ? 4 : 2;
    if (n > 0)
        memcpy(copy, at, (size_t)MIN(n, HALF) * size);
    if (dtype == F32)
        return load_plain(F32, copy);
    return dtype == F16 ? load_plain(F16, copy) : load_plain(BF16, copy);
}

/* n <= 16 numbers of a scale dtype as floats. */
static void load_scales(float *to, const byte *at, enum dtype dtype, int64_t n) {
    const int size = dtype == F32 ? 4 : 2;
    if (n == SCALES && dtype == BF16) {
        _mm256_store_ps(to, load_plain(BF16, at));
        _mm256_store_ps(to + HALF, load_plain(BF16, at + 16));
    } else if (n == SCALES && dtype == F16) {
        _mm256_store_ps(to, load_plain(F16, at));
        _mm256_store_ps(to + HALF, load_plain(F16, at + 16));
    } else {
        _mm256_store_ps(to, load_some(dtype, at, n));
        _mm256_store_ps(to + HALF, load_some(dtype, at + HALF * size, n - HALF));
    }
}

/* Bit position of each of 8 packed values. */
INLINE __m256i positions(int bits) {
    return _mm256_mullo_epi32(lanes(), _mm256_set1_epi32(bits));
}

/* 8 packed values, one a lane; reads the `bits` bytes that hold them and no more. A value of 3,
 * 5 or 6 bits may cross a byte, so each lane gets the two bytes that it may lie in. */
INLINE __m256i load_packed(int bits, const byte *at) {
    const __m256i mask = _mm256_set1_epi32((1 << bits) - 1);
    uint64_t words = 0;
    memcpy(&words, at, (size_t)bits);
    if (bits == 2 || bits == 4)
        return _mm256_and_si256(
            _mm256_srlv_epi32(_mm256_set1_epi32((int)(uint32_t)words), positions(bits)), mask);
    if (bits == 8)
        return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)words));
    __m256i byte_of = _mm256_srli_epi32(positions(bits), 3);
    /* Two byte numbers, and for the upper two bytes of a lane zeros (0x80). */
    __m256i pick = _mm256_or_si256(
        _mm256_or_si256(byte_of, _mm256_slli_epi32(_mm256_add_epi32(byte_of,
                                                                    _mm256_set1_epi32(1)), 8)),
        _mm256_set1_epi32((int)0x80800000));
    __m256i pairs = _mm256_shuffle_epi8(_mm256_set1_epi64x((long long)words), pick);
    __m256i shift = _mm256_and_si256(positions(bits), _mm256_set1_epi32(7));
    return _mm256_and_si256(_mm256_srlv_epi32(pairs, shift), mask);
}

INLINE __m256 load_weights(int bits, const byte *at, __m256 scale, __m256 bias) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(load_packed(bits, at)), scale, bias);
}

INLINE void unpack_plain(enum dtype dtype, int size, float *w, const byte *at, int n) {
    int i = 0;
    for (; i + HALF <= n; i += HALF)
        _mm256_storeu_ps(w + i, load_plain(dtype, at + i * size));
    for (; i % CPU_LANES != 0 || i < n; i += HALF)
        _mm256_storeu_ps(w + i, load_some(dtype, at + MIN(i, n) * size, n - i));
}

/* n is a multiple of the group. */
INLINE void unpack_affine(int bits, float *w, const byte *at, const float *scales,
                          const float *biases, int group, int n) {
    for (int i = 0, g = 0; i < n; g++) {
        __m256 scale = _mm256_set1_ps(scales[g]), bias = _mm256_set1_ps(biases[g]);
        for (int end = i + group; i < end; i += HALF, at += bits)
            _mm256_storeu_ps(w + i, load_weights(bits, at, scale, bias));
    }
}

/* 8 values of e2m1 from 4 bytes: the lower three bits choose, the fourth is the sign. */
INLINE __m256 load_e2m1(const byte *at) {
    const __m256 sizes = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    __m256i code = load_packed(4, at);
    __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(8)), 28);
    return _mm256_xor_ps(_mm256_permutevar8x32_ps(sizes, code), _mm256_castsi256_ps(sign));
}

/* 8 values of e4m3 over 2^8: as halves, whose exponent has a bias larger by 8, subnormal ones
 * come out right. NaN is told apart by hand. The scale makes up for the 2^8. */
INLINE __m256 load_e4m3(const byte *at) {
    __m128i b = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)at));
    __m128i size = _mm_and_si128(b, _mm_set1_epi16(0x7f));
    __m128i sign = _mm_slli_epi16(_mm_and_si128(b, _mm_set1_epi16(0x80)), 8);
    __m128i nan = _mm_cmpeq_epi16(size, _mm_set1_epi16(0x7f));
    return _mm256_cvtph_ps(_mm_or_si128(_mm_or_si128(_mm_slli_epi16(size, 7), sign), nan));
}

/* The scale from column `begin` of a row, as load_e2m1 or load_e4m3 need it, and for how many of
 * n columns. */
INLINE int scale_run(bool fp8, const struct cpu_matrix *m, int64_t row, int64_t begin, int64_t n,
                     float *scale) {
    if (fp8) {
        int run = cpu_fp8_run(m, row, begin, (int)n, scale);
        *scale *= 256;
        return run;
    }
    const byte *at = m->scales + row * m->scale_row_bytes;
    int64_t g = begin / m->group;
    *scale = m->scale_dtype == U8 ? float_of_e8m0(at[g]) : cpu_number_at(at, m->scale_dtype, g);
    return m->group;
}

INLINE void unpack_scaled(bool fp8, float *w, const struct cpu_matrix *m, int64_t row,
                          int64_t begin, int n) {
    const byte *at = m->at + row * m->row_bytes + (fp8 ? begin : begin / 2);
    for (int i = 0; i < n;) {
        float scale;
        int end = i + scale_run(fp8, m, row, begin + i, n - i, &scale);
        for (; i + HALF <= end; i += HALF)
            _mm256_storeu_ps(w + i, _mm256_mul_ps(fp8 ? load_e4m3(at + i) : load_e2m1(at + i / 2),
                                                  _mm256_set1_ps(scale)));
        for (; i < end; i++)         /* only blocks of odd sizes get here */
            w[i] = float_of_e4m3(at[i]) * (scale / 256);
    }
    for (int i = n; i % CPU_LANES != 0; i++)
        w[i] = 0;
}

static void unpack(float *w, const struct cpu_matrix *m, int64_t row, int64_t begin, int n) {
    const byte *at = m->at + row * m->row_bytes;
    if (m->dtype == FP8) {
        unpack_scaled(true, w, m, row, begin, n);
    } else if (m->dtype == MXFP4 || m->dtype == NVFP4) {
        unpack_scaled(false, w, m, row, begin, n);
    } else if (m->dtype == F32) {
        unpack_plain(F32, 4, w, at + begin * 4, n);
    } else if (m->dtype == F16) {
        unpack_plain(F16, 2, w, at + begin * 2, n);
    } else if (m->dtype == BF16) {
        unpack_plain(BF16, 2, w, at + begin * 2, n);
    } else {
        _Alignas(32) float scales[SCALES], biases[SCALES];
        int64_t size = m->scale_dtype == F32 ? 4 : 2;
        int64_t skip = row * m->scale_row_bytes + begin / m->group * size;
        load_scales(scales, m->scales + skip, m->scale_dtype, n / m->group);
        load_scales(biases, m->biases + skip, m->scale_dtype, n / m->group);
        at += begin / 8 * m->bits;
        switch (m->bits) {
        case 2: unpack_affine(2, w, at, scales, biases, m->group, n); break;
        case 3: unpack_affine(3, w, at, scales, biases, m->group, n); break;
        case 4: unpack_affine(4, w, at, scales, biases, m->group, n); break;
        case 5: unpack_affine(5, w, at, scales, biases, m->group, n); break;
        case 6: unpack_affine(6, w, at, scales, biases, m->group, n); break;
        default: unpack_affine(8, w, at, scales, biases, m->group, n); break;
        }
    }
}

/* A micro tile: the lanes of `rows` x OUTS products stay in registers. */
INLINE void tile_rows(int rows, float *acc, const float *w, const float *const *x, int n) {
    __m256 a[ROWS][OUTS][2], v[OUTS];
    const int whole = n - n % CPU_LANES;
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int o = 0; o < OUTS; o++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
                a[r][o][h] = _mm256_loadu_ps(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES + h * HALF);
    for (int i = 0; i < whole; i += CPU_LANES) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
#pragma GCC unroll 2
            for (int o = 0; o < OUTS; o++)
                v[o] = _mm256_loadu_ps(w + o * CPU_TILE_COLS + i + h * HALF);
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++) {
                __m256 xv = _mm256_loadu_ps(x[r] + i + h * HALF);
                /* In a register: as an operand in memory it is loaded once for each output, and
                 * loads, of which a core has two each cycle, become what bounds the loop. */
                __asm__("" : "+x"(xv));
#pragma GCC unroll 2
                for (int o = 0; o < OUTS; o++)
                    a[r][o][h] = _mm256_fmadd_ps(v[o], xv, a[r][o][h]);
            }
        }
    }
    for (int h = 0; h < 2 && whole < n; h++) {
        const int i = whole + h * HALF;
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
            __m256 xv = _mm256_maskload_ps(x[r] + MIN(i, n), first(n - i));
#pragma GCC unroll 2
            for (int o = 0; o < OUTS; o++) {
                __m256 wv = _mm256_loadu_ps(w + o * CPU_TILE_COLS + i);
                if (h)
                    a[r][o][1] = _mm256_fmadd_ps(wv, xv, a[r][o][1]);
                else
                    a[r][o][0] = _mm256_fmadd_ps(wv, xv, a[r][o][0]);
            }
        }
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int o = 0; o < OUTS; o++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
                _mm256_storeu_ps(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES + h * HALF, a[r][o][h]);
}

static void tile(float *acc, const float *w, const float *const *x, int rows, int outs, int n) {
    for (int r = 0; r < rows; r += ROWS) {
        for (int o = 0; o < outs; o += OUTS) {
            float *to = acc + (r * CPU_TILE_OUTS + o) * CPU_LANES;
            const float *from = w + o * CPU_TILE_COLS;
            switch (rows - r) {
            case 1: tile_rows(1, to, from, x + r, n); break;
            case 2: tile_rows(2, to, from, x + r, n); break;
            default: tile_rows(3, to, from, x + r, n); break;
            }
        }
    }
}

/* Lanes 16 to 4, as the first two steps of the tree. */
INLINE __m128 fold(__m256 lower, __m256 upper) {
    __m256 half = _mm256_add_ps(lower, upper);
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* Four sums at once: transposed, the last two steps are two additions. */
INLINE __m128 sum_4(__m128 t0, __m128 t1, __m128 t2, __m128 t3) {
    _MM_TRANSPOSE4_PS(t0, t1, t2, t3);
    return _mm_add_ps(_mm_add_ps(t0, t2), _mm_add_ps(t1, t3));
}

INLINE __m128 fold_at(const float *acc) {
    return fold(_mm256_loadu_ps(acc), _mm256_loadu_ps(acc + HALF));
}

static void sum(float *y, const float *acc, int n) {
    for (int i = 0; i < n; i += 4, acc += 4 * CPU_LANES)
        _mm_storeu_ps(y + i, sum_4(fold_at(acc), fold_at(acc + CPU_LANES),
                                   fold_at(acc + 2 * CPU_LANES), fold_at(acc + 3 * CPU_LANES)));
}

/* GEMV_OUTS rows times x. */
INLINE __m128 gemv_plain(enum dtype dtype, int size, const byte *const *at, const float *x,
                         int64_t cols) {
    __m256 a[GEMV_OUTS], b[GEMV_OUTS];
#pragma GCC unroll 4
    for (int o = 0; o < GEMV_OUTS; o++)
        a[o] = b[o] = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + CPU_LANES <= cols; i += CPU_LANES) {
        __m256 lower = _mm256_loadu_ps(x + i), upper = _mm256_loadu_ps(x + i + HALF);
#pragma GCC unroll 4
        for (int o = 0; o < GEMV_OUTS; o++) {
            a[o] = _mm256_fmadd_ps(load_plain(dtype, at[o] + i * size), lower, a[o]);
            b[o] = _mm256_fmadd_ps(load_plain(dtype, at[o] + (i + HALF) * size), upper, b[o]);
        }
    }
    if (i < cols) {
        const int64_t j = MIN(i + HALF, cols);
        __m256 lower = _mm256_maskload_ps(x + i, first(cols - i));
        __m256 upper = _mm256_maskload_ps(x + j, first(cols - j));
#pragma GCC unroll 4
        for (int o = 0; o < GEMV_OUTS; o++) {
            a[o] = _mm256_fmadd_ps(load_some(dtype, at[o] + i * size, cols - i), lower, a[o]);
            b[o] = _mm256_fmadd_ps(load_some(dtype, at[o] + j * size, cols - j), upper, b[o]);
        }
    }
    return sum_4(fold(a[0], b[0]), fold(a[1], b[1]), fold(a[2], b[2]), fold(a[3], b[3]));
}

/* OUTS rows times 2 or 3 of x: as many sums as registers hold. */
INLINE void few_tile(enum dtype dtype, int rows, float *const *y, const byte *const *at,
                     const float *const *x, int64_t cols) {
    const int size = dtype == F32 ? 4 : 2;
    __m256 a[ROWS][OUTS][2], v[OUTS];
    __m128 t[4 * OUTS] = { 0 };
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int o = 0; o < OUTS; o++)
            a[r][o][0] = a[r][o][1] = _mm256_setzero_ps();
    int64_t i = 0;
    for (; i + CPU_LANES <= cols; i += CPU_LANES) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
#pragma GCC unroll 2
            for (int o = 0; o < OUTS; o++)
                v[o] = load_plain(dtype, at[o] + (i + h * HALF) * size);
#pragma GCC unroll 3
            for (int r = 0; r < rows; r++) {
                __m256 xv = _mm256_loadu_ps(x[r] + i + h * HALF);
#pragma GCC unroll 2
                for (int o = 0; o < OUTS; o++)
                    a[r][o][h] = _mm256_fmadd_ps(v[o], xv, a[r][o][h]);
            }
        }
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2 && i < cols; h++) {
        const int64_t j = MIN(i + h * HALF, cols);
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
            __m256 xv = _mm256_maskload_ps(x[r] + j, first(cols - j));
#pragma GCC unroll 2
            for (int o = 0; o < OUTS; o++)
                a[r][o][h] = _mm256_fmadd_ps(load_some(dtype, at[o] + j * size, cols - j), xv,
                                             a[r][o][h]);
        }
    }
#pragma GCC unroll 3
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int o = 0; o < OUTS; o++)
            t[r * OUTS + o] = fold(a[r][o][0], a[r][o][1]);
    float sums[4 * OUTS];
    _mm_storeu_ps(sums, sum_4(t[0], t[1], t[2], t[3]));
    _mm_storeu_ps(sums + 4, sum_4(t[4], t[5], t[6], t[7]));
    for (int r = 0; r < rows; r++)
        memcpy(y[r], sums + r * OUTS, OUTS * sizeof *sums);
}

/* 2 or 3 rows of x. A last row of w without a second one is multiplied twice. */
INLINE void few_plain(enum dtype dtype, float *const *y, const struct cpu_matrix *m, int64_t row,
                      int64_t outs, const float *const *x, int rows, int64_t cols) {
    for (int64_t i = 0; i < outs; i += OUTS) {
        const bool whole = i + OUTS <= outs;
        float last[ROWS][OUTS], *to[ROWS];
        const byte *at[OUTS] = { m->at + (row + i) * m->row_bytes,
                                 m->at + (row + MIN(i + 1, outs - 1)) * m->row_bytes };
        for (int r = 0; r < rows; r++)
            to[r] = whole ? y[r] + i : last[r];
        if (rows == 2)
            few_tile(dtype, 2, to, at, x, cols);
        else
            few_tile(dtype, 3, to, at, x, cols);
        for (int r = 0; r < rows && !whole; r++)
            y[r][i] = last[r][0];
    }
}

/* More rows go by in twos and threes: weights are in a cache when the second comes. */
static bool few_rows(float *const *y, const struct cpu_matrix *m, int64_t row, int64_t outs,
                     const float *const *x, int rows, int64_t cols) {
    if (m->dtype != F32 && m->dtype != F16 && m->dtype != BF16)
        return false;
    for (int r = 0, n; r < rows; r += n) {
        const int left = rows - r;
        n = left == 2 || left == 4 ? 2 : 3;
        if (m->dtype == F32)
            few_plain(F32, y + r, m, row, outs, x + r, n, cols);
        else if (m->dtype == F16)
            few_plain(F16, y + r, m, row, outs, x + r, n, cols);
        else
            few_plain(BF16, y + r, m, row, outs, x + r, n, cols);
    }
    return true;
}

struct scale_rows {                  /* of GEMV_OUTS rows */
    const byte *scales[GEMV_OUTS], *biases[GEMV_OUTS];
    enum dtype dtype;
    int group;
};

INLINE __m128 gemv_affine(int bits, const byte *const *rows, const struct scale_rows *s,
                          const float *x, int64_t cols) {
    const int64_t groups = cols / s->group, size = s->dtype == F32 ? 4 : 2;
    const byte *at[GEMV_OUTS] = { rows[0], rows[1], rows[2], rows[3] };
    __m256 a[GEMV_OUTS], b[GEMV_OUTS];
#pragma GCC unroll 4
    for (int o = 0; o < GEMV_OUTS; o++)
        a[o] = b[o] = _mm256_setzero_ps();
    for (int64_t begin = 0; begin < groups; begin += SCALES) {
        _Alignas(32) float scale[GEMV_OUTS][SCALES], bias[GEMV_OUTS][SCALES];
        const int64_t n = MIN(SCALES, groups - begin);
        for (int o = 0; o < GEMV_OUTS; o++) {
            load_scales(scale[o], s->scales[o] + begin * size, s->dtype, n);
            load_scales(bias[o], s->biases[o] + begin * size, s->dtype, n);
        }
        for (int64_t g = 0; g < n; g++) {
            for (const float *end = x + s->group; x < end; x += CPU_LANES) {
                __m256 lower = _mm256_loadu_ps(x), upper = _mm256_loadu_ps(x + HALF);
#pragma GCC unroll 4
                for (int o = 0; o < GEMV_OUTS; o++) {
                    __m256 sv = _mm256_broadcast_ss(&scale[o][g]);
                    __m256 bv = _mm256_broadcast_ss(&bias[o][g]);
                    a[o] = _mm256_fmadd_ps(load_weights(bits, at[o], sv, bv), lower, a[o]);
                    b[o] = _mm256_fmadd_ps(load_weights(bits, at[o] + bits, sv, bv), upper, b[o]);
                    at[o] += 2 * bits;
                }
            }
        }
    }
    return sum_4(fold(a[0], b[0]), fold(a[1], b[1]), fold(a[2], b[2]), fold(a[3], b[3]));
}

static __m128 gemv_packed(const struct cpu_matrix *m, const byte *const *at, const int64_t *row,
                          const float *x, int64_t cols) {
    struct scale_rows s = { .dtype = m->scale_dtype, .group = m->group };
    for (int o = 0; o < GEMV_OUTS; o++) {
        s.scales[o] = m->scales + row[o] * m->scale_row_bytes;
        s.biases[o] = m->biases + row[o] * m->scale_row_bytes;
    }
    switch (m->bits) {
    case 2: return gemv_affine(2, at, &s, x, cols);
    case 3: return gemv_affine(3, at, &s, x, cols);
    case 4: return gemv_affine(4, at, &s, x, cols);
    case 5: return gemv_affine(5, at, &s, x, cols);
    case 6: return gemv_affine(6, at, &s, x, cols);
    default: return gemv_affine(8, at, &s, x, cols);
    }
}

/* The same for a scale alone. Every run of columns with one scale is a multiple of 16, so lanes
 * are those of a whole row. */
INLINE __m128 gemv_scaled(bool fp8, const struct cpu_matrix *m, const int64_t *row, const float *x,
                          int64_t cols) {
    __m256 a[GEMV_OUTS], b[GEMV_OUTS];
#pragma GCC unroll 4
    for (int o = 0; o < GEMV_OUTS; o++)
        a[o] = b[o] = _mm256_setzero_ps();
    for (int64_t i = 0; i < cols;) {
        float scale[GEMV_OUTS];
        int64_t end = i;
        for (int o = 0; o < GEMV_OUTS; o++)
            end = i + scale_run(fp8, m, row[o], i, cols - i, &scale[o]);
        for (; i < end; i += CPU_LANES) {
            __m256 lower = _mm256_loadu_ps(x + i), upper = _mm256_loadu_ps(x + i + HALF);
#pragma GCC unroll 4
            for (int o = 0; o < GEMV_OUTS; o++) {
                const byte *at = m->at + row[o] * m->row_bytes + (fp8 ? i : i / 2);
                __m256 sv = _mm256_broadcast_ss(&scale[o]);
                __m256 wa = fp8 ? load_e4m3(at) : load_e2m1(at);
                __m256 wb = fp8 ? load_e4m3(at + HALF) : load_e2m1(at + HALF / 2);
                a[o] = _mm256_fmadd_ps(_mm256_mul_ps(wa, sv), lower, a[o]);
                b[o] = _mm256_fmadd_ps(_mm256_mul_ps(wb, sv), upper, b[o]);
            }
        }
    }
    return sum_4(fold(a[0], b[0]), fold(a[1], b[1]), fold(a[2], b[2]), fold(a[3], b[3]));
}

/* One row of x, but for plain weights. A row past the end of a piece of w is the last one once
 * more. */
static bool few(float *const *y, const struct cpu_matrix *m, int64_t row, int64_t outs,
                const float *const *x_rows, int n_rows, int64_t cols) {
    const float *x = x_rows[0];
    const bool fp8 = m->dtype == FP8, e2m1 = m->dtype == MXFP4 || m->dtype == NVFP4;
    if (n_rows > 1)
        return few_rows(y, m, row, outs, x_rows, n_rows, cols);
    if (fp8 && !cpu_fp8_even(m, cols))
        return false;
    for (int64_t i = 0; i < outs; i += GEMV_OUTS) {
        const byte *at[GEMV_OUTS];
        int64_t rows[GEMV_OUTS];
        for (int o = 0; o < GEMV_OUTS; o++) {
            rows[o] = row + MIN(i + o, outs - 1);
            at[o] = m->at + rows[o] * m->row_bytes;
        }
        __m128 sums;
        if (fp8)
            sums = gemv_scaled(true, m, rows, x, cols);
        else if (e2m1)
            sums = gemv_scaled(false, m, rows, x, cols);
        else if (m->dtype == F32)
            sums = gemv_plain(F32, 4, at, x, cols);
        else if (m->dtype == F16)
            sums = gemv_plain(F16, 2, at, x, cols);
        else if (m->dtype == BF16)
            sums = gemv_plain(BF16, 2, at, x, cols);
        else
            sums = gemv_packed(m, at, rows, x, cols);
        _mm_maskstore_ps(y[0] + i, _mm256_castsi256_si128(first(outs - i)), sums);
    }
    return true;
}

const struct cpu_kernels cpu_kernels_avx2 = {
    .name = "avx2",
    .unpack = unpack,
    .tile = tile,
    .sum = sum,
    .few = few,
    .chains = &cpu_chains_avx2,
    .int8 = &cpu_int8_avx2,
    .attention = &cpu_attention_avx2,
    .recurrent = &cpu_recurrent_avx2,
    .gate = cpu_gate_avx2,
};
#endif

/* linear_avx512.c - the kernels of `linear` for AVX-512 F, BW, VL, DQ and VBMI: the 16 lanes
 * are one register.
 *
 * Functions marked INLINE are templates: called with constants, they become the loop for one
 * format. Packed values of up to 4 bits pick their weight from a register that holds the
 * group's q * scale + bias for every q; wider ones are converted and computed. */
#if defined __x86_64__
#include "device/cpu/linear.h"
#include "device/cpu/sum_avx512.h"
#include "device/small_float.h"

#include <string.h>

#define UNSET __attribute__((uninitialized))

enum { OUTS = 4, ROWS = 6, FEW = 4, SCALES = 16 };

typedef unsigned char byte;

INLINE __mmask16 first(int64_t n) {
    return (__mmask16)((1u << n) - 1);
}

INLINE __m512 load_plain(enum dtype dtype, const byte *at, __mmask16 mask) {
    if (dtype == F32)
        return _mm512_maskz_loadu_ps(mask, at);
    __m256i h = _mm256_maskz_loadu_epi16(mask, at);
    if (dtype == F16)
        return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* n <= 16 numbers of a scale dtype as floats. */
INLINE void load_scales(float *to, const byte *at, enum dtype dtype, int64_t n) {
    __m512 s;
    if (dtype == BF16)
        s = load_plain(BF16, at, first(n));
    else if (dtype == F16)
        s = load_plain(F16, at, first(n));
    else
        s = load_plain(F32, at, first(n));
    _mm512_store_ps(to, s);
}

INLINE __m512 ramp(int mask) {
    __m512i i = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_cvtepi32_ps(_mm512_and_si512(i, _mm512_set1_epi32(mask)));
}

/* Where the 16 values of a 64-byte half or whole word begin: bit bits * lane for each lane, in
 * the low byte of the lane, counted from the 8 bytes that its quadword was given. */
INLINE __m512i shifts(int bits) {
    __m512i i = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    if (bits > 4)
        i = _mm512_and_si512(i, _mm512_set1_epi32(7));
    return _mm512_mullo_epi32(i, _mm512_set1_epi32(bits));
}

/* 16 packed values, one a lane; above the value there may be bits of others. Reads the
 * 2 * bits bytes that hold them and no more. */
INLINE __m512i load_packed(int bits, const byte *at) {
    const __m128i none = _mm_setzero_si128();
    uint32_t word;
    uint64_t words;
    switch (bits) {
    case 2:
        memcpy(&word, at, sizeof word);
        return _mm512_srlv_epi32(_mm512_set1_epi32((int)word), shifts(2));
    case 3:
        return _mm512_multishift_epi64_epi8(
            shifts(3), _mm512_broadcastq_epi64(_mm_mask_loadu_epi8(none, 0x3f, at)));
    case 4:
        memcpy(&words, at, sizeof words);
        return _mm512_multishift_epi64_epi8(shifts(4), _mm512_set1_epi64((long long)words));
    case 8:
        return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));
    default:                         /* 5 and 6: the first 8 values, and the last 8 */
        return _mm512_multishift_epi64_epi8(
            shifts(bits),
            _mm512_permutexvar_epi64(
                _mm512_set_epi64(1, 1, 1, 1, 0, 0, 0, 0),
                _mm512_castsi128_si512(_mm_unpacklo_epi64(
                    _mm_mask_loadu_epi8(none, (__mmask16)((1u << bits) - 1), at),
                    _mm_mask_loadu_epi8(none, (__mmask16)((1u << bits) - 1), at + bits)))));
    }
}

/* The weights of a group by value, where they fit a register; else unused. */
INLINE __m512 table_of(int bits, float scale, float bias) {
    if (bits > 4)
        return _mm512_setzero_ps();
    return _mm512_fmadd_ps(ramp((1 << bits) - 1), _mm512_set1_ps(scale), _mm512_set1_ps(bias));
}

INLINE __m512 load_weights(int bits, const byte *at, __m512 table, float scale, float bias) {
    __m512i q = load_packed(bits, at);
    if (bits <= 4)
        return _mm512_permutexvar_ps(q, table);
    if (bits < 8)
        q = _mm512_and_si512(q, _mm512_set1_epi32((1 << bits) - 1));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(q), _mm512_set1_ps(scale), _mm512_set1_ps(bias));
}

INLINE void unpack_plain(enum dtype dtype, int size, float *w, const byte *at, int n) {
    int i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        _mm512_storeu_ps(w + i, load_plain(dtype, at + i * size, 0xffff));
    if (i < n)
        _mm512_storeu_ps(w + i, load_plain(dtype, at + i * size, first(n - i)));
}

/* n is a multiple of the group. */
INLINE void unpack_affine(int bits, float *w, const byte *at, const float *scales,
                          const float *biases, int group, int n) {
    for (int i = 0, g = 0; i < n; g++) {
        __m512 table = table_of(bits, scales[g], biases[g]);
        for (int end = i + group; i < end; i += CPU_LANES, at += 2 * bits)
            _mm512_storeu_ps(w + i, load_weights(bits, at, table, scales[g], biases[g]));
    }
}

/* 16 values of e2m1 times the scale, by their code. */
INLINE __m512 table_e2m1(float scale) {
    const __m512 value = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2,
                                        -3, -4, -6);
    return _mm512_mul_ps(value, _mm512_set1_ps(scale));
}

/* 16 values of e4m3 over 2^8: as halves, whose exponent has a bias larger by 8, subnormal ones
 * come out right. NaN is told apart by hand. The scale makes up for the 2^8. */
INLINE __m512 load_e4m3(const byte *at, __mmask16 mask) {
    __m256i b = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(mask, at));
    __m256i size = _mm256_and_si256(b, _mm256_set1_epi16(0x7f));
    __m256i sign = _mm256_slli_epi16(_mm256_and_si256(b, _mm256_set1_epi16(0x80)), 8);
    __m256i nan = _mm256_cmpeq_epi16(size, _mm256_set1_epi16(0x7f));
    return _mm512_cvtph_ps(_mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16(size, 7), sign),
                                           nan));
}

/* The scale from column `begin` of a row, and for how many of n columns. */
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

/* 16 weights of a run from column i; `at` is the row's first byte. */
INLINE __m512 load_scaled(bool fp8, const byte *at, int64_t i, __mmask16 mask, float scale,
                          __m512 table) {
    if (!fp8)
        return _mm512_permutexvar_ps(load_packed(4, at + i / 2), table);
    return _mm512_mul_ps(load_e4m3(at + i, mask), _mm512_set1_ps(scale));
}

INLINE void unpack_scaled(bool fp8, float *w, const struct cpu_matrix *m, int64_t row,
                          int64_t begin, int n) {
    const byte *at = m->at + row * m->row_bytes + (fp8 ? begin : begin / 2);
    for (int i = 0; i < n;) {
        float scale;
        int end = i + scale_run(fp8, m, row, begin + i, n - i, &scale);
        __m512 table = fp8 ? _mm512_setzero_ps() : table_e2m1(scale);
        for (; i < end; i += CPU_LANES) {
            __mmask16 here = end - i < CPU_LANES ? first(end - i) : 0xffff;
            _mm512_mask_storeu_ps(w + i, here, load_scaled(fp8, at, i, here, scale, table));
        }
        i = end;
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
        _Alignas(64) float scales[SCALES], biases[SCALES];
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
    const __mmask16 rest = first(n % CPU_LANES);
    __m512 a[ROWS][OUTS], v[OUTS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            a[r][o] = _mm512_loadu_ps(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES);
    int i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES) {
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            v[o] = _mm512_loadu_ps(w + o * CPU_TILE_COLS + i);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512 xv = _mm512_loadu_ps(x[r] + i);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++)
                a[r][o] = _mm512_fmadd_ps(v[o], xv, a[r][o]);
        }
    }
    if (rest) {
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            __m512 xv = _mm512_maskz_loadu_ps(rest, x[r] + i);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++)
                a[r][o] = _mm512_fmadd_ps(_mm512_loadu_ps(w + o * CPU_TILE_COLS + i), xv, a[r][o]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            _mm512_storeu_ps(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES, a[r][o]);
}

static void tile(float *acc, const float *w, const float *const *x, int rows, int outs, int n) {
    for (int r = 0; r < rows; r += ROWS) {
        for (int o = 0; o < outs; o += OUTS) {
            float *to = acc + (r * CPU_TILE_OUTS + o) * CPU_LANES;
            const float *from = w + o * CPU_TILE_COLS;
            switch (rows - r) {
            case 1: tile_rows(1, to, from, x + r, n); break;
            case 2: tile_rows(2, to, from, x + r, n); break;
            case 3: tile_rows(3, to, from, x + r, n); break;
            case 4: tile_rows(4, to, from, x + r, n); break;
            case 5: tile_rows(5, to, from, x + r, n); break;
            default: tile_rows(6, to, from, x + r, n); break;
            }
        }
    }
}

static void sum(float *y, const float *acc, int n) {
    for (int i = 0; i < n; i += 4, acc += 4 * CPU_LANES)
        _mm_storeu_ps(y + i, sum_4(_mm512_loadu_ps(acc), _mm512_loadu_ps(acc + CPU_LANES),
                                   _mm512_loadu_ps(acc + 2 * CPU_LANES),
                                   _mm512_loadu_ps(acc + 3 * CPU_LANES)));
}

/* What a product of few rows works on: OUTS rows of w and up to FEW of x. */
struct few {
    const byte *at[OUTS], *scales[OUTS], *biases[OUTS];
    const float *x[FEW];
    float *y[FEW];
    int64_t row[OUTS];
    int64_t cols, ahead;             /* bytes from a row of w to the one read OUTS rows later */
    enum dtype scale_dtype;
    int group;
};

INLINE void few_clear(int rows, __m512 a[FEW][OUTS]) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++)
            a[r][o] = _mm512_setzero_ps();
}

INLINE void few_store(int rows, __m512 a[FEW][OUTS], const struct few *f, __mmask8 mask) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
        _mm_mask_storeu_ps(f->y[r], mask, sum_4(a[r][0], a[r][1], a[r][2], a[r][3]));
}

INLINE void few_plain(int rows, enum dtype dtype, int size, const struct few *f, __mmask8 mask) {
    __m512 a[FEW][OUTS], x[FEW];
    few_clear(rows, a);
    for (int64_t i = 0; i < f->cols; i += CPU_LANES) {
        const __mmask16 here = i + CPU_LANES <= f->cols ? 0xffff : first(f->cols - i);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            x[r] = _mm512_maskz_loadu_ps(here, f->x[r] + i);
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++) {
            __m512 w = load_plain(dtype, f->at[o] + i * size, here);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                a[r][o] = _mm512_fmadd_ps(w, x[r], a[r][o]);
        }
    }
    few_store(rows, a, f, mask);
}

/* One group of each of the OUTS rows, from column i. */
INLINE void few_group(int rows, int bits, __m512 a[FEW][OUTS], const struct few *f, int64_t i,
                      float (*scale)[SCALES], float (*bias)[SCALES], int64_t g) {
    __m512 table[OUTS], x[FEW];
#pragma GCC unroll 4
    for (int o = 0; o < OUTS; o++) {
        table[o] = table_of(bits, scale[o][g], bias[o][g]);
        /* Rows are short, a hardware prefetcher hardly gets going before one ends. */
        _mm_prefetch((const char *)(f->at[o] + i / 8 * bits + f->ahead), _MM_HINT_T0);
    }
    for (const int64_t end = i + f->group; i < end; i += CPU_LANES) {
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            x[r] = _mm512_loadu_ps(f->x[r] + i);
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++) {
            __m512 w = load_weights(bits, f->at[o] + i / 8 * bits, table[o], scale[o][g],
                                    bias[o][g]);
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                a[r][o] = _mm512_fmadd_ps(w, x[r], a[r][o]);
        }
    }
}

INLINE void few_affine(int rows, int bits, const struct few *f, __mmask8 mask) {
    const int64_t groups = f->cols / f->group, size = f->scale_dtype == F32 ? 4 : 2;
    __m512 a[FEW][OUTS];
    few_clear(rows, a);
    for (int64_t begin = 0; begin < groups; begin += SCALES) {
        _Alignas(64) UNSET float scale[OUTS][SCALES], bias[OUTS][SCALES];
        const int64_t n = MIN(SCALES, groups - begin);
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++) {
            load_scales(scale[o], f->scales[o] + begin * size, f->scale_dtype, n);
            load_scales(bias[o], f->biases[o] + begin * size, f->scale_dtype, n);
        }
        for (int64_t g = 0; g < n; g++)
            few_group(rows, bits, a, f, (begin + g) * f->group, scale, bias, g);
    }
    few_store(rows, a, f, mask);
}

/* Every run of columns with one scale is a multiple of 16: cpu_fp8_even. */
INLINE void few_scaled(int rows, bool fp8, const struct cpu_matrix *m, const struct few *f,
                       __mmask8 mask) {
    __m512 a[FEW][OUTS], x[FEW], table[OUTS];
    few_clear(rows, a);
    for (int64_t i = 0; i < f->cols;) {
        float scale[OUTS];
        int64_t end = i;
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++) {
            end = i + scale_run(fp8, m, f->row[o], i, f->cols - i, &scale[o]);
            table[o] = fp8 ? _mm512_setzero_ps() : table_e2m1(scale[o]);
            _mm_prefetch((const char *)(f->at[o] + (fp8 ? i : i / 2) + f->ahead), _MM_HINT_T0);
        }
        for (; i < end; i += CPU_LANES) {
#pragma GCC unroll 4
            for (int r = 0; r < rows; r++)
                x[r] = _mm512_loadu_ps(f->x[r] + i);
#pragma GCC unroll 4
            for (int o = 0; o < OUTS; o++) {
                __m512 w = load_scaled(fp8, f->at[o], i, 0xffff, scale[o], table[o]);
#pragma GCC unroll 4
                for (int r = 0; r < rows; r++)
                    a[r][o] = _mm512_fmadd_ps(w, x[r], a[r][o]);
            }
        }
    }
    few_store(rows, a, f, mask);
}

INLINE void few_rows(int rows, const struct cpu_matrix *m, const struct few *f, __mmask8 mask) {
    switch (m->dtype == MLX_AFFINE ? m->bits : -(int)m->dtype) {
    case 2: few_affine(rows, 2, f, mask); break;
    case 3: few_affine(rows, 3, f, mask); break;
    case 4: few_affine(rows, 4, f, mask); break;
    case 5: few_affine(rows, 5, f, mask); break;
    case 6: few_affine(rows, 6, f, mask); break;
    case 8: few_affine(rows, 8, f, mask); break;
    case -F32: few_plain(rows, F32, 4, f, mask); break;
    case -F16: few_plain(rows, F16, 2, f, mask); break;
    case -FP8: few_scaled(rows, true, m, f, mask); break;
    case -MXFP4: case -NVFP4: few_scaled(rows, false, m, f, mask); break;
    default: few_plain(rows, BF16, 2, f, mask); break;
    }
}

static void few_1(const struct cpu_matrix *m, const struct few *f, __mmask8 mask) {
    few_rows(1, m, f, mask);
}

static void few_2(const struct cpu_matrix *m, const struct few *f, __mmask8 mask) {
    few_rows(2, m, f, mask);
}

static void few_4(const struct cpu_matrix *m, const struct few *f, __mmask8 mask) {
    few_rows(4, m, f, mask);
}

/* Past the last row of a piece of w, and past the last of three rows of x, that row is taken
 * once more: a product to nobody's use is cheaper than another loop. */
static bool few(float *const *y, const struct cpu_matrix *m, int64_t row, int64_t outs,
                const float *const *x, int rows, int64_t cols) {
    if (rows > FEW || (m->dtype == FP8 && !cpu_fp8_even(m, cols)))
        return false;
    struct few f = { .cols = cols, .ahead = OUTS * m->row_bytes, .scale_dtype = m->scale_dtype,
                     .group = m->group };
    const bool packed = m->dtype == MLX_AFFINE;
    for (int r = 0; r < FEW; r++)
        f.x[r] = x[MIN(r, rows - 1)];
    for (int64_t i = 0; i < outs; i += OUTS) {
        for (int o = 0; o < OUTS; o++) {
            int64_t at = row + MIN(i + o, outs - 1);
            f.row[o] = at;
            f.at[o] = m->at + at * m->row_bytes;
            f.scales[o] = packed ? m->scales + at * m->scale_row_bytes : NULL;
            f.biases[o] = packed ? m->biases + at * m->scale_row_bytes : NULL;
        }
        for (int r = 0; r < FEW; r++)
            f.y[r] = y[MIN(r, rows - 1)] + i;
        const __mmask8 mask = (__mmask8)first(MIN(OUTS, outs - i));
        if (rows == 1)
            few_1(m, &f, mask);
        else if (rows == 2)
            few_2(m, &f, mask);
        else
            few_4(m, &f, mask);
    }
    return true;
}

/* The sets above AVX-512 differ from it in what rounded rows meet. */
#define KERNELS                                                                                    \
    .unpack = unpack, .tile = tile, .sum = sum, .few = few, .chains = &cpu_chains_avx512,          \
    .attention = &cpu_attention_avx512, .recurrent = &cpu_recurrent_avx512, .gate = cpu_gate_avx512

const struct cpu_kernels cpu_kernels_avx512 = {
    .name = "avx512", .int8 = &cpu_int8_avx512, KERNELS
};
const struct cpu_kernels cpu_kernels_avx512_bf16 = {
    .name = "avx512_bf16", .int8 = &cpu_int8_avx512, .bf16 = &cpu_bf16_avx512, KERNELS
};
const struct cpu_kernels cpu_kernels_amx = {
    .name = "amx", .int8 = &cpu_int8_amx, .bf16 = &cpu_bf16_amx,
    .attention_rounded = &cpu_attention_amx, KERNELS
};
#endif

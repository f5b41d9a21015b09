/* linear_generic.c - the kernels of `linear` in plain C: the reference for the others, and
 * what runs where there is no faster one. */
#include "device/cpu/cpu.h"
#include "device/small_float.h"

#include <string.h>

static float from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff, bits;
    float f;
    if (rest < 0x0400) {             /* subnormal: a count of 2^-24 */
        f = (float)rest * 0x1p-24f;
        memcpy(&bits, &f, sizeof bits);
    } else {
        bits = (rest << 13) + (rest < 0x7c00 ? (127 - 15) << 23 : (255 - 31) << 23);
    }
    bits |= sign;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float cpu_number_at(const unsigned char *at, enum dtype dtype, int64_t i) {
    uint16_t h;
    float f;
    if (dtype == F32) {
        memcpy(&f, at + 4 * i, sizeof f);
        return f;
    }
    if (dtype == FP8) return float_of_e4m3(at[i]);
    if (dtype == U8) return float_of_e8m0(at[i]);
    memcpy(&h, at + 2 * i, sizeof h);
    return dtype == BF16 ? bf16_to_f32(h) : from_f16(h);
}

/* Eight values are `bits` bytes, a little-endian number. */
static void unpack_8(float *w, const unsigned char *at, int bits, float scale, float bias) {
    uint64_t word = 0;
    for (int i = 0; i < bits; i++)
        word |= (uint64_t)at[i] << (8 * i);
    for (int i = 0; i < 8; i++, word >>= bits)
        w[i] = (float)(word & ((1u << bits) - 1)) * scale + bias;
}

/* Groups of e2m1, the first value in the low half of its byte. */
static void unpack_e2m1(float *w, const struct cpu_matrix *m, int64_t row, int64_t begin, int n) {
    const unsigned char *at = m->at + row * m->row_bytes + begin / 2;
    const unsigned char *scales = m->scales + row * m->scale_row_bytes;
    for (int i = 0; i < n; i += 2) {
        float scale = cpu_number_at(scales, m->scale_dtype, (begin + i) / m->group);
        w[i] = float_of_e2m1(at[i / 2]) * scale;
        w[i + 1] = float_of_e2m1(at[i / 2] >> 4) * scale;
    }
}

int cpu_fp8_run(const struct cpu_matrix *m, int64_t row, int64_t begin, int n, float *scale) {
    int64_t e = m->first + row * m->row_bytes + begin, col = e % m->cols;
    int64_t down = e / m->cols / m->block_rows, across = col / m->block_cols;
    *scale = cpu_number_at(m->scales + down * m->scale_row_bytes, m->scale_dtype, across);
    return (int)MIN((across + 1) * m->block_cols - col, n);
}

bool cpu_fp8_even(const struct cpu_matrix *m, int64_t cols) {
    return cols % CPU_LANES == 0 && m->first % m->cols % CPU_LANES == 0
        && (m->block_cols % CPU_LANES == 0 || m->block_cols >= m->cols);
}

static void unpack_fp8(float *w, const struct cpu_matrix *m, int64_t row, int64_t begin, int n) {
    const unsigned char *at = m->at + row * m->row_bytes + begin;
    for (int done = 0; done < n;) {
        float scale;
        int end = done + cpu_fp8_run(m, row, begin + done, n - done, &scale);
        for (; done < end; done++) w[done] = float_of_e4m3(at[done]) * scale;
    }
}

static void unpack(float *w, const struct cpu_matrix *m, int64_t row, int64_t begin, int n) {
    const unsigned char *at = m->at + row * m->row_bytes;
    if (m->dtype == MXFP4 || m->dtype == NVFP4) {
        unpack_e2m1(w, m, row, begin, n);
    } else if (m->dtype == FP8) {
        unpack_fp8(w, m, row, begin, n);
    } else if (m->dtype == MLX_AFFINE) {
        const unsigned char *scales = m->scales + row * m->scale_row_bytes;
        const unsigned char *biases = m->biases + row * m->scale_row_bytes;
        for (int i = 0; i < n; i += 8) {
            int64_t g = (begin + i) / m->group;
            unpack_8(w + i, at + (begin + i) / 8 * m->bits, m->bits,
                     cpu_number_at(scales, m->scale_dtype, g),
                     cpu_number_at(biases, m->scale_dtype, g));
        }
    } else {
        for (int i = 0; i < n; i++)
            w[i] = cpu_number_at(at, m->dtype, begin + i);
    }
    for (int i = n; i % CPU_LANES != 0; i++)
        w[i] = 0;
}

static void multiply(float *acc, const float *w, const float *x, int n) {
    float sum[CPU_LANES];
    memcpy(sum, acc, sizeof sum);
    int i = 0;
    for (; i + CPU_LANES <= n; i += CPU_LANES)
        for (int l = 0; l < CPU_LANES; l++)
            sum[l] += w[i + l] * x[i + l];
    for (int l = 0; i + l < n; l++)
        sum[l] += w[i + l] * x[i + l];
    memcpy(acc, sum, sizeof sum);
}

static void tile(float *acc, const float *w, const float *const *x, int rows, int outs, int n) {
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outs; o++)
            multiply(acc + (r * CPU_TILE_OUTS + o) * CPU_LANES, w + o * CPU_TILE_COLS, x[r], n);
}

static void sum(float *y, const float *acc, int n) {
    for (int i = 0; i < n; i++, acc += CPU_LANES) {
        float lane[CPU_LANES];
        memcpy(lane, acc, sizeof lane);
        for (int half = CPU_LANES / 2; half > 0; half /= 2)
            for (int l = 0; l < half; l++)
                lane[l] += lane[l + half];
        y[i] = lane[0];
    }
}

const struct cpu_kernels cpu_kernels_generic = {
    .name = "generic",
    .unpack = unpack,
    .tile = tile,
    .sum = sum,
    .int8 = &cpu_int8_generic,
    .attention = &cpu_attention_generic,
    .recurrent = &cpu_recurrent_generic,
};

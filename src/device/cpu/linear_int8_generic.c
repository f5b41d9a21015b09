/* linear_int8_generic.c - the int8 kernels of `linear` in plain C: the reference for the others,
 * which give the same bits. */
#include "device/cpu/cpu.h"

void cpu_int8_unpack(unsigned char *to, const unsigned char *at, int bits, int n) {
    for (int i = 0; i < n; i += 8, at += bits) {
        uint64_t word = 0;
        for (int b = 0; b < bits; b++)
            word |= (uint64_t)at[b] << (8 * b);
        for (int j = 0; j < 8; j++, word >>= bits)
            to[i + j] = (unsigned char)(word & ((1u << bits) - 1));
    }
}

/* Where column c of row r lies in a tile, in bytes. */
static int64_t place(const struct cpu_int8_tile *t, int64_t c, int r, int bits) {
    int64_t slot = c;
    if (t->stride) {
        if (bits == 4)
            slot = (c & ~(int64_t)127) + (c & 1) * 64 + (c & 127) / 2;
        return r * t->stride + slot;
    }
    if (bits == 4)
        slot = (c & ~(int64_t)7) + (c & 1) * 4 + (c & 7) / 2;
    return (slot / 4 * t->rows + r) * 4 + slot % 4;
}

static int64_t group_place(const struct cpu_int8_tile *t, int64_t g, int r, int group) {
    return t->stride ? r * (t->stride / group) + g : g * t->rows + r;
}

static void quantize(const struct cpu_int8_tile *t, int r, const float *x, int64_t cols, int group,
                     int bits) {
    for (int64_t begin = 0; begin < cols; begin += group) {
        float top = 0, scale = 0, inverse = 0;
        bool finite = true;
        for (int64_t i = begin; i < begin + group; i++) {
            finite = finite && isfinite(x[i]);
            top = fmaxf(top, fabsf(x[i]));
        }
        if (!finite) {
            scale = NAN;
        } else if (top >= 1e-30f) {
            scale = top / 127.0f;
            inverse = 127.0f / top;
        }
        int sum = 0;
        for (int64_t i = begin; i < begin + group; i++) {
            /* To nearest even, as the others' conversion does: the sum has no digits left
             * behind the point. */
            int q = finite ? (int)((x[i] * inverse + 0x1.8p23f) - 0x1.8p23f) : 0;
            t->q[place(t, i, r, bits)] = (int8_t)q;
            sum += q;
        }
        int64_t at = group_place(t, begin / group, r, group);
        t->scale[at] = scale;
        t->sum[at] = scale * (float)sum;
    }
    for (int64_t i = cols; i < t->stride; i++) {
        int64_t at = group_place(t, i / group, r, group);
        t->q[place(t, i, r, bits)] = 0;
        t->scale[at] = t->sum[at] = 0;
    }
}

static void weave(struct cpu_woven *to, int panel, const struct cpu_matrix *m, int64_t row,
                  int outs, int64_t begin, int n) {
    unsigned char values[INT8_COLS];
    for (int o = 0; o < outs; o++) {
        const unsigned char *at = m->at + (row + o) * m->row_bytes + begin / 8 * m->bits;
        const int64_t first = begin / m->group;
        for (int g = 0; g < n / m->group; g++) {
            to->scale[panel][g][o] = cpu_number_at(m->scales + (row + o) * m->scale_row_bytes,
                                              m->scale_dtype, first + g);
            to->bias[panel][g][o] = cpu_number_at(m->biases + (row + o) * m->scale_row_bytes,
                                             m->scale_dtype, first + g);
        }
        const int bytes = m->bits == 4 ? n / 2 : n;
        if (m->bits == 4)
            memcpy(values, at, (size_t)bytes);
        else
            cpu_int8_unpack(values, at, m->bits, n);
        for (int i = 0; i < bytes; i += 4)
            memcpy(to->q[panel] + i * INT8_PANEL + 4 * o, values + i, 4);
    }
}

/* The sum of a group that begins at column `begin` of a panel's out o and row r. */
static int group_sum(const unsigned char *w, int o, const struct cpu_int8_tile *t, int r, int begin,
                     int group, int bits) {
    int sum = 0;
    for (int c = begin; c < begin + group; c++) {
        int at = bits == 4 ? c / 2 : c;
        int v = w[(at / 4 * INT8_PANEL + o) * 4 + at % 4];
        if (bits == 4)
            v = c & 1 ? v >> 4 : v & 15;
        sum += v * t->q[place(t, c, r, bits)];
    }
    return sum;
}

static void multiply(float *const *y, struct cpu_woven *w, const struct cpu_int8_tile *t,
                     int n, int group, int bits, int outs, bool more) {
    for (int r = 0; r < t->rows; r++) {
        for (int i = 0; i < outs; i++) {
            const int p = i / INT8_PANEL, o = i % INT8_PANEL;
            float chain[INT8_CHAINS] = { 0 };
            for (int g = 0; g < n / group; g++) {
                float *f = &chain[g % INT8_CHAINS];
                int64_t at = group_place(t, g, r, group);
                int sum = group_sum(w->q[p], o, t, r, g * group, group, bits);
                *f = fmaf(w->bias[p][g][o], t->sum[at], *f);
                *f = fmaf(w->scale[p][g][o] * t->scale[at], (float)sum, *f);
            }
            for (int half = INT8_CHAINS / 2; half > 0; half /= 2)
                for (int c = 0; c < half; c++)
                    chain[c] += chain[c + half];
            y[r][i] = more ? y[r][i] + chain[0] : chain[0];
        }
    }
}

const struct cpu_int8_kernels cpu_int8_generic = {
    .quantize = quantize, .weave = weave, .multiply = multiply,
};

/* linear_int8_generic.c - the int8 kernels of `linear` in plain C: the reference for the others,
 * which give the same bits. Its tiles are [groups][rows][columns], numbers of 16 bits when wide. */
#include "device/cpu/cpu.h"

enum { ROWS = 8, UNIT = CPU_PACK_COLS, LINE = 64, QUADS = 8, GROUP_MAX = 128 };

/* Where column c of row r lies in a tile. */
static int64_t place(const struct cpu_int8_tile *t, int r, int64_t c, int group) {
    return (c / group * t->rows + r) * group + c % group;
}

static void quantize(const struct cpu_int8_tile *t, int r, const float *x, int64_t cols,
                     int group) {
    const float most = t->wide ? INT8_TOP_WIDE : INT8_TOP;
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
            scale = top / most;
            inverse = most / top;
        }
        int sum = 0;
        for (int64_t i = begin; i < begin + group; i++) {
            /* To nearest even, as the others' conversion does: the sum has no digits left
             * behind the point. */
            const int q = finite ? (int)((x[i] * inverse + 0x1.8p23f) - 0x1.8p23f) : 0;
            if (t->wide)
                ((int16_t *)(void *)t->q)[place(t, r, i, group)] = (int16_t)q;
            else
                t->q[place(t, r, i, group)] = (int8_t)q;
            sum += q;
        }
        t->scale[begin / group * t->rows + r] = scale;
        t->sum[begin / group * t->rows + r] = scale * (float)sum;
    }
}

static void weave(unsigned char *to, const struct cpu_matrix *m, int64_t row, int rows,
                  int64_t begin, int64_t n) {
    cpu_pack_panel(to, m, cpu_pack_nibbles(m->dtype, m->bits) ? 4 : 8, row, rows, begin, n);
}

/* `width` bits of 8 quads, 4 bytes each, from the lines of a plane: added above `shift`. */
static const unsigned char *read_plane(unsigned char *quads, const unsigned char *lines, int width,
                                       int shift) {
    const int per_line = 8 / width;
    for (int k = 0; k < QUADS; k++)
        for (int c = 0; c < 4; c++)
            quads[4 * k + c] |= (unsigned char)((lines[k / per_line * LINE + c]
                                                 >> k % per_line * width & ((1 << width) - 1))
                                                << shift);
    return lines + width * LINE;
}

/* 32 values of a row, whose 4 bytes of the first line are given, in the order of columns. */
static void read_unit(unsigned char *values, const unsigned char *lines, int bits) {
    unsigned char quads[UNIT] = { 0 };
    int shift = 0;
    for (int width = 8; width > 0; width /= 2) {
        if (!(bits & width))
            continue;
        lines = read_plane(quads, lines, width, shift);
        shift += width;
    }
    for (int i = 0; i < UNIT; i++)
        values[i] = quads[(i / 8 * 2 + i % 2) * 4 + i % 8 / 2];
}

static int sum_of(const unsigned char *v, const struct cpu_int8_tile *t, int64_t at, int group) {
    const int16_t *wide = (const int16_t *)(const void *)t->q + at;
    int sum = 0;
    for (int c = 0; c < group && t->wide; c++)
        sum += v[c] * wide[c];
    for (int c = 0; c < group && !t->wide; c++)
        sum += v[c] * t->q[at + c];
    return sum;
}

/* Row o of a panel times the tile. */
static void multiply_row(float *y, const struct cpu_panels *w, const unsigned char *at, int o,
                         const struct cpu_int8_tile *t) {
    const int64_t size = w->scales == F32 ? 4 : 2;
    for (int64_t g = 0; g < w->groups; g++) {
        const float s = cpu_number_at(at, w->scales, o);
        const float b = cpu_number_at(at + QUANT_PANEL * size, w->scales, o);
        const unsigned char *lines = at + 2 * QUANT_PANEL * size + 4 * o;
        unsigned char v[GROUP_MAX];
        for (int c = 0; c < w->group; c += UNIT)
            read_unit(v + c, lines + c / UNIT * w->bits * LINE, w->bits);
        for (int r = 0; r < t->rows; r++) {
            const int64_t i = g * t->rows + r;
            const int sum = sum_of(v, t, i * w->group, w->group);
            y[r] = fmaf(b, t->sum[i], y[r]);
            y[r] = fmaf(s * t->scale[i], (float)sum, y[r]);
        }
        at += cpu_pack_group_bytes(w->bits, w->group, w->scales);
    }
}

static void multiply(float *const *y, const struct cpu_panels *w, const struct cpu_int8_tile *t,
                     bool more) {
    for (int o = 0; o < w->outs; o++) {
        float sums[ROWS];
        for (int r = 0; r < t->rows; r++)
            sums[r] = more ? y[r][o] : 0;
        multiply_row(sums, w, w->at + o / QUANT_PANEL * w->stride, o % QUANT_PANEL, t);
        for (int r = 0; r < t->rows; r++)
            y[r][o] = sums[r];
    }
}

const struct cpu_int8_kernels cpu_int8_generic = {
    .rows = ROWS, .rows_wide = ROWS, .panels = 1,
    .quantize = quantize, .weave = weave, .multiply = multiply,
};

/* pack.c - puts affine matrices in panels. The only writer of the layout that pack.h describes;
 * faster ones for the machine at hand (weave, in the kernels) give the same bytes. */
#include "device/cpu/pack.h"

#include "device/cpu/linear_job.h"
#include "device/small_float.h"

#include <string.h>

enum { UNIT = CPU_PACK_COLS, LINE = 64, QUADS = 8 };

/* 32 values of a row, a byte each, quad by quad. */
static void read_unit(unsigned char *to, const unsigned char *at, int bits) {
    for (int i = 0; i < UNIT; i += 8, at += bits) {
        uint64_t word = 0;
        for (int b = 0; b < bits; b++)
            word |= (uint64_t)at[b] << (8 * b);
        for (int j = 0; j < 8; j++, word >>= bits)
            to[i + j % 2 * 4 + j / 2] = (unsigned char)(word & ((1u << bits) - 1));
    }
}

/* The lowest `width` bits of 8 quads as the lines of a plane, at 4 bytes of one row. */
static unsigned char *write_plane(unsigned char *to, unsigned char *values, int width) {
    const int per_line = 8 / width;
    for (int line = 0; line < width; line++, to += LINE) {
        for (int c = 0; c < 4; c++) {
            unsigned byte = 0;
            for (int s = 0; s < per_line; s++) {
                unsigned char *v = &values[(line * per_line + s) * 4 + c];
                byte |= (*v & ((1u << width) - 1)) << (s * width);
                *v = (unsigned char)(*v >> width);
            }
            to[c] = (unsigned char)byte;
        }
    }
    return to;
}

static void pack_unit(unsigned char *to, const unsigned char *at, int from, int bits) {
    unsigned char values[UNIT];
    if (from == 4 && bits == 4) {    /* as it is: most matrices */
        for (int i = 0; i < 4; i++)
            memcpy(to + i * LINE, at + i * 4, 4);
        return;
    }
    read_unit(values, at, from);
    if (bits == 8) {
        write_plane(to, values, 8);
        return;
    }
    if (bits & 4)
        to = write_plane(to, values, 4);
    if (bits & 2)
        to = write_plane(to, values, 2);
    if (bits & 1)
        write_plane(to, values, 1);
}

/* 32 numbers of MXFP4, 12 + 2 e2m1 each. */
static void pack_codes(unsigned char *to, const unsigned char *at) {
    unsigned char values[UNIT];
    for (int i = 0; i < UNIT; i++) {
        const float number = float_of_e2m1(at[i / 2] >> i % 2 * 4);
        values[i / 8 * 8 + i % 2 * 4 + i % 8 / 2] = (unsigned char)(12 + 2 * number);
    }
    write_plane(to, values, 8);
}

/* Zeros in the rows past the last. */
void cpu_pack_panel(unsigned char *to, const struct cpu_matrix *m, int bits, int64_t row, int rows,
                    int64_t begin, int64_t n) {
    const enum dtype scales = cpu_pack_scales(m->dtype, m->scale_dtype);
    const int64_t size = scales == F32 ? 4 : 2, unit_bytes = (int64_t)bits * LINE;
    const int64_t group_bytes = cpu_pack_group_bytes(bits, m->group, scales);
    for (int64_t g = 0; g < n / m->group; g++, to += group_bytes) {
        const int64_t from = begin + g * m->group;
        if (rows < QUANT_PANEL)
            memset(to, 0, (size_t)group_bytes);
        for (int r = 0; r < rows && m->dtype == MXFP4; r++) {
            const unsigned e8m0 = m->scales[(row + r) * m->scale_row_bytes + from / m->group];
            const uint16_t scale = cpu_mxfp4_scale(e8m0), bias = cpu_mxfp4_bias(e8m0);
            memcpy(to + r * size, &scale, sizeof scale);
            memcpy(to + (QUANT_PANEL + r) * size, &bias, sizeof bias);
            pack_codes(to + 2 * QUANT_PANEL * size + 4 * r,
                       m->at + (row + r) * m->row_bytes + from / 2);
        }
        for (int r = 0; r < rows && m->dtype != MXFP4; r++) {
            const int64_t skip = (row + r) * m->scale_row_bytes + from / m->group * size;
            const unsigned char *at = m->at + (row + r) * m->row_bytes + from / 8 * m->bits;
            memcpy(to + r * size, m->scales + skip, (size_t)size);
            memcpy(to + (QUANT_PANEL + r) * size, m->biases + skip, (size_t)size);
            unsigned char *unit = to + 2 * QUANT_PANEL * size + 4 * r;
            for (int i = 0; i < m->group / UNIT; i++)
                pack_unit(unit + i * unit_bytes, at + i * UNIT / 8 * m->bits, m->bits, bits);
        }
    }
}

size_t cpu_packed_bytes(const struct tensor *w) {
    if (w->dtype != MLX_AFFINE || w->rank != 2 || w->stride[0] != w->shape[1] || !w->at
        || w->shape[0] < 1 || w->shape[1] < 1 || !w->quant.biases)
        return 0;
    struct tensor whole = *w;
    whole.shape[0] = (w->shape[0] + QUANT_PANEL - 1) / QUANT_PANEL * QUANT_PANEL;
    return tensor_bytes(&whole);
}

void cpu_pack(void *to, const struct tensor *w, int64_t panel_begin, int64_t panel_end) {
    const struct cpu_matrix m = cpu_matrix_of(w, w->stride[0]);
    const int64_t bytes = QUANT_PANEL * (m.row_bytes + 2 * m.scale_row_bytes);
    for (int64_t p = panel_begin; p < panel_end; p++) {
        const int64_t row = p * QUANT_PANEL;
        cpu_pack_panel((unsigned char *)to + p * bytes, &m, m.bits, row,
                       (int)MIN(QUANT_PANEL, w->shape[0] - row), 0, w->shape[1]);
    }
}

/* 32 values of row r of a panel from the planes of a unit. */
static void unpack_unit(unsigned char *values, const unsigned char *unit, int bits, int r) {
    const int widths[] = { bits == 8 ? 8 : bits & 4, bits == 8 ? 0 : bits & 2,
                           bits == 8 ? 0 : bits & 1 };
    memset(values, 0, UNIT);
    for (int i = 0, shift = 0; i < 3; i++) {
        const int width = widths[i];
        if (!width)
            continue;
        const int per_line = 8 / width;
        for (int c = 0; c < UNIT; c++) {
            const int quad = c / 8 * 2 + c % 2;
            const unsigned byte = unit[quad / per_line * LINE + 4 * r + c % 8 / 2];
            const unsigned bits_here = byte >> quad % per_line * width & ((1u << width) - 1);
            values[c] = (unsigned char)(values[c] | bits_here << shift);
        }
        shift += width;
        unit += LINE * width;
    }
}

void cpu_pack_row(float *out, const struct tensor *w, int64_t row) {
    const struct cpu_matrix m = cpu_matrix_of(w, w->stride[0]);
    const int64_t size = m.scale_dtype == F32 ? 4 : 2, r = row % QUANT_PANEL;
    const int64_t group_bytes = cpu_pack_group_bytes(m.bits, m.group, m.scale_dtype);
    const unsigned char *at = m.packed
        + row / QUANT_PANEL * QUANT_PANEL * (m.row_bytes + 2 * m.scale_row_bytes);
    for (int64_t g = 0; g < w->shape[1] / m.group; g++, at += group_bytes) {
        const float scale = cpu_number_at(at, m.scale_dtype, r);
        const float bias = cpu_number_at(at, m.scale_dtype, QUANT_PANEL + r);
        const unsigned char *unit = at + 2 * QUANT_PANEL * size;
        for (int i = 0; i < m.group / UNIT; i++, unit += m.bits * LINE) {
            unsigned char values[UNIT];
            unpack_unit(values, unit, m.bits, (int)r);
            for (int c = 0; c < UNIT; c++)
                *out++ = (float)values[c] * scale + bias;
        }
    }
}

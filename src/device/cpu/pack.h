/* pack.h - affine matrices in the order in which the CPU's kernels read them, the same for every
 * instruction set: what is written to a cache file on one machine is read on any other. Knows
 * nothing of files; whoever packs sets quant.packed.
 *
 * A matrix is panels of QUANT_PANEL (16) rows; zeros fill the last one. A panel holds its groups of
 * columns one after another:
 *     16 scales, 16 biases, one of each row, in the source's type;
 *     for each 32 columns of the group, lines of 64 bytes: 4 bytes of each row.
 * 32 columns are 8 quads of 4: quad 2i holds columns 8i + { 0, 2, 4, 6 }, quad 2i + 1 columns
 * 8i + { 1, 3, 5, 7 }, so that 4 bytes of the source (8 columns of 4 bits) are 4 bytes of a line.
 * The bits of a value are cut in planes, the lowest first, so that none is stored twice:
 *     8 bits: 8 lines, line k the bytes of quad k;
 *     4 bits (of 4, 5, 6): 4 lines, line i = quad 2i | quad 2i + 1 << 4;
 *     2 bits (of 2, 3 the lowest; of 6 the highest): 2 lines, line j = the sum of
 *         quad 4j + s << 2s, s < 4;
 *     1 bit (of 3, 5 the highest): 1 line, the sum of quad s << s, s < 8.
 * So a packed row takes the bytes that it takes in the source, scales and biases included, and
 * every group begins at a line when the matrix does. */
#pragma once
#include "device/tensor.h"

enum {
    CPU_PACK_VERSION = 1,            /* of the layout: another number, another layout */
    CPU_PACK_ALIGN = 64,             /* of a packed matrix in memory */
    CPU_PACK_COLS = 32               /* columns that share lines */
};

/* What `w` takes when packed, in bytes: a multiple of CPU_PACK_ALIGN. 0: it is read as it is. */
size_t cpu_packed_bytes(const struct tensor *w);

/* Writes panels [panel_begin, panel_end) of w to their places in `to`, the beginning of the packed
 * matrix. There are (rows + 15) / 16 panels. Several threads may pack parts of one matrix. */
void cpu_pack(void *to, const struct tensor *w, int64_t panel_begin, int64_t panel_end);

/* Row `row` of a packed matrix in floats: the numbers that the source has. */
void cpu_pack_row(float *out, const struct tensor *w, int64_t row);

/* Packs n (a multiple of the group) columns from `begin` of at most 16 rows. `bits` says the
 * planes: those of the matrix, or 8 whatever it has. What multiplies unpacked matrices uses it.
 * MXFP4, of 8 bits only, becomes what linear_int8.h says, with scales of BF16. */
struct cpu_matrix;
void cpu_pack_panel(unsigned char *to, const struct cpu_matrix *, int bits, int64_t row, int rows,
                    int64_t begin, int64_t n);

/* Bytes of a group of a panel: its scales, its biases, its lines. */
static inline int64_t cpu_pack_group_bytes(int bits, int group, enum dtype scales) {
    return (scales == F32 ? 8 : 4) * QUANT_PANEL + (int64_t)group / 8 * bits * QUANT_PANEL;
}

/* Of a panel's scales and biases. */
static inline enum dtype cpu_pack_scales(enum dtype matrix, enum dtype scales) {
    return matrix == MXFP4 ? BF16 : scales;
}
static inline bool cpu_pack_nibbles(enum dtype matrix, int bits) {
    return matrix == MLX_AFFINE && bits == 4;
}

/* Half of the scale 2^(e8m0 - 127), and -12 times that, as BF16. */
static inline uint16_t cpu_mxfp4_scale(unsigned e8m0) {
    if (e8m0 == 0xff) return 0x7fc0;
    return (uint16_t)(e8m0 > 1 ? (e8m0 - 1) << 7 : (e8m0 + 1) << 5);
}
static inline uint16_t cpu_mxfp4_bias(unsigned e8m0) {
    return (uint16_t)(e8m0 > 252 ? 0x7fc0 : 0x8040 | (e8m0 + 2) << 7);
}

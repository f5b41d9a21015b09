/* row_vec.h - the vectors that row_simd.h works with, of the LANES that the includer has said. */
#pragma once
#include "sample/row.h"

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef double doubles __attribute__((vector_size(ROW_COLUMNS * 8)));

/* note (see row_simd.h), where no instruction does it: each lane is put down, and the next one
 * over it unless the lane has ones. */
static inline int note_each(const ints *mask, int first, int *id) {
    int n = 0;
    for (int l = 0; l < LANES; l++) {
        id[n] = first + l;
        n -= (*mask)[l];
    }
    return n;
}

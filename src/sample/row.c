/* row.c - the passes over a row with the vectors of four that every processor has, and which ones
 * this one gets. Where the compiler knows no vectors they are four numbers one after the other. */
#include "base/processor.h"

enum { LANES = 4 };
#include "sample/row_vec.h"

static inline floats most(floats a, floats b) {
    const ints higher = (ints)(a > b);
    return (floats)(((ints)a & higher) | ((ints)b & ~higher));
}

static inline floats least(floats a, floats b) {
    const ints lower = (ints)(a < b);
    return (floats)(((ints)a & lower) | ((ints)b & ~lower));
}

static inline void widen(doubles *d, floats a, int half) {
    (void)half;
    *d = __builtin_convertvector(a, doubles);
}

static inline bool any(ints mask) {
    typedef int64_t halves __attribute__((vector_size(LANES * 4)));
    return (((halves)mask)[0] | ((halves)mask)[1]) != 0;
}

static inline int note(const ints *mask, int first, int *id) {
    return any(*mask) ? note_each(mask, first, id) : 0;
}

#include "sample/row_simd.h"

const struct row_ops row_ops_generic = { tops, weigh, add, sums, weighed, temper, spread,
                                         find, list, keep_near, keep_above };

#if defined __x86_64__
const struct row_ops *row_ops_here(int i) {
    if (processor_has_avx512() && i-- == 0) return &row_ops_avx512;
    if (processor_has_avx2() && i-- == 0) return &row_ops_avx2;
    return i == 0 ? &row_ops_generic : NULL;
}
#else
const struct row_ops *row_ops_here(int i) {
    return i == 0 ? &row_ops_generic : NULL;
}
#endif

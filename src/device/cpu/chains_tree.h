/* chains_tree.h - four chains become the sum of a quarter, in the order of linear.h's tree. Whoever
 * includes this, a .c file or chains_avx512.h, has sums_of, the registers of a group's sums, and
 *     chain(rows, a, w, x, steps)   a = the sums of one lane,
 *     keep(rows, to, a)             which are put into memory,
 *     add_to(rows, a, from)         and a += what is there. */
#pragma once
#include "device/cpu/linear_chains.h"

INLINE void multiply_rows(int rows, float *sums, const float *w, const float *x, int64_t steps,
                          bool add) {
    _Alignas(64) UNSET float first[ROWS * OUTS], third[ROWS * OUTS];
    const int64_t w_lane = chains_panel_lane(steps, OUTS), x_lane = chains_group_lane(steps, ROWS);
    sums_of a;
    chain(rows, a, w, x, steps);
    keep(rows, first, a);
    chain(rows, a, w + w_lane, x + x_lane, steps);
    add_to(rows, a, first);
    keep(rows, first, a);
    chain(rows, a, w + 2 * w_lane, x + 2 * x_lane, steps);
    keep(rows, third, a);
    chain(rows, a, w + 3 * w_lane, x + 3 * x_lane, steps);
    add_to(rows, a, third);
    add_to(rows, a, first);
    if (add)
        add_to(rows, a, sums);
    keep(rows, sums, a);
}

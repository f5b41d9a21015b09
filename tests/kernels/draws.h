/* draws.h - for tests of kernels: numbers that look random and are the same in every run. */
#pragma once
#include "base/base.h"
#include <stdint.h>

static uint64_t seed = 88172645463325252u;

static inline uint32_t draw(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

static inline float uniform(void)           /* -1 to 1 */
{
    return (float)((double)draw() / 2147483648.0 - 1.0);
}

static inline float *numbers(int64_t n) {
    float *x = mem_array((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = uniform();
    return x;
}

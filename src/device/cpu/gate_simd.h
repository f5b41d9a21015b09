/* gate_simd.h - activations by one exponential over 16 lanes, for a file of an instruction set
 * that has included its vec_*.h. Included by those files only. */
#pragma once
#include "device/cpu/vec_math.h"

/* x / (1 + e^-(slope x + bend x^3)); 0 where that is below 1e-34 or so, NaN where x is. */
INLINE struct vec vec_gated(struct vec x, float slope, float bend) {
    struct vec z = vec_mul(x, vec_set(slope));
    if (bend != 0) z = vec_mul(x, vec_fma(vec_mul(x, x), vec_set(bend), vec_set(slope)));
    struct vec e = vec_exp(vec_mul(vec_max(z, vec_set(-87.0f)), vec_set(-1.0f)));
    return vec_zero_below(vec_div(x, vec_add(vec_set(1.0f), e)), z, -87.0f);
}

INLINE void gate_by(float *y, const float *g, const float *up, int64_t n, float slope,
                    float bend) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        struct vec v = vec_gated(vec_load(g + i), slope, bend);
        vec_store(y + i, up ? vec_mul(v, vec_load(up + i)) : v, LANES);
    }
    if (i < n) {
        const int rest = (int)(n - i);
        struct vec v = vec_gated(vec_kv(F32, (const char *)(g + i), rest), slope, bend);
        if (up) v = vec_mul(v, vec_kv(F32, (const char *)(up + i), rest));
        vec_store(y + i, v, rest);
    }
}

static bool gate(float *y, const float *g, const float *up, int64_t n, enum act act) {
    if (act == ACT_SILU)
        gate_by(y, g, up, n, 1.0f, 0);
    else if (act == ACT_QUICK_GELU)
        gate_by(y, g, up, n, 1.702f, 0);
    else if (act == ACT_GELU_TANH)
        gate_by(y, g, up, n, 2 * 0.79788456080286536f, 2 * 0.79788456080286536f * 0.044715f);
    else
        return false;
    return true;
}

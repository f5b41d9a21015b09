/* vec_math.h - functions of 16 lanes, over the `struct vec` of the vec_*.h that was included
 * before: the same bits on every instruction set. */
#pragma once
#include <math.h>

enum { LANES = 16 };

/* e^x for x <= 0, within 2 units in the last place; 0 where it would be denormal. */
INLINE struct vec vec_exp(struct vec x) {
    const float low = -87.0f;
    struct vec y = vec_max(x, vec_set(low));
    struct vec n = vec_round(vec_mul(y, vec_set(1.44269504f)));
    struct vec r = vec_fma(n, vec_set(-0.693359375f), y), p = vec_set(1.9875691500e-4f);
    r = vec_fma(n, vec_set(2.12194440e-4f), r);
    p = vec_fma(p, r, vec_set(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set(5.0000001201e-1f));
    p = vec_add(vec_fma(vec_mul(r, r), p, r), vec_set(1.0f));
    return vec_zero_below(vec_scale2(p, n), x, low);
}

/* By e^-2|x|, whose error is small beside 1: what is wanted is a score, not a small number. */
INLINE struct vec vec_tanh(struct vec x) {
    struct vec t = vec_exp(vec_mul(vec_abs(x), vec_set(-2.0f))), one = vec_set(1.0f);
    return vec_sign(vec_div(vec_sub(one, t), vec_add(one, t)), x);
}

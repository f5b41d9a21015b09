/* recurrent_generic.c - the inner loops of recurrent states in plain C: the reference for the
 * others. */
#include "device/cpu/recurrent_kernels.h"

static void conv(struct cpu_conv_block *o) {
    for (int r = 0; r < o->rows.n; r++) {
        const float *x = o->rows.x + r * o->rows.x_stride;
        float *y = o->rows.y + r * o->rows.y_stride;
        for (int l = 0; l < o->rows.width; l++) {
            float sum = o->w[0][l] * o->tail[0][l];
            for (int i = 1; i < o->taps; i++) sum += o->w[i][l] * o->tail[i][l];
            sum += o->w[o->taps][l] * x[l];
            for (int i = 1; i < o->taps; i++) o->tail[i - 1][l] = o->tail[i][l];
            o->tail[o->taps - 1][l] = x[l];
            y[l] = sum + o->bias[l];
        }
    }
}

/* sum + the products of a and column l of s, [depth][width]. */
static float by_fours(float sum, const float *a, const float *s, int depth, int width) {
    int i = 0;
    for (; i + 4 <= depth; i += 4, s += 4 * width)
        sum += ((a[i] * s[0] + a[i + 1] * s[width]) + a[i + 2] * s[2 * width])
            + a[i + 3] * s[3 * width];
    for (; i < depth; i++, s += width) sum += a[i] * s[0];
    return sum;
}

static void ssm(const struct cpu_ssm_block *o) {
    const int width = o->rows.width, n = o->states;
    for (int r = 0; r < o->rows.n; r++) {
        const float *x = o->rows.x + r * o->rows.x_stride, *b = o->b + r * n, *c = o->c + r * n;
        float *y = o->rows.y + r * o->rows.y_stride;
        for (int l = 0; l < width; l++) {
            const float in = o->dt[r] * x[l];
            const float sum = o->d * x[l];
            for (int j = 0; j < n; j++)
                o->h[j * width + l] = o->h[j * width + l] * o->keep[r] + in * b[j];
            y[l] = by_fours(sum, c, o->h + l, n, width);
        }
    }
}

static void delta(const struct cpu_delta_block *o) {
    const int width = o->rows.width, n = o->k_dim;
    for (int r = 0; r < o->rows.n; r++) {
        const float *x = o->rows.x + r * o->rows.x_stride, *q = o->q + r * n, *k = o->k + r * n;
        float *y = o->rows.y + r * o->rows.y_stride;
        for (int l = 0; l < width; l++) {
            const float seen = by_fours(0, k, o->s + l, n, width);
            const float change = o->beta[r] * (x[l] - o->decay[r] * seen);
            for (int j = 0; j < n; j++)
                o->s[j * width + l] = o->s[j * width + l] * o->decay[r] + k[j] * change;
            y[l] = by_fours(0, q, o->s + l, n, width);
        }
    }
}

const struct cpu_recurrent_kernels cpu_recurrent_generic = { conv, ssm, delta };

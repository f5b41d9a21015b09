/* row_simd.h - the passes of row.h, written once. Who includes it has said what LANES is, has
 * row_vec.h's floats, ints, words (LANES of 32 bits) and doubles (four), and
 *
 *     most(a, b)       the higher of each lane; b where a is not a number
 *     least(a, b)      the lower one, likewise
 *     widen(&d, a, h)  half h of a (there are LANES / 4) as doubles
 *     any(mask)        whether a lane of it has ones
 *     note(&mask, i, id)  the numbers of the lanes where it has, from i on; how many. id has room
 *                      for all, and what follows the last one is overwritten */
#include <float.h>
#include <math.h>
#include <string.h>

_Static_assert(LANES % ROW_COLUMNS == 0 && ROW_BLOCK % LANES == 0, "a block is whole vectors");

static inline floats all(float x) {
    return x - (floats){ 0 };
}

static inline floats load(const float *at) {
    floats v;
    memcpy(&v, at, sizeof v);
    return v;
}

/* a where the mask has ones, else b. */
static inline floats choose(ints mask, floats a, floats b) {
    return (floats)(((ints)a & mask) | ((ints)b & ~mask));
}

static inline void add_up(doubles *sum, floats a) {
    for (int h = 0; h < LANES / ROW_COLUMNS; h++) {
        doubles d;
        widen(&d, a, h);
        *sum += d;
    }
}

static inline double total_of(const doubles *d) {
    return ((*d)[0] + (*d)[2]) + ((*d)[1] + (*d)[3]);
}

/* The block that begins there. One that the row cuts short is copied, and filled up with -inf. */
static inline float *block_of(const float *row, int n, int begin, float copy[ROW_BLOCK]) {
    if (n - begin >= ROW_BLOCK) return (float *)(uintptr_t)(row + begin);
    for (int i = 0; i < ROW_BLOCK; i++) copy[i] = begin + i < n ? row[begin + i] : -INFINITY;
    return copy;
}

static inline void put_back(float *row, int n, int begin, const float *block) {
    if (n - begin < ROW_BLOCK) memcpy(row + begin, block, (size_t)(n - begin) * sizeof *row);
}

static bool tops(const float *logit, int n, float *top) {
    float copy[ROW_BLOCK];
    ints good = (ints)(all(0) == all(0));
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        const float *at = block_of(logit, n, begin, copy);
        floats high = all(-INFINITY);
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            floats x = load(at + i);
            high = most(x, high);
            good &= (ints)(x <= all(FLT_MAX));
        }
        float highest = high[0];
        for (int l = 1; l < LANES; l++) highest = MAX(highest, high[l]);
        top[begin / ROW_BLOCK] = highest;
    }
    return !any(~good);
}

/* e^x for x <= 0: 2^n times a polynomial; 0 where the result would be no normal number, whatever
 * the other lines make of such an x. */
static inline floats exp_of(floats x) {
    const floats round = all(0x1.8p23f);             /* what is added to it loses its fraction */
    const ints normal = (ints)(x >= all(-86));
    const floats turned = x * 1.44269504f + round, n = turned - round;
    const floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    floats p = r * 1.9875691e-4f + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1;
    return (floats)((ints)((words)p + ((words)turned << 23)) & normal);
}

static void weigh(const float *logit, int n, float best, float *weight, double *mass) {
    float copy[ROW_BLOCK];
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        const float *at = block_of(logit, n, begin, copy);
        doubles sum = { 0 };
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            floats w = exp_of(load(at + i) - best);
            add_up(&sum, w);
            memcpy(weight + begin + i, &w, sizeof w);
        }
        mass[begin / ROW_BLOCK] = total_of(&sum);
    }
}

static void add(const float *weight, int n, double *mass) {
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        doubles sum = { 0 };
        for (int i = 0; i < ROW_BLOCK; i += LANES) add_up(&sum, load(weight + begin + i));
        mass[begin / ROW_BLOCK] = total_of(&sum);
    }
}

/* The logits of candidates as doubles, and 0 for what is none. */
static inline void wide_or_0(doubles *d, const float *logit, int half) {
    const floats x = load(logit);
    widen(d, choose((ints)(x >= all(-FLT_MAX)), x, all(0)), half);
}

static struct row_sums sums(const float *logit, int n, double center) {
    float copy[ROW_BLOCK];
    doubles count = { 0 }, sum = { 0 }, squares = { 0 };
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        const float *at = block_of(logit, n, begin, copy);
        for (int i = 0; i < ROW_BLOCK; i += LANES)
            for (int h = 0; h < LANES / ROW_COLUMNS; h++) {
                doubles d, one;
                wide_or_0(&d, at + i, h);
                widen(&one, choose((ints)(load(at + i) >= all(-FLT_MAX)), all(1), all(0)), h);
                d = (d - center) * one;
                count += one;
                sum += d;
                squares += d * d;
            }
    }
    return (struct row_sums){ total_of(&count), total_of(&sum), total_of(&squares) };
}

static double weighed(const float *logit, const float *weight, int n, double center) {
    float copy[ROW_BLOCK];
    doubles sum = { 0 };
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        const float *at = block_of(logit, n, begin, copy);
        for (int i = 0; i < ROW_BLOCK; i += LANES)
            for (int h = 0; h < LANES / ROW_COLUMNS; h++) {
                doubles d, w;
                wide_or_0(&d, at + i, h);
                widen(&w, load(weight + begin + i), h);
                sum += w * (d - center);
            }
    }
    return total_of(&sum);
}

static void temper(float *logit, int n, float best, float temperature) {
    float copy[ROW_BLOCK];
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        float *at = block_of(logit, n, begin, copy);
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            const floats x = load(at + i);
            floats y = most((x - best) / temperature, all(-FLT_MAX));
            y = choose((ints)(x >= all(-FLT_MAX)), y, all(-INFINITY));
            memcpy(at + i, &y, sizeof y);
        }
        put_back(logit, n, begin, at);
    }
}

/* ---- buckets ---- */

static inline floats distance(floats x, struct row_ruler r) {
    const floats far = (floats)((ints)(r.center - x) & INT32_MAX);
    return least(far * r.per, all(ROW_BUCKETS - 1));
}

/* Four lists, so that one sum does not wait for the one before in the same bucket. */
static void spread(const float *logit, const float *weight, int n, struct row_ruler r,
                   double mass[ROW_BUCKETS]) {
    float copy[ROW_BLOCK];
    double part[ROW_COLUMNS][ROW_BUCKETS];
    memset(part, 0, sizeof part);
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        const float *at = block_of(logit, n, begin, copy), *w = weight + begin;
        int32_t bucket[ROW_BLOCK];
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            const ints b = __builtin_convertvector(distance(load(at + i), r), ints);
            memcpy(bucket + i, &b, sizeof b);
        }
        for (int i = 0; i < ROW_BLOCK; i += ROW_COLUMNS) {
            part[0][bucket[i]]     += (double)w[i];
            part[1][bucket[i + 1]] += (double)w[i + 1];
            part[2][bucket[i + 2]] += (double)w[i + 2];
            part[3][bucket[i + 3]] += (double)w[i + 3];
        }
    }
    for (int b = 0; b < ROW_BUCKETS; b++)
        mass[b] = (part[0][b] + part[2][b]) + (part[1][b] + part[3][b]);
}

static int find(const float *logit, int n, struct row_ruler r, int bucket, int *id) {
    float copy[ROW_BLOCK];
    int found = 0;
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        const float *at = block_of(logit, n, begin, copy);
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            const floats x = load(at + i);
            const ints b = __builtin_convertvector(distance(x, r), ints);
            const ints in = (ints)(b == bucket) & (ints)(x >= all(-FLT_MAX));
            found += note(&in, begin + i, id + found);
        }
    }
    return found;
}

/* What is too much is found out a block late, for which id has room. */
static int list(const float *logit, int n, float least, int *id, int most_ids) {
    float copy[ROW_BLOCK];
    int found = 0;
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        const float *at = block_of(logit, n, begin, copy);
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            const ints in = (ints)(load(at + i) >= all(least));
            found += note(&in, begin + i, id + found);
        }
        if (found > most_ids) return -1;
    }
    return found;
}

/* Those whose lane of the mask has none are dropped. */
static inline void keep(const ints *mask, float *logit, float *weight) {
    const floats x = choose(*mask, load(logit), all(-INFINITY));
    const ints w = (ints)load(weight) & *mask;
    memcpy(logit, &x, sizeof x);
    memcpy(weight, &w, sizeof w);
}

static void keep_near(float *logit, float *weight, int n, struct row_ruler r, int last) {
    float copy[ROW_BLOCK];
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        float *at = block_of(logit, n, begin, copy);
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            const ints near = (ints)(distance(load(at + i), r) < all((float)last + 1));
            keep(&near, at + i, weight + begin + i);
        }
        put_back(logit, n, begin, at);
    }
}

static void keep_above(float *logit, float *weight, int n, float least) {
    float copy[ROW_BLOCK];
    for (int begin = 0; begin < n; begin += ROW_BLOCK) {
        float *at = block_of(logit, n, begin, copy);
        for (int i = 0; i < ROW_BLOCK; i += LANES) {
            const ints above = (ints)(load(at + i) >= all(least));
            keep(&above, at + i, weight + begin + i);
        }
        put_back(logit, n, begin, at);
    }
}

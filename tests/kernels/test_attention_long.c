/* test_attention_long.c - attention over contexts of several splits: against the textbook in
 * double precision, every instruction set against the generic one, and the same bits however
 * many threads there are, however prompts are cut and whoever else is in the batch: in F32, and
 * where a set's kernels round. */
#include "device/cpu/isa.h"
#include "device/device.h"
#include "device/small_float.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PAGE = 32, SEQS = 3, LONGEST = 1700, PAGES_MAX = (LONGEST + PAGE - 1) / PAGE,
       CHUNK = 7 };

static const int length[SEQS] = { LONGEST, 700, 40 };
static const float sinks[] = { 0.5f, -1, 4, 2, 0, 1 };

/* Rows around the borders of splits (512 positions) and steps (128), and the last ones. */
struct range { int seq, begin, end; };
static const struct range ranges[] = {
    { 0, 500, 530 }, { 1, 505, 520 }, { 2, 0, 40 },
    { 0, 1530, 1560 }, { 1, 699, 700 },
    { 0, 1690, 1700 }, { 2, 39, 40 },
};
static const int batch_begin[] = { 0, 3, 5, COUNT(ranges) };   /* into ranges */

static const struct { const char *name; enum dtype dtype; struct attend a; } cases[] = {
    { "f32, heads of their own", F32,
      { .heads = 3, .kv_heads = 3, .k_dim = 40, .v_dim = 40, .scale = 0.5f } },
    { "f32, grouped, window", F32,
      { .heads = 6, .kv_heads = 2, .k_dim = 32, .v_dim = 19, .scale = 0.5f, .window = 600 } },
    { "bf16, grouped", BF16,
      { .heads = 6, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .scale = 0.5f } },
    { "bf16, tiled, short window, sinks", BF16,
      { .heads = 6, .kv_heads = 3, .k_dim = 24, .v_dim = 32, .scale = 1, .window = 45,
        .tiled = true, .sinks = sinks } },
    { "bf16, sinks, soft cap", BF16,
      { .heads = 6, .kv_heads = 1, .k_dim = 80, .v_dim = 72, .scale = 2, .softcap = 5,
        .sinks = sinks } },
    { "bf16, chunks", BF16,
      { .heads = 2, .kv_heads = 2, .k_dim = 16, .v_dim = 16, .scale = 1, .chunk = 520 } },
    { "bf16, ragged, short window, sinks", BF16,
      { .heads = 6, .kv_heads = 2, .k_dim = 96, .v_dim = 80, .scale = 0.4f, .window = 45,
        .tiled = true, .sinks = sinks } },
    { "bf16, twenty to a key, soft cap", BF16,
      { .heads = 20, .kv_heads = 1, .k_dim = 128, .v_dim = 128, .scale = 0.3f, .softcap = 4 } },
    { "bf16, narrow, chunks", BF16,
      { .heads = 2, .kv_heads = 2, .k_dim = 32, .v_dim = 16, .scale = 1, .chunk = 520 } },
    { "f32, latent", F32,
      { .heads = 5, .kv_heads = 1, .k_dim = 75, .v_dim = 60, .scale = 0.3f, .v_in_k = true } },
    { "bf16, latent", BF16,
      { .heads = 4, .kv_heads = 1, .k_dim = 96, .v_dim = 64, .scale = 0.5f, .v_in_k = true } },
    { "8 bits, grouped", I8,
      { .heads = 6, .kv_heads = 2, .k_dim = 64, .v_dim = 64, .scale = 0.5f } },
    { "8 bits, ragged, window, sinks, soft cap", I8,
      { .heads = 6, .kv_heads = 3, .k_dim = 39, .v_dim = 21, .scale = 2, .window = 530,
        .softcap = 4, .sinks = sinks } },
    { "8 bits, wide heads, tiled, chunks", I8,
      { .heads = 4, .kv_heads = 2, .k_dim = 128, .v_dim = 128, .scale = 0.3f, .chunk = 600,
        .tiled = true } },
    { "fp8, ragged, window, sinks, soft cap", FP8,
      { .heads = 6, .kv_heads = 3, .k_dim = 39, .v_dim = 21, .scale = 2, .window = 530,
        .softcap = 4, .sinks = sinks } },
    { "fp8, wide heads, tiled, chunks", FP8,
      { .heads = 4, .kv_heads = 2, .k_dim = 128, .v_dim = 128, .scale = 0.3f, .chunk = 600,
        .tiled = true } },
};

static float uniform(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*seed >> 33) / (double)(1u << 30) - 1.0);
}

/* What the sequences are, before anything is stored: [SEQS, LONGEST, heads, dim]. */
struct text { float *q, *k, *v; };

static float *numbers(uint64_t seed, int per_token) {
    size_t n = (size_t)SEQS * LONGEST * (size_t)per_token;
    float *x = mem_array(n, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = uniform(&seed);
    return x;
}

static struct text text_new(const struct attend *a) {
    struct text t = { numbers(1, a->heads * a->k_dim), numbers(2, a->kv_heads * a->k_dim),
                      numbers(3, a->kv_heads * a->v_dim) };
    /* A token of zeros, and one whose numbers are of another size: scales of 8 bits. */
    memset(t.k + 3 * a->kv_heads * a->k_dim, 0, (size_t)a->k_dim * sizeof *t.k);
    memset(t.v + 3 * a->kv_heads * a->v_dim, 0, (size_t)a->v_dim * sizeof *t.v);
    for (int i = 0; i < a->v_dim; i++) t.v[4 * a->kv_heads * a->v_dim + i] *= 1e-20f;
    return t;
}

static void text_free(struct text *t) {
    free(t->q);
    free(t->k);
    free(t->v);
}

/* ---- the device ---- */

struct heap {                        /* pages in an order of their own, NaN at first */
    struct kv_view view;
    int table[SEQS * PAGES_MAX];
    size_t bytes;
};

static struct heap *heap_new(const struct attend *a, enum dtype dtype) {
    struct heap *h = mem_new(sizeof *h);
    const size_t row = (size_t)(a->kv_heads * (a->k_dim + (a->v_in_k ? 0 : a->v_dim)));
    const size_t scales = dtype_scaled(dtype) ? 8 * (size_t)a->kv_heads : 0;
    h->view = (struct kv_view){
        .page_bytes = PAGE * (row * dtype_bytes(dtype) + scales), .table = h->table,
        .pages_max = PAGES_MAX, .page_tokens = PAGE, .dtype = dtype };
    h->bytes = h->view.page_bytes * SEQS * PAGES_MAX;
    h->view.pages = mem_new(h->bytes);
    memset(h->view.pages, 0xff, h->bytes);
    for (int i = 0; i < SEQS * PAGES_MAX; i++) h->table[i] = (i * 7 + 3) % (SEQS * PAGES_MAX);
    return h;
}

static void heap_free(struct heap *h) {
    free(h->view.pages);
    free(h);
}

struct batch {                       /* one range of each of some sequences */
    struct rows rows;
    int pos[LONGEST], seq[LONGEST], first[SEQS + 1], table[SEQS * PAGES_MAX];
    const struct range *range;
};

static void batch_make(struct batch *b, const struct range *range, int n,
                       const struct heap *h) {
    *b = (struct batch){ .range = range };
    b->rows = (struct rows){ 0, n, b->pos, b->seq, b->first };
    for (int s = 0; s < n; s++) {
        memcpy(b->table + s * PAGES_MAX, h->table + range[s].seq * PAGES_MAX,
               PAGES_MAX * sizeof *b->table);
        for (int p = range[s].begin; p < range[s].end; p++) {
            b->pos[b->rows.n_rows] = p;
            b->seq[b->rows.n_rows++] = s;
        }
        b->first[s + 1] = b->rows.n_rows;
    }
}

/* Rows of the batch out of [SEQS, LONGEST, per_token], or back into it. */
static void gather(const struct batch *b, float *rows, float *all, int per_token, bool back) {
    for (int r = 0; r < b->rows.n_rows; r++) {
        float *at = all + ((int64_t)b->range[b->seq[r]].seq * LONGEST + b->pos[r]) * per_token;
        float *row = rows + (int64_t)r * per_token;
        memcpy(back ? at : row, back ? row : at, (size_t)per_token * sizeof *row);
    }
}

static void store(struct device *dev, const struct attend *a, const struct heap *h,
                  const struct text *t, int seq, int begin, int end) {
    static struct batch b;
    const struct range range = { seq, begin, end };
    struct attend at = *a;
    batch_make(&b, &range, 1, h);
    at.rows = &b.rows;
    at.kv = h->view;
    at.kv.table = b.table;
    float *k = t->k + ((int64_t)seq * LONGEST + begin) * a->kv_heads * a->k_dim;
    float *v = t->v + ((int64_t)seq * LONGEST + begin) * a->kv_heads * a->v_dim;
    struct tensor kt = tensor_3d(k, F32, end - begin, a->kv_heads, a->k_dim);
    struct tensor vt = tensor_3d(v, F32, end - begin, a->kv_heads, a->v_dim);
    dev->op->kv_store(dev, &at, &kt, a->v_in_k ? NULL : &vt);
}

/* The outputs of a batch go to their places in y, [SEQS, LONGEST, heads, v_dim]. */
static void attend(struct device *dev, const struct attend *a, const struct heap *h,
                   const struct text *t, const struct range *range, int n, float *y) {
    static struct batch b;
    struct attend at = *a;
    batch_make(&b, range, n, h);
    at.rows = &b.rows;
    at.kv = h->view;
    at.kv.table = b.table;
    float *q = mem_array((size_t)(b.rows.n_rows * a->heads * a->k_dim), sizeof *q);
    float *out = mem_array((size_t)(b.rows.n_rows * a->heads * a->v_dim), sizeof *out);
    gather(&b, q, t->q, a->heads * a->k_dim, false);
    struct tensor qt = tensor_3d(q, F32, b.rows.n_rows, a->heads, a->k_dim);
    struct tensor yt = tensor_3d(out, F32, b.rows.n_rows, a->heads, a->v_dim);
    dev->op->attention(dev, &yt, &qt, &at);
    gather(&b, out, y, a->heads * a->v_dim, true);
    free(q);
    free(out);
}

/* All ranges: together as batches, in chunks, or row by row. */
enum cut { TOGETHER, CHUNKS, ROWS };

static void attend_all(struct device *dev, const struct attend *a, const struct heap *h,
                       const struct text *t, enum cut cut, float *y) {
    if (cut == TOGETHER) {
        for (size_t i = 0; i + 1 < COUNT(batch_begin); i++)
            attend(dev, a, h, t, ranges + batch_begin[i], batch_begin[i + 1] - batch_begin[i], y);
        return;
    }
    const int step = cut == CHUNKS ? CHUNK : 1;
    for (size_t i = 0; i < COUNT(ranges); i++)
        for (int p = ranges[i].begin; p < ranges[i].end; p += step) {
            const struct range part = { ranges[i].seq, p, MIN(p + step, ranges[i].end) };
            attend(dev, a, h, t, &part, 1, y);
        }
}

/* ---- the textbook ---- */

/* n values as a page gives them back. */
static void rounded(double *out, const float *x, int n, enum dtype dtype) {
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    for (int i = 0; i < n; i++) {
        uint32_t u;
        float f = x[i];
        memcpy(&u, &f, sizeof u);
        if (dtype == BF16) u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
        memcpy(&f, &u, sizeof f);
        out[i] = (double)f;
        if (dtype == I8)
            out[i] = most > 0 ? (double)(most / 127) * nearbyint((double)(x[i] * (127 / most))) : 0;
        if (dtype == FP8)
            out[i] = most > 0 ? (double)(most / 448) *
                                (double)float_of_e4m3(e4m3_of(x[i] * (448 / most))) : 0;
    }
}

static void check_head(const struct attend *a, enum dtype dtype, const struct text *t,
                       const float *y, int seq, int pos, int head) {
    const int kv = a->tiled ? head % a->kv_heads : head / (a->heads / a->kv_heads);
    const int64_t first = (int64_t)seq * LONGEST;
    const float *q = t->q + ((first + pos) * a->heads + head) * a->k_dim;
    double sum = 0, want[128] = { 0 }, k[128], v[128];
    int low = a->window ? MAX(0, pos + 1 - a->window) : 0;
    if (a->chunk) low = MAX(low, pos / a->chunk * a->chunk);
    if (a->sinks) sum = exp((double)a->sinks[head]);
    for (int p = low; p <= pos; p++) {
        const int64_t at = (first + p) * a->kv_heads + kv;
        double s = 0;
        rounded(k, t->k + at * a->k_dim, a->k_dim, dtype);
        if (!a->v_in_k) rounded(v, t->v + at * a->v_dim, a->v_dim, dtype);
        for (int i = 0; i < a->k_dim; i++) s += (double)q[i] * k[i];
        s *= (double)a->scale;
        if (a->softcap != 0) s = (double)a->softcap * tanh(s / (double)a->softcap);
        sum += s = exp(s);
        for (int i = 0; i < a->v_dim; i++) want[i] += s * (a->v_in_k ? k[i] : v[i]);
    }
    const float *got = y + ((first + pos) * a->heads + head) * a->v_dim;
    for (int i = 0; i < a->v_dim; i++)
        if (!(fabs((double)got[i] - want[i] / sum) < 1e-5))
            fail_msg("sequence %d position %d head %d value %d is %.9g, expected %.9g", seq, pos,
                     head, i, (double)got[i], want[i] / sum);
}

static void check_text(const struct attend *a, enum dtype dtype, const struct text *t,
                       const float *y) {
    for (size_t i = 0; i < COUNT(ranges); i++)
        for (int p = ranges[i].begin; p < ranges[i].end; p += 5)
            check_head(a, dtype, t, y, ranges[i].seq, p, p % a->heads);
}

/* ---- the promises ---- */

static struct device open_device(const char *isa, int threads, bool rounded) {
    struct device dev = { .op = &device_cpu };
    struct device_options options = { .threads = threads, .isa = isa, .rounded = rounded };
    struct err err = { 0 };
    if (!dev.op->open(&dev, &options, &err)) fail_msg("%s", err.text);
    return dev;
}

struct result { float *y; struct heap *heap; size_t n; };

static struct result compute(const char *isa, int threads, bool rounded, const struct attend *a,
                             enum dtype dtype, const struct text *t, enum cut cut) {
    struct result r = { .heap = heap_new(a, dtype),
                        .n = (size_t)SEQS * LONGEST * (size_t)(a->heads * a->v_dim) };
    struct device dev = open_device(isa, threads, rounded);
    r.y = mem_array(r.n, sizeof *r.y);
    for (int s = 0; s < SEQS; s++) {
        const int step = cut == TOGETHER ? length[s] : cut == CHUNKS ? 100 : 33;
        for (int p = 0; p < length[s]; p += step)
            store(&dev, a, r.heap, t, s, p, MIN(p + step, length[s]));
    }
    attend_all(&dev, a, r.heap, t, cut, r.y);
    dev.op->close(&dev);
    return r;
}

static void result_free(struct result *r) {
    heap_free(r->heap);
    free(r->y);
}

static void check_same(const struct result *r, const struct result *one, const char *name,
                       const char *isa, int threads, enum cut cut) {
    static const char *const cuts[] = { "together", "in chunks", "row by row" };
    if (memcmp(r->heap->view.pages, one->heap->view.pages, one->heap->bytes))
        fail_msg("%s: %s, %d threads, %s: pages differ", name, isa, threads, cuts[cut]);
    if (memcmp(r->y, one->y, one->n * sizeof *one->y))
        fail_msg("%s: %s, %d threads, %s: outputs differ", name, isa, threads, cuts[cut]);
}

static const struct { int threads; enum cut cut; } ways[] = {
    { 1, TOGETHER }, { 2, CHUNKS }, { 3, TOGETHER }, { 3, ROWS },
};

/* A set beside the generic one, and in all ways. */
static void check_set(size_t i, const char *isa, bool rounded, const struct text *t,
                      const struct result *plain) {
    const struct attend *a = &cases[i].a;
    const float bound = rounded ? 1e-2f : 1e-5f;
    struct result one = compute(isa, 1, rounded, a, cases[i].dtype, t, ROWS);
    if (!rounded)
        assert_memory_equal(one.heap->view.pages, plain->heap->view.pages, plain->heap->bytes);
    for (size_t j = 0; j < one.n; j++)
        if (!(fabsf(one.y[j] - plain->y[j]) < bound))
            fail_msg("%s: %s gives %.9g, generic %.9g", cases[i].name, isa, (double)one.y[j],
                     (double)plain->y[j]);
    for (size_t n = 0; n < COUNT(ways); n++) {
        const int threads = ways[n].threads;
        const enum cut cut = ways[n].cut;
        struct result r = compute(isa, threads, rounded, a, cases[i].dtype, t, cut);
        check_same(&r, &one, cases[i].name, isa, threads, cut);
        result_free(&r);
    }
    result_free(&one);
}

static void check_case(size_t i) {
    const struct attend *a = &cases[i].a;
    struct text t = text_new(a);
    struct result plain = compute("generic", 1, false, a, cases[i].dtype, &t, ROWS);
    const struct cpu_kernels *set;
    check_text(a, cases[i].dtype, &t, plain.y);
    for (int s = 0; (set = cpu_isa(s)); s++) {
        check_set(i, set->name, false, &t, &plain);
        if (set->attention_rounded) check_set(i, set->name, true, &t, &plain);
    }
    result_free(&plain);
    text_free(&t);
}

static void test_case(void **state) {
    check_case((size_t)(uintptr_t)*state);
}

/* A position that sees only itself gets its value: what rounding to 8 bits may cost. */
static void test_rounding(void **state) {
    (void)state;
    const struct attend a = { .heads = 2, .kv_heads = 2, .k_dim = 32, .v_dim = 48, .scale = 1,
                              .window = 1 };
    struct text t = text_new(&a);
    struct result r = compute(NULL, 1, false, &a, I8, &t, ROWS);
    int exact = 0;
    for (int p = 0; p < length[2]; p++)
        for (int h = 0; h < a.heads; h++) {
            const int64_t at = (((int64_t)2 * LONGEST + p) * a.heads + h) * a.v_dim;
            float most = 0;
            for (int c = 0; c < a.v_dim; c++) most = fmaxf(most, fabsf(t.v[at + c]));
            for (int c = 0; c < a.v_dim; c++) {
                assert_true(fabsf(r.y[at + c] - t.v[at + c]) <= most / 253);
                exact += r.y[at + c] == t.v[at + c];
            }
        }
    assert_in_range(exact, 0, length[2] * a.heads * a.v_dim / 2);
    result_free(&r);
    text_free(&t);
}

int main(void) {
    struct CMUnitTest tests[COUNT(cases) + 1];
    for (size_t i = 0; i < COUNT(cases); i++)
        tests[i] = (struct CMUnitTest){ cases[i].name, test_case, NULL, NULL,
                                        (void *)(uintptr_t)i };
    tests[COUNT(cases)] = (struct CMUnitTest)cmocka_unit_test(test_rounding);
    return _cmocka_run_group_tests("long contexts", tests, COUNT(tests), NULL, NULL);
}

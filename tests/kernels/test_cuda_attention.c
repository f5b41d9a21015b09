/* test_cuda_attention.c - attention on the GPU beside the textbook, and the same bits however the
 * rows are cut: all at once, in chunks, one by one, some of them among rows of others. */
#include "gpu.h"
#include "device/small_float.h"

#include <limits.h>

enum { SEQS = 3, PAGES_MAX = 60, ROWS = 934, LENGTH_MAX = 790,
       DIM_MAX = 576 };

/* The last one is shorter in brief tests. */
static int length[SEQS] = { 3, 141, LENGTH_MAX }, rows_all = ROWS;
static const int begin_of[SEQS] = { 0, 3, 144 };

struct shape {
    int heads, kv_heads, k_dim, v_dim, window, page;
    bool v_in_k, sinks, tiled;
    float softcap;
    enum dtype dtype;
};

/* Keys, values and queries of all rows, and what they are cached in. */
struct work {
    struct device *dev;
    const struct shape *s;
    struct attend a;
    struct tensor k, v, q, y;
    int *pos, *seq, *first;          /* on the device */
};

static void *ints(struct device *dev, const int *from, int n) {
    return there(dev, from, (size_t)n * sizeof *from);
}

static struct tensor rows_there(struct device *dev, const float *x, int64_t heads, int64_t dim) {
    return tensor_3d(there(dev, x, (size_t)(rows_all * heads * dim) * sizeof *x), F32, rows_all,
                     heads, dim);
}

static struct work work_new(struct device *dev, const struct shape *s, const float *k,
                            const float *v, const float *q, const float *sinks) {
    int table[SEQS * PAGES_MAX], pos[ROWS], seq[ROWS];
    struct work w = { .dev = dev, .s = s };
    const int64_t v_cached = s->v_in_k ? 0 : s->v_dim;
    const size_t head = (size_t)(s->k_dim + v_cached) * dtype_bytes(s->dtype) +
                        (dtype_scaled(s->dtype) ? 2 * sizeof(float) : 0);
    const size_t page_bytes = (size_t)s->page * (size_t)s->kv_heads * head;
    for (int i = 0; i < SEQS * PAGES_MAX; i++) table[i] = SEQS * PAGES_MAX - 1 - i;
    for (int i = 0; i < SEQS; i++)
        for (int p = 0; p < length[i]; p++) pos[begin_of[i] + p] = p, seq[begin_of[i] + p] = i;
    w.pos = ints(dev, pos, rows_all);
    w.seq = ints(dev, seq, rows_all);
    w.first = ints(dev, (int[]){ 0, 3, 144, rows_all }, SEQS + 1);
    w.a = (struct attend){
        .kv = { there(dev, NULL, page_bytes * SEQS * PAGES_MAX), page_bytes,
                ints(dev, table, SEQS * PAGES_MAX), PAGES_MAX, s->page, s->dtype },
        .heads = s->heads, .kv_heads = s->kv_heads, .k_dim = s->k_dim, .v_dim = s->v_dim,
        .v_in_k = s->v_in_k, .tiled = s->tiled, .window = s->window, .sinks = sinks,
        .scale = 0.1f, .softcap = s->softcap,
    };
    w.k = rows_there(dev, k, s->kv_heads, s->k_dim);
    w.v = rows_there(dev, v, s->kv_heads, s->v_dim);
    w.q = rows_there(dev, q, s->heads, s->k_dim);
    w.y = rows_there(dev, NULL, s->heads, s->v_dim);
    return w;
}

static void work_free(struct work *w) {
    void *used[] = { w->pos, w->seq, w->first, w->a.kv.pages, (void *)(uintptr_t)w->a.kv.table,
                     w->k.at, w->v.at, w->q.at, w->y.at };
    for (size_t i = 0; i < COUNT(used); i++) w->dev->op->free(w->dev, used[i], 0);
}

static void poison(struct work *w) {
    const int64_t n = (int64_t)rows_all * w->s->heads * w->s->v_dim;
    float *x = mem_array((size_t)n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = NAN;
    w->dev->op->copy_in(w->dev, w->y.at, x, (size_t)n * sizeof *x);
    assert_true(w->dev->op->sync(w->dev, NULL));
    free(x);
}

static void answer(struct work *w, float *to) {
    struct err err = { 0 };
    w->dev->op->copy_out(w->dev, to, w->y.at,
                         (size_t)(rows_all * w->s->heads * w->s->v_dim) * sizeof *to);
    if (!w->dev->op->sync(w->dev, &err)) fail_msg("%s", err.text);
    poison(w);
}

/* Rows of which `rows` says to whom they belong, from row `at` on. */
static void attend_rows(struct work *w, const struct rows *rows, int at) {
    struct tensor q = tensor_part(&w->q, 0, at, rows->n_rows);
    struct tensor y = tensor_part(&w->y, 0, at, rows->n_rows);
    w->a.rows = rows;
    w->dev->op->attention(w->dev, &y, &q, &w->a);
}

static void store_all(struct work *w) {
    const struct rows rows = { rows_all, SEQS, w->pos, w->seq, w->first };
    w->a.rows = &rows;
    w->dev->op->kv_store(w->dev, &w->a, &w->k, w->s->v_in_k ? NULL : &w->v);
}

static void all_at_once(struct work *w) {
    const struct rows rows = { rows_all, SEQS, w->pos, w->seq, w->first };
    attend_rows(w, &rows, 0);
}

/* Of chunks of a sequence, brief tests take every ninth. */
static int every(void) {
    return brief() ? 9 : 1;
}

/* A sequence by itself, `step` rows at a time. */
static void in_chunks(struct work *w, int step) {
    int zero[ROWS] = { 0 };
    int *seq = ints(w->dev, zero, rows_all);
    const int *table = w->a.kv.table;
    for (int i = 0; i < SEQS; i++)
        for (int p = 0; p < length[i]; p += step * every()) {
            const int n = MIN(step, length[i] - p), at = begin_of[i] + p;
            int *first = ints(w->dev, (int[]){ 0, n }, 2);
            const struct rows rows = { n, 1, w->pos + at, seq, first };
            w->a.kv.table = table + i * PAGES_MAX;
            attend_rows(w, &rows, at);
            w->dev->op->free(w->dev, first, 0);
        }
    w->a.kv.table = table;
    w->dev->op->free(w->dev, seq, 0);
}

/* Every row a sequence of one row: a step of decoding many. */
static void in_one_step(struct work *w) {
    int *table = mem_array((size_t)ROWS * PAGES_MAX, sizeof *table), own[ROWS], first[ROWS + 1];
    for (int i = 0; i < SEQS; i++)
        for (int r = begin_of[i]; r < begin_of[i] + length[i]; r++)
            for (int p = 0; p < PAGES_MAX; p++)
                table[r * PAGES_MAX + p] = SEQS * PAGES_MAX - 1 - (i * PAGES_MAX + p);
    for (int r = 0; r <= rows_all; r++) first[r] = r;
    for (int r = 0; r < rows_all; r++) own[r] = r;
    int *seq = ints(w->dev, own, rows_all), *begin = ints(w->dev, first, rows_all + 1);
    const struct rows rows = { rows_all, rows_all, w->pos, seq, begin };
    const int *before = w->a.kv.table;
    w->a.kv.table = ints(w->dev, table, rows_all * PAGES_MAX);
    attend_rows(w, &rows, 0);
    w->dev->op->free(w->dev, (void *)(uintptr_t)w->a.kv.table, 0);
    w->dev->op->free(w->dev, seq, 0), w->dev->op->free(w->dev, begin, 0);
    w->a.kv.table = before;
    free(table);
}

/* The last row of the second sequence and all of the third: what a step has when one sequence
 * decodes while another is read. */
static void among_others(struct work *w, float *to) {
    const int n = 1 + length[2];
    int *first = ints(w->dev, (int[]){ 0, 0, 1, n }, SEQS + 1);
    const struct rows rows = { n, SEQS, w->pos + 143, w->seq + 143, first };
    attend_rows(w, &rows, 143);
    w->dev->op->free(w->dev, first, 0);
    answer(w, to);
}

/* What the cache has of a head of a token: bf16 rounds to nearest even; I8 keeps whole numbers to
 * 127 times a scale, FP8 e4m3 to 448. */
static void cached(enum dtype dtype, const float *x, int n, double *to) {
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    for (int i = 0; i < n; i++) {
        float f = x[i];
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        if (dtype == BF16) bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
        memcpy(&f, &bits, sizeof f);
        if (dtype == I8) f = rintf(x[i] * (127 / most)) * (most / 127);
        if (dtype == FP8) f = float_of_e4m3(e4m3_of(x[i] * (448 / most))) * (most / 448);
        to[i] = (double)f;
    }
}

/* The textbook, in double, over what was cached. */
static void textbook(const struct shape *s, const float *k, const float *v, const float *q,
                     const float *sinks, int first, int pos, int head, double *y) {
    const int kv = s->tiled ? head % s->kv_heads : head / (s->heads / s->kv_heads);
    const int low = s->window && pos + 1 > s->window ? pos + 1 - s->window : 0;
    const float *from = q + ((int64_t)(first + pos) * s->heads + head) * s->k_dim;
    double weight[LENGTH_MAX], row[DIM_MAX], max = sinks ? (double)sinks[head] : -INFINITY;
    for (int t = low; t <= pos; t++) {
        double sum = 0;
        cached(s->dtype, k + ((int64_t)(first + t) * s->kv_heads + kv) * s->k_dim, s->k_dim, row);
        for (int c = 0; c < s->k_dim; c++) sum += (double)from[c] * row[c];
        sum *= (double)0.1f;
        if (s->softcap != 0) sum = (double)s->softcap * tanh(sum / (double)s->softcap);
        weight[t] = sum;
        max = fmax(max, sum);
    }
    double total = sinks ? exp((double)sinks[head] - max) : 0;
    for (int t = low; t <= pos; t++) total += weight[t] = exp(weight[t] - max);
    for (int c = 0; c < s->v_dim; c++) y[c] = 0;
    for (int t = low; t <= pos; t++) {
        const int64_t at = (int64_t)(first + t) * s->kv_heads + kv;
        cached(s->dtype, s->v_in_k ? k + at * s->k_dim : v + at * s->v_dim, s->v_dim, row);
        for (int c = 0; c < s->v_dim; c++) y[c] += weight[t] / total * row[c];
    }
}

static void beside_textbook(const struct shape *s, const float *k, const float *v, const float *q,
                            const float *sinks, const float *got, double bound) {
    double *want = mem_array((size_t)s->v_dim, sizeof *want);
    for (int i = 0; i < 60; i++) {
        const int seq = i % SEQS, head = i % s->heads;
        const int pos = i < 6 ? length[seq] - 1 : (int)(draw() % (uint32_t)length[seq]);
        textbook(s, k, v, q, sinks, begin_of[seq], pos, head, want);
        for (int c = 0; c < s->v_dim; c++) {
            float y = got[((int64_t)(begin_of[seq] + pos) * s->heads + head) * s->v_dim + c];
            if (!(fabs((double)y - want[c]) < bound))
                fail_msg("%d/%d heads of %d, position %d: %g, expected %g", s->heads, s->kv_heads,
                         s->k_dim, pos, (double)y, want[c]);
        }
    }
    free(want);
}

static void same_bits(const struct shape *s, const float *got, const float *want, int row, int n,
                      const char *how) {
    const int64_t width = (int64_t)s->heads * s->v_dim;
    for (int r = row; r < row + n; r++)
        if (memcmp(got + r * width, want + r * width, (size_t)width * sizeof *got) != 0)
            fail_msg("%d/%d heads of %d: row %d has other bits %s", s->heads, s->kv_heads,
                     s->k_dim, r, how);
}

static void same_chunks(const struct shape *s, const float *got, const float *want, int step,
                        const char *how) {
    for (int i = 0; i < SEQS; i++)
        for (int p = 0; p < length[i]; p += step * every())
            same_bits(s, got, want, begin_of[i] + p, MIN(step, length[i] - p), how);
}

static void check(struct device *dev, const struct shape *s, double bound) {
    float *k = numbers((int64_t)ROWS * s->kv_heads * s->k_dim), *sinks = numbers(s->heads);
    float *v = numbers((int64_t)ROWS * s->kv_heads * s->v_dim);
    float *q = numbers((int64_t)ROWS * s->heads * s->k_dim);
    float *all = numbers((int64_t)ROWS * s->heads * s->v_dim);
    float *other = numbers((int64_t)ROWS * s->heads * s->v_dim);
    assert_true(dev->op->adopt(dev, sinks, (size_t)s->heads * sizeof *sinks));
    struct work w = work_new(dev, s, k, v, q, s->sinks ? sinks : NULL);
    store_all(&w);
    all_at_once(&w);
    answer(&w, all);
    beside_textbook(s, k, v, q, s->sinks ? sinks : NULL, all, bound);
    in_chunks(&w, 1);
    answer(&w, other);
    same_chunks(s, other, all, 1, "alone");
    in_chunks(&w, 37);
    answer(&w, other);
    same_chunks(s, other, all, 37, "in a chunk of 37");
    in_one_step(&w);
    answer(&w, other);
    same_bits(s, other, all, 0, rows_all, "in a step with many");
    among_others(&w, other);
    same_bits(s, other, all, 143, 1 + length[2], "among others");
    work_free(&w);
    free(k), free(v), free(q), free(all), free(other);
}

static void test_f32(void **state) {
    (void)state;
    static const struct shape shapes[] = {
        { 8, 2, 64, 64, 0, 16, false, false, false, 0, BF16 },
        { 8, 8, 128, 128, 0, 16, false, true, false, 0, BF16 },
        { 6, 2, 10, 12, 100, 16, false, false, true, 0, F32 },
        { 6, 2, 10, 12, 0, 16, false, false, false, 30, BF16 },
        { 16, 2, 256, 256, 200, 32, false, true, false, 0, F32 },
        { 10, 1, 576, 512, 0, 16, true, false, false, 0, BF16 },
        { 4, 2, 80, 80, 0, 16, false, false, false, 0, F32 },
        { 8, 2, 64, 64, 0, 16, false, false, false, 0, I8 },
        { 6, 2, 12, 10, 100, 16, false, true, true, 0, I8 },
        { 8, 2, 64, 64, 0, 16, false, false, false, 0, FP8 },
        { 6, 2, 12, 10, 100, 16, false, true, true, 0, FP8 },
    };
    for (size_t i = 0; i < COUNT(shapes); i++)
        if (takes(i)) check(&f32, &shapes[i], 2e-5);
}

static void test_rounding(void **state) {
    (void)state;
    static const struct shape shapes[] = {
        { 8, 2, 64, 64, 0, 16, false, false, false, 0, BF16 },
        { 32, 8, 128, 128, 0, 32, false, false, false, 0, BF16 },
        { 8, 8, 128, 128, 0, 64, false, true, false, 0, BF16 },
        { 6, 2, 96, 80, 100, 32, false, false, true, 0, BF16 },
        { 14, 2, 64, 64, 0, 32, false, false, false, 0, BF16 },
        { 40, 1, 128, 128, 200, 32, false, true, false, 0, BF16 },
        { 10, 2, 80, 80, 0, 32, false, false, false, 30, BF16 },
        { 64, 8, 64, 64, 128, 32, false, true, false, 0, BF16 },
        { 16, 2, 256, 256, 0, 32, false, false, false, 0, BF16 },
        { 10, 1, 576, 512, 0, 32, true, false, false, 0, BF16 },
        { 4, 2, 80, 80, 0, 32, false, false, false, 0, F32 },
        { 8, 2, 64, 64, 0, 16, false, false, false, 0, I8 },
        { 32, 8, 128, 128, 0, 32, false, false, false, 0, I8 },
        { 6, 2, 96, 80, 100, 32, false, true, true, 0, I8 },
        { 40, 1, 128, 128, 200, 32, false, false, false, 30, I8 },
        { 4, 2, 256, 256, 0, 32, false, false, false, 0, I8 },
        { 8, 2, 64, 64, 0, 16, false, false, false, 0, FP8 },
        { 32, 8, 128, 128, 0, 32, false, false, false, 0, FP8 },
        { 6, 2, 96, 80, 100, 32, false, true, true, 0, FP8 },
        { 40, 1, 128, 128, 200, 32, false, false, false, 30, FP8 },
        { 4, 2, 256, 256, 0, 32, false, false, false, 0, FP8 },
    };
    for (size_t i = 0; i < COUNT(shapes); i++)
        if (takes(i)) check(&rounding, &shapes[i], 6e-3);
}

/* ---- heads that wait for attention ---- */

struct one_shape { int heads, kv_heads, k_dim, v_dim, dims, page, window; bool normed, sinks, tiled;
                   enum norm kind; enum rope pairing; float softcap; enum dtype dtype; };

enum { MANY_ROWS_MAX = 280 };

struct one_work {
    const struct one_shape *s;
    int n, pages_max;
    size_t page_bytes, pages_bytes;
    char *pages;                     /* what the cache has before */
    float *x[3], *freq, *gain, *sinks;
    int *pos, *table;
};

/* A cached row of drawn numbers: bf16, or bytes whose scale goes to *scale. */
static void fill_row(char *to, float *scale, int n, enum dtype dtype) {
    for (int c = 0; c < n; c++) {
        const float f = uniform();
        uint32_t bits;
        memcpy(&bits, &f, sizeof bits);
        if (dtype == BF16) ((unsigned short *)(void *)to)[c] = (unsigned short)(bits >> 16);
        else if (dtype == FP8) ((unsigned char *)to)[c] = e4m3_of(448 * f);
        else ((signed char *)to)[c] = (signed char)(draw() % 256 - 128);
    }
    if (dtype_scaled(dtype)) *scale = 0.5f * fabsf(uniform()) / (dtype == I8 ? 127 : 448);
}

/* Pages of drawn numbers; all bits set, which of bf16 and of scales is NaN, where nothing was
 * stored yet. */
static void fill_pages(struct one_work *w) {
    const struct one_shape *s = w->s;
    const int tokens = s->page, dim[2] = { s->k_dim, s->v_dim };
    const size_t each = dtype_bytes(s->dtype);
    memset(w->pages, 0xff, w->pages_bytes);
    for (int r = 0; r < w->n; r++)
        for (int p = 0; p < w->pos[r]; p++) {
            const int page = w->table[r * w->pages_max + p / tokens];
            char *at = w->pages + (size_t)page * w->page_bytes;
            const size_t all = (size_t)(s->kv_heads * tokens * (s->k_dim + s->v_dim)) * each;
            float *scales = (void *)(at + all);
            for (int i = 0; i < 2; i++) {
                for (int h = 0; h < s->kv_heads; h++)
                    fill_row(at + (size_t)((h * tokens + p % tokens) * dim[i]) * each,
                             &scales[(2 * h + i) * tokens + p % tokens], dim[i], s->dtype);
                at += (size_t)(s->kv_heads * tokens * s->k_dim) * each;
            }
        }
}

/* What ops are given of it, on the device. */
struct one_there {
    struct tensor t[3], gain;
    struct rows rows;
    struct attend a;
    struct heads_args args;
};

static void one_put(struct one_there *o, const struct one_work *w) {
    const struct one_shape *s = w->s;
    struct device *dev = &rounding;
    const int heads[] = { s->heads, s->kv_heads, s->kv_heads };
    const int dim[] = { s->k_dim, s->k_dim, s->v_dim };
    int count[MANY_ROWS_MAX + 1];
    for (int i = 0; i <= w->n; i++) count[i] = i;
    for (int i = 0; i < 3; i++)
        o->t[i] = tensor_3d(there(dev, w->x[i], (size_t)(w->n * heads[i] * dim[i]) * 4), F32, w->n,
                            heads[i], dim[i]);
    o->gain = tensor_1d(w->gain, F32, s->k_dim);
    o->rows = (struct rows){ w->n, w->n, ints(dev, w->pos, w->n), ints(dev, count, w->n),
                             ints(dev, count, w->n + 1) };
    o->a = (struct attend){
        .rows = &o->rows,
        .kv = { there(dev, w->pages, w->pages_bytes), w->page_bytes,
                ints(dev, w->table, w->n * w->pages_max), w->pages_max, s->page, s->dtype },
        .heads = s->heads, .kv_heads = s->kv_heads, .k_dim = s->k_dim, .v_dim = s->v_dim,
        .tiled = s->tiled, .window = s->window, .sinks = s->sinks ? w->sinks : NULL,
        .scale = 0.1f, .softcap = s->softcap,
    };
    o->args = (struct heads_args){ &o->t[0], &o->t[1], &o->t[2], &o->gain, &o->gain, s->normed,
                                   s->kind, 1e-6f, { &o->rows, w->freq, NULL, s->pairing, 1.1f },
                                   s->dims, &o->a };
}

static void one_gone(struct one_there *o, bool pages) {
    void *used[] = { o->t[0].at, o->t[1].at, o->t[2].at, (void *)(uintptr_t)o->rows.pos,
                     (void *)(uintptr_t)o->rows.seq, (void *)(uintptr_t)o->rows.first,
                     (void *)(uintptr_t)o->a.kv.table, pages ? o->a.kv.pages : NULL };
    for (size_t i = 0; i < COUNT(used); i++)
        if (used[i]) rounding.op->free(&rounding, used[i], 0);
}

/* The rows' answer, and what the cache has then. waits: attention comes right after heads. */
static void one_way(struct one_work *w, bool waits, float *y, char *pages) {
    const struct one_shape *s = w->s;
    struct device *dev = &rounding;
    const int64_t out = (int64_t)w->n * s->heads * s->v_dim;
    struct one_there o;
    struct tensor to = tensor_3d(there(dev, NULL, (size_t)out * 4), F32, w->n, s->heads, s->v_dim);
    one_put(&o, w);
    assert_true(dev->op->heads(dev, &o.args));
    if (!waits) assert_true(dev->op->sync(dev, NULL));
    dev->op->attention(dev, &to, &o.t[0], &o.a);
    back(dev, (float *)(void *)pages, o.a.kv.pages, (int64_t)w->pages_bytes / 4);
    back(dev, y, to.at, out);
    one_gone(&o, false);
}

static struct one_work one_new(const struct one_shape *s, int n, int *pos) {
    struct one_work w = { .s = s, .n = n, .pos = pos };
    int last = 0;
    const int width[] = { s->heads * s->k_dim, s->kv_heads * s->k_dim, s->kv_heads * s->v_dim };
    for (int i = 0; i < n; i++) last = MAX(last, pos[i]);
    for (w.pages_max = 1; w.pages_max * s->page <= last;) w.pages_max *= 2;
    w.page_bytes = (size_t)(s->kv_heads * s->page * (s->k_dim + s->v_dim)) * dtype_bytes(s->dtype);
    if (dtype_scaled(s->dtype)) w.page_bytes += (size_t)(s->kv_heads * s->page * 2) * sizeof(float);
    w.pages_bytes = w.page_bytes * (size_t)(n * w.pages_max);
    w.pages = mem_new(w.pages_bytes);
    w.table = mem_array((size_t)(n * w.pages_max), sizeof *w.table);
    for (int i = 0; i < n * w.pages_max; i++) w.table[i] = n * w.pages_max - 1 - i;
    for (int i = 0; i < 3; i++) w.x[i] = numbers(n * width[i]);
    w.freq = numbers(s->dims), w.gain = numbers(s->k_dim), w.sinks = numbers(s->heads);
    assert_true(rounding.op->adopt(&rounding, w.freq, (size_t)s->dims * 4));
    assert_true(rounding.op->adopt(&rounding, w.gain, (size_t)s->k_dim * 4));
    assert_true(rounding.op->adopt(&rounding, w.sinks, (size_t)s->heads * 4));
    fill_pages(&w);
    return w;
}

static void one_free(struct one_work *w) {
    for (int i = 0; i < 3; i++) free(w->x[i]);
    free(w->pages), free(w->table);
}

static void one_same(const struct one_shape *s, const float *got, const float *want, size_t out,
                     const int *pos, int n) {
    for (size_t i = 0; i < out; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0 || isnan(want[i]))
            fail_msg("%d/%d heads of %d, %s, positions %d, %d: number %zu is %.9g, not %.9g",
                     s->heads, s->kv_heads, s->k_dim, dtype_name(s->dtype), pos[0], pos[n - 1], i,
                     (double)got[i], (double)want[i]);
}

static void one_check(const struct one_shape *s, int n, int *pos) {
    struct one_work w = one_new(s, n, pos);
    if (brief()) print_message("%d heads, %d rows, the first at %d\n", s->heads, n, pos[0]);
    const size_t out = (size_t)(n * s->heads * s->v_dim);
    float *y[2];
    char *pages[2];
    for (int i = 0; i < 2; i++) {
        y[i] = mem_array(out, sizeof *y[i]);
        pages[i] = mem_new(w.pages_bytes);
        one_way(&w, i, y[i], pages[i]);
    }
    one_same(s, y[1], y[0], out, pos, n);
    assert_memory_equal(pages[0], pages[1], w.pages_bytes);
    for (int i = 0; i < 2; i++) free(y[i]), free(pages[i]);
    one_free(&w);
}

/* Rows so many that a block has all positions of one. */
static void many_check(const struct one_shape *s) {
    static const int at[] = { 0, 31, 63, 64, 127, 128, 130, 255, 256, 390, 515 };
    int pos[MANY_ROWS_MAX];
    const int n = MANY_ROWS_MAX / s->kv_heads;
    for (int i = 0; i < n; i++) pos[i] = MIN(at[i % (int)COUNT(at)], brief() ? 260 : INT_MAX);
    one_check(s, n, pos);
}

/* Four lanes wait for four places of a ring, then meet, which orders memory among them (PTX ISA,
 * bar.warp.sync), and one asks for four copies. racecheck knows of the wait of that lane alone: of
 * places that others waited for it says that the scales copied there race with the reads of those
 * before. Under it rings of bytes do not go round; those of bf16, whose copies are the same, do. */
static int longest(const struct one_shape *s) {
    if (!brief()) return INT_MAX;
    if (!racechecked() || !dtype_scaled(s->dtype) || s->window > 1000) return 9500;
    return s->kv_heads > 2 ? 1200 : 3000;
}

/* Contexts that have less than a block, a block for some of a cluster, and rings that go round. */
static void test_heads_wait(void **state) {
    (void)state;
    static const struct one_shape shapes[] = {
        { 32, 8, 128, 128, 128, 32, 0, false, false, false, NORM_RMS, ROPE_HALVES, 0, BF16 },
        { 16, 8, 128, 128, 128, 32, 0, true, false, false, NORM_RMS, ROPE_HALVES, 0, BF16 },
        { 32, 8, 64, 64, 64, 32, 0, false, false, false, NORM_RMS, ROPE_HALVES, 0, BF16 },
        { 8, 1, 64, 64, 64, 64, 300, true, true, false, NORM_RMS, ROPE_HALVES, 0, BF16 },
        { 6, 2, 96, 80, 40, 16, 100, true, false, true, NORM_LAYER, ROPE_PAIRS, 0, BF16 },
        { 16, 2, 128, 64, 64, 8, 1500, true, true, false, NORM_RMS_PLUS1, ROPE_HALVES, 30, BF16 },
        { 3, 3, 8, 16, 4, 32, 0, false, false, false, NORM_RMS, ROPE_PAIRS, 0, BF16 },
        { 32, 8, 128, 128, 128, 32, 0, true, false, false, NORM_RMS, ROPE_HALVES, 0, I8 },
        { 8, 1, 64, 64, 64, 64, 300, true, true, false, NORM_RMS, ROPE_HALVES, 0, I8 },
        { 12, 2, 64, 64, 64, 32, 0, false, true, false, NORM_RMS, ROPE_HALVES, 30, I8 },
        { 6, 2, 96, 80, 40, 16, 100, true, false, true, NORM_LAYER, ROPE_PAIRS, 0, I8 },
        { 16, 2, 128, 48, 64, 8, 1500, true, true, false, NORM_RMS_PLUS1, ROPE_HALVES, 30, I8 },
        { 3, 3, 16, 32, 4, 32, 0, false, false, false, NORM_RMS, ROPE_PAIRS, 0, I8 },
        { 32, 8, 128, 128, 128, 32, 0, true, false, false, NORM_RMS, ROPE_HALVES, 0, FP8 },
        { 12, 2, 64, 64, 64, 32, 0, false, true, false, NORM_RMS, ROPE_HALVES, 30, FP8 },
        { 6, 2, 96, 80, 40, 16, 100, true, false, true, NORM_LAYER, ROPE_PAIRS, 0, FP8 },
        { 16, 2, 128, 48, 64, 8, 1500, true, true, false, NORM_RMS_PLUS1, ROPE_HALVES, 30, FP8 },
    };
    static const int at[] = { 0, 63, 64, 127, 128, 515, 1023, 1024, 1100, 2100, 5000, 9500 };
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (size_t k = brief() ? i % 3 : 0; k < COUNT(at) && takes(i); k += brief() ? 3 : 1) {
            if (at[k] > longest(&shapes[i])) continue;
            int pos[] = { at[k], at[k] < 3000 ? at[COUNT(at) - 2 - k] : 0 };
            one_check(&shapes[i], 1, pos);
            if (at[k] < 3000) one_check(&shapes[i], 2, pos);
        }
    for (size_t i = 0; i < COUNT(shapes); i++)
        if (takes(i)) many_check(&shapes[i]);
}

/* Kernels that begin while the one before runs: attention of one row after attention of one row of
 * another context, or after other kernels, none of them waited for. Contexts are those that
 * attention_one.cu serves: elsewhere heads are made ready in place, and no more than once. */
enum { CONTEXTS = 8, LAUNCHES = 300 };

static void in_a_row(const struct one_shape *s, const int *at) {
    struct device *dev = &rounding;
    const int64_t out = s->heads * s->v_dim;
    struct one_work w[CONTEXTS];
    struct one_there o[CONTEXTS];
    int pos[CONTEXTS], which[LAUNCHES];
    const int launches = brief() ? 12 : LAUNCHES;
    float *want = mem_array((size_t)(CONTEXTS * out), sizeof *want);
    float *got = mem_array((size_t)(LAUNCHES * out), sizeof *got);
    for (int c = 0; c < CONTEXTS; c++) {
        pos[c] = MIN(at[c], longest(s));
        w[c] = one_new(s, 1, &pos[c]);
        char *pages = mem_new(w[c].pages_bytes);
        one_way(&w[c], false, want + c * out, pages);
        free(pages);
        one_put(&o[c], &w[c]);
    }
    struct tensor to = tensor_3d(there(dev, NULL, (size_t)(launches * out) * 4), F32, launches,
                                 s->heads, s->v_dim);
    struct tensor other = tensor_2d(there(dev, want, (size_t)out * 4), F32, 1, out);
    for (int i = 0; i < launches; i++) {
        const int c = which[i] = (int)(draw() % CONTEXTS);
        struct tensor y = tensor_part(&to, 0, i, 1);
        if (brief()) print_message("launch %d, at %d\n", i, pos[c]);
        assert_true(dev->op->heads(dev, &o[c].args));
        dev->op->attention(dev, &y, &o[c].t[0], &o[c].a);
        for (int k = (int)(draw() % 3); k > 0; k--) dev->op->scale(dev, &other, 0.5f, -1, 1);
    }
    back(dev, got, to.at, launches * out);
    for (int i = 0; i < launches; i++)
        one_same(s, got + i * out, want + which[i] * out, (size_t)out, &pos[which[i]], 1);
    dev->op->free(dev, other.at, 0);
    for (int c = 0; c < CONTEXTS; c++) one_gone(&o[c], true), one_free(&w[c]);
    free(want), free(got);
}

static void test_heads_in_a_row(void **state) {
    (void)state;
    static const struct one_shape shapes[] = {
        { 32, 8, 128, 128, 128, 32, 0, false, false, false, NORM_RMS, ROPE_HALVES, 0, BF16 },
        { 8, 1, 64, 64, 64, 16, 0, true, true, false, NORM_RMS, ROPE_HALVES, 0, BF16 },
        { 16, 2, 128, 64, 64, 8, 1500, true, true, false, NORM_RMS_PLUS1, ROPE_HALVES, 30, BF16 },
        { 48, 48, 64, 64, 64, 32, 0, false, false, false, NORM_RMS, ROPE_HALVES, 0, BF16 },
        { 32, 8, 128, 128, 128, 32, 0, false, false, false, NORM_RMS, ROPE_HALVES, 0, I8 },
        { 16, 2, 128, 64, 64, 8, 1500, true, true, false, NORM_RMS_PLUS1, ROPE_HALVES, 30, I8 },
        { 32, 8, 128, 128, 128, 32, 0, false, false, false, NORM_RMS, ROPE_HALVES, 0, FP8 },
    };
    static const int at[][CONTEXTS] = {
        { 1023, 1024, 2047, 3000, 4100, 8191, 8192, 9500 },
        { 70, 700, 1500, 1700, 2500, 6000, 17000, 30000 },
        { 1, 1024, 1400, 1600, 2600, 2601, 5000, 9000 },
        { 5, 128, 1024, 1025, 1151, 1152, 2100, 2200 },
        { 1023, 1024, 2047, 3000, 4100, 8191, 8192, 9500 },
        { 1, 1024, 1400, 1600, 2600, 2601, 5000, 9000 },
        { 1023, 1024, 2047, 3000, 4100, 8191, 8192, 9500 },
    };
    for (size_t i = 0; i < COUNT(shapes); i++)
        if (takes(i)) in_a_row(&shapes[i], at[i]);
}

static int run(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32), cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_heads_wait), cmocka_unit_test(test_heads_in_a_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
    if (brief()) {
        length[2] = 150;
        rows_all = begin_of[2] + length[2];
    }
    return run_all("test_cuda_attention", run);
}

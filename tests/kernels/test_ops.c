/* test_ops.c - every op of the CPU device but linear, on every instruction set, against the
 * textbook in double precision, and the same bits for one row, many rows, one thread, several. */
#include "draws.h"
#include "device/cpu/isa.h"
#include "device/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 11, SEQS = 3, PAGE = 4, PAGES_MAX = 8 };

static struct device dev;

static void near(double got, double want, double scale) {
    if (!(fabs(got - want) <= 2e-6 * (fabs(want) + scale)))
        fail_msg("%.9g, expected %.9g", got, want);
}

/* Three sequences: a prefill from 0, one that goes on, a single decode row. */
static const int row_pos[ROWS] = { 0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 6 };
static const int row_seq[ROWS] = { 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2 };
static const int seq_first[SEQS + 1] = { 0, 5, 10, 11 };
static const struct rows rows = { ROWS, SEQS, row_pos, row_seq, seq_first };

static void test_embed(void **state) {
    (void)state;
    float *table = numbers(7 * 5), y[3 * 5];
    int32_t ids[] = { 6, 0, 3 };
    struct tensor t = tensor_2d(table, F32, 7, 5), id = tensor_1d(ids, I32, 3);
    struct tensor out = tensor_2d(y, F32, 3, 5);
    dev.op->embed(&dev, &out, &t, &id, 3);
    for (int i = 0; i < 15; i++) near((double)y[i], 3 * (double)table[ids[i / 5] * 5 + i % 5], 0);
    free(table);
}

static void test_norm(void **state) {
    (void)state;
    float *x = numbers(4 * 3 * 10), *w = numbers(30), *b = numbers(10), y[120];
    struct tensor in = tensor_3d(x, F32, 4, 3, 10), out = tensor_3d(y, F32, 4, 3, 10);
    struct tensor wt = tensor_2d(w, F32, 3, 10), bt = tensor_1d(b, F32, 10);
    for (int kind = NORM_RMS; kind <= NORM_LAYER; kind++) {
        dev.op->norm(&dev, &out, &wt, &bt, &in, (enum norm)kind, 1e-3f);
        for (int i = 0; i < 120; i++) {
            const float *row = x + i / 10 * 10;
            double mean = 0, square = 0;
            for (int k = 0; k < 10; k++) mean += kind == NORM_LAYER ? (double)row[k] / 10 : 0;
            for (int k = 0; k < 10; k++) square += pow((double)row[k] - mean, 2) / 10;
            double gain = (double)w[i % 30] + (kind == NORM_RMS_PLUS1);
            near((double)y[i],
                 ((double)x[i] - mean) / sqrt(square + 1e-3) * gain + (double)b[i % 10], 1);
        }
    }
    free(x);
    free(w);
    free(b);
}

static void test_rope(void **state) {
    (void)state;
    float freq[] = { 1, 0.3f, 0.01f, 0.5f, 0.2f, 0.02f };
    int variant[SEQS] = { 0, 1, 0 };
    for (int pairs = 0; pairs < 2; pairs++) {
        float *x = numbers(ROWS * 2 * 8), *was = mem_array(ROWS * 16, sizeof *was);
        memcpy(was, x, ROWS * 16 * sizeof *x);
        struct tensor whole = tensor_3d(x, F32, ROWS, 2, 8), part = tensor_part(&whole, 2, 0, 6);
        dev.op->rope(&dev, &part, &(struct rope_args){ .rows = &rows, .freq = freq,
            .variant = variant, .pairing = pairs ? ROPE_PAIRS : ROPE_HALVES, .magnitude = 1.5f });
        for (int r = 0; r < ROWS; r++)
            for (int h = 0; h < 2; h++)
                for (int i = 0; i < 3; i++) {
                    const float *f = freq + 3 * variant[row_seq[r]], *o = was + r * 16 + h * 8;
                    double a = row_pos[r] * (double)f[i];
                    int u = pairs ? 2 * i : i, v = pairs ? u + 1 : u + 3;
                    const float *n = x + r * 16 + h * 8;
                    near((double)n[u], 1.5 * ((double)o[u] * cos(a) - (double)o[v] * sin(a)), 1);
                    near((double)n[v], 1.5 * ((double)o[v] * cos(a) + (double)o[u] * sin(a)), 1);
                    near((double)n[7], (double)o[7], 0);
                }
        free(x);
        free(was);
    }
}

static double act(enum act a, double x) {
    switch (a) {
    case ACT_NONE:       return x;
    case ACT_SILU:       return x / (1 + exp(-x));
    case ACT_GELU:       return 0.5 * x * (1 + erf(x / sqrt(2)));
    case ACT_GELU_TANH:  return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case ACT_RELU:       return fmax(x, 0);
    case ACT_RELU2:      return pow(fmax(x, 0), 2);
    case ACT_SIGMOID:    return 1 / (1 + exp(-x));
    case ACT_SOFTPLUS:   return log1p(exp(x));
    case ACT_SWIGLU_CLAMP: break;
    }
    return 0;
}

static void test_gate(void **state) {
    (void)state;
    float *g = numbers(60), *u = numbers(60), y[60];
    for (int i = 0; i < 60; i++) g[i] *= 5;
    struct tensor gt = tensor_2d(g, F32, 6, 10), ut = tensor_2d(u, F32, 6, 10);
    struct tensor yt = tensor_2d(y, F32, 6, 10);
    for (int a = ACT_NONE; a < ACT_SWIGLU_CLAMP; a++) {
        dev.op->gate(&dev, &yt, &gt, &ut, &(struct gate_args){ .act = (enum act)a });
        for (int i = 0; i < 60; i++)
            near((double)y[i], act((enum act)a, (double)g[i]) * (double)u[i], 0.1);
        dev.op->gate(&dev, &yt, &gt, NULL, &(struct gate_args){ .act = (enum act)a });
        for (int i = 0; i < 60; i++) near((double)y[i], act((enum act)a, (double)g[i]), 0.1);
    }
    dev.op->gate(&dev, &yt, &gt, &ut,
                 &(struct gate_args){ .act = ACT_SWIGLU_CLAMP, .alpha = 1.7f, .limit = 0.5f });
    for (int i = 0; i < 60; i++) {
        double gate = fmin((double)g[i], 0.5), up = fmax(fmin((double)u[i], 0.5), -0.5);
        near((double)y[i], (up + 1) * gate / (1 + exp(-(double)1.7f * gate)), 0.1);
    }
    struct tensor one = tensor_3d(g, F32, 6, 2, 1), heads = tensor_heads(&yt, 2);
    struct tensor up = tensor_heads(&ut, 2);
    dev.op->gate(&dev, &heads, &one, &up, &(struct gate_args){ .act = ACT_SIGMOID });
    for (int i = 0; i < 60; i++)
        near((double)y[i], act(ACT_SIGMOID, (double)g[i / 5]) * (double)u[i], 0.1);
    free(g);
    free(u);
}

static void test_add_copy_scale(void **state) {
    (void)state;
    float *x = numbers(40), *was = mem_array(40, sizeof *was), y[20] = { 0 };
    memcpy(was, x, 40 * sizeof *x);
    struct tensor all = tensor_2d(x, F32, 4, 10), part = tensor_part(&all, 1, 3, 5);
    struct tensor out = tensor_2d(y, F32, 4, 5);
    dev.op->copy(&dev, &out, &part);
    for (int i = 0; i < 20; i++) near((double)y[i], (double)was[i / 5 * 10 + 3 + i % 5], 0);
    dev.op->add(&dev, &part, &out, -0.25f);
    for (int i = 0; i < 40; i++)
        near((double)x[i], (i % 10 < 3 || i % 10 > 7 ? 1 : 0.75) * (double)was[i], 0);
    dev.op->scale(&dev, &out, 4, 2, 1.5f);
    for (int i = 0; i < 20; i++) {
        double v = fmax(fmin(4 * (double)was[i / 5 * 10 + 3 + i % 5], 2), -2);
        near((double)y[i], 1.5 * tanh(v / 1.5), 0.1);
    }
    free(x);
    free(was);
}

static void test_temperature(void **state) {
    (void)state;
    float *x = numbers(ROWS * 4), *was = mem_array(ROWS * 4, sizeof *was);
    memcpy(was, x, ROWS * 4 * sizeof *x);
    struct tensor t = tensor_2d(x, F32, ROWS, 4);
    dev.op->temperature(&dev, &t, &rows, 0.1f, 4, 1);
    for (int i = 0; i < ROWS * 4; i++)
        near((double)x[i],
             (double)was[i] * (1 + (double)0.1f * log(1 + floor((row_pos[i / 4] + 1) / 4.0))), 0);
    free(x);
    free(was);
}

/* ---- attention ---- */

struct heap {                        /* pages in an order of their own, and what they hold */
    struct kv_view view;
    char *pages;
    int table[SEQS * PAGES_MAX];
    double *k, *v;                   /* [SEQS, PAGE * PAGES_MAX, heads * dim] as stored */
};

static double rounded(float f, enum dtype dtype) {
    uint32_t u;
    if (dtype == F32) return (double)f;
    memcpy(&u, &f, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
    memcpy(&f, &u, sizeof f);
    return (double)f;
}

/* Fills every position before the batch's rows through kv_store itself, then the rows. */
static struct heap *heap_new(const struct attend *a, enum dtype dtype, const float *k,
                             const float *v) {
    struct heap *h = mem_new(sizeof *h);
    int kn = a->kv_heads * a->k_dim, vn = a->v_in_k ? 0 : a->kv_heads * a->v_dim,
        n = PAGE * PAGES_MAX;
    size_t bytes = dtype == BF16 ? 2 : 4;
    h->view = (struct kv_view){ .page_bytes = PAGE * (size_t)(kn + vn) * bytes, .table = h->table,
                                .pages_max = PAGES_MAX, .page_tokens = PAGE, .dtype = dtype };
    h->pages = mem_new(h->view.page_bytes * SEQS * PAGES_MAX);
    h->view.pages = h->pages;
    for (int i = 0; i < SEQS * PAGES_MAX; i++) h->table[i] = (i * 7 + 3) % (SEQS * PAGES_MAX);
    h->k = mem_array((size_t)(SEQS * n * kn), sizeof *h->k);
    h->v = mem_array((size_t)(SEQS * n * vn) + 1, sizeof *h->v);
    for (int s = 0; s < SEQS; s++)
        for (int p = 0; p < n; p++) {
            const int first[] = { 0, 1 }, zero[] = { s };
            struct rows one = { 1, SEQS, &p, zero, first };
            struct attend at = *a;
            const float *ks = k + (s * n + p) * kn, *vs = v + (s * n + p) * vn;
            struct tensor kt = tensor_3d((void *)(uintptr_t)ks, F32, 1, a->kv_heads, a->k_dim);
            struct tensor vt = tensor_3d((void *)(uintptr_t)vs, F32, 1, a->kv_heads, a->v_dim);
            at.rows = &one;
            at.kv = h->view;
            dev.op->kv_store(&dev, &at, &kt, a->v_in_k ? NULL : &vt);
            for (int i = 0; i < kn; i++) h->k[(s * n + p) * kn + i] = rounded(ks[i], dtype);
            for (int i = 0; i < vn; i++) h->v[(s * n + p) * vn + i] = rounded(vs[i], dtype);
        }
    return h;
}

static void heap_free(struct heap *h) {
    free(h->pages);
    free(h->k);
    free(h->v);
    free(h);
}

static void check_head(const struct attend *a, const struct heap *h, const float *q, const float *y,
                       int r, int head) {
    int n = PAGE * PAGES_MAX, pos = row_pos[r], low = 0;
    int kv = a->tiled ? head % a->kv_heads : head / (a->heads / a->kv_heads);
    double score[PAGE * PAGES_MAX], sum = a->sinks ? exp((double)a->sinks[head]) : 0;
    if (a->window) low = MAX(0, pos + 1 - a->window);
    if (a->chunk) low = MAX(low, pos / a->chunk * a->chunk);
    const double *k = h->k + row_seq[r] * n * a->kv_heads * a->k_dim;
    const double *v = a->v_in_k ? k : h->v + row_seq[r] * n * a->kv_heads * a->v_dim;
    for (int p = low; p <= pos; p++) {
        double s = 0;
        for (int i = 0; i < a->k_dim; i++)
            s += (double)q[(r * a->heads + head) * a->k_dim + i] *
                 k[(p * a->kv_heads + kv) * a->k_dim + i];
        s *= (double)a->scale;
        if (a->softcap != 0) s = (double)a->softcap * tanh(s / (double)a->softcap);
        sum += score[p] = exp(s);
    }
    for (int i = 0; i < a->v_dim; i++) {
        double want = 0;
        int width = a->v_in_k ? a->k_dim : a->v_dim;
        for (int p = low; p <= pos; p++)
            want += score[p] / sum * v[(p * a->kv_heads + kv) * width + i];
        near((double)y[(r * a->heads + head) * a->v_dim + i], want, 1);
    }
}

static void check_attention(struct attend a, enum dtype dtype) {
    int n = PAGE * PAGES_MAX;
    float *k = numbers(SEQS * n * a.kv_heads * a.k_dim),
          *v = numbers(SEQS * n * a.kv_heads * a.v_dim);
    float *q = numbers(ROWS * a.heads * a.k_dim), *y = numbers(ROWS * a.heads * a.v_dim);
    float *again = numbers(a.heads * a.v_dim);
    struct heap *h = heap_new(&a, dtype, k, v);
    a.rows = &rows;
    a.kv = h->view;
    struct tensor qt = tensor_3d(q, F32, ROWS, a.heads, a.k_dim);
    struct tensor yt = tensor_3d(y, F32, ROWS, a.heads, a.v_dim);
    dev.op->attention(&dev, &yt, &qt, &a);
    for (int r = 0; r < ROWS; r++)
        for (int head = 0; head < a.heads; head++) check_head(&a, h, q, y, r, head);
    for (int r = 0; r < ROWS; r++) {                   /* each row alone: the same bits */
        const int first[] = { 0, 1 };
        struct rows one = { 1, SEQS, &row_pos[r], &row_seq[r], first };
        struct tensor q1 = tensor_part(&qt, 0, r, 1);
        struct tensor y1 = tensor_3d(again, F32, 1, a.heads, a.v_dim);
        a.rows = &one;
        dev.op->attention(&dev, &y1, &q1, &a);
        assert_memory_equal(again, y + r * a.heads * a.v_dim,
                            (size_t)(a.heads * a.v_dim) * sizeof *y);
    }
    heap_free(h);
    free(k);
    free(v);
    free(q);
    free(y);
    free(again);
}

static void test_attention_and_kv_store(void **state) {
    (void)state;
    static const float sinks[] = { 0.5f, -1, 0.25f, 2 };
    const struct attend plain = {
        .heads = 4, .kv_heads = 2, .k_dim = 19, .v_dim = 7, .scale = 0.4f
    };
    static const enum dtype dtype[] = { F32, BF16 };
    for (size_t d = 0; d < COUNT(dtype); d++) {
        struct attend a = plain;
        check_attention(a, dtype[d]);
        a.window = 3;
        check_attention(a, dtype[d]);
        a.softcap = 0.7f;
        a.sinks = sinks;
        check_attention(a, dtype[d]);
        a = plain;
        a.chunk = 5;
        a.tiled = true;
        check_attention(a, dtype[d]);
        a = plain;
        a.kv_heads = 1;
        a.v_in_k = true;
        check_attention(a, dtype[d]);
    }
}

/* ---- recurrent ---- */

enum { SLOTS = 4, SLOT_FLOATS = 256 };
static const int slot_of[SEQS] = { 2, 0, 3 };

static struct state_view slots_new(float **was) {
    float *s = numbers(SLOTS * SLOT_FLOATS);
    *was = mem_array(SLOTS * SLOT_FLOATS, sizeof *s);
    memcpy(*was, s, SLOTS * SLOT_FLOATS * sizeof *s);
    for (int i = 0; i < SLOT_FLOATS; i++) (*was)[slot_of[0] * SLOT_FLOATS + i] = 0;   /* starts */
    return (struct state_view){ s, SLOT_FLOATS * sizeof(float), slot_of };
}

static void test_conv(void **state) {
    (void)state;
    enum { C = 6, K = 4 };
    float *x = numbers(ROWS * C), *w = numbers(C * K), *b = numbers(C), y[ROWS * C], *was;
    struct state_view s = slots_new(&was);
    struct tensor xt = tensor_2d(x, F32, ROWS, C), yt = tensor_2d(y, F32, ROWS, C);
    struct tensor wt = tensor_2d(w, F32, C, K), bt = tensor_1d(b, F32, C);
    dev.op->conv(&dev, &yt, &wt, &bt, &xt, &rows, &s, ACT_SILU);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < C; c++) {
            double sum = (double)b[c];
            for (int k = 0; k < K; k++) {
                int from = r - (K - 1) + k, before = from - seq_first[row_seq[r]];
                double in =
                    before >= 0
                        ? (double)x[from * C + c]
                        : (double)
                              was[slot_of[row_seq[r]] * SLOT_FLOATS + c * (K - 1) + K - 1 + before];
                sum += (double)w[c * K + k] * in;
            }
            near((double)y[r * C + c], act(ACT_SILU, sum), 1);
        }
    const float *tail = (const float *)s.slots + slot_of[0] * SLOT_FLOATS;
    for (int c = 0; c < C; c++)
        for (int k = 0; k < K - 1; k++)
            assert_true(tail[c * (K - 1) + k] == x[(seq_first[1] - (K - 1) + k) * C + c]);
    free(x);
    free(w);
    free(b);
    free(s.slots);
    free(was);
}

/* Where the CPU keeps a number of a head: recurrent_kernels.h. */
static int state_place(int head, int col, int depth, int cols, int depths) {
    const int begin = col / 16 * 16, width = MIN(16, cols - begin);
    return head * cols * depths + begin * depths + depth * width + col - begin;
}

static void test_ssm(void **state) {
    (void)state;
    enum { H = 4, D = 5, N = 6, G = 2 };
    float *x = numbers(ROWS * H * D), *b = numbers(ROWS * G * N), *c = numbers(ROWS * G * N);
    float *dt = numbers(ROWS * H), *bias = numbers(H), *a_log = numbers(H), *d = numbers(H);
    float y[ROWS * H * D], *was;
    struct state_view s = slots_new(&was);
    struct tensor xt = tensor_3d(x, F32, ROWS, H, D), yt = tensor_3d(y, F32, ROWS, H, D);
    struct tensor bt = tensor_3d(b, F32, ROWS, G, N), ct = tensor_3d(c, F32, ROWS, G, N);
    struct tensor dtt = tensor_2d(dt, F32, ROWS, H);
    dev.op->ssm(&dev, &yt,
                &(struct ssm_args){ .rows = &rows,
                                    .state = s,
                                    .x = &xt,
                                    .b = &bt,
                                    .c = &ct,
                                    .dt = &dtt,
                                    .dt_bias = bias,
                                    .a_log = a_log,
                                    .d = d,
                                    .dt_min = 0.2f,
                                    .dt_max = 0.9f });
    for (int i = 0; i < SEQS * H * D; i++) {
        int seq = i / (H * D), h = i / D % H, p = i % D;
        double st[N];
        for (int n = 0; n < N; n++)
            st[n] = (double)was[slot_of[seq] * SLOT_FLOATS + state_place(h, p, n, D, N)];
        for (int r = seq_first[seq]; r < seq_first[seq + 1]; r++) {
            double step = log1p(exp((double)dt[r * H + h] + (double)bias[h])), sum = 0;
            step = fmin(fmax(step, (double)0.2f), (double)0.9f);
            double in = step * (double)x[(r * H + h) * D + p];
            for (int n = 0; n < N; n++) {
                st[n] = st[n] * exp(-exp((double)a_log[h]) * step) +
                        in * (double)b[(r * G + h / 2) * N + n];
                sum += st[n] * (double)c[(r * G + h / 2) * N + n];
            }
            near((double)y[(r * H + h) * D + p],
                 sum + (double)d[h] * (double)x[(r * H + h) * D + p], 2);
        }
    }
    free(x); free(b); free(c); free(dt); free(bias); free(a_log); free(d);
    free(s.slots);
    free(was);
}

static void unit(double *to, const float *x, int n, double scale) {
    double sum = 1e-6;
    for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    for (int i = 0; i < n; i++) to[i] = (double)x[i] / sqrt(sum) * scale;
}

static void test_delta(void **state) {
    (void)state;
    enum { HK = 2, HV = 4, K = 5, V = 6 };
    float *q = numbers(ROWS * HK * K), *k = numbers(ROWS * HK * K), *v = numbers(ROWS * HV * V);
    float *a = numbers(ROWS * HV), *b = numbers(ROWS * HV), *bias = numbers(HV),
          *a_log = numbers(HV);
    float y[ROWS * HV * V], *was;
    struct state_view s = slots_new(&was);
    struct tensor qt = tensor_3d(q, F32, ROWS, HK, K), kt = tensor_3d(k, F32, ROWS, HK, K);
    struct tensor vt = tensor_3d(v, F32, ROWS, HV, V), yt = tensor_3d(y, F32, ROWS, HV, V);
    struct tensor at = tensor_2d(a, F32, ROWS, HV), bt = tensor_2d(b, F32, ROWS, HV);
    dev.op->delta(&dev, &yt, &(struct delta_args){ .rows = &rows, .state = s, .q = &qt, .k = &kt,
        .v = &vt, .a = &at, .b = &bt, .dt_bias = bias, .a_log = a_log });
    for (int i = 0; i < SEQS * HV; i++) {
        int seq = i / HV, h = i % HV;
        double st[K * V], uq[K], uk[K];
        for (int n = 0; n < K * V; n++)
            st[n] = (double)was[slot_of[seq] * SLOT_FLOATS +
                                state_place(h, n % V, n / V, V, K)];
        for (int r = seq_first[seq]; r < seq_first[seq + 1]; r++) {
            unit(uq, q + (r * HK + h / 2) * K, K, 1 / sqrt(K));
            unit(uk, k + (r * HK + h / 2) * K, K, 1);
            double decay =
                exp(-exp((double)a_log[h]) * log1p(exp((double)a[r * HV + h] + (double)bias[h])));
            double beta = 1 / (1 + exp(-(double)b[r * HV + h]));
            for (int j = 0; j < V; j++) {
                double seen = 0, out = 0;
                for (int n = 0; n < K; n++) seen += uk[n] * (st[n * V + j] *= decay);
                double change = beta * ((double)v[(r * HV + h) * V + j] - seen);
                for (int n = 0; n < K; n++) out += uq[n] * (st[n * V + j] += uk[n] * change);
                near((double)y[(r * HV + h) * V + j], out, 1);
            }
        }
    }
    free(q); free(k); free(v); free(a); free(b); free(bias); free(a_log);
    free(s.slots);
    free(was);
}

/* ---- experts ---- */

static void test_route(void **state) {
    (void)state;
    float logits[] = { 0.1f, 2, -1, 2, 0.5f, 3, -2, 0 }, bias[] = { 0, 0, 4, 0, 0, 0, 0, 5 };
    int32_t ids[2];
    float share[2];
    struct tensor lt = tensor_2d(logits, F32, 1, 8), it = tensor_2d(ids, I32, 1, 2);
    struct tensor st = tensor_2d(share, F32, 1, 2);
    struct route_args a = {
        .experts = 8, .active = 2, .groups = 1, .score = SCORE_SOFTMAX, .scale = 1
    };
    double sum = 0;
    for (int i = 0; i < 8; i++) sum += exp((double)logits[i]);
    dev.op->route(&dev, &it, &st, &lt, &a);
    assert_int_equal(ids[0], 5);
    assert_int_equal(ids[1], 1);                       /* a tie goes to the lower */
    near((double)share[0], exp(3) / sum, 0);
    near((double)share[1], exp(2) / sum, 0);
    a.renormalize = true;
    a.scale = 2.5f;
    dev.op->route(&dev, &it, &st, &lt, &a);
    near((double)share[0], 2.5 * exp(3) / (exp(3) + exp(2)), 0);
    a = (struct route_args){ .experts = 8, .active = 2, .score = SCORE_SOFTMAX_OF_TOP, .scale = 1 };
    dev.op->route(&dev, &it, &st, &lt, &a);
    near((double)share[1], exp(2) / (exp(3) + exp(2)), 0);
    /* Sigmoid, a bias for choosing only; of four groups of two the best two by their sums:
     * {2,3} and {6,7}; of these 7 and 2. */
    a = (struct route_args){ .experts = 8, .active = 2, .groups = 4, .groups_active = 2,
                             .group_top = 2, .score = SCORE_SIGMOID, .scale = 1, .bias = bias };
    dev.op->route(&dev, &it, &st, &lt, &a);
    assert_int_equal(ids[0], 7);
    assert_int_equal(ids[1], 2);
    near((double)share[0], 0.5, 0);
    near((double)share[1], 1 / (1 + exp(1)), 0);
}

static void test_experts(void **state) {
    (void)state;
    enum { E = 5, A = 2, DIM = 6, HID = 4 };
    struct linear gate[E], up[E], down[E];
    float *w = numbers(E * 3 * DIM * HID), *bias = numbers(E * (2 * HID + DIM));
    float *x = numbers(ROWS * DIM), y[ROWS * DIM], share[ROWS * A];
    int32_t ids[ROWS * A];
    for (int e = 0; e < E; e++) {
        float *m = w + e * 3 * DIM * HID, *b = bias + e * (2 * HID + DIM);
        gate[e] = (struct linear){ tensor_2d(m, F32, HID, DIM), tensor_1d(b, F32, HID), false };
        up[e] = (struct linear){ tensor_2d(m + DIM * HID, F32, HID, DIM),
                                 tensor_1d(b + HID, F32, HID), false };
        down[e] = (struct linear){ tensor_2d(m + 2 * DIM * HID, F32, DIM, HID),
                                   tensor_1d(b + 2 * HID, F32, DIM), false };
    }
    for (int i = 0; i < ROWS * A; i++) {
        ids[i] = (i * 3 + i / 4) % E;
        share[i] = uniform();
    }
    float hidden[ROWS * A * (2 * HID + DIM)];
    int order[2 * ROWS * A + E + 1];
    struct tensor xt = tensor_2d(x, F32, ROWS, DIM), yt = tensor_2d(y, F32, ROWS, DIM);
    struct tensor it = tensor_2d(ids, I32, ROWS, A), st = tensor_2d(share, F32, ROWS, A);
    dev.op->experts(&dev, &yt, &xt, &(struct expert_args){ .gate = gate, .up = up, .down = down,
        .experts = E, .ids = &it, .share = &st, .hidden = hidden, .order = order,
        .act = { .act = ACT_SILU } });
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < DIM; i++) {
            double want = 0;
            for (int k = 0; k < A; k++) {
                int e = ids[r * A + k];
                const float *m = w + e * 3 * DIM * HID, *b = bias + e * (2 * HID + DIM);
                double out = (double)b[2 * HID + i];
                for (int h = 0; h < HID; h++) {
                    double g = (double)b[h], u = (double)b[HID + h];
                    for (int j = 0; j < DIM; j++) {
                        g += (double)m[h * DIM + j] * (double)x[r * DIM + j];
                        u += (double)m[(HID + h) * DIM + j] * (double)x[r * DIM + j];
                    }
                    out += (double)m[2 * DIM * HID + i * HID + h] * act(ACT_SILU, g) * u;
                }
                want += (double)share[r * A + k] * out;
            }
            near((double)y[r * DIM + i], want, 3);
        }
    free(w);
    free(bias);
    free(x);
}

/* Memory: what is copied in comes out, moved or not; no slot of the table is empty
 * but the optional ones, and of those that belong together all or none. */
static void test_memory_and_table(void **state) {
    (void)state;
    char in[100], out[100] = { 0 };
    for (int i = 0; i < 100; i++) in[i] = (char)i;
    char *p = dev.op->alloc(&dev, 300);
    assert_non_null(p);
    assert_true(dev.op->adopt(&dev, in, sizeof in));
    dev.op->copy_in(&dev, p, in, 100);
    dev.op->move(&dev, p + 150, p, 100);
    dev.op->copy_out(&dev, out, p + 150, 100);
    assert_true(dev.op->sync(&dev, NULL));
    assert_memory_equal(in, out, 100);
    dev.op->free(&dev, p, 300);
    const struct device_ops *op = dev.op;
    const void *may_be_empty[] = {
        &op->pack, &op->adopted, &op->memory, &op->replay, &op->record_end, &op->shared,
        &op->unshare, &op->mark, &op->reached, &op->sample, &op->feed, &op->products, &op->heads
    };
    void (*const *slot)(void) = (void (*const *)(void))(const void *)&op->open;
    for (size_t i = 0; i < (sizeof *op - offsetof(struct device_ops, open)) / sizeof *slot; i++) {
        bool optional = false;
        for (size_t k = 0; k < COUNT(may_be_empty); k++) optional |= may_be_empty[k] == &slot[i];
        assert_true(slot[i] != NULL || optional);
    }
    assert_true(!op->replay == !op->record_end);
    assert_true(!op->shared == !op->unshare && !op->shared == !op->mark &&
                !op->shared == !op->reached && !op->shared == !op->sample &&
                !op->shared == !op->feed);
    char text[64];
    dev.op->describe(&dev, text, sizeof text);
    assert_non_null(strstr(text, "cpu"));
}

static const char *isa;              /* the set whose turn it is */

/* Experts of whole panels of 4 bits: a row is the same whoever computes it, alone or not. */
enum { BIG = 6, BIG_ACTIVE = 2, BIG_ROWS = 21, BIG_DIM = 192, BIG_HIDDEN = 320 };

static struct linear packed_matrix(int64_t outs, int64_t cols) {
    const size_t bytes = (size_t)(outs * cols / 2), groups = (size_t)(outs * cols / 64);
    unsigned char *q = malloc(bytes);
    float *scales = numbers((int)groups), *biases = numbers((int)groups);
    for (size_t i = 0; i < bytes; i++) q[i] = (unsigned char)(i * 37 + i / 7);
    struct linear l = { .w = tensor_2d(q, MLX_AFFINE, outs, cols) };
    l.w.quant = (struct quant){ .scales = (void *)scales, .biases = (void *)biases,
                                .scale_dtype = F32, .group = 64, .bits = 4 };
    return l;
}

static void packed_free(struct linear *l) {
    free(l->w.at);
    free((void *)(uintptr_t)l->w.quant.scales);
    free((void *)(uintptr_t)l->w.quant.biases);
}

static void run_big(struct linear (*w)[BIG], float *y, float *x, int32_t *ids, float *share,
                    int n) {
    float *hidden = numbers(n * BIG_ACTIVE * (2 * BIG_HIDDEN + BIG_DIM));
    int order[2 * BIG_ROWS * BIG_ACTIVE + BIG + 1];
    struct tensor xt = tensor_2d(x, F32, n, BIG_DIM), yt = tensor_2d(y, F32, n, BIG_DIM);
    struct tensor it = tensor_2d(ids, I32, n, BIG_ACTIVE);
    struct tensor st = tensor_2d(share, F32, n, BIG_ACTIVE);
    dev.op->experts(&dev, &yt, &xt, &(struct expert_args){ .gate = w[0], .up = w[1], .down = w[2],
        .experts = BIG, .ids = &it, .share = &st, .hidden = hidden, .order = order,
        .act = { .act = ACT_SILU } });
    free(hidden);
}

/* Products at once have the bits that they have one by one; sums are left to their caller. */
static void test_products(void **state) {
    (void)state;
    enum { WIDE = 320, NARROW = 64 };
    struct linear w[3] = { packed_matrix(WIDE, BIG_DIM), packed_matrix(WIDE, BIG_DIM),
                           packed_matrix(NARROW, BIG_DIM) };
    const struct gate_args act = { .act = ACT_SILU };
    struct device before = dev;
    float *x = numbers(BIG_ROWS * BIG_DIM);
    for (int rounded = 0; rounded < 2; rounded++) {
        struct device_options o = { .threads = 2, .isa = isa, .rounded = rounded };
        dev = (struct device){ .op = &device_cpu };
        assert_true(dev.op->open(&dev, &o, NULL));
        for (int n = 1; n <= BIG_ROWS; n += 4) {
            float *y[2][3];
            struct tensor xt = tensor_2d(x, F32, n, BIG_DIM), yt[2][3];
            for (int i = 0; i < 6; i++) {
                y[i / 3][i % 3] = numbers(n * WIDE);
                yt[i / 3][i % 3] = tensor_2d(y[i / 3][i % 3], F32, n, w[i % 3].w.shape[0]);
            }
            for (int i = 0; i < 3; i++) dev.op->linear(&dev, &yt[0][i], &w[i], &xt);
            struct products p = { .x = &xt, .w = { &w[0], &w[1], &w[2] }, .n = 3,
                                  .y = { &yt[1][0], &yt[1][1], &yt[1][2] }, .act = act };
            assert_true(dev.op->products(&dev, &p));
            for (int i = 0; i < 3; i++)
                assert_memory_equal(y[0][i], y[1][i], (size_t)(n * (i < 2 ? WIDE : NARROW)) * 4);
            p.n = 2;
            p.end = PRODUCTS_GATE;
            assert_true(dev.op->products(&dev, &p));
            dev.op->gate(&dev, &yt[0][0], &yt[0][0], &yt[0][1], &act);
            assert_memory_equal(y[0][0], y[1][0], (size_t)(n * WIDE) * 4);
            p.end = PRODUCTS_ADD;
            assert_false(dev.op->products(&dev, &p));
            for (int i = 0; i < 6; i++) free(y[i / 3][i % 3]);
        }
        dev.op->close(&dev);
    }
    dev = before;
    for (int i = 0; i < 3; i++) packed_free(&w[i]);
    free(x);
}

static void test_experts_over_threads(void **state) {
    (void)state;
    struct linear w[3][BIG];
    struct device before = dev;
    float *x = numbers(BIG_ROWS * BIG_DIM), share[BIG_ROWS * BIG_ACTIVE];
    float *want = numbers(BIG_ROWS * BIG_DIM), *y = numbers(BIG_ROWS * BIG_DIM);
    int32_t ids[BIG_ROWS * BIG_ACTIVE];
    for (int e = 0; e < BIG; e++) {
        w[0][e] = packed_matrix(BIG_HIDDEN, BIG_DIM);
        w[1][e] = packed_matrix(BIG_HIDDEN, BIG_DIM);
        w[2][e] = packed_matrix(BIG_DIM, BIG_HIDDEN);
    }
    for (int i = 0; i < BIG_ROWS * BIG_ACTIVE; i++) {     /* expert 2 has half of all, 5 none */
        ids[i] = i % 2 ? 2 : i / 2 % 5 == 2 ? 4 : i / 2 % 5;
        share[i] = uniform();
    }
    static const int threads[] = { 1, 2, 3, 8 };
    for (int rounded = 0; rounded < 2; rounded++)
        for (size_t i = 0; i < COUNT(threads); i++) {
            dev = (struct device){ .op = &device_cpu };
            struct device_options o = { .threads = threads[i], .isa = isa, .rounded = rounded };
            assert_true(dev.op->open(&dev, &o, NULL));
            run_big(w, i ? y : want, x, ids, share, BIG_ROWS);
            if (i)
                assert_memory_equal(y, want, BIG_ROWS * BIG_DIM * sizeof *y);
            for (int r = 0; r < BIG_ROWS; r += 5) {
                run_big(w, y, x + r * BIG_DIM, ids + r * BIG_ACTIVE, share + r * BIG_ACTIVE, 1);
                assert_memory_equal(y, want + r * BIG_DIM, BIG_DIM * sizeof *y);
            }
            dev.op->close(&dev);
        }
    dev = before;
    for (int i = 0; i < 3 * BIG; i++) packed_free(&w[i / BIG][i % BIG]);
    free(x);
    free(y);
    free(want);
}

static int open_threads(int n) {
    dev = (struct device){ .op = &device_cpu };
    return dev.op->open(&dev, &(struct device_options){ .threads = n, .isa = isa }, NULL) ? 0 : 1;
}
static int open_one(void **state) { (void)state; return open_threads(1); }
static int open_three(void **state) { (void)state; return open_threads(3); }
static int close_it(void **state) { (void)state; dev.op->close(&dev); return 0; }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embed), cmocka_unit_test(test_norm), cmocka_unit_test(test_rope),
        cmocka_unit_test(test_gate), cmocka_unit_test(test_add_copy_scale),
        cmocka_unit_test(test_temperature), cmocka_unit_test(test_attention_and_kv_store),
        cmocka_unit_test(test_conv), cmocka_unit_test(test_ssm), cmocka_unit_test(test_delta),
        cmocka_unit_test(test_route), cmocka_unit_test(test_experts),
        cmocka_unit_test(test_experts_over_threads), cmocka_unit_test(test_products),
        cmocka_unit_test(test_memory_and_table),
    };
    const struct cpu_kernels *set;
    int failed = 0;
    for (int i = 0; (set = cpu_isa(i)); i++) {
        isa = set->name;
        print_message("%s\n", isa);
        failed += _cmocka_run_group_tests("one thread", tests, COUNT(tests), open_one, close_it);
        failed += _cmocka_run_group_tests("three threads", tests, COUNT(tests), open_three,
                                          close_it);
    }
    return failed;
}

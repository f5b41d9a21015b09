/* test_cuda_recurrent.c - convolutions, states of sequences and the temperature of long contexts
 * on the CUDA device, beside the CPU's generic kernels on drawn numbers; and the same bits however
 * a sequence is cut and whoever goes with it. Says so and passes where there is no GPU. */
#include "device/cpu/recurrent_kernels.h"
#include "gpu.h"

enum { SEQS = 3, INPUTS = 5, LONGEST = 70, PAD = 3 };
enum kind { CONV, SSM, DELTA };

/* Rows of sequences, one after the other: [rows][heads][dim + PAD]. */
struct input { int64_t heads, dim; float *at; };

struct scan {
    enum kind kind;
    struct input in[INPUTS], out;
    int n_in, rows[SEQS];            /* of each sequence */
    int64_t state_floats;
    struct linear w;                 /* of a convolution */
    float *bias, *per_head[3];       /* dt_bias, a_log, d */
    enum act act;
};

static int first_row(const struct scan *s, int seq) {
    int r = 0;
    for (int i = 0; i < seq; i++) r += s->rows[i];
    return r;
}

static int64_t width(const struct input *in) {
    return in->heads * (in->dim + PAD);
}

static struct tensor view(const struct input *in, void *at, int rows) {
    struct tensor t = tensor_3d(at, F32, rows, in->heads, in->dim);
    t.stride[0] = width(in);
    t.stride[1] = in->dim + PAD;
    return t;
}

/* The same of one head, where an op wants [rows, dim]. */
static struct tensor flat(const struct input *in, void *at, int rows) {
    struct tensor t = tensor_2d(at, F32, rows, in->dim);
    t.stride[0] = width(in);
    return t;
}

static void start(struct device *dev, const struct scan *s, struct tensor *y,
                  const struct rows *rows, const struct state_view *state, void **at) {
    struct tensor t[INPUTS];
    for (int i = 0; i < s->n_in; i++) t[i] = view(&s->in[i], at[i], rows->n_rows);
    if (s->kind == CONV) {
        const struct tensor bias = tensor_1d(s->bias, F32, s->out.dim);
        t[0] = flat(&s->in[0], at[0], rows->n_rows);
        dev->op->conv(dev, y, &s->w.w, s->bias ? &bias : NULL, &t[0], rows, state, s->act);
    }
    if (s->kind == SSM) {
        t[3] = flat(&s->in[3], at[3], rows->n_rows);
        dev->op->ssm(dev, y, &(struct ssm_args){ .rows = rows, .state = *state, .x = &t[0],
            .b = &t[1], .c = &t[2], .dt = &t[3], .dt_bias = s->per_head[0],
            .a_log = s->per_head[1], .d = s->per_head[2], .dt_min = 0, .dt_max = 1.5f });
    }
    if (s->kind == DELTA) {
        for (int i = 3; i < 5; i++) t[i] = flat(&s->in[i], at[i], rows->n_rows);
        dev->op->delta(dev, y, &(struct delta_args){ .rows = rows, .state = *state, .q = &t[0],
            .k = &t[1], .v = &t[2], .a = &t[3], .b = &t[4], .dt_bias = s->per_head[0],
            .a_log = s->per_head[1] });
    }
}

/* A step takes count[i] rows of sequence i after those done[i] that went before. */
static void step(struct device *dev, const struct scan *s, void *slots, const int *count, int *done,
                 float *y) {
    int pos[SEQS * LONGEST], seq[SEQS * LONGEST], first[SEQS + 1], slot[SEQS], n = 0, seqs = 0;
    for (int i = 0; i < SEQS; i++) {
        if (!count[i]) continue;
        first[seqs] = n;
        slot[seqs] = SEQS - 1 - i;
        for (int r = 0; r < count[i]; r++, n++) pos[n] = done[i] + r, seq[n] = seqs;
        seqs++;
    }
    first[seqs] = n;
    if (!n) return;
    void *at[INPUTS], *out = there(dev, NULL, (size_t)(n * width(&s->out)) * sizeof(float));
    for (int k = 0; k < s->n_in; k++) {
        const size_t row = (size_t)width(&s->in[k]);
        float *rows = mem_array((size_t)n * row, sizeof *rows), *to = rows;
        for (int i = 0; i < SEQS; i++) {
            memcpy(to, s->in[k].at + (size_t)(first_row(s, i) + done[i]) * row,
                   (size_t)count[i] * row * sizeof *to);
            to += (size_t)count[i] * row;
        }
        at[k] = there(dev, rows, (size_t)n * row * sizeof *rows);
        free(rows);
    }
    int *there_pos = there(dev, pos, (size_t)n * sizeof *pos);
    int *there_seq = there(dev, seq, (size_t)n * sizeof *seq);
    int *there_first = there(dev, first, (size_t)(seqs + 1) * sizeof *first);
    int *there_slot = there(dev, slot, (size_t)seqs * sizeof *slot);
    const struct rows rows = { n, seqs, there_pos, there_seq, there_first };
    const struct state_view state = { slots, (size_t)(s->state_floats + PAD) * sizeof(float),
                                      there_slot };
    struct tensor to = s->kind == CONV ? flat(&s->out, out, n) : view(&s->out, out, n);
    start(dev, s, &to, &rows, &state, at);
    float *got = mem_array((size_t)(n * width(&s->out)), sizeof *got), *from = got;
    back(dev, got, out, n * width(&s->out));
    for (int i = 0; i < SEQS; i++) {
        memcpy(y + (first_row(s, i) + done[i]) * width(&s->out), from,
               (size_t)(count[i] * width(&s->out)) * sizeof *y);
        from += count[i] * width(&s->out);
        done[i] += count[i];
    }
    free(got);
    for (int k = 0; k < s->n_in; k++)
        dev->op->free(dev, at[k], (size_t)(n * width(&s->in[k])) * sizeof(float));
    dev->op->free(dev, there_pos, (size_t)n * sizeof *pos);
    dev->op->free(dev, there_seq, (size_t)n * sizeof *seq);
    dev->op->free(dev, there_first, (size_t)(seqs + 1) * sizeof *first);
    dev->op->free(dev, there_slot, (size_t)seqs * sizeof *slot);
}

/* All rows of the sequences that `who` has a bit of, at most `most` of each at a time; memory of
 * states begins as NaN. */
static void play(struct device *dev, const struct scan *s, unsigned who, int most, float *y) {
    const size_t bytes = (size_t)(s->state_floats + PAD) * SEQS * sizeof(float);
    void *slots = there(dev, NULL, bytes);
    int done[SEQS] = { 0 };
    for (int r = 0; r < LONGEST; r += most) {
        int count[SEQS];
        for (int i = 0; i < SEQS; i++)
            count[i] = who >> i & 1 ? (int)MIN(most, s->rows[i] - done[i]) : 0;
        step(dev, s, slots, count, done, y);
    }
    dev->op->free(dev, slots, bytes);
}

static void check_rows(const struct input *out, const float *got, const float *want, int n,
                       bool equal) {
    double square = 0, most = 0, all = (double)(n * out->heads * out->dim);
    for (int r = 0; r < n; r++)
        for (int64_t h = 0; h < out->heads; h++) {
            const int64_t at = r * width(out) + h * (out->dim + PAD);
            if (equal) assert_memory_equal(got + at, want + at, (size_t)out->dim * sizeof *got);
            for (int64_t i = at; i < at + out->dim; i++) {
                const double d = fabs((double)got[i] - (double)want[i]);
                assert_true(d == d);              /* not NaN */
                most = d > most ? d : most;
                square += (double)want[i] * (double)want[i];
            }
        }
    if (most > 2e-5 * sqrt(square / all) + 1e-6)
        fail_msg("off by %g where numbers are about %g", most, sqrt(square / all));
}

static void check(const struct scan *s) {
    const int n = first_row(s, SEQS);
    const size_t floats = (size_t)(n * width(&s->out));
    float *want = numbers((int64_t)floats), *whole = numbers((int64_t)floats);
    float *other = numbers((int64_t)floats);
    play(&cpu, s, 7, LONGEST, want);
    play(&f32, s, 7, LONGEST, whole);
    check_rows(&s->out, whole, want, n, false);
    static const int cuts[] = { 1, 7, 33 };
    for (size_t i = 0; i < COUNT(cuts); i++) {
        play(&f32, s, 7, cuts[i], other);
        check_rows(&s->out, other, whole, n, true);
    }
    memset(other, 0, floats * sizeof *other);
    for (int i = 0; i < SEQS; i++) play(&f32, s, 1u << i, LONGEST, other);
    check_rows(&s->out, other, whole, n, true);
    free(want);
    free(whole);
    free(other);
}

static struct input drawn(int64_t heads, int64_t dim, int rows) {
    struct input in = { heads, dim, NULL };
    in.at = numbers(rows * width(&in));
    return in;
}

/* Adopted memory stays as long as the device is open. */
static float *adopted_numbers(int64_t n) {
    float *x = numbers(n);
    assert_true(f32.op->adopt(&f32, x, (size_t)n * sizeof *x));
    return x;
}

static void done_with(struct scan *s) {
    for (int i = 0; i < s->n_in; i++) free(s->in[i].at);
}

static const int counts[][SEQS] = { { 1, 1, 1 }, { 5, 70, 1 }, { 33, 2, 64 }, { 16, 8, 32 } };

static void convolutions(void **state) {
    (void)state;
    static const int channels[] = { 1, 33, 128, 300 };
    for (size_t i = 0; i < COUNT(channels) * COUNT(counts); i++)
        for (int kernel = 2; kernel <= SCAN_TAPS + 1 && takes(i); kernel++) {
            const int64_t c = channels[i % COUNT(channels)];
            struct scan s = { .kind = CONV, .n_in = 1, .out = { 1, c, NULL },
                              .state_floats = c * (kernel - 1),
                              .act = kernel % 2 ? ACT_SILU : ACT_NONE };
            memcpy(s.rows, counts[i / COUNT(channels)], sizeof s.rows);
            s.in[0] = drawn(1, c, first_row(&s, SEQS));
            s.w.w = tensor_2d(adopted_numbers(c * kernel), F32, c, kernel);
            if (kernel % 3) s.bias = adopted_numbers(c);
            check(&s);
            done_with(&s);
        }
}

static void states(void **state) {
    (void)state;
    /* heads, groups, head_dim, depth */
    static const int shapes[][4] = { { 1, 1, 1, 1 }, { 4, 2, 5, 16 }, { 3, 3, 64, 17 },
                                     { 2, 1, 33, 64 }, { 4, 1, 64, 128 }, { 6, 2, 40, 100 },
                                     { 2, 2, 16, 256 }, { 2, 1, 9, 257 }, { 1, 1, 20, 1024 } };
    for (size_t i = 0; i < COUNT(shapes) * COUNT(counts); i++)
        for (int kind = SSM; kind <= DELTA && takes(i); kind++) {
            const int *z = shapes[i % COUNT(shapes)];
            struct scan s = { .kind = (enum kind)kind, .out = { z[0], z[2], NULL },
                              .state_floats = (int64_t)z[0] * z[2] * z[3] };
            memcpy(s.rows, counts[i / COUNT(shapes)], sizeof s.rows);
            const int n = first_row(&s, SEQS);
            const struct input x = drawn(z[0], z[2], n), dt = drawn(1, z[0], n);
            const struct input b = drawn(z[1], z[3], n), c = drawn(z[1], z[3], n);
            for (int k = 0; k < 3; k++) s.per_head[k] = adopted_numbers(z[0]);
            if (kind == SSM) {
                s.n_in = 4;
                s.in[0] = x, s.in[1] = b, s.in[2] = c, s.in[3] = dt;
            } else {
                s.n_in = 5;
                s.in[0] = b, s.in[1] = c, s.in[2] = x, s.in[3] = dt, s.in[4] = drawn(1, z[0], n);
            }
            check(&s);
            done_with(&s);
        }
}

static void temperature_and_move(void **state) {
    (void)state;
    enum { ROWS = 7, HEADS = 3, DIM = 40, N = ROWS * HEADS * DIM };
    static const int pos[ROWS] = { 0, 1, 8190, 8191, 8192, 40000, 1000000 };
    float *x = numbers(N), got[2][N];
    struct device *devices[] = { &cpu, &f32 };
    for (int shift = 0; shift < 2; shift++) {
        for (int i = 0; i < 2; i++) {
            struct device *dev = devices[i];
            void *at = there(dev, x, sizeof got[i]), *to = there(dev, NULL, sizeof got[i]);
            int *p = there(dev, pos, sizeof pos);
            struct tensor t = tensor_3d(at, F32, ROWS, HEADS, DIM);
            dev->op->temperature(dev, &t, &(struct rows){ ROWS, 1, p, NULL, NULL }, 0.1f, 8192,
                                 shift);
            dev->op->move(dev, to, at, sizeof got[i]);
            dev->op->free(dev, p, sizeof pos);
            back(dev, got[i], to, N);
            dev->op->free(dev, at, sizeof got[i]);
        }
        for (int i = 0; i < N; i++)
            assert_true(fabsf(got[1][i] - got[0][i]) <= 1e-6f * fabsf(got[0][i]));
        assert_true(fabsf(got[1][N - 1] - x[N - 1]) > 0.1f * fabsf(x[N - 1]));
        assert_memory_equal(got[1], x, HEADS * DIM * sizeof *x);
    }
    free(x);
}

static int run(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions),
        cmocka_unit_test(states),
        cmocka_unit_test(temperature_and_move),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void) {
    return run_all("test_cuda_recurrent", run);
}

/* recurrent.c - the ops whose state is a slot per sequence: causal convolution,
 * Mamba-2's state space and the gated delta rule. Each walks the rows of a sequence
 * in order; sequences, heads and channels are independent. The walk over a block of columns
 * is a kernel's (recurrent_kernels.h, which says how states lie). */
#include "device/cpu/cpu.h"

#include <assert.h>

enum { BLOCKS_A_PIECE = 4, CHUNK_FLOATS = 4096 };

/* The state of one sequence, zeroed when the sequence begins. */
static float *state_of(const struct state_view *v, const struct rows *rows, int seq, int64_t at,
                       int64_t n) {
    char *slot = (char *)v->slots + (size_t)v->slot[seq] * v->slot_bytes;
    float *state = (float *)(void *)slot + at;
    if (rows->pos[rows->first[seq]] == 0) memset(state, 0, (size_t)n * sizeof *state);
    return state;
}

struct conv {
    const struct cpu_kernels *kernels;
    struct tensor *y;
    const struct tensor *w, *bias, *x;
    const struct rows *rows;
    const struct state_view *state;
    enum act act;
};

/* The tail of a channel holds its last kernel-1 inputs, oldest first; a block's lie turned. */
static void turn(struct cpu_conv_block *b, const struct conv *o, int64_t c, float *tail,
                 bool back) {
    const int taps = b->taps;
    for (int l = 0; l < b->rows.width; l++)
        for (int i = 0; i < taps; i++)
            if (back)
                tail[l * taps + i] = b->tail[i][l];
            else
                b->tail[i][l] = tail[l * taps + i];
    for (int l = 0; l < b->rows.width && !back; l++) {
        for (int i = 0; i <= taps; i++) b->w[i][l] = row_f32(o->w, c + l)[i];
        b->bias[l] = o->bias ? ((const float *)o->bias->at)[c + l] : 0;
    }
}

/* At most 16 channels of one sequence. */
static void conv_block(const struct conv *o, int seq, int64_t c, int width) {
    const int first = o->rows->first[seq], n = o->rows->first[seq + 1] - first;
    const struct gate_args act = { .act = o->act };
    struct cpu_conv_block b = {
        .rows = { .x = row_f32(o->x, first) + c, .y = row_f32(o->y, first) + c,
                  .x_stride = o->x->stride[0], .y_stride = o->y->stride[0], .n = n,
                  .width = width },
        .taps = (int)o->w->shape[1] - 1 };
    float *tail = state_of(o->state, o->rows, seq, c * b.taps, (int64_t)width * b.taps);
    turn(&b, o, c, tail, false);
    o->kernels->recurrent->conv(&b);
    turn(&b, o, c, tail, true);
    for (int r = 0; r < n && o->act != ACT_NONE; r++) {
        float *y = b.rows.y + r * b.rows.y_stride;
        cpu_gate_values(o->kernels, y, y, NULL, width, &act);
    }
}

static int64_t blocks_of(int64_t columns) {
    return (columns + SCAN_LANES - 1) / SCAN_LANES;
}

static void conv_blocks(void *to, int64_t begin, int64_t end) {
    const struct conv *o = to;
    const int64_t channels = o->x->shape[1], blocks = blocks_of(channels);
    for (int64_t i = begin; i < end; i++) {
        const int64_t c = i % blocks * SCAN_LANES;
        conv_block(o, (int)(i / blocks), c, (int)MIN(SCAN_LANES, channels - c));
    }
}

void cpu_conv(struct device *dev, struct tensor *y, const struct tensor *w,
              const struct tensor *bias, const struct tensor *x, const struct rows *rows,
              const struct state_view *state, enum act act) {
    assert(w->shape[1] >= 2 && w->shape[1] <= SCAN_TAPS + 1 && y->at != x->at);
    struct conv o = { cpu_of(dev)->kernels, y, w, bias && bias->at ? bias : NULL, x, rows, state,
                      act };
    pool_run(cpu_of(dev)->pool, rows->n_seqs * blocks_of(x->shape[1]), BLOCKS_A_PIECE, conv_blocks,
             &o);
}

/* Rows that go by a block together: what their depth takes lies on the stack. */
static int chunk_rows(int64_t depth) {
    return (int)MIN(SCAN_ROWS, CHUNK_FLOATS / depth);
}

struct ssm { const struct cpu_kernels *kernels; struct tensor *y; const struct ssm_args *a; };

/* n rows of a head, from row r. */
static void ssm_rows(const struct ssm *o, float *h, int64_t head, int r, int n) {
    const struct ssm_args *a = o->a;
    const int64_t dim = a->x->shape[2], states = a->b->shape[2];
    const int64_t group = head / (a->x->shape[1] / a->b->shape[1]);
    float b[CHUNK_FLOATS], c[CHUNK_FLOATS], keep[SCAN_ROWS], dt[SCAN_ROWS];
    const float rate = -expf(a->a_log[head]);
    struct cpu_ssm_block block = { .states = (int)states, .b = b, .c = c, .keep = keep, .dt = dt,
                                   .d = a->d[head] };
    for (int i = 0; i < n; i++) {
        float step = softplus(row_f32(a->dt, r + i)[head] + a->dt_bias[head]);
        dt[i] = fminf(fmaxf(step, a->dt_min), a->dt_max);
        keep[i] = expf(dt[i] * rate);
        memcpy(b + i * states, head_f32(a->b, r + i, group), (size_t)states * sizeof *b);
        memcpy(c + i * states, head_f32(a->c, r + i, group), (size_t)states * sizeof *c);
    }
    for (int64_t at = 0; at < dim; at += SCAN_LANES) {
        block.h = h + at * states;
        block.rows = (struct cpu_scan_rows){
            .x = head_f32(a->x, r, head) + at, .y = head_f32(o->y, r, head) + at,
            .x_stride = a->x->stride[0], .y_stride = o->y->stride[0], .n = n,
            .width = (int)MIN(SCAN_LANES, dim - at) };
        o->kernels->recurrent->ssm(&block);
    }
}

static void ssm_heads(void *to, int64_t begin, int64_t end) {
    const struct ssm *o = to;
    const struct rows *rows = o->a->rows;
    const int64_t heads = o->a->x->shape[1], size = o->a->x->shape[2] * o->a->b->shape[2];
    for (int64_t i = begin; i < end; i++) {
        const int seq = (int)(i / heads), last = rows->first[seq + 1];
        const int chunk = chunk_rows(o->a->b->shape[2]);
        float *h = state_of(&o->a->state, rows, seq, i % heads * size, size);
        for (int r = rows->first[seq]; r < last; r += chunk)
            ssm_rows(o, h, i % heads, r, MIN(chunk, last - r));
    }
}

void cpu_ssm(struct device *dev, struct tensor *y, const struct ssm_args *a) {
    struct ssm o = { cpu_of(dev)->kernels, y, a };
    assert(a->b->shape[2] <= CHUNK_FLOATS);
    pool_run(cpu_of(dev)->pool, a->rows->n_seqs * a->x->shape[1], 1, ssm_heads, &o);
}

struct delta { const struct cpu_kernels *kernels; struct tensor *y; const struct delta_args *a; };

/* x / sqrt(sum of squares + 1e-6) * scale */
static void unit(float *to, const float *x, int64_t n, float scale) {
    float f = (float)(1.0 / sqrt(cpu_squares(x, 0, n) + 1e-6)) * scale;
    for (int64_t i = 0; i < n; i++) to[i] = x[i] * f;
}

/* n rows of a head, from row r. */
static void delta_rows(const struct delta *o, float *s, int64_t head, int r, int n) {
    const struct delta_args *a = o->a;
    const int64_t k_dim = a->k->shape[2], v_dim = a->v->shape[2];
    const int64_t k_head = head / (a->v->shape[1] / a->k->shape[1]);
    float q[CHUNK_FLOATS], k[CHUNK_FLOATS], decay[SCAN_ROWS], beta[SCAN_ROWS];
    const float rate = expf(a->a_log[head]);
    struct cpu_delta_block block = { .k_dim = (int)k_dim, .q = q, .k = k, .decay = decay,
                                     .beta = beta };
    for (int i = 0; i < n; i++) {
        unit(q + i * k_dim, head_f32(a->q, r + i, k_head), k_dim, 1.0f / sqrtf((float)k_dim));
        unit(k + i * k_dim, head_f32(a->k, r + i, k_head), k_dim, 1.0f);
        decay[i] = expf(-rate * softplus(row_f32(a->a, r + i)[head] + a->dt_bias[head]));
        beta[i] = sigmoid(row_f32(a->b, r + i)[head]);
    }
    for (int64_t at = 0; at < v_dim; at += SCAN_LANES) {
        block.s = s + at * k_dim;
        block.rows = (struct cpu_scan_rows){
            .x = head_f32(a->v, r, head) + at, .y = head_f32(o->y, r, head) + at,
            .x_stride = a->v->stride[0], .y_stride = o->y->stride[0], .n = n,
            .width = (int)MIN(SCAN_LANES, v_dim - at) };
        o->kernels->recurrent->delta(&block);
    }
}

static void delta_heads(void *to, int64_t begin, int64_t end) {
    const struct delta *o = to;
    const struct rows *rows = o->a->rows;
    const int64_t heads = o->a->v->shape[1], size = o->a->k->shape[2] * o->a->v->shape[2];
    for (int64_t i = begin; i < end; i++) {
        const int seq = (int)(i / heads), last = rows->first[seq + 1];
        const int chunk = chunk_rows(o->a->k->shape[2]);
        float *s = state_of(&o->a->state, rows, seq, i % heads * size, size);
        for (int r = rows->first[seq]; r < last; r += chunk)
            delta_rows(o, s, i % heads, r, MIN(chunk, last - r));
    }
}

void cpu_delta(struct device *dev, struct tensor *y, const struct delta_args *a) {
    assert(a->k->shape[2] <= CHUNK_FLOATS);
    struct delta o = { cpu_of(dev)->kernels, y, a };
    pool_run(cpu_of(dev)->pool, a->rows->n_seqs * a->v->shape[1], 1, delta_heads, &o);
}

/* experts.c - choosing experts for each row, and running rows through the experts they
 * chose, an expert's rows together. */
#include "device/cpu/cpu.h"

#include <assert.h>

enum { EXPERTS_MAX = 4096 };

struct route {
    const struct tensor *ids, *share, *logits;
    const struct route_args *a;
};

static void softmax(float *x, int n) {
    float max = x[0];
    double sum = 0;
    for (int i = 1; i < n; i++) max = fmaxf(max, x[i]);
    for (int i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        sum += (double)x[i];
    }
    for (int i = 0; i < n; i++) x[i] = (float)((double)x[i] / sum);
}

/* The index of the largest, the lowest among equals. */
static int largest(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* A group counts by the sum of its best one or two; experts of the others are out. */
static void drop_groups(float *choice, const struct route_args *a) {
    int size = a->experts / a->groups;
    float score[EXPERTS_MAX];
    bool kept[EXPERTS_MAX] = { false };
    for (int g = 0; g < a->groups; g++) {
        const float *x = choice + g * size;
        int first = largest(x, size);
        score[g] = x[first];
        float second = -INFINITY;
        for (int i = 0; i < size; i++)
            if (i != first) second = fmaxf(second, x[i]);
        if (a->group_top > 1 && size > 1) score[g] += second;
    }
    for (int n = 0; n < a->groups_active; n++) {
        int best = largest(score, a->groups);
        kept[best] = true;
        score[best] = -INFINITY;
    }
    for (int g = 0; g < a->groups; g++)
        for (int i = 0; i < size && !kept[g]; i++) choice[g * size + i] = -INFINITY;
}

static void route_row(const struct route *o, int64_t r) {
    const struct route_args *a = o->a;
    const float *logits = row_f32(o->logits, r);
    int32_t *ids = (int32_t *)o->ids->at + r * o->ids->stride[0];
    float *share = row_f32(o->share, r), score[EXPERTS_MAX], choice[EXPERTS_MAX];
    memcpy(score, logits, (size_t)a->experts * sizeof *score);
    if (a->score == SCORE_SOFTMAX) softmax(score, a->experts);
    if (a->score == SCORE_SIGMOID)
        for (int e = 0; e < a->experts; e++) score[e] = sigmoid(score[e]);
    for (int e = 0; e < a->experts; e++) choice[e] = score[e] + (a->bias ? a->bias[e] : 0);
    if (a->groups > 1) drop_groups(choice, a);

    double sum = 0;
    for (int k = 0; k < a->active; k++) {
        int best = largest(choice, a->experts);
        choice[best] = -INFINITY;
        ids[k] = best;
        share[k] = score[best];
        sum += (double)share[k];
    }
    if (a->score == SCORE_SOFTMAX_OF_TOP) softmax(share, a->active);
    for (int k = 0; k < a->active; k++) {
        if (a->renormalize)
            share[k] = (float)((double)share[k] / (sum + (double)a->renormalize_eps));
        share[k] *= a->scale;
    }
}

static void route_rows(void *to, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) route_row(to, r);
}

void cpu_route(struct device *dev, struct tensor *ids, struct tensor *share,
               const struct tensor *logits, const struct route_args *a) {
    assert(a->experts <= EXPERTS_MAX);
    struct route o = { ids, share, logits, a };
    pool_run(cpu_of(dev)->pool, logits->shape[0], 16, route_rows, &o);
}

/* Pairs (row, choice) sorted by expert. Those of expert e are [first[e], first[e + 1]). */
struct order { int *first, *pair, *row; };

static struct order sort_pairs(const struct expert_args *a, int64_t rows, int64_t active) {
    struct order s = { a->order, a->order + a->experts + 1, NULL };
    const int32_t *ids = a->ids->at;
    int64_t pairs = rows * active;
    s.row = s.pair + pairs;
    memset(s.first, 0, (size_t)(a->experts + 1) * sizeof *s.first);
    for (int64_t i = 0; i < pairs; i++) s.first[ids[i] + 1]++;
    for (int e = 0; e < a->experts; e++) s.first[e + 1] += s.first[e];
    for (int64_t i = 0; i < pairs; i++) {
        int at = s.first[ids[i]]++;
        s.pair[at] = (int)i;
        s.row[at] = (int)(i / active);
    }
    for (int e = a->experts; e > 0; e--) s.first[e] = s.first[e - 1];
    s.first[0] = 0;
    return s;
}

static void run_linear(struct cpu *cpu, const struct linear *w, const struct cpu_rows *rows,
                       int64_t begin, int64_t end) {
    cpu_linear_rows(cpu->pool, cpu->kernels, cpu_scratch(cpu), w, rows, begin, end);
}

/* hidden row of a pair: gate (and act(gate) up), up, output. */
static void run_expert(struct cpu *cpu, const struct expert_args *a, const struct order *s, int e,
                       const struct tensor *x, int64_t hidden, int64_t width) {
    int begin = s->first[e], n = s->first[e + 1] - begin;
    struct cpu_rows in = {
        .x = x->at, .x_stride = x->stride[0], .x_row = s->row + begin, .y = a->hidden,
        .y_stride = width, .y_row = s->pair + begin, .n = n };
    struct cpu_rows out = {
        .x = a->hidden, .x_stride = width, .x_row = s->pair + begin, .y = a->hidden + 2 * hidden,
        .y_stride = width, .y_row = s->pair + begin, .n = n };
    if (!n) return;
    if (a->gate) run_linear(cpu, &a->gate[e], &in, 0, hidden);
    in.y = a->gate ? a->hidden + hidden : a->hidden;
    run_linear(cpu, &a->up[e], &in, 0, hidden);
    for (int i = begin; i < begin + n; i++) {
        float *h = a->hidden + s->pair[i] * width;
        cpu_gate_values(cpu->kernels, h, h, a->gate ? h + hidden : NULL, hidden, &a->act);
    }
    run_linear(cpu, &a->down[e], &out, 0, width - 2 * hidden);
}

void cpu_experts(struct device *dev, struct tensor *y, const struct tensor *x,
                 const struct expert_args *a) {
    int64_t rows = x->shape[0], active = a->ids->shape[1], dim = y->shape[1];
    int64_t hidden = a->up[0].w.shape[0], width = 2 * hidden + dim;
    struct order s = sort_pairs(a, rows, active);
    for (int e = 0; e < a->experts; e++) run_expert(cpu_of(dev), a, &s, e, x, hidden, width);
    for (int64_t r = 0; r < rows; r++) {
        float *out = row_f32(y, r);
        for (int64_t k = 0; k < active; k++) {
            const float *in = a->hidden + (r * active + k) * width + 2 * hidden;
            float share = row_f32(a->share, r)[k];
            for (int64_t i = 0; i < dim; i++) out[i] = (k ? out[i] : 0) + share * in[i];
        }
    }
}

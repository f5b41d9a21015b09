/* experts.c - choosing experts for each row, and running rows through the experts they
 * chose, an expert's rows together, all experts at once. */
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

/* All experts' products, in two runs of the pool: gates and ups, and then downs. */
struct experts {
    struct cpu *cpu;
    const struct expert_args *a;
    const struct tensor *x, *y;
    const struct order *order;
    int64_t hidden, width;           /* of what a pair has in a->hidden: gate, up, output */
    int64_t outs;                    /* of the matrices of this run */
    int first[EXPERTS_MAX + 1];      /* slices of the experts before each */
};

/* An expert's matrices are cut into slices, more where it has more of the rows, so that threads
 * have equal shares; but not into small ones, for each rounds its rows anew. Where they are cut
 * changes no result. */
static void cut(struct experts *o, int64_t outs) {
    enum { SLICES = 4, SMALLEST = 64 };
    const struct order *s = o->order;
    const int64_t pairs = s->first[o->a->experts];
    const int64_t wanted = SLICES * pool_threads(o->cpu->pool), most = MAX(1, outs / SMALLEST);
    o->outs = outs;
    o->first[0] = 0;
    for (int e = 0; e < o->a->experts; e++) {
        const int64_t n = s->first[e + 1] - s->first[e];
        const int64_t slices = n ? MIN(most, (wanted * n + pairs - 1) / pairs) : 0;
        o->first[e + 1] = o->first[e] + (int)slices;
    }
}

/* The expert and the part of its outputs that a slice is; whole panels but for the last one. */
static int slice_at(const struct experts *o, int64_t slice, int64_t *begin, int64_t *end) {
    int low = 0, high = o->a->experts;           /* first[low] <= slice < first[high] */
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        *(o->first[middle] <= slice ? &low : &high) = middle;
    }
    const int64_t i = slice - o->first[low], n = o->first[low + 1] - o->first[low];
    *begin = o->outs * i / n / QUANT_PANEL * QUANT_PANEL;
    *end = i + 1 == n ? o->outs : o->outs * (i + 1) / n / QUANT_PANEL * QUANT_PANEL;
    return low;
}

static void run_linear(const struct experts *o, const struct linear *w,
                       const struct cpu_rows *rows, int64_t begin, int64_t end) {
    const struct cpu_scratch own = cpu_own_scratch(o->cpu);
    cpu_linear_rows(NULL, o->cpu->kernels, &own, w, rows, begin, end);
}

static void run_hidden(void *to, int64_t slice, int64_t last) {
    const struct experts *o = to;
    const struct expert_args *a = o->a;
    for (; slice < last; slice++) {
        int64_t begin, end;
        const int e = slice_at(o, slice, &begin, &end), first = o->order->first[e];
        struct cpu_rows in = {
            .x = o->x->at, .x_stride = o->x->stride[0], .x_row = o->order->row + first,
            .y = a->hidden, .y_stride = o->width, .y_row = o->order->pair + first,
            .n = o->order->first[e + 1] - first };
        if (a->gate) run_linear(o, &a->gate[e], &in, begin, end);
        in.y = a->gate ? a->hidden + o->hidden : a->hidden;
        run_linear(o, &a->up[e], &in, begin, end);
        for (int i = first; i < first + in.n; i++) {
            float *h = a->hidden + o->order->pair[i] * o->width + begin;
            cpu_gate_values(o->cpu->kernels, h, h, a->gate ? h + o->hidden : NULL, end - begin,
                            &a->act);
        }
    }
}

static void run_down(void *to, int64_t slice, int64_t last) {
    const struct experts *o = to;
    for (; slice < last; slice++) {
        int64_t begin, end;
        const int e = slice_at(o, slice, &begin, &end), first = o->order->first[e];
        const struct cpu_rows out = {
            .x = o->a->hidden, .x_stride = o->width, .x_row = o->order->pair + first,
            .y = o->a->hidden + 2 * o->hidden, .y_stride = o->width,
            .y_row = o->order->pair + first, .n = o->order->first[e + 1] - first };
        run_linear(o, &o->a->down[e], &out, begin, end);
    }
}

/* A row takes its experts in the order in which it chose them. */
static void add_outputs(void *to, int64_t begin, int64_t end) {
    const struct experts *o = to;
    const int64_t active = o->a->ids->shape[1], dim = o->y->shape[1];
    for (int64_t r = begin; r < end; r++) {
        float *out = row_f32(o->y, r);
        for (int64_t k = 0; k < active; k++) {
            const float *in = o->a->hidden + (r * active + k) * o->width + 2 * o->hidden;
            float share = row_f32(o->a->share, r)[k];
            for (int64_t i = 0; i < dim; i++) out[i] = (k ? out[i] : 0) + share * in[i];
        }
    }
}

void cpu_experts(struct device *dev, struct tensor *y, const struct tensor *x,
                 const struct expert_args *a) {
    struct pool *pool = cpu_of(dev)->pool;
    const int64_t rows = x->shape[0], dim = y->shape[1], hidden = a->up[0].w.shape[0];
    const struct order s = sort_pairs(a, rows, a->ids->shape[1]);
    struct experts o = { .cpu = cpu_of(dev), .a = a, .x = x, .y = y, .order = &s,
                         .hidden = hidden, .width = 2 * hidden + dim };
    assert(a->experts <= EXPERTS_MAX);
    cut(&o, hidden);
    pool_run(pool, o.first[a->experts], 1, run_hidden, &o);
    cut(&o, dim);
    pool_run(pool, o.first[a->experts], 1, run_down, &o);
    pool_run(pool, rows, 4, add_outputs, &o);
}

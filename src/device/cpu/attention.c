/* attention.c - scaled dot-product attention over cached pages, softmax online.
 *
 * Keys of a row are taken in steps of whole pages, and steps in splits, whose borders are
 * multiples of fixed numbers of positions; splits are merged in order. So the sums of a row
 * depend on its position and window alone: not on the batch, not on how the prompt was cut,
 * not on whether its splits were shared among threads.
 *
 * A piece of work is a block of queries, those of neighbouring rows that read one kv head:
 * what a page holds is loaded once for all of them. Nothing is as long as the context. */
#include "device/cpu/attention.h"

#include <assert.h>

/* What a block holds lies on a thread's stack: about 130 KiB. */
enum { BLOCK_MAX = 48, Q_FLOATS = 14 << 10, Y_FLOATS = 12 << 10, SPLIT_STEPS = 4 };

struct attention {
    const struct cpu_attention_kernels *kernels;
    const struct cpu_attention_rounded *rounded;         /* NULL: not used */
    const struct attend *a;
    struct tensor *y;
    const struct tensor *q;
    int block;                       /* most queries of a piece */
    int step, split;                 /* pages of each */
    int splits;                      /* most that a row has; 0: each piece does its own */
    float *partial;                  /* [pieces, splits, block, v_dim + 2] */
};

struct query { int64_t row; int head, low, pos; };

/* A block: n queries of one sequence and kv head, in ascending position. */
struct block {
    int seq, kv_head, n, low, pos;   /* positions [low, pos] are seen by any of them */
    struct query query[BLOCK_MAX];
    float q[Q_FLOATS];               /* [n, k_dim]: heads lie a power of two apart where they come
                                      * from, and would drive each other out of the cache */
};

/* What a block holds while it goes through a split. */
struct work {
    struct cpu_running running[BLOCK_MAX];
    float score[BLOCK_MAX * SCORE_ROW], y[Y_FLOATS];
};

static int first_visible(const struct attend *a, int pos) {
    int low = 0;
    if (a->window && pos + 1 > a->window) low = pos + 1 - a->window;
    if (a->chunk) low = MAX(low, pos / a->chunk * a->chunk);
    return low;
}

static int group_of(const struct attend *a) {
    return a->heads / a->kv_heads;
}

static int blocks_of(const struct attention *o, int seq) {
    int queries = (o->a->rows->first[seq + 1] - o->a->rows->first[seq]) * group_of(o->a);
    return (queries + o->block - 1) / o->block;
}

/* The i-th piece: sequences outermost, kv heads innermost. */
static void find_block(const struct attention *o, int64_t i, struct block *b) {
    const struct attend *a = o->a;
    const int group = group_of(a);
    int at = (int)(i / a->kv_heads), rows;
    b->kv_head = (int)(i % a->kv_heads);
    /* A caller may hold a few rows of a batch: the sequence is what the row says. */
    for (b->seq = 0; at >= blocks_of(o, b->seq); b->seq++) at -= blocks_of(o, b->seq);
    rows = a->rows->first[b->seq + 1] - a->rows->first[b->seq];
    b->n = MIN(o->block, rows * group - at * o->block);
    for (int j = 0; j < b->n; j++) {
        const int n = at * o->block + j, in_group = n % group;
        struct query *q = &b->query[j];
        q->row = a->rows->first[b->seq] + n / group;
        q->head = a->tiled ? in_group * a->kv_heads + b->kv_head : b->kv_head * group + in_group;
        q->pos = a->rows->pos[q->row];
        q->low = first_visible(a, q->pos);
        memcpy(b->q + j * a->k_dim, head_f32(o->q, q->row, q->head),
               (size_t)a->k_dim * sizeof *b->q);
    }
    if (o->rounded) o->rounded->round(b->q, b->n, a->k_dim);
    b->low = b->query[0].low;
    b->pos = b->query[b->n - 1].pos;
    b->seq = a->rows->seq[b->query[0].row];
}

static struct cpu_kv keys_of(const struct attend *a, char *page, int kv_head) {
    const enum dtype dtype = a->kv.dtype;
    const size_t row = (size_t)(a->v_in_k ? a->k_dim : a->kv.page_tokens) * dtype_bytes(dtype);
    return (struct cpu_kv){ page + (size_t)(kv_head * a->k_dim) * row, row, dtype,
                            dtype_scaled(dtype) ? page_scales(a, page, kv_head, 0) : NULL, NULL };
}

static struct cpu_kv values_of(const struct attend *a, char *page, int kv_head, int from) {
    const struct page_layout l = page_layout(a);
    const size_t row = (size_t)(a->v_in_k ? a->k_dim : a->v_dim) * l.bytes;
    const char *at = page + (a->v_in_k ? 0 : l.v_at);
    return (struct cpu_kv){ at + (size_t)(kv_head * a->kv.page_tokens + from) * row, row,
                            a->kv.dtype,
                            dtype_scaled(a->kv.dtype) ? page_scales(a, page, kv_head, 1) + from
                                                      : NULL, NULL };
}

/* The values of all pages of a step at once. */
static void weigh_pages(const struct attention *o, const struct block *b, struct work *w, int base,
                        int first, int end) {
    const struct attend *a = o->a;
    const int tokens = a->kv.page_tokens, n = MIN(b->pos + 1, end * tokens) - first * tokens;
    struct cpu_kv v[STEP_TOKENS / ROUNDED_TOKENS];
    for (int i = first; i < end; i++) {
        v[i - first] = values_of(a, page_at(a, b->seq, i), b->kv_head, 0);
        if (i + o->step <= b->pos / tokens)
            v[i - first].soon = keys_of(a, page_at(a, b->seq, i + o->step), b->kv_head).at;
    }
    o->rounded->weigh(w->y, w->score + first * tokens - base, b->n, v, n, a->v_dim);
}

/* Pages [first, end) of one step; `base` is the first position of the step. */
static void run_step(const struct attention *o, const struct block *b, struct work *w, int base,
                     int first, int end) {
    const struct attend *a = o->a;
    const struct cpu_softmax how = { a->scale, a->softcap };
    const int tokens = a->kv.page_tokens, width = end * tokens - base;
    for (int i = first; i < end; i++) {
        struct cpu_kv k = keys_of(a, page_at(a, b->seq, i), b->kv_head);
        float *score = w->score + i * tokens - base;
        k.soon = values_of(a, page_at(a, b->seq, i), b->kv_head, 0).at;
        if (o->rounded)
            o->rounded->scores(score, b->q, b->n, &k, a->k_dim);
        else if (a->v_in_k)
            o->kernels->latent_scores(score, b->q, b->n, &k, tokens, a->k_dim);
        else
            o->kernels->scores(score, b->q, b->n, &k, tokens, a->k_dim);
    }
    for (int j = 0; j < b->n; j++) {
        const struct query *q = &b->query[j];
        const int begin = MAX(q->low - base, 0), stop = MIN(q->pos + 1 - base, width);
        float *y = w->y + (size_t)j * (size_t)a->v_dim;
        float shrink = o->kernels->soften(w->score + j * SCORE_ROW, begin, stop, width, &how,
                                          &w->running[j]);
        for (int c = 0; shrink != 1 && c < a->v_dim; c++) y[c] *= shrink;
    }
    if (o->rounded) {
        weigh_pages(o, b, w, base, first, end);
        return;
    }
    for (int i = first; i < end; i++) {
        const int from = MAX(b->low - i * tokens, 0), to = MIN(b->pos + 1 - i * tokens, tokens);
        struct cpu_kv v = values_of(a, page_at(a, b->seq, i), b->kv_head, from);
        if (i + o->step <= b->pos / tokens)
            v.soon = keys_of(a, page_at(a, b->seq, i + o->step), b->kv_head).at;
        o->kernels->weigh(w->y, w->score + i * tokens - base + from, b->n, &v, to - from,
                          a->v_dim);
    }
}

/* False: no query sees anything of it. */
static bool run_split(const struct attention *o, const struct block *b, struct work *w,
                      int split) {
    const int tokens = o->a->kv.page_tokens;
    const int begin = MAX(b->low / tokens, split * o->split);
    const int end = MIN(b->pos / tokens + 1, (split + 1) * o->split);
    if (begin >= end) return false;
    for (int j = 0; j < b->n; j++) w->running[j] = (struct cpu_running){ -INFINITY, 0 };
    memset(w->y, 0, (size_t)b->n * (size_t)o->a->v_dim * sizeof *w->y);
    for (int step = begin / o->step; step * o->step < end; step++)
        run_step(o, b, w, step * o->step * tokens, MAX(begin, step * o->step),
                 MIN(end, (step + 1) * o->step));
    return true;
}

/* total += part */
static void merge(struct cpu_running *total, float *y, const struct cpu_running *part,
                  const float *part_y, int n) {
    if (part->max == -INFINITY) return;
    const float max = fmaxf(total->max, part->max);
    const float old = total->max == max ? 1 : expf(total->max - max);
    const float new = part->max == max ? 1 : expf(part->max - max);
    for (int c = 0; c < n; c++) y[c] = y[c] * old + part_y[c] * new;
    *total = (struct cpu_running){ max, total->sum * old + part->sum * new };
}

/* The output of a query gathers its splits. */
static float *begin_query(const struct attention *o, const struct query *q,
                          struct cpu_running *total) {
    const float *sinks = o->a->sinks;
    float *y = head_f32(o->y, q->row, q->head);
    *total = (struct cpu_running){ sinks ? sinks[q->head] : -INFINITY, sinks ? 1.0f : 0.0f };
    memset(y, 0, (size_t)o->a->v_dim * sizeof *y);
    return y;
}

static void end_query(const struct attention *o, float *y, const struct cpu_running *total) {
    for (int c = 0; c < o->a->v_dim; c++) y[c] /= total->sum;
}

static void run_whole(void *to, int64_t begin, int64_t end) {
    const struct attention *o = to;
    struct block b;
    struct work w;
    struct cpu_running total[BLOCK_MAX];
    float *y[BLOCK_MAX];
    for (int64_t i = begin; i < end; i++) {
        find_block(o, i, &b);
        for (int j = 0; j < b.n; j++) y[j] = begin_query(o, &b.query[j], &total[j]);
        const int last = b.pos / o->a->kv.page_tokens / o->split;
        for (int s = b.low / o->a->kv.page_tokens / o->split; s <= last; s++)
            for (int j = 0, any = run_split(o, &b, &w, s); any && j < b.n; j++)
                merge(&total[j], y[j], &w.running[j], w.y + j * o->a->v_dim, o->a->v_dim);
        for (int j = 0; j < b.n; j++) end_query(o, y[j], &total[j]);
    }
}

static size_t partial_floats(const struct attention *o) {
    return (size_t)o->a->v_dim + 2;
}

/* Of a split of a block: its queries' maximum, sum and values. */
static float *partial_at(const struct attention *o, int64_t piece, int split) {
    return o->partial + (size_t)(piece * o->splits + split) * (size_t)o->block * partial_floats(o);
}

static void run_parts(void *to, int64_t begin, int64_t end) {
    const struct attention *o = to;
    struct block b;
    struct work w;
    for (int64_t i = begin; i < end; i++) {
        find_block(o, i / o->splits, &b);
        float *p = partial_at(o, i / o->splits, (int)(i % o->splits));
        bool any = run_split(o, &b, &w, (int)(i % o->splits));
        for (int j = 0; j < b.n; j++, p += partial_floats(o)) {
            p[0] = any ? w.running[j].max : -INFINITY;
            p[1] = w.running[j].sum;
            if (any)
                memcpy(p + 2, w.y + j * o->a->v_dim, (size_t)o->a->v_dim * sizeof *p);
        }
    }
}

static void merge_parts(void *to, int64_t begin, int64_t end) {
    const struct attention *o = to;
    struct block b;
    for (int64_t i = begin; i < end; i++) {
        find_block(o, i, &b);
        for (int j = 0; j < b.n; j++) {
            struct cpu_running total;
            float *y = begin_query(o, &b.query[j], &total);
            for (int s = 0; s < o->splits; s++) {
                const float *p = partial_at(o, i, s) + (size_t)j * partial_floats(o);
                merge(&total, y, &(struct cpu_running){ p[0], p[1] }, p + 2, o->a->v_dim);
            }
            end_query(o, y, &total);
        }
    }
}

/* Splits are shared when there are too few blocks for the threads, and room for the parts. */
static int64_t plan(struct attention *o, const struct cpu *cpu) {
    const struct rows *rows = o->a->rows;
    const int tokens = o->a->kv.page_tokens;
    int64_t pieces = 0;
    int last = 0;
    o->step = STEP_TOKENS / tokens;
    o->split = SPLIT_STEPS * o->step;
    o->block = MIN(BLOCK_MAX, MIN(Q_FLOATS / o->a->k_dim, Y_FLOATS / o->a->v_dim));
    for (int s = 0; s < rows->n_seqs; s++) {
        pieces += (int64_t)blocks_of(o, s) * o->a->kv_heads;
        if (rows->first[s + 1] == rows->n_rows) break;
    }
    for (int r = 0; r < rows->n_rows; r++) last = MAX(last, rows->pos[r]);
    o->splits = last / tokens / o->split + 1;
    o->block = MIN(o->block, rows->n_rows * group_of(o->a));
    size_t bytes = (size_t)(pieces * o->splits) * (size_t)o->block * partial_floats(o) * 4;
    bool share = o->splits > 1 && pieces < 4 * (int64_t)pool_threads(cpu->pool) &&
                 bytes <= cpu->partial.bytes;
    if (!share) o->splits = 0;
    o->partial = cpu->partial.at;
    return pieces;
}

void cpu_attention(struct device *dev, struct tensor *y, const struct tensor *q,
                   const struct attend *a) {
    const struct cpu *cpu = cpu_of(dev);
    struct attention o = { .kernels = cpu->kernels->attention, .a = a, .y = y, .q = q };
    if (attention_rounds(cpu, a)) o.rounded = cpu->kernels->attention_rounded;
    assert(a->kv.page_tokens <= STEP_TOKENS && a->k_dim <= Q_FLOATS &&
           a->v_dim <= Y_FLOATS);
    assert(!a->v_in_k || (a->kv_heads == 1 && !dtype_scaled(a->kv.dtype)));
    const int64_t pieces = plan(&o, cpu);
    if (!o.splits) {
        pool_run(cpu->pool, pieces, 1, run_whole, &o);
        return;
    }
    pool_run(cpu->pool, pieces * o.splits, 1, run_parts, &o);
    pool_run(cpu->pool, pieces, 1, merge_parts, &o);
}

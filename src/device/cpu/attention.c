/* attention.c - scaled dot-product attention over cached pages, softmax online.
 *
 * Keys are taken a page at a time, in position order, so the sums of a row depend
 * on its position and window alone: not on the batch, not on how the prompt was
 * cut. Scores of a page are kept on the stack; nothing is as long as the context. */
#include "device/cpu/cpu.h"

#include <assert.h>

enum { PAGE_TOKENS_MAX = 64, V_DIM_MAX = 1024 };

struct attention {
    const struct cpu_attention_kernels *kernels;
    const struct attend *a;
    struct tensor *y;
    const struct tensor *q;
};

static size_t value_bytes(const struct kv_view *kv) {
    return kv->dtype == BF16 ? 2 : 4;
}

static char *page_at(const struct kv_view *kv, int seq, int page) {
    int number = kv->table[(int64_t)seq * kv->pages_max + page];
    assert(number >= 0);
    return (char *)kv->pages + (size_t)number * kv->page_bytes;
}

/* The running softmax of one row and head. */
struct running { float max, sum; float *y; };

/* Takes n scores and their values in; rescales what is there when the maximum grows. The
 * scores become weights. */
static void absorb(struct running *s, const struct cpu_attention_kernels *k, float *score, int n,
                   const struct cpu_kv *v, int v_dim) {
    float max = s->max;
    for (int i = 0; i < n; i++) max = fmaxf(max, score[i]);
    if (max > s->max) {
        float shrink = expf(s->max - max);
        s->sum *= shrink;
        for (int i = 0; i < v_dim; i++) s->y[i] *= shrink;
        s->max = max;
    }
    for (int i = 0; i < n; i++) {
        score[i] = expf(score[i] - max);
        s->sum += score[i];
    }
    k->weigh(s->y, score, v, n, v_dim);
}

static int first_visible(const struct attend *a, int pos) {
    int low = 0;
    if (a->window && pos + 1 > a->window) low = pos + 1 - a->window;
    if (a->chunk) low = MAX(low, pos / a->chunk * a->chunk);
    return low;
}

static void attend_one(const struct attention *o, int64_t row, int head) {
    const struct attend *a = o->a;
    const struct kv_view *kv = &a->kv;
    int pos = a->rows->pos[row], seq = a->rows->seq[row], low = first_visible(a, pos);
    int tokens = kv->page_tokens, v_width = a->v_in_k ? a->k_dim : a->v_dim;
    int kv_head = a->tiled ? head % a->kv_heads : head / (a->heads / a->kv_heads);
    size_t bytes = value_bytes(kv), k_row = (size_t)(a->kv_heads * a->k_dim) * bytes;
    size_t v_row = (size_t)(a->kv_heads * v_width) * bytes;
    const float *q = head_f32(o->q, row, head);
    float score[PAGE_TOKENS_MAX], y[V_DIM_MAX] = { 0 };
    struct running s = { a->sinks ? a->sinks[head] : -INFINITY, a->sinks ? 1.0f : 0.0f, y };

    for (int page = low / tokens; page <= pos / tokens; page++) {
        int begin = MAX(low - page * tokens, 0), end = MIN(pos + 1 - page * tokens, tokens);
        const char *base = page_at(kv, seq, page);
        const char *v = base + (a->v_in_k ? 0 : (size_t)tokens * k_row);
        base += (size_t)begin * k_row + (size_t)(kv_head * a->k_dim) * bytes;
        v += (size_t)begin * v_row + (size_t)(kv_head * v_width) * bytes;
        struct cpu_kv keys = { base, k_row, kv->dtype }, values = { v, v_row, kv->dtype };
        o->kernels->scores(score, q, &keys, end - begin, a->k_dim);
        for (int i = 0; i < end - begin; i++) {
            float x = score[i] * a->scale;
            score[i] = a->softcap != 0 ? a->softcap * tanhf(x / a->softcap) : x;
        }
        absorb(&s, o->kernels, score, end - begin, &values, a->v_dim);
    }
    float *out = head_f32(o->y, row, head);
    for (int i = 0; i < a->v_dim; i++) out[i] = y[i] / s.sum;
}

static void attend_some(void *to, int64_t begin, int64_t end) {
    const struct attention *o = to;
    for (int64_t i = begin; i < end; i++)
        attend_one(o, i / o->a->heads, (int)(i % o->a->heads));
}

void cpu_attention(struct device *dev, struct tensor *y, const struct tensor *q,
                   const struct attend *a) {
    assert(a->v_dim <= V_DIM_MAX && a->kv.page_tokens <= PAGE_TOKENS_MAX);
    struct attention o = { cpu_of(dev)->kernels->attention, a, y, q };
    pool_run(cpu_of(dev)->pool, (int64_t)a->rows->n_rows * a->heads, 4, attend_some, &o);
}

struct store { const struct attend *a; const struct tensor *k, *v; };

static void store_row(char *to, const struct tensor *x, int64_t row, enum dtype dtype) {
    for (int64_t h = 0; h < x->shape[1]; h++) {
        const float *from = head_f32(x, row, h);
        float *f = (float *)(void *)to + h * x->shape[2];
        uint16_t *b = (uint16_t *)(void *)to + h * x->shape[2];
        if (dtype == BF16)
            for (int64_t i = 0; i < x->shape[2]; i++) b[i] = f32_to_bf16(from[i]);
        else
            memcpy(f, from, (size_t)x->shape[2] * sizeof(float));
    }
}

static void store_rows(void *to, int64_t begin, int64_t end) {
    const struct store *o = to;
    const struct attend *a = o->a;
    const struct kv_view *kv = &a->kv;
    size_t bytes = value_bytes(kv), k_row = (size_t)(a->kv_heads * a->k_dim) * bytes;
    size_t v_row = (size_t)(a->kv_heads * a->v_dim) * bytes;
    for (int64_t r = begin; r < end; r++) {
        int pos = a->rows->pos[r];
        char *page = page_at(kv, a->rows->seq[r], pos / kv->page_tokens);
        size_t at = (size_t)(pos % kv->page_tokens);
        store_row(page + at * k_row, o->k, r, kv->dtype);
        if (!a->v_in_k)
            store_row(page + (size_t)kv->page_tokens * k_row + at * v_row, o->v, r, kv->dtype);
    }
}

void cpu_kv_store(struct device *dev, const struct attend *a, const struct tensor *k,
                  const struct tensor *v) {
    struct store o = { a, k, v };
    pool_run(cpu_of(dev)->pool, a->rows->n_rows, 16, store_rows, &o);
}

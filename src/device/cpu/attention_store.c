/* attention_store.c - keys and values of a batch into the pages of their sequences, as
 * attention.h lays them out. */
#include "device/cpu/attention.h"
#include "device/small_float.h"

struct store { const struct attend *a; const struct tensor *k, *v; bool pairs; };

/* n values to every `step`-th place from `to`, as bytes. Returns their scale. */
static float store_bytes(char *to, size_t step, const float *x, int n, enum dtype dtype) {
    const float top = dtype == I8 ? 127 : 448;
    float most = 0;
    for (int i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    /* Numbers too large for F32 divided by a scale too small for it: neither may become INT_MIN. */
    const float scale = most / top, inverse = most > 1e-30f && most < 1e30f ? top / most : 0;
    for (int i = 0; i < n; i++)
        to[(size_t)i * step] = dtype == I8 ? (char)lrintf(x[i] * inverse)
                                           : (char)e4m3_of(x[i] * inverse);
    return scale;
}

/* n values to every `step`-th place from `to`. Returns the scale of bytes. */
static float store_values(char *to, size_t step, const float *x, int n, enum dtype dtype) {
    if (dtype_scaled(dtype)) return store_bytes(to, step, x, n, dtype);
    if (dtype == F32)
        for (int i = 0; i < n; i++) ((float *)(void *)to)[(size_t)i * step] = x[i];
    if (dtype == BF16)
        for (int i = 0; i < n; i++) ((uint16_t *)(void *)to)[(size_t)i * step] = f32_to_bf16(x[i]);
    return 0;
}

/* Into a page of pairs, at its token `at`. scale: of bytes, of the key and of the value. */
static void store_pairs(const struct attend *a, char *page, int h, int at, const float *k,
                        const float *v, float *scale) {
    const struct page_layout l = page_layout(a);
    const size_t bytes = l.bytes, pair = 2 * (size_t)a->kv.page_tokens * bytes;
    const int64_t token = (int64_t)h * a->kv.page_tokens;
    char *keys = page + (size_t)(token * a->k_dim + 2 * at) * bytes;
    char *values = page + l.v_at + (size_t)((token + at / 2 * 2) * a->v_dim + at % 2) * bytes;
    _Alignas(4) char row[2 * ROUNDED_DIM];
    scale[0] = store_values(row, 1, k, a->k_dim, a->kv.dtype);
    for (int d = 0; d < a->k_dim; d += 2)
        memcpy(keys + (size_t)(d / 2) * pair, row + (size_t)d * bytes, 2 * bytes);
    scale[1] = store_values(values, 2, v, a->v_dim, a->kv.dtype);
}

static void store_head(const struct store *o, char *page, int64_t r, int h) {
    const struct attend *a = o->a;
    const struct page_layout l = page_layout(a);
    const enum dtype dtype = a->kv.dtype;
    const size_t tokens = (size_t)a->kv.page_tokens, at = (size_t)a->rows->pos[r] % tokens;
    const float *k = head_f32(o->k, r, h);
    float scale[2] = { 0 };
    if (o->pairs) {
        store_pairs(a, page, h, (int)at, k, head_f32(o->v, r, h), scale);
    } else if (a->v_in_k) {
        char *to = page + at * (size_t)a->k_dim * l.bytes;
        store_values(to, 1, k, a->k_dim, dtype);
    } else {
        char *to = page + ((size_t)(h * a->k_dim) * tokens + at) * l.bytes;
        scale[0] = store_values(to, tokens, k, a->k_dim, dtype);
        to = page + l.v_at + ((size_t)h * tokens + at) * (size_t)a->v_dim * l.bytes;
        scale[1] = store_values(to, 1, head_f32(o->v, r, h), a->v_dim, dtype);
    }
    for (int i = 0; i < 2 && dtype_scaled(dtype); i++) page_scales(a, page, h, i)[at] = scale[i];
}

static void store_rows(void *to, int64_t begin, int64_t end) {
    const struct store *o = to;
    const struct attend *a = o->a;
    for (int64_t r = begin; r < end; r++) {
        char *page = page_at(a, a->rows->seq[r], a->rows->pos[r] / a->kv.page_tokens);
        for (int h = 0; h < a->kv_heads; h++) store_head(o, page, r, h);
    }
}

void cpu_kv_store(struct device *dev, const struct attend *a, const struct tensor *k,
                  const struct tensor *v) {
    struct store o = { a, k, v, attention_rounds(cpu_of(dev), a) };
    pool_run(cpu_of(dev)->pool, a->rows->n_rows, 16, store_rows, &o);
}

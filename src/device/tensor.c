/* tensor.c - the arithmetic of views: cutting, indexing and measuring tensors.
 *
 * Every cut moves the pointer by whole elements. In a packed tensor an element is
 * a few bits, so the moved pointer must land on a byte and, because scales belong
 * to groups, on a group's border: both are asserted here, once, instead of in
 * every kernel. Shapes were checked where they were read; nothing here can fail. */
#include "device/tensor.h"
#include <assert.h>

static const struct { const char *name; size_t bytes; } dtypes[] = {
    [F32]  = { "f32", 4 },  [F16] = { "f16", 2 }, [BF16] = { "bf16", 2 }, [I32] = { "i32", 4 },
    [U32]  = { "u32", 4 },  [U8]  = { "u8", 1 },  [FP8]  = { "fp8", 1 }, [I8] = { "i8", 1 },
    [MLX_AFFINE] = { "affine", 0 }, [MXFP4] = { "mxfp4", 0 }, [NVFP4] = { "nvfp4", 0 },
};

const char *dtype_name(enum dtype dtype) {
    return (size_t)dtype < COUNT(dtypes) ? dtypes[dtype].name : "unknown";
}

size_t dtype_bytes(enum dtype dtype) {
    return (size_t)dtype < COUNT(dtypes) ? dtypes[dtype].bytes : 0;
}

bool dtype_grouped(enum dtype dtype) {
    return dtype == MLX_AFFINE || dtype == MXFP4 || dtype == NVFP4;
}

bool dtype_weights(enum dtype dtype) {
    return dtype == F32 || dtype == F16 || dtype == BF16 || dtype == FP8 || dtype_grouped(dtype);
}

bool dtype_scaled(enum dtype dtype) {
    return dtype == I8 || dtype == FP8;
}

int64_t tensor_count(const struct tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->shape[i];
    return n;
}

size_t tensor_bytes(const struct tensor *t) {
    size_t n = (size_t)tensor_count(t), plain = dtype_bytes(t->dtype);
    const struct quant *q = &t->quant;
    if (t->dtype == FP8 && q->scales) {
        size_t across = (size_t)((q->cols + q->block_cols - 1) / q->block_cols);
        size_t rows = n / (size_t)q->cols, down = (size_t)q->block_rows;
        return n + (rows + down - 1) / down * across * dtype_bytes(q->scale_dtype);
    }
    if (plain)
        return n * plain;
    size_t scales = n / t->quant.group * dtype_bytes(t->quant.scale_dtype);
    return n * t->quant.bits / 8 + scales * (t->quant.biases ? 2 : 1);
}

/* A contiguous view of the first `rank` entries of shape. */
static struct tensor contiguous(void *at, enum dtype dtype, int rank, const int64_t *shape) {
    struct tensor t = { .at = at, .dtype = dtype, .rank = rank };
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        assert(shape[i] >= 0);
        t.shape[i] = shape[i];
        t.stride[i] = stride;
        stride *= shape[i];
    }
    return t;
}

struct tensor tensor_1d(void *at, enum dtype dtype, int64_t n) {
    return contiguous(at, dtype, 1, (int64_t[]){ n });
}

struct tensor tensor_2d(void *at, enum dtype dtype, int64_t rows, int64_t cols) {
    return contiguous(at, dtype, 2, (int64_t[]){ rows, cols });
}

struct tensor tensor_3d(void *at, enum dtype dtype, int64_t rows, int64_t heads, int64_t cols) {
    return contiguous(at, dtype, 3, (int64_t[]){ rows, heads, cols });
}

/* Moves the view to its element `offset`. A NULL view stays NULL: spec-only passes
 * that measure memory cut views of nothing. */
static void move(struct tensor *t, int64_t offset) {
    if (!t->at || !offset)
        return;
    size_t n = (size_t)offset, plain = dtype_bytes(t->dtype);
    if (plain) {
        t->at = (char *)t->at + n * plain;
        if (t->dtype == FP8) t->quant.first += offset;
        return;
    }
    struct quant *q = &t->quant;
    assert(n % q->group == 0 && n * q->bits % 8 == 0);
    size_t scales = n / q->group * dtype_bytes(q->scale_dtype);
    t->at = (char *)t->at + n * q->bits / 8;
    if (q->packed)                   /* rows take the same bytes there */
        q->packed = (const char *)q->packed + n * q->bits / 8 + 2 * scales;
    if (q->scales)
        q->scales = (const char *)q->scales + scales;
    if (q->biases)
        q->biases = (const char *)q->biases + scales;
}

struct tensor tensor_part(const struct tensor *t, int axis, int64_t begin, int64_t n) {
    assert(axis >= 0 && axis < t->rank);
    assert(begin >= 0 && n >= 0 && begin <= t->shape[axis] && n <= t->shape[axis] - begin);
    assert(dtype_bytes(t->dtype) || axis < t->rank - 1 || n % t->quant.group == 0);
    struct tensor part = *t;
    part.shape[axis] = n;
    if (t->rank != 2 || axis == 1 || begin % QUANT_PANEL != 0)
        part.quant.packed = NULL;
    move(&part, begin * t->stride[axis]);
    return part;
}

struct tensor tensor_at(const struct tensor *t, int64_t i) {
    assert(t->rank > 1 && i >= 0 && i < t->shape[0]);
    struct tensor entry = *t;
    entry.quant.packed = NULL;
    entry.rank--;
    for (int axis = 0; axis < entry.rank; axis++) {
        entry.shape[axis] = t->shape[axis + 1];
        entry.stride[axis] = t->stride[axis + 1];
    }
    entry.shape[entry.rank] = entry.stride[entry.rank] = 0;
    move(&entry, i * t->stride[0]);
    return entry;
}

struct tensor tensor_heads(const struct tensor *t, int64_t heads) {
    assert(t->rank == 2 && heads > 0 && t->shape[1] % heads == 0);
    int64_t cols = t->shape[1] / heads;
    assert(dtype_bytes(t->dtype) || cols % t->quant.group == 0);
    struct tensor view = *t;
    view.quant.packed = NULL;
    view.rank = 3;
    view.shape[1] = heads, view.stride[1] = cols;
    view.shape[2] = cols, view.stride[2] = 1;
    return view;
}

struct tensor tensor_every(const struct tensor *t, int64_t begin, int64_t step) {
    assert(t->rank > 1 && step > 0 && begin >= 0 && begin <= t->shape[0]);
    struct tensor view = *t;
    view.quant.packed = NULL;
    view.shape[0] = (t->shape[0] - begin + step - 1) / step;
    view.stride[0] = t->stride[0] * step;
    move(&view, begin * t->stride[0]);
    return view;
}

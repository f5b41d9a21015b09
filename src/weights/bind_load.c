/* bind_load.c - one tensor at a time: checks its dtype and shape against what a layer asks for,
 * and makes a view or a copy. Quantized matrices are in bind_quant.c. */
#include "weights/binder.h"
#include "weights/quant.h"

#include <stdio.h>
#include <string.h>

/* ---- shapes in messages ---- */

struct bind_shape_text bind_shape_text(int rank, const int64_t *shape) {
    struct bind_shape_text s = { "[" };
    size_t len = 1;
    for (int i = 0; i < rank; i++) {
        int n = snprintf(s.text + len, sizeof s.text - len, "%s%lld", i ? ", " : "",
                         (long long)shape[i]);
        len = MIN(len + (size_t)n, sizeof s.text - 2);
    }
    s.text[len] = ']';
    s.text[len + 1] = 0;
    return s;
}

bool bind_wrong_shape(struct binder *b, const struct weights_entry *e, int rank,
                      const int64_t *want) {
    return bind_fail(b, "%s: tensor %.*s is %s %s, but %s is needed", e->file, STR_ARG(e->name),
                     e->dtype, bind_shape_text(e->t.rank, e->t.shape).text,
                     bind_shape_text(rank, want).text);
}

static bool is_float(enum dtype dtype) {
    return dtype == F32 || dtype == F16 || dtype == BF16;
}

bool bind_float_or_fail(struct binder *b, const struct weights_entry *e) {
    if (e->t.at && is_float(e->t.dtype)) return true;
    return err_code(&b->err, ERR_UNSUPPORTED, "%s: tensor %.*s has the dtype %s, but F32, F16 or "
                    "BF16 is needed", e->file, STR_ARG(e->name), e->dtype);
}

/* ---- plain matrices ---- */

bool bind_same_rows(const struct tensor *t, int rank, const int64_t *want, int64_t cols) {
    if (t->rank < 2 || t->shape[t->rank - 1] != cols) return false;
    if (t->rank == 2 && rank == 3) return t->shape[0] == want[0] * want[1];
    if (t->rank != rank) return false;
    for (int i = 0; i < rank - 1; i++)
        if (t->shape[i] != want[i]) return false;
    return true;
}

struct tensor bind_shaped(void *at, enum dtype dtype, int rank, const int64_t *shape) {
    return rank == 2 ? tensor_2d(at, dtype, shape[0], shape[1])
                     : tensor_3d(at, dtype, shape[0], shape[1], shape[2]);
}

/* to[c][r] = from[r][c], in tiles that stay in the cache. */
static void transpose(char *to, const char *from, size_t rows, size_t cols, size_t size) {
    enum { TILE = 32 };
    for (size_t r0 = 0; r0 < rows; r0 += TILE)
        for (size_t c0 = 0; c0 < cols; c0 += TILE)
            for (size_t r = r0; r < MIN(r0 + TILE, rows); r++)
                for (size_t c = c0; c < MIN(c0 + TILE, cols); c++)
                    memcpy(to + (c * rows + r) * size, from + (r * cols + c) * size, size);
}

/* A turned copy in the arena; a stack is turned matrix by matrix. */
static struct tensor transposed(struct binder *b, const struct tensor *stored, int rank,
                                const int64_t *shape) {
    size_t size = dtype_bytes(stored->dtype), n = rank == 3 ? (size_t)shape[0] : 1;
    size_t out = (size_t)shape[rank - 2], in = (size_t)shape[rank - 1];
    char *to = arena_new(b->arena, n * out * in * size);
    for (size_t i = 0; i < n; i++)
        transpose(to + i * out * in * size, (const char *)stored->at + i * out * in * size, in, out,
                  size);
    return bind_shaped(to, stored->dtype, rank, shape);
}

bool bind_weight(struct binder *b, const struct site *site, int rank, const int64_t *shape,
                 struct tensor *t) {
    /* A converted checkpoint has such matrices turned already, under the same names. */
    bool turn = site->fix & TRANSPOSED && !weights_is_mlx(b->w), done = false;
    if (!bind_quantized(b, site, rank, shape, t, &done)) return false;
    if (done) return true;
    const struct weights_entry *e = bind_entry(b, site, site->fix & EXACT ? "" : ".weight");
    if (!bind_float_or_fail(b, e)) return false;
    /* The message shows the shape as it should be stored, which is what the reader can compare. */
    int64_t stored[3] = { shape[0], shape[1], rank == 3 ? shape[2] : 0 };
    if (turn) {
        stored[rank - 1] = shape[rank - 2];
        stored[rank - 2] = shape[rank - 1];
    }
    if (!bind_same_rows(&e->t, rank, stored, stored[rank - 1]))
        return bind_wrong_shape(b, e, rank, stored);
    *t = turn ? transposed(b, &e->t, rank, shape) : bind_shaped(e->t.at, e->t.dtype, rank, shape);
    return true;
}

/* ---- vectors ---- */

/* An F32 copy; axes of one are free, so [C, 1, K] serves [C, K]. */
static bool copied(struct binder *b, const struct weights_entry *e, unsigned fix, int rank,
                   const int64_t *shape, struct tensor *t) {
    int64_t squeezed[4], want[2];
    int n = 0, n_want = 0;
    if (!bind_float_or_fail(b, e)) return false;
    for (int i = 0; i < e->t.rank; i++)
        if (e->t.shape[i] != 1) squeezed[n++] = e->t.shape[i];
    for (int i = 0; i < rank; i++)
        if (shape[i] != 1) want[n_want++] = shape[i];
    if (n != n_want || memcmp(squeezed, want, sizeof *want * (size_t)n))
        return bind_wrong_shape(b, e, rank, shape);
    int64_t count = rank == 2 ? shape[0] * shape[1] : shape[0];
    float *to = arena_new(b->arena, (size_t)count * sizeof *to);
    floats_of(to, e->t.at, e->t.dtype, (size_t)count);
    if (fix & PLUS_ONE && !weights_is_mlx(b->w))
        for (int64_t i = 0; i < count; i++) to[i] += 1;
    *t = rank == 2 ? tensor_2d(to, F32, shape[0], shape[1]) : tensor_1d(to, F32, count);
    return true;
}

/* What a recording binder gives for a vector: zeros that a layer may look at. */
static struct tensor zeros(struct binder *b, int rank, const int64_t *shape) {
    int64_t count = rank == 2 ? shape[0] * shape[1] : shape[0];
    float *at = arena_new(b->arena, (size_t)count * sizeof *at);
    return rank == 2 ? tensor_2d(at, F32, shape[0], shape[1]) : tensor_1d(at, F32, count);
}

/* A norm, a table of decays, a convolution: what is small and read by scalar code is F32. */
static void vector(struct binder *b, struct tensor *t, enum slot slot, const char *suffix, int rank,
                   const int64_t *shape) {
    struct site site;
    *t = (struct tensor){ 0 };
    if (b->want) {
        bind_report(b, slot, 0, suffix, false, rank, shape);
        *t = zeros(b, rank, shape);
        return;
    }
    if (!bind_require(b, slot, 0, &site)) return;
    bool bias = !strcmp(suffix, ".bias");
    /* Stacked experts and bare parameters have names without .weight; a bias is then NAME_bias. */
    const char *end = !(site.fix & EXACT) ? suffix : bias ? "_bias" : "";
    const struct weights_entry *e = bind_entry(b, &site, end);
    if (!e) bind_fail(b, "%s: the tensor %s%s is missing", weights_dir(b->w), site.base, end);
    else if (!copied(b, e, bias ? 0 : site.fix, rank, shape, t)) *t = (struct tensor){ 0 };
}

void bind_vector(struct binder *b, struct tensor *t, enum slot slot, int64_t n) {
    vector(b, t, slot, ".weight", 1, (int64_t[]){ n });
}

void bind_matrix(struct binder *b, struct tensor *t, enum slot slot, int64_t rows, int64_t n) {
    vector(b, t, slot, ".weight", 2, (int64_t[]){ rows, n });
}

void bind_bias_of(struct binder *b, struct tensor *t, enum slot slot, int64_t n) {
    vector(b, t, slot, ".bias", 1, (int64_t[]){ n });
}

/* A bias that the model does not have is an error here already: at the end it would only be a
 * leftover, and nobody would know whose. */
bool bind_site_bias(struct binder *b, const struct site *site, int64_t n, bool there,
                    struct tensor *t) {
    const char *end = site->fix & EXACT ? "_bias" : ".bias";
    const struct weights_entry *e = bind_entry(b, site, end);
    *t = (struct tensor){ 0 };
    if (there && e) return copied(b, e, 0, 1, &n, t);
    if (there)
        return bind_fail(b, "%s: the tensor %s%s is missing", weights_dir(b->w), site->base, end);
    return !e || bind_fail(b, "%s: tensor %.*s is there, but the model has no such bias", e->file,
                           STR_ARG(e->name));
}

/* ---- what layers call ---- */

static void linear(struct binder *b, struct linear *lin, enum slot slot, int64_t out, int64_t in,
                   bool bias) {
    struct site site;
    const int64_t shape[] = { out, in };
    *lin = (struct linear){ 0 };
    if (b->want) {
        bind_report(b, slot, 0, ".weight", true, 2, shape);
        if (bias) bind_report(b, slot, 0, ".bias", false, 1, &out);
        lin->w = tensor_2d(NULL, F32, out, in);
        return;
    }
    if (!bind_require(b, slot, 0, &site) || !bind_weight(b, &site, 2, shape, &lin->w) ||
        !bind_site_bias(b, &site, out, bias, &lin->bias))
        *lin = (struct linear){ 0 };
}

void bind_linear(struct binder *b, struct linear *lin, enum slot slot, int64_t out, int64_t in,
                 bool bias) {
    linear(b, lin, slot, out, in, bias);
    bind_product(b, &lin->w);
}

void bind_table(struct binder *b, struct tensor *t, enum slot slot, int64_t rows, int64_t cols) {
    struct linear lin;
    linear(b, &lin, slot, rows, cols, false);
    *t = lin.w;
}

/* Every n-th value of a fused bias, side by side. */
static struct tensor bias_every(struct binder *b, const struct tensor *bias, int64_t begin,
                                int64_t step) {
    int64_t n = bias->shape[0] / step;
    float *to = arena_new(b->arena, (size_t)n * sizeof *to);
    const float *from = bias->at;
    for (int64_t i = 0; i < n; i++) to[i] = from[i * step + begin];
    return tensor_1d(to, F32, n);
}

/* For a family that names the fused tensor itself: report that one, not its parts. */
static void record_whole(struct binder *b, struct linear *const *part, enum slot whole,
                         const int64_t *out, int n_parts, int64_t in, unsigned bias) {
    int64_t shape[] = { 0, in };
    for (int i = 0; i < n_parts; i++) {
        shape[0] += out[i];
        *part[i] = (struct linear){ .w = tensor_2d(NULL, F32, out[i], in) };
    }
    bind_report(b, whole, 0, ".weight", true, 2, shape);
    if (bias) bind_report(b, whole, 0, ".bias", false, 1, shape);
}

void bind_parts(struct binder *b, struct linear *const *part, enum slot whole,
                const enum slot *slot, const int64_t *out, int n_parts, int64_t in, unsigned bias) {
    struct site site;
    struct linear all = { 0 };
    int64_t shape[] = { 0, in }, begin = 0;
    bool fused = !b->want && !bind_failed(b) && bind_locate(b, whole, 0, &site);
    if (b->want && bind_family_has(b, whole)) {
        record_whole(b, part, whole, out, n_parts, in, bias);
        return;
    }
    for (int i = 0; i < n_parts; i++) {
        shape[0] += out[i];
        if (!fused) bind_linear(b, part[i], slot[i], out[i], in, bias >> i & 1);
        else *part[i] = (struct linear){ 0 };
    }
    if (!fused || !bind_weight(b, &site, 2, shape, &all.w) ||
        !bind_site_bias(b, &site, shape[0], bias != 0, &all.bias))
        return;
    /* Views into the fused tensor: nothing is copied but interleaved biases. */
    for (int i = 0; i < n_parts; i++) {
        bool own = bias >> i & 1;
        if (site.fix & INTERLEAVED) {
            part[i]->w = tensor_every(&all.w, i, n_parts);
            if (own) part[i]->bias = bias_every(b, &all.bias, i, n_parts);
        } else {
            part[i]->w = tensor_part(&all.w, 0, begin, out[i]);
            if (own) part[i]->bias = tensor_part(&all.bias, 0, begin, out[i]);
        }
        begin += out[i];
        bind_product(b, &part[i]->w);
    }
}

/* bind_quant.c - quantized matrices: MLX's packings, FP8 with scales beside it, the experts of
 * GPT-OSS. Which one it is say the tensors' names, dtypes and shapes; everything is checked
 * against everything before a kernel reads any of it. */
#include "weights/binder.h"
#include "weights/quant.h"

#include <string.h>

const struct quant_mode quant_modes[] = {
    { "affine", MLX_AFFINE, F32, 0, 0 }, { "mxfp4", MXFP4, U8, 4, MXFP4_GROUP },
    { "nvfp4", NVFP4, FP8, 4, NVFP4_GROUP }, { "mxfp8", FP8, U8, 8, 32 }, { 0 },
};

/* ---- MLX ---- */

/* The columns say it: in values of `bits` bits fill packed 32-bit words, `group` share a scale. */
static bool packing(struct binder *b, const struct weights_entry *e, const struct weights_entry *s,
                    int64_t in, int *bits, int *group) {
    int64_t words = e->t.rank ? e->t.shape[e->t.rank - 1] : 0;
    int64_t scales = s->t.rank ? s->t.shape[s->t.rank - 1] : 0;
    /* words <= in holds for every legal width, which is 8 bits or less, and bounds words * 32. */
    *bits = words > 0 && in > 0 && words <= in && words * 32 % in == 0 ? (int)(words * 32 / in) : 0;
    *group = scales > 0 && scales <= in && in % scales == 0 && in / scales <= 128
                 ? (int)(in / scales) : 0;
    return (quant_bits_ok(*bits) && e->t.dtype == U32) ||
           bind_fail(b, "%s: tensor %.*s is %s %s: no packing of %lld columns in 2, 3, 4, 5, 6 "
                     "or 8 bits", e->file, STR_ARG(e->name), e->dtype,
                     bind_shape_text(e->t.rank, e->t.shape).text, (long long)in);
}

/* A tensor beside the weight, one value for each group. */
static bool beside(struct binder *b, const struct weights_entry *s, int rank, const int64_t *shape,
                   int group) {
    int64_t want[3] = { shape[0], shape[1], shape[rank - 1] };
    want[rank - 1] /= group;
    return bind_same_rows(&s->t, rank, shape, want[rank - 1]) || bind_wrong_shape(b, s, rank, want);
}

/* Without biases it is one of the modes that have a scale alone, told apart by its numbers. */
static const struct quant_mode *mode_of(struct binder *b, const struct site *site,
                                        const struct weights_entry *e,
                                        const struct weights_entry *s, int bits, int group) {
    for (const struct quant_mode *m = quant_modes; m->name; m++)
        if (s->t.at && s->t.dtype == U8 && m->bits == bits && m->group == group) return m;
    err_code(&b->err, ERR_UNSUPPORTED, "%s: tensor %s.biases is missing, and with scales %s %s and "
             "%d bits it is not mxfp4, mxfp8 or nvfp4", e->file, site->base, s->dtype,
             bind_shape_text(s->t.rank, s->t.shape).text, bits);
    return NULL;
}

/* The scales and biases of the affine mode. */
static bool affine(struct binder *b, const struct weights_entry *s, const struct weights_entry *z,
                   int rank, const int64_t *shape, int group) {
    if (!quant_group_ok(group))
        return bind_fail(b, "%s: tensor %.*s is %s: no groups of 32, 64 or 128 in %lld columns",
                         s->file, STR_ARG(s->name), bind_shape_text(s->t.rank, s->t.shape).text,
                         (long long)shape[rank - 1]);
    return bind_float_or_fail(b, s) && beside(b, s, rank, shape, group) &&
           bind_float_or_fail(b, z) && beside(b, z, rank, shape, group) &&
           (z->t.dtype == s->t.dtype ||
            bind_wrong_shape(b, z, s->t.rank, s->t.shape));
}

/* FP8 whose rows, of any stack, are those of one matrix with so many columns. */
static struct quant blocks(const struct weights_entry *s, enum dtype scales, int64_t cols,
                           int64_t rows_of, int64_t cols_of) {
    return (struct quant){ .scales = s->t.at, .scale_dtype = scales, .cols = cols,
                           .block_rows = rows_of, .block_cols = cols_of };
}

static bool packed_weight(struct binder *b, const struct site *site, const struct weights_entry *e,
                          const struct weights_entry *s, int rank, const int64_t *shape,
                          struct tensor *t) {
    const struct weights_entry *z = bind_entry(b, site, ".biases");
    int64_t in = shape[rank - 1];
    int bits, group;
    if (!packing(b, e, s, in, &bits, &group)) return false;
    const struct quant_mode *m = z ? quant_modes : mode_of(b, site, e, s, bits, group);
    if (!m) return false;
    if (!bind_same_rows(&e->t, rank, shape, in * bits / 32))
        return bind_wrong_shape(b, e, rank, shape);
    if (z ? !affine(b, s, z, rank, shape, group) : !beside(b, s, rank, shape, group)) return false;
    /* Last, so that a broken file is called broken before it is called unexpected. */
    if (!quant_config_agrees(&b->quant, str_of(site->base), m->name, bits, group, e->file, &b->err))
        return false;
    *t = bind_shaped(e->t.at, m->dtype, rank, shape);
    if (m->dtype == FP8) t->quant = blocks(s, m->scales, in, 1, group);
    else t->quant = (struct quant){ .scales = s->t.at, .biases = z ? z->t.at : NULL,
                                    .scale_dtype = z ? s->t.dtype : m->scales,
                                    .group = (uint16_t)group, .bits = (uint8_t)bits };
    return true;
}

/* ---- FP8 ---- */

/* Whether the scales have this shape; axes of one are free. */
static bool is_shape(const struct tensor *t, int64_t n, int64_t rows, int64_t cols) {
    int64_t want[] = { n, rows, cols };
    int at = 0;
    for (int i = 0; i < 3; i++) {
        if (want[i] == 1) continue;
        while (at < t->rank && t->shape[at] == 1) at++;
        if (at == t->rank || t->shape[at++] != want[i]) return false;
    }
    while (at < t->rank && t->shape[at] == 1) at++;
    return at == t->rank;
}

/* One scale for a matrix, for a row, or for a block: which one says the shape. A stack in three
 * axes has scales for each of its matrices, one that lies flat is a single large matrix. */
static bool fp8_scales(struct binder *b, const struct weights_entry *e,
                       const struct weights_entry *s, int rank, const int64_t *shape,
                       struct quant *q) {
    int64_t n = rank == 3 && e->t.rank == 3 ? shape[0] : 1, in = shape[rank - 1];
    int64_t rows = (rank == 3 ? shape[0] * shape[1] : shape[0]) / n;
    int64_t tall = b->quant.block[0], wide = b->quant.block[1];
    int64_t down = (rows + tall - 1) / tall, across = (in + wide - 1) / wide;
    enum dtype dtype = s->t.dtype;
    if (!s->t.at || (dtype != F32 && dtype != BF16 && dtype != F16 &&
                     strcmp(s->dtype, "F8_E8M0")))
        return bind_fail(b, "%s: tensor %.*s has the dtype %s, but scales are F32, BF16, F16 or "
                         "F8_E8M0", s->file, STR_ARG(s->name), s->dtype);
    if (is_shape(&s->t, n, 1, 1)) *q = blocks(s, dtype, in, rows, in);
    else if (is_shape(&s->t, n, rows, 1)) *q = blocks(s, dtype, in, 1, in);
    else if (is_shape(&s->t, n, down, across)) *q = blocks(s, dtype, in, tall, wide);
    else
        return bind_fail(b, "%s: tensor %.*s is %s: not one scale, not one for each of %lld rows, "
                         "not one for each of %lld x %lld blocks", s->file, STR_ARG(s->name),
                         bind_shape_text(s->t.rank, s->t.shape).text, (long long)rows,
                         (long long)down, (long long)across);
    /* Rows are counted through a stack, so its matrices must begin with a block. */
    if (n > 1 && rows % q->block_rows)
        return err_code(&b->err, ERR_UNSUPPORTED, "%s: tensor %.*s: blocks of %lld rows do not "
                        "divide the %lld rows of each matrix", e->file, STR_ARG(e->name),
                        (long long)q->block_rows, (long long)rows);
    return true;
}

/* Scales of activations are for arithmetic in FP8, which rows never are rounded to here. */
static void drop_activation_scales(struct binder *b, const struct site *site) {
    static const char *const names[] = { ".input_scale", ".activation_scale", "_input_scale",
                                         "_activation_scale" };
    for (size_t i = 0; i < COUNT(names); i++) bind_entry(b, site, names[i]);
}

static bool fp8_weight(struct binder *b, const struct site *site, const struct weights_entry *e,
                       int rank, const int64_t *shape, struct tensor *t) {
    static const char *const names[] = { ".weight_scale_inv", ".weight_scale", "_scale_inv",
                                         "_scale" };
    const struct weights_entry *s = NULL;
    size_t begin = site->fix & EXACT ? 2 : 0;
    struct quant q;
    for (size_t i = begin; i < begin + 2 && !s; i++) s = bind_entry(b, site, names[i]);
    if (site->fix & TRANSPOSED)
        return err_code(&b->err, ERR_UNSUPPORTED, "%s: tensor %.*s is FP8 and stored [in, out]",
                        e->file, STR_ARG(e->name));
    if (!s) return bind_fail(b, "%s: tensor %.*s is FP8, but %s%s is missing", e->file,
                             STR_ARG(e->name), site->base, names[begin]);
    if (!bind_same_rows(&e->t, rank, shape, shape[rank - 1]))
        return bind_wrong_shape(b, e, rank, shape);
    if (!fp8_scales(b, e, s, rank, shape, &q)) return false;
    drop_activation_scales(b, site);
    *t = bind_shaped(e->t.at, FP8, rank, shape);
    t->quant = q;
    return true;
}

/* ---- GPT-OSS ---- */

/* NAME_blocks [n, out, in/32, 16] and NAME_scales [n, out, in/32]: the bytes of MLX's mxfp4. They
 * are never transposed, whatever the floats under that name are. */
static bool mxfp4_blocks(struct binder *b, const struct site *site, const struct weights_entry *e,
                         int rank, const int64_t *shape, struct tensor *t) {
    const struct weights_entry *s = bind_entry(b, site, "_scales");
    int64_t in = shape[rank - 1], want[4] = { 0 };
    if (!s) return bind_fail(b, "%s: tensor %.*s is packed, but %s_scales is missing", e->file,
                             STR_ARG(e->name), site->base);
    memcpy(want, shape, sizeof *want * (size_t)rank);
    want[rank - 1] = in / MXFP4_GROUP;
    want[rank] = MXFP4_GROUP / 2;
    if (in % MXFP4_GROUP || e->t.rank != rank + 1 || e->t.dtype != U8 || !e->t.at ||
        memcmp(e->t.shape, want, sizeof *want * (size_t)(rank + 1)))
        return bind_wrong_shape(b, e, rank + 1, want);
    if (s->t.rank != rank || s->t.dtype != U8 || !s->t.at ||
        memcmp(s->t.shape, want, sizeof *want * (size_t)rank))
        return bind_wrong_shape(b, s, rank, want);
    *t = bind_shaped(e->t.at, MXFP4, rank, shape);
    t->quant = (struct quant){ .scales = s->t.at, .scale_dtype = U8, .group = MXFP4_GROUP,
                               .bits = 4 };
    return true;
}

bool bind_quantized(struct binder *b, const struct site *site, int rank, const int64_t *shape,
                    struct tensor *t, bool *done) {
    bool exact = site->fix & EXACT;
    const struct weights_entry *e = bind_entry(b, site, exact ? "" : ".weight");
    const struct weights_entry *s = exact ? NULL : bind_entry(b, site, ".scales");
    *done = true;
    if (s) return packed_weight(b, site, e, s, rank, shape, t);
    if (!e) return mxfp4_blocks(b, site, bind_entry(b, site, "_blocks"), rank, shape, t);
    if (!exact && e->t.dtype == U32)
        return bind_fail(b, "%s: tensor %.*s is packed, but %s.scales is missing", e->file,
                         STR_ARG(e->name), site->base);
    if (e->t.at && e->t.dtype == FP8) return fp8_weight(b, site, e, rank, shape, t);
    *done = false;
    return true;
}

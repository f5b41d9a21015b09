/* synth.c - writes a checkpoint of any supported family and size, with drawn weights.
 *
 * For benchmarks, memory tests and kernels at real shapes: the names and shapes are those
 * that the model itself asks for (a recording binder), the values come from a counter-based
 * generator, so the same command gives the same bytes. With --bits the matrices are packed
 * as MLX packs them, with --format mxfp4 in that mode of MLX (of GPT-OSS the experts alone, as
 * it is published); with --format fp8 they have blocks of 128 x 128 with scales in F32, and
 * embedding and head stay BF16, as DeepSeek publishes its own; with fp8-bf16 scales are BF16, as
 * Qwen has them. There is no tokenizer: such a model is run on token ids. */
#include "base/threads.h"
#include "device/small_float.h"
#include "model/load.h"
#include "weights/quant.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 1 << 16 };                /* elements one piece of work draws, and their floats */

enum layout { PLAIN, AFFINE, MX, OSS, BLOCKS };          /* how packed matrices are stored */

struct options {
    const char *shape, *config, *out, *seed, *format;
    enum layout layout;
    bool bf16_scales;                    /* of BLOCKS */
    int bits, group, layers;
    uint64_t shard_bytes;
};

struct part { char *name; const char *dtype; int rank; int64_t shape[4];
              size_t bytes, at; int shard; };

struct want {                            /* one tensor that the model asks for */
    struct part weight, scales, biases;  /* the last two when packed */
    bool packed, f32;
    int64_t cols;                        /* of a row of values */
    size_t count;
    double mean, std;
};

struct plan {
    const struct options *o;
    struct decoder_spec *spec;
    struct want *want;
    size_t n, cap, bytes;
    int shards;
};

/* ---- configs ---- */

static const struct shape { const char *name; int layers; const char *config; } shapes[] = {
    { "smollm2-135m", 30, "\"model_type\":\"llama\",\"hidden_size\":576,\"intermediate_size\":1536,"
      "\"num_attention_heads\":9,\"num_key_value_heads\":3,\"rms_norm_eps\":1e-5,"
      "\"rope_theta\":100000.0,\"vocab_size\":49152,\"max_position_embeddings\":8192,"
      "\"tie_word_embeddings\":true" },
    { "llama-1b", 16, "\"model_type\":\"llama\",\"hidden_size\":2048,\"intermediate_size\":8192,"
      "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":64,"
      "\"rms_norm_eps\":1e-5,\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\","
      "\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
      "\"original_max_position_embeddings\":8192},\"vocab_size\":128256,"
      "\"max_position_embeddings\":131072,\"tie_word_embeddings\":true" },
    { "llama-8b", 32, "\"model_type\":\"llama\",\"hidden_size\":4096,\"intermediate_size\":14336,"
      "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":128,"
      "\"rms_norm_eps\":1e-5,\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\","
      "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
      "\"original_max_position_embeddings\":8192},\"vocab_size\":128256,"
      "\"max_position_embeddings\":131072,\"tie_word_embeddings\":false" },
    { "qwen3-0.6b", 28, "\"model_type\":\"qwen3\",\"hidden_size\":1024,\"intermediate_size\":3072,"
      "\"num_attention_heads\":16,\"num_key_value_heads\":8,\"head_dim\":128,"
      "\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"vocab_size\":151936,"
      "\"max_position_embeddings\":40960,\"tie_word_embeddings\":true" },
    { "qwen3-4b", 36, "\"model_type\":\"qwen3\",\"hidden_size\":2560,\"intermediate_size\":9728,"
      "\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":128,"
      "\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"vocab_size\":151936,"
      "\"max_position_embeddings\":40960,\"tie_word_embeddings\":true" },
    { "gpt-oss-20b", 24, "\"model_type\":\"gpt_oss\",\"hidden_size\":2880,"
      "\"intermediate_size\":2880,\"num_local_experts\":32,\"num_experts_per_tok\":4,"
      "\"num_attention_heads\":64,\"num_key_value_heads\":8,\"head_dim\":64,"
      "\"rms_norm_eps\":1e-5,\"rope_theta\":150000.0,\"sliding_window\":128,"
      "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32.0,\"beta_fast\":32.0,"
      "\"beta_slow\":1.0,\"original_max_position_embeddings\":4096,\"truncate\":false},"
      "\"swiglu_limit\":7.0,\"vocab_size\":201088,\"max_position_embeddings\":131072,"
      "\"attention_bias\":true,\"tie_word_embeddings\":false" },
    { "qwen3-30b-a3b", 48, "\"model_type\":\"qwen3_moe\",\"hidden_size\":2048,"
      "\"intermediate_size\":6144,\"moe_intermediate_size\":768,\"num_experts\":128,"
      "\"num_experts_per_tok\":8,\"norm_topk_prob\":true,\"decoder_sparse_step\":1,"
      "\"mlp_only_layers\":[],\"num_attention_heads\":32,\"num_key_value_heads\":4,"
      "\"head_dim\":128,\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"vocab_size\":151936,"
      "\"max_position_embeddings\":40960,\"tie_word_embeddings\":false" },
};

static bool is_mlx(const struct options *o) {
    return o->layout == AFFINE || o->layout == MX;
}

/* What stands in front of the config's first key. */
static void put_quantization(const struct options *o, struct buf *text) {
    buf_char(text, '{');
    if (is_mlx(o))
        buf_format(text, "\"quantization\":{\"group_size\":%d,\"bits\":%d%s},", o->group, o->bits,
                   o->layout == MX ? ",\"mode\":\"mxfp4\"" : "");
    if (o->layout == BLOCKS)
        buf_format(text, "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\","
                   "\"activation_scheme\":\"dynamic\",\"weight_block_size\":[%d,%d]},", FP8_BLOCK,
                   FP8_BLOCK);
    if (o->layout == OSS)
        buf_str(text, S("\"quantization_config\":{\"quant_method\":\"mxfp4\"},"));
}

/* The config's text, the quantization put in front of its first key. */
static bool config_text(struct options *o, struct buf *text, struct err *err) {
    struct buf body = { 0 };
    bool ok = true;
    if (o->config) {
        ok = buf_read_file(&body, o->config, 16 << 20, err);
    } else {
        const struct shape *s = NULL;
        for (size_t i = 0; i < COUNT(shapes); i++)
            if (!strcmp(shapes[i].name, o->shape)) s = &shapes[i];
        ok = s || err_set(err, "there is no shape %s", o->shape);
        if (s)
            buf_format(&body, "{\"num_hidden_layers\":%d,%s}\n",
                       o->layers ? o->layers : s->layers, s->config);
    }
    struct str rest = buf_view(&body);
    const char *brace = rest.len ? memchr(rest.at, '{', rest.len) : NULL;
    if (ok && !brace) ok = err_set(err, "%s: no JSON object", o->config);
    if (o->layout == MX && strstr(buf_c(&body), "\"gpt_oss\"")) o->layout = OSS;
    put_quantization(o, text);
    if (ok) buf_str(text, str_from(rest, (size_t)(brace - rest.at) + 1));
    buf_free(&body);
    return ok;
}

static bool write_file(const char *dir, const char *name, struct str bytes, struct err *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(bytes.at, 1, bytes.len, f) == bytes.len;
    if (f && fclose(f)) ok = false;
    return ok || err_set(err, "%s: %s", path, strerror(errno));
}

/* ---- the plan ---- */

/* Means and deviations that keep activations near one: 1/sqrt(fan in) for matrices, around one
 * for norms. Deviations are rounded to BF16, so that mean + std * z is exact in double. */
static void choose_values(const struct plan *p, const struct bind_want *b, struct want *w) {
    bool bias = str_ends(str_of(b->name), "bias") && b->slot != W_ROUTER_BIAS;
    bool plus_one = (b->fix & PLUS_ONE && !is_mlx(p->o)) || p->spec->norm == NORM_RMS_PLUS1;
    double fan_in = (double)w->weight.shape[w->weight.rank - 1];
    if (b->fix & TRANSPOSED && !is_mlx(p->o)) fan_in = (double)w->weight.shape[w->weight.rank - 2];
    switch (b->slot) {
    case W_A_LOG:       w->mean = 1, w->std = 0.625, w->f32 = true; return;
    case W_DT_BIAS:     w->mean = -2.5, w->std = 1, w->f32 = true; return;
    case W_D:           w->mean = 1, w->std = 0.125, w->f32 = true; return;
    case W_ROUTER_BIAS: w->std = 0.125, w->f32 = true; return;
    case W_CONV:        w->std = bias ? 0.0625 : 0.375; return;
    case W_SINKS:       w->std = 1; return;
    default: break;
    }
    if (bias) w->std = 0.0625;
    else if (w->weight.rank > 1) w->std = 1 / sqrt(fan_in);
    else w->mean = plus_one ? 0 : 1, w->std = 0.125;
    uint16_t rounded = bf16_of((float)w->std);
    float f;
    floats_of(&f, &rounded, BF16, 1);
    w->std = (double)f;
}

static void set_part(struct part *p, const char *module, const char *suffix, const char *dtype,
                     size_t size, int rank, const int64_t *shape) {
    struct buf name = { 0 };
    buf_format(&name, "%s%s", module, suffix);
    *p = (struct part){ .name = mem_str(buf_view(&name)), .dtype = dtype, .rank = rank };
    p->bytes = size;
    for (int i = 0; i < rank; i++) {
        p->shape[i] = shape[i];
        p->bytes *= (size_t)shape[i];
    }
    buf_free(&name);
}

/* Routers stay plain: a choice of experts should not hang on rounding. */
static bool is_packed(const struct options *o, const struct bind_want *b) {
    int64_t in = b->shape[b->rank - 1];
    bool plain = b->slot == W_ROUTER || b->slot == W_S_MIX || b->slot == W_POSITIONS;
    bool ends = b->slot == W_EMBED || b->slot == W_HEAD;
    if (o->layout == OSS)
        return b->fix & TRANSPOSED && b->rank == 3 && b->shape[1] % MXFP4_GROUP == 0;
    if (o->layout == PLAIN || plain || !b->matrix || b->rank < 2) return false;
    return o->layout == BLOCKS ? !ends && b->rank == 2 : in % o->group == 0;
}

/* Names and shapes of a packed matrix and what lies beside it. */
static void set_packed(const struct options *o, const struct bind_want *b, int64_t shape[4],
                       struct want *w) {
    struct str name = str_of(b->name);
    size_t end = str_ends(name, ".weight") ? strlen(".weight") : 0;
    char *base = mem_str(str_cut(name, 0, name.len - end));
    int last = b->rank - 1;
    int64_t in = shape[last], block = FP8_BLOCK;
    free(w->weight.name);
    if (o->layout == BLOCKS) {
        set_part(&w->weight, base, ".weight", "F8_E4M3", 1, b->rank, shape);
        for (int i = 0; i < 2; i++) shape[i] = (shape[i] + block - 1) / block;
        set_part(&w->scales, base, ".weight_scale_inv", o->bf16_scales ? "BF16" : "F32",
                 o->bf16_scales ? 2 : 4, b->rank, shape);
    } else if (o->layout == OSS) {
        shape[last] = in / o->group;
        shape[b->rank] = o->group / 2;
        set_part(&w->weight, base, "_blocks", "U8", 1, b->rank + 1, shape);
        set_part(&w->scales, base, "_scales", "U8", 1, b->rank, shape);
    } else {
        bool mx = o->layout == MX;
        shape[last] = in * o->bits / 32;
        set_part(&w->weight, base, ".weight", "U32", 4, b->rank, shape);
        shape[last] = in / o->group;
        set_part(&w->scales, base, ".scales", mx ? "U8" : "BF16", mx ? 1 : 2, b->rank, shape);
        if (!mx) set_part(&w->biases, base, ".biases", "BF16", 2, b->rank, shape);
    }
    free(base);
}

static void add_want(void *to, const struct bind_want *b) {
    struct plan *p = to;
    const struct options *o = p->o;
    if (p->n == p->cap) {
        p->cap = MAX(p->cap * 2, (size_t)256);
        p->want = mem_grow(p->want, p->cap, sizeof *p->want);
    }
    struct want *w = &p->want[p->n++];
    *w = (struct want){ .count = 1 };
    int64_t shape[4] = { b->shape[0], b->shape[1], b->shape[2], 0 };
    int last = b->rank - 1;
    w->packed = is_packed(o, b);
    /* MLX has them turned already, and blocks of experts are never turned. */
    if (b->fix & TRANSPOSED && (is_mlx(o) || w->packed)) {
        shape[last] = b->shape[last - 1];
        shape[last - 1] = b->shape[last];
    }
    for (int i = 0; i < b->rank; i++) w->count *= (size_t)shape[i];
    set_part(&w->weight, b->name, "", "BF16", 2, b->rank, shape);
    choose_values(p, b, w);
    if (w->f32) w->weight.dtype = "F32", w->weight.bytes *= 2;
    w->cols = shape[last];
    if (w->packed) set_packed(o, b, shape, w);
}

/* Shards are filled in order; a tensor and its scales stay together. */
static void lay_out(struct plan *p) {
    size_t at = 0;
    for (size_t i = 0; i < p->n; i++) {
        struct part *part[] = { &p->want[i].weight, &p->want[i].scales, &p->want[i].biases };
        size_t bytes = part[0]->bytes + part[1]->bytes + part[2]->bytes;
        if (at && p->o->shard_bytes && at + bytes > p->o->shard_bytes) p->shards++, at = 0;
        for (size_t j = 0; j < COUNT(part); j++) {
            part[j]->shard = p->shards;
            part[j]->at = at;
            at += part[j]->bytes;
        }
        p->bytes += bytes;
    }
    p->shards++;
}

/* ---- values ---- */

struct drawing {                         /* one tensor being made */
    const struct want *want;
    const struct options *o;
    uint64_t key;
    char *weight, *scales, *biases;      /* where its parts lie in the mapped file */
};

static uint64_t key_of(const char *seed, const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    const char *part[] = { seed, "/", name };
    for (size_t i = 0; i < COUNT(part); i++)
        for (const char *c = part[i]; *c; c++) h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    return h;
}

/* Value i: the sum of four 16-bit numbers of a splitmix64 stream, nearly normal. */
static float draw(const struct drawing *d, uint64_t i) {
    uint64_t x = d->key + (i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    int64_t s = (int64_t)((x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48));
    double z = (double)(s - 131070) * 0x1.bb67aep-16;
    return (float)(d->want->mean + d->want->std * z);
}

static void fill_plain(void *to, int64_t begin, int64_t end) {
    const struct drawing *d = to;
    for (int64_t i = begin; i < end; i++) {
        float v = draw(d, (uint64_t)i);
        uint16_t h = bf16_of(v);
        if (d->want->f32) memcpy(d->weight + i * 4, &v, 4);
        else memcpy(d->weight + i * 2, &h, 2);
    }
}

/* What the plain tensor would hold, so rounded to BF16 first, as a converter sees it. */
static float drawn(const struct drawing *d, int64_t i) {
    float f;
    uint16_t h = bf16_of(draw(d, (uint64_t)i));
    floats_of(&f, &h, BF16, 1);
    return f;
}

static void fill_mxfp4(void *to, int64_t begin, int64_t end) {
    const struct drawing *d = to;
    float w[MXFP4_GROUP];
    for (int64_t g = begin; g < end; g++) {
        for (int i = 0; i < MXFP4_GROUP; i++) w[i] = drawn(d, g * MXFP4_GROUP + i);
        quant_mxfp4(w, (uint8_t *)d->weight + g * MXFP4_GROUP / 2, (uint8_t *)d->scales + g);
    }
}

/* Blocks are numbered through, row of blocks by row of blocks. */
static void fill_fp8(void *to, int64_t begin, int64_t end) {
    const struct drawing *d = to;
    int64_t cols = d->want->cols, rows = (int64_t)d->want->count / cols;
    int64_t across = (cols + FP8_BLOCK - 1) / FP8_BLOCK;
    for (int64_t b = begin; b < end; b++) {
        int64_t r0 = b / across * FP8_BLOCK, c0 = b % across * FP8_BLOCK;
        int64_t r1 = MIN(r0 + FP8_BLOCK, rows), c1 = MIN(c0 + FP8_BLOCK, cols);
        float largest = 0, w[FP8_BLOCK * FP8_BLOCK], *to_w = w;
        for (int64_t r = r0; r < r1; r++)
            for (int64_t c = c0; c < c1; c++, to_w++) {
                *to_w = drawn(d, r * cols + c);
                largest = fmaxf(largest, fabsf(*to_w));
            }
        float scale = quant_fp8_scale(largest);
        uint16_t rounded = bf16_of(scale);
        if (d->o->bf16_scales) floats_of(&scale, &rounded, BF16, 1);
        float by = 1 / scale;
        to_w = w;
        for (int64_t r = r0; r < r1; r++)
            for (int64_t c = c0; c < c1; c++)
                d->weight[r * cols + c] = (char)e4m3_of(*to_w++ * by);
        if (d->o->bf16_scales) memcpy(d->scales + b * 2, &rounded, sizeof rounded);
        else memcpy(d->scales + b * 4, &scale, sizeof scale);
    }
}

static void fill_affine(void *to, int64_t begin, int64_t end) {
    const struct drawing *d = to;
    const struct options *o = d->o;
    float w[QUANT_GROUP_MAX], scale, bias;
    for (int64_t g = begin; g < end; g++) {
        for (int i = 0; i < o->group; i++) w[i] = drawn(d, g * o->group + i);
        quant_group(w, o->group, o->bits, (uint8_t *)d->weight + g * o->group * o->bits / 8,
                    &scale, &bias);
        uint16_t s = bf16_of(scale), z = bf16_of(bias);
        memcpy(d->scales + g * 2, &s, 2);
        memcpy(d->biases + g * 2, &z, 2);
    }
}

static void fill(struct pool *pool, struct drawing *d) {
    int64_t n = (int64_t)d->want->count, cols = d->want->cols, group = d->o->group;
    int64_t across = (cols + FP8_BLOCK - 1) / FP8_BLOCK;
    int64_t down = (n / cols + FP8_BLOCK - 1) / FP8_BLOCK;
    if (!d->want->packed) pool_run(pool, n, CHUNK, fill_plain, d);
    else if (d->o->layout == BLOCKS) pool_run(pool, across * down, 1, fill_fp8, d);
    else pool_run(pool, n / group, CHUNK / group, d->o->layout == AFFINE ? fill_affine : fill_mxfp4,
                  d);
}

/* ---- files ---- */

static void shard_name(const struct plan *p, int shard, char *out, size_t size) {
    if (p->shards == 1) snprintf(out, size, "model.safetensors");
    else snprintf(out, size, "model-%05d-of-%05d.safetensors", shard + 1, p->shards);
}

static void put_part(struct buf *header, const struct part *part) {
    if (!part->name) return;
    buf_char(header, ',');
    buf_json(header, str_of(part->name));
    buf_format(header, ":{\"dtype\":\"%s\",\"shape\":[", part->dtype);
    for (int i = 0; i < part->rank; i++)
        buf_format(header, "%s%lld", i ? "," : "", (long long)part->shape[i]);
    buf_format(header, "],\"data_offsets\":[%zu,%zu]}", part->at, part->at + part->bytes);
}

/* Length, JSON padded to eight bytes; *data is how much follows. */
static void put_header(const struct plan *p, int shard, struct buf *out, size_t *data) {
    struct buf json = { 0 };
    *data = 0;
    buf_format(&json, "{\"__metadata__\":{\"format\":\"%s\"}", is_mlx(p->o) ? "mlx" : "pt");
    for (size_t i = 0; i < p->n; i++) {
        const struct want *w = &p->want[i];
        if (w->weight.shard != shard) continue;
        put_part(&json, &w->weight);
        put_part(&json, &w->scales);
        put_part(&json, &w->biases);
        *data += w->weight.bytes + w->scales.bytes + w->biases.bytes;
    }
    buf_char(&json, '}');
    while (json.len % 8) buf_char(&json, ' ');
    for (int i = 0; i < 8; i++) buf_char(out, (char)((uint64_t)json.len >> 8 * i & 255));
    buf_str(out, buf_view(&json));
    buf_free(&json);
}

static void show_progress(const struct plan *p, size_t done, double begun) {
    if (!isatty(2)) return;
    int cells = (int)(done * 40 / MAX(p->bytes, (size_t)1));
    fprintf(stderr, "\r[%.*s%*s] %5.1f of %.1f GB, %.0f s ", cells,
            "########################################", 40 - cells, "", (double)done / 1e9,
            (double)p->bytes / 1e9, clock_s() - begun);
}

static char *map_new(const char *path, size_t bytes, struct err *err) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    /* Blocks are taken now: a disk that fills up must not become a SIGBUS. */
    int failed = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)bytes);
    void *at = failed ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) err_set(err, "%s: %s", path, strerror(failed ? failed : errno));
    if (fd >= 0) close(fd);
    return at == MAP_FAILED ? NULL : at;
}

static bool write_shard(const struct plan *p, int shard, struct pool *pool, size_t *done,
                        double begun, struct err *err) {
    char name[64], path[4096];
    struct buf header = { 0 };
    size_t data;
    shard_name(p, shard, name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", p->o->out, name);
    put_header(p, shard, &header, &data);
    size_t bytes = header.len + data;
    char *at = map_new(path, bytes, err);
    if (at) memcpy(at, header.at, header.len);
    for (size_t i = 0; at && i < p->n; i++) {
        const struct want *w = &p->want[i];
        if (w->weight.shard != shard) continue;
        char *base = at + header.len;
        struct drawing d = { w, p->o, key_of(p->o->seed, w->weight.name), base + w->weight.at,
                          base + w->scales.at, base + w->biases.at };
        fill(pool, &d);
        *done += w->weight.bytes + w->scales.bytes + w->biases.bytes;
        show_progress(p, *done, begun);
    }
    if (at) munmap(at, bytes);
    buf_free(&header);
    return at;
}

static bool write_index(const struct plan *p, struct err *err) {
    struct buf json = { 0 };
    char name[64];
    const char *comma = "";
    buf_format(&json, "{\"metadata\":{\"total_size\":%zu},\n\"weight_map\":{", p->bytes);
    for (size_t i = 0; i < p->n; i++) {
        const struct part *part[] = { &p->want[i].weight, &p->want[i].scales, &p->want[i].biases };
        shard_name(p, part[0]->shard, name, sizeof name);
        for (size_t j = 0; j < COUNT(part) && part[j]->name; j++, comma = ",") {
            buf_format(&json, "%s\n", comma);
            buf_json(&json, str_of(part[j]->name));
            buf_format(&json, ":\"%s\"", name);
        }
    }
    buf_str(&json, S("}}\n"));
    bool ok = p->shards == 1 ||
              write_file(p->o->out, "model.safetensors.index.json", buf_view(&json), err);
    buf_free(&json);
    return ok;
}

static bool synthesize(struct options *o, struct err *err) {
    struct loaded m = { 0 };
    struct plan p = { .o = o, .spec = &m.spec };
    struct buf config = { 0 };
    size_t done = 0;
    double begun = clock_s();
    bool made = !mkdir(o->out, 0755);
    if (!made && errno != EEXIST) return err_set(err, "%s: %s", o->out, strerror(errno));
    bool ok = config_text(o, &config, err) &&
              write_file(o->out, "config.json", buf_view(&config), err) &&
              load_spec(&m, o->out, err) && load_record(&m, add_want, &p, err);
    if (ok) lay_out(&p);
    struct pool *pool = pool_open(threads_available());
    for (int i = 0; ok && i < p.shards; i++) ok = write_shard(&p, i, pool, &done, begun, err);
    pool_close(pool);
    ok = ok && write_index(&p, err);
    if (ok) fprintf(stderr, "%s%s: %zu tensors, %.2f GB, %d file%s, %.1f s\n",
                    isatty(2) ? "\n" : "", o->out, p.n, (double)p.bytes / 1e9, p.shards,
                    p.shards == 1 ? "" : "s", clock_s() - begun);
    if (!ok && !p.n && made) {           /* refused before anything was drawn: leave no trace */
        char path[4096];
        snprintf(path, sizeof path, "%s/config.json", o->out);
        unlink(path);
        rmdir(o->out);
    }
    for (size_t i = 0; i < p.n; i++) {
        free(p.want[i].weight.name);
        free(p.want[i].scales.name);
        free(p.want[i].biases.name);
    }
    free(p.want);
    buf_free(&config);
    load_close(&m);
    return ok;
}

/* ---- the command line ---- */

static int usage(void) {
    fprintf(stderr, "usage: synth (--shape NAME [--layers N] | --config FILE) [--bits B] "
            "[--group G]\n             [--format affine|mxfp4|fp8|fp8-bf16] [--shard-mb N] "
            "[--seed TEXT] -o DIR\nshapes:");
    for (size_t i = 0; i < COUNT(shapes); i++) fprintf(stderr, " %s", shapes[i].name);
    fprintf(stderr, "\n");
    return 2;
}

static bool read_option(struct options *o, const char *key, const char *value) {
    uint64_t n = 0;
    bool number = str_u64(str_of(value), 1 << 20, &n);
    if (!strcmp(key, "--shape")) o->shape = value;
    else if (!strcmp(key, "--config")) o->config = value;
    else if (!strcmp(key, "--seed")) o->seed = value;
    else if (!strcmp(key, "--format")) o->format = value;
    else if (!strcmp(key, "-o")) o->out = value;
    else if (!number) return false;
    else if (!strcmp(key, "--bits")) o->bits = (int)n;
    else if (!strcmp(key, "--group")) o->group = (int)n;
    else if (!strcmp(key, "--layers")) o->layers = (int)n;
    else if (!strcmp(key, "--shard-mb")) o->shard_bytes = n * 1000000;
    else return false;
    return true;
}

/* What the options say of the layout; false: they say nothing that goes together. */
static bool choose_layout(struct options *o) {
    const char *format = o->format ? o->format : o->bits ? "affine" : "";
    o->bf16_scales = !strcmp(format, "fp8-bf16");
    bool mx = !strcmp(format, "mxfp4"), fp8 = o->bf16_scales || !strcmp(format, "fp8");
    o->layout = mx ? MX : fp8 ? BLOCKS : o->bits ? AFFINE : PLAIN;
    if (mx) o->bits = 4, o->group = MXFP4_GROUP;
    if (mx || fp8) return true;
    return (o->bits ? quant_bits_ok(o->bits) : !o->format) && quant_group_ok(o->group) &&
           (!o->format || !strcmp(format, "affine"));
}

int main(int argc, char **argv) {
    struct options o = { .seed = "0", .group = 64 };
    struct err err = { 0 };
    for (int i = 1; i < argc; i += 2)
        if (i + 1 == argc || !read_option(&o, argv[i], argv[i + 1])) return usage();
    if (!o.out || !o.shape == !o.config || !choose_layout(&o)) return usage();
    if (synthesize(&o, &err)) return 0;
    fprintf(stderr, "synth: %s\n", err.text);
    return 1;
}

/* quant_config.c - config.json's word on quantization, as a cross-check.
 *
 * The tensors themselves say how they are packed. What the config adds is which method
 * made them: another than those here packs differently, perhaps under the same names. */
#include "weights/binder.h"
#include "weights/quant.h"

#include <stdlib.h>
#include <string.h>

static const char keys[] = "quantization|quantization_config";

/* The row's name, which lives as long as the program; NULL, and the error in the config: there is
 * no such mode. Where nothing is said, it is the affine one. */
static const char *read_mode(struct config *c) {
    struct str said = cfg_str(c, "mode", "affine");
    for (const struct quant_mode *m = quant_modes; m->name; m++)
        if (str_is(said, m->name)) return m->name;
    cfg_fail(c, "quantization.mode is \"%.*s\"; affine, mxfp4, mxfp8 and nvfp4 are supported",
             STR_ARG(said));
    return NULL;
}

/* One member of the quantization object: a path's own bits and group, or false for none. */
static void read_path(void *to, struct str key, struct config *value) {
    struct quant_config *q = to;
    bool object = cfg_has(value, "bits|group_size|mode");
    /* Members without a dot are no paths: group_size, bits, mode and the like. */
    if (!object && !str_is(key, "lm_head") && !memchr(key.at, '.', key.len)) return;
    if (q->n_paths == q->paths_cap) {
        q->paths_cap = MAX(q->paths_cap * 2, (size_t)64);
        q->path = mem_grow(q->path, q->paths_cap, sizeof *q->path);
    }
    struct quant_path p = { 0 };
    if (object) {
        p.bits = cfg_int_in(value, "bits", 0, 1, 32);
        p.group = cfg_int_in(value, "group_size", 0, 1, 65536);
        p.mode = read_mode(value);
    } else {
        p.off = !cfg_bool(value, "", true);
    }
    map_put(&q->paths, (struct str){ arena_str(&q->names, key), key.len }, (uint32_t)q->n_paths);
    q->path[q->n_paths++] = p;
}

static void read_mlx(struct quant_config *q, struct config *c) {
    q->mode = read_mode(q->config);
    q->bits = cfg_int_in(q->config, "bits", 0, 1, 32);
    q->group = cfg_int_in(q->config, "group_size", 0, 1, 65536);
    bool affine = q->mode && str_is(str_of(q->mode), "affine");
    if (q->bits && !quant_bits_ok(q->bits))
        cfg_fail(c, "quantization.bits is %d; 2, 3, 4, 5, 6 and 8 are supported", q->bits);
    if (q->group && affine && !quant_group_ok(q->group))
        cfg_fail(c, "quantization.group_size is %d; 32, 64 and 128 are supported", q->group);
    cfg_each(c, keys, read_path, q);
}

/* DeepSeek's and Qwen's FP8, and Mistral's: blocks, or one scale for a matrix. */
static void read_fp8(struct quant_config *q) {
    cfg_only(q->config, "fmt", "e4m3");
    cfg_str(q->config, "activation_scheme", "");
    cfg_len(q->config, "modules_to_not_convert");
    if (!cfg_has(q->config, "weight_block_size")) return;
    if (cfg_len(q->config, "weight_block_size") != 2) {
        cfg_fail(q->config, "quantization_config.weight_block_size is not a list of two numbers");
        return;
    }
    for (int i = 0; i < 2; i++) {
        q->block[i] = cfg_int_at(q->config, "weight_block_size", i);
        if (q->block[i] >= 1) continue;
        cfg_fail(q->config, "quantization_config.weight_block_size is %lld",
                 (long long)q->block[i]);
        q->block[i] = FP8_BLOCK;
    }
}

/* A group of compressed-tensors: all that is supported is FP8. */
static void read_group(void *to, struct str key, struct config *group) {
    struct quant_config *q = to;
    (void)key;
    cfg_only(group, "weights.type", "float");
    if (cfg_int(group, "weights.num_bits", 8) != 8)
        cfg_fail(group, "num_bits is %d; of compressed-tensors FP8 alone is supported",
                 cfg_int(group, "weights.num_bits", 8));
    struct str strategy = cfg_str(group, "weights.strategy", "tensor");
    if (!str_is(strategy, "tensor") && !str_is(strategy, "channel") && !str_is(strategy, "block"))
        cfg_fail(group, "strategy is \"%.*s\"; tensor, channel and block are supported",
                 STR_ARG(strategy));
    for (int i = 0; i < 2 && cfg_len(group, "weights.block_structure") == 2; i++)
        q->block[i] = MAX(1, cfg_int_at(group, "weights.block_structure", i));
}

bool quant_config_read(struct quant_config *q, struct config *c, struct err *err) {
    q->block[0] = q->block[1] = FP8_BLOCK;
    if (!c) return true;
    /* The decoder's config may be an object inside; quantization is said at the top. */
    if (!cfg_has(c, keys)) c = cfg_root(c);
    if (!cfg_has(c, keys)) return true;
    q->config = cfg_sub(c, keys);
    /* MLX writes no quant_method; every other packer does. */
    struct str method = cfg_str(q->config, "quant_method", "");
    if (!method.len) {
        q->method = QUANT_MLX;
        read_mlx(q, c);
    } else if (str_is(method, "fp8")) {
        q->method = QUANT_FP8;
        read_fp8(q);
    } else if (str_is(method, "compressed-tensors")) {
        q->method = QUANT_COMPRESSED;
        cfg_only(q->config, "format", "float-quantized");
        cfg_each(q->config, "config_groups", read_group, q);
    } else if (str_is(method, "mxfp4")) {
        q->method = QUANT_MXFP4;
        cfg_len(q->config, "modules_to_not_convert");
    } else {
        return err_code(err, ERR_UNSUPPORTED, "config.json: quantization_config.quant_method is "
                        "\"%.*s\"; supported are MLX's own, fp8, compressed-tensors (FP8) and "
                        "mxfp4", STR_ARG(method));
    }
    return cfg_ok(c, err);
}

void quant_config_free(struct quant_config *q) {
    free(q->path);
    map_free(&q->paths);
    arena_free(&q->names);
}

bool quant_config_agrees(const struct quant_config *q, struct str module, const char *mode,
                         int bits, int group, const char *file, struct err *err) {
    uint32_t i;
    struct quant_path said = { q->bits, q->group, q->mode, false };
    /* A path may say one of the two and leave the other to the general word; but for the mode,
     * which is affine for a path that says none. */
    if (map_get(&q->paths, module, &i)) {
        struct quant_path own = q->path[i];
        said.bits = own.bits ? own.bits : said.bits;
        said.group = own.group ? own.group : said.group;
        said.mode = own.mode ? own.mode : said.mode;
        said.off = own.off;
    }
    if (said.off)
        return err_set(err, "%s: tensor %.*s.weight is quantized, but config.json says it is not",
                       file, STR_ARG(module));
    if (said.mode && strcmp(said.mode, mode))
        return err_set(err, "%s: tensor %.*s.weight is packed as %s, but config.json says %s", file,
                       STR_ARG(module), mode, said.mode);
    if ((said.bits && said.bits != bits) || (said.group && said.group != group))
        return err_set(err, "%s: tensor %.*s.weight is packed with %d bits in groups of %d, but "
                       "config.json says %d bits and groups of %d", file, STR_ARG(module), bits,
                       group, said.bits, said.group);
    return true;
}

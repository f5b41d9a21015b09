/* quant_config.c - config.json's word on quantization, as a cross-check.
 *
 * The tensors themselves say how they are packed. What the config adds is which method
 * made them: another than MLX's affine mode packs differently under the same names. */
#include "weights/binder.h"
#include "weights/quant.h"

#include <stdlib.h>
#include <string.h>

static const char keys[] = "quantization|quantization_config";

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
        cfg_only(value, "mode", "affine");
    } else {
        p.off = !cfg_bool(value, "", true);
    }
    map_put(&q->paths, (struct str){ arena_str(&q->names, key), key.len }, (uint32_t)q->n_paths);
    q->path[q->n_paths++] = p;
}

bool quant_config_read(struct quant_config *q, struct config *c, struct err *err) {
    if (!c) return true;
    /* The decoder's config may be an object inside; quantization is said at the top. */
    if (!cfg_has(c, keys)) c = cfg_root(c);
    if (!cfg_has(c, keys)) return true;
    q->config = cfg_sub(c, keys);
    /* MLX writes no quant_method; every other packer does. */
    struct str method = cfg_str(q->config, "quant_method", NULL);
    if (method.len)
        return err_code(err, ERR_UNSUPPORTED, "config.json: quantization_config.quant_method is "
                        "\"%.*s\"; of quantized checkpoints only MLX affine ones are supported",
                        STR_ARG(method));
    cfg_only(q->config, "mode", "affine");
    q->bits = cfg_int_in(q->config, "bits", 0, 1, 32);
    q->group = cfg_int_in(q->config, "group_size", 0, 1, 65536);
    if (q->bits && !quant_bits_ok(q->bits))
        cfg_fail(c, "quantization.bits is %d; 2, 3, 4, 5, 6 and 8 are supported", q->bits);
    if (q->group && !quant_group_ok(q->group))
        cfg_fail(c, "quantization.group_size is %d; 32, 64 and 128 are supported", q->group);
    cfg_each(c, keys, read_path, q);
    return cfg_ok(c, err);
}

void quant_config_free(struct quant_config *q) {
    free(q->path);
    map_free(&q->paths);
    arena_free(&q->names);
}

bool quant_config_agrees(const struct quant_config *q, struct str module, int bits, int group,
                         const char *file, struct err *err) {
    uint32_t i;
    struct quant_path said = { q->bits, q->group, false };
    /* A path may say one of the two and leave the other to the general word. */
    if (map_get(&q->paths, module, &i)) {
        struct quant_path own = q->path[i];
        said.bits = own.bits ? own.bits : said.bits;
        said.group = own.group ? own.group : said.group;
        said.off = own.off;
    }
    if (said.off)
        return err_set(err, "%s: tensor %.*s.weight is quantized, but config.json says it is not",
                       file, STR_ARG(module));
    if ((said.bits && said.bits != bits) || (said.group && said.group != group))
        return err_set(err, "%s: tensor %.*s.weight is packed with %d bits in groups of %d, but "
                       "config.json says %d bits and groups of %d", file, STR_ARG(module), bits,
                       group, said.bits, said.group);
    return true;
}

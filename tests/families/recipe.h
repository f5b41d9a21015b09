/* recipe.h - draws the tensors of a tensors.json: splitmix64 keyed by tensor name, bit for
 * bit what the reference model was given. */
#pragma once
#include "../maker.h"

#include <json-c/json.h>
#include <math.h>

static inline uint64_t recipe_key(const char *seed, const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    const char *part[] = { seed, "/", name };
    for (int i = 0; i < 3; i++)
        for (const char *c = part[i]; *c; c++) h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    return h;
}

static inline uint64_t recipe_word(uint64_t key, uint64_t i) {
    uint64_t x = key + (i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

static inline float recipe_value(uint64_t key, uint64_t i, double mean, double std) {
    uint64_t w = recipe_word(key, i);
    int64_t s = (int64_t)((w & 0xffff) + (w >> 16 & 0xffff) + (w >> 32 & 0xffff) + (w >> 48));
    return (float)(mean + std * ((double)(s - 131070) * 0x1.bb67aep-16));
}

static inline uint16_t recipe_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline double recipe_number(struct json_object *entry, const char *key) {
    return json_object_get_double(json_object_object_get(entry, key));
}

static inline void recipe_tensor(struct maker *m, const char *seed, const char *name,
                                 struct json_object *entry) {
    struct json_object *shape = json_object_object_get(entry, "shape");
    const char *dtype = json_object_get_string(json_object_object_get(entry, "dtype"));
    const char *kind = json_object_get_string(json_object_object_get(entry, "kind"));
    bool bf16 = !strcmp(dtype, "BF16"), constant = kind && !strcmp(kind, "constant");
    if (!bf16 && strcmp(dtype, "F32")) abort();
    if (kind && !constant) abort();
    uint64_t n = 1, key = recipe_key(seed, name);
    for (size_t i = 0; i < json_object_array_length(shape); i++)
        n *= (uint64_t)json_object_get_int64(json_object_array_get_idx(shape, i));
    struct buf bytes = { 0 };
    for (uint64_t i = 0; i < n; i++) {
        float v = constant ? (float)recipe_number(entry, "value")
                           : recipe_value(key, i, recipe_number(entry, "mean"),
                                          recipe_number(entry, "std"));
        uint16_t half = recipe_bf16(v);
        if (bf16) buf_put(&bytes, &half, sizeof half);
        else buf_put(&bytes, &v, sizeof v);
    }
    maker_add(m, name, dtype,
              json_object_to_json_string_ext(shape, JSON_C_TO_STRING_PLAIN), bytes.at, bytes.len);
    buf_free(&bytes);
}

/* The whole model.safetensors of a tensors.json. format: what its metadata says, NULL: none. */
static inline void recipe_model(struct buf *out, const char *tensors_json, const char *format) {
    struct json_object *root = json_object_from_file(tensors_json);
    if (!root) abort();
    const char *seed = json_object_get_string(json_object_object_get(root, "seed_string"));
    struct maker m = { 0 };
    if (format) maker_metadata(&m, format);
    json_object_object_foreach(json_object_object_get(root, "tensors"), name, entry)
        recipe_tensor(&m, seed, name, entry);
    struct buf header = { 0 };
    buf_char(&header, '{');
    buf_str(&header, buf_view(&m.header));
    buf_char(&header, '}');
    maker_file(out, buf_view(&header), buf_view(&m.data));
    buf_free(&header);
    buf_free(&m.header);
    buf_free(&m.data);
    json_object_put(root);
}

/* fuzz_config.c - any bytes as config.json, read in every way. */
#include "spec/config.h"
#include "weights/binder.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void unread(void *to, struct str path) {
    *(size_t *)to += path.len;
}

static void member(void *to, struct str key, struct config *value) {
    *(size_t *)to += key.len + (size_t)cfg_int(value, "", 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const paths[] = { "a", "b.c|a", "rope_scaling.factor|x", "", "layer_types" };
    struct err err = { 0 };
    struct config *c = cfg_parse((struct str){ (const char *)data, size }, "fuzz", &err);
    if (!c) {
        if (!err.text[0]) abort();
        return 0;
    }
    size_t sum = 0;
    for (size_t i = 0; i < COUNT(paths); i++) {
        const char *path = paths[i];
        cfg_has(c, path);
        cfg_int(c, path, REQUIRED);
        cfg_num(c, path, 1);
        cfg_inf(c, path, 1);
        cfg_bool(c, path, true);
        sum += cfg_str(c, path, "x").len;
        for (int n = cfg_len(c, path), j = 0; j < n && j < 8; j++) {
            cfg_int_at(c, path, j);
            cfg_num_at(c, path, j);
            cfg_str_at(c, path, j);
        }
        cfg_only(c, path, "x");
        cfg_each(cfg_sub(c, path), "", member, &sum);
    }
    cfg_unread(c, unread, &sum);
    struct quant_config q = { 0 };
    quant_config_read(&q, c, &err);
    quant_config_free(&q);
    cfg_close(c);
    return 0;
}

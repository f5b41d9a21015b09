/* engine_generation.c - reads generation_config.json leniently: it is advice, but for its ids. */
#include "engine_generation.h"
#include "base/log.h"
#include "spec/config.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

/* A float key into *to when it is a finite number and sample_check accepts the result. */
static void read_float(struct config *c, struct sample_params *p, const char *key, float *to) {
    struct err err = { 0 };
    float before = *to;
    if (!cfg_has(c, key)) return;
    *to = cfg_num(c, key, before);
    if (cfg_ok(c, NULL) && sample_check(p, &err)) return;
    log_line(LOG_WARN, "generation_config.json: %s is out of range, ignored", key);
    *to = before;
}

/* Each key is read from a fresh parse, because a config's first error sticks. */
static void read_key(const char *path, struct sample_params *p, const char *key, float *to) {
    struct config *c = cfg_open(path, NULL);
    if (c) read_float(c, p, key, to);
    cfg_close(c);
}

static void read_sampling(const char *path, struct config *c, struct sample_params *p) {
    float top_k = (float)p->top_k;
    bool draws = cfg_bool(c, "do_sample", cfg_has(c, "temperature"));
    if (cfg_has(c, "do_sample") || cfg_has(c, "temperature")) {
        struct sample_params plain = sample_defaults();
        plain.temperature = 1;
        plain.top_k = 0;
        plain.top_p = 1;
        plain.min_p = 0;
        *p = plain;
        top_k = 50;                    /* Transformers' own default, where sampling is on */
    }
    read_key(path, p, "temperature", &p->temperature);
    read_key(path, p, "top_p", &p->top_p);
    read_key(path, p, "min_p", &p->min_p);
    read_key(path, p, "typical_p", &p->typical_p);
    read_key(path, p, "repetition_penalty", &p->repeat_penalty);
    read_key(path, p, "top_k", &top_k);
    if (top_k >= 0 && top_k < 1e6f) p->top_k = (int)top_k;
    if (!draws) p->temperature = 0;
}

static void add_eos(struct generation *g, struct config *c, int id, int vocab) {
    if (id < 0 || id >= vocab) cfg_fail(c, "eos_token_id: %d is outside of the vocabulary", id);
    else if (g->n_eos == EOS_MAX) cfg_fail(c, "eos_token_id: more than %d ids", EOS_MAX);
    else g->eos[g->n_eos++] = id;
}

static void read_eos(struct generation *g, struct config *c, int vocab) {
    int n = cfg_len(c, "eos_token_id");
    if (!cfg_has(c, "eos_token_id")) return;
    g->n_eos = 0;
    if (n < 0) add_eos(g, c, cfg_int(c, "eos_token_id", 0), vocab);
    for (int i = 0; i < n && cfg_ok(c, NULL); i++)
        add_eos(g, c, cfg_int_at(c, "eos_token_id", i), vocab);
}

static bool read_file(struct generation *g, const char *dir, const char *name, bool sampling,
                      int vocab, struct err *err) {
    struct buf path = { 0 };
    buf_format(&path, "%s/%s", dir, name);
    bool ok = true;
    struct config *c = access(buf_c(&path), F_OK) ? NULL : cfg_open(buf_c(&path), err);
    if (!c) ok = access(buf_c(&path), F_OK) != 0;
    else {
        read_eos(g, c, vocab);
        ok = cfg_ok(c, err);
        if (ok && sampling) read_sampling(buf_c(&path), c, &g->sample);
    }
    cfg_close(c);
    buf_free(&path);
    return ok;
}

bool generation_read(struct generation *g, const char *dir, int vocab, struct err *err) {
    *g = (struct generation){ .sample = sample_defaults() };
    return read_file(g, dir, "config.json", false, vocab, err) &&
           read_file(g, dir, "generation_config.json", true, vocab, err);
}

/* inspect.c - a checkpoint described as JSON: spec, what each tensor is, keys nobody
 * read, what memory it takes. Binds as loading does, so it finds what loading would. */
#include "model/load.h"

#include <math.h>
#include <stdlib.h>

static void put_number(struct buf *b, const char *key, double v) {
    if (isfinite(v)) buf_format(b, ",\"%s\":%.9g", key, v);
    else buf_format(b, ",\"%s\":\"%s\"", key, v > 0 ? "inf" : "nan");
}

static void put_layer(struct buf *b, const struct layer_spec *l) {
    buf_format(b, "{\"mixer\":\"%s\",\"ffn\":\"%s\"", l->mixer ? l->mixer->name : "none",
               l->ffn ? l->ffn->name : "none");
    if (l->mixer == &mixer_attention) {
        const struct attn_spec *a = &l->attn;
        buf_format(b, ",\"heads\":%d,\"kv_heads\":%d,\"head_dim\":%d,\"window\":%d", a->heads,
                   a->kv_heads, a->head_dim, a->window);
        if (a->rope.pairing == ROPE_NONE) buf_str(b, S(",\"rope\":null"));
        else {
            buf_format(b, ",\"rope\":{\"dims\":%d", a->rope.dims);
            put_number(b, "base", (double)a->rope.base);
            put_number(b, "factor", (double)a->rope.factor);
            buf_char(b, '}');
        }
    }
    if (l->mixer == &mixer_mla)
        buf_format(b, ",\"heads\":%d,\"kv_rank\":%d,\"rope_dim\":%d", l->mla.heads, l->mla.kv_rank,
                   l->mla.rope_dim);
    if (l->mixer == &mixer_mamba2)
        buf_format(b, ",\"heads\":%d,\"head_dim\":%d,\"state\":%d", l->mamba.heads,
                   l->mamba.head_dim, l->mamba.state);
    if (l->mixer == &mixer_delta)
        buf_format(b, ",\"k_heads\":%d,\"v_heads\":%d,\"k_dim\":%d,\"v_dim\":%d", l->delta.k_heads,
                   l->delta.v_heads, l->delta.k_dim, l->delta.v_dim);
    if (l->ffn == &ffn_mlp) buf_format(b, ",\"hidden\":%d", l->mlp.hidden);
    if (l->ffn == &ffn_moe)
        buf_format(b, ",\"experts\":%d,\"active\":%d,\"hidden\":%d,\"shared\":%d",
                   l->moe.route.experts, l->moe.route.active, l->moe.expert.hidden,
                   l->moe.shared.hidden);
    buf_char(b, '}');
}

static void put_spec(struct buf *b, const struct decoder_spec *d) {
    buf_format(b, ",\n\"spec\":{\"layers\":%d,\"dim\":%d,\"vocab\":%d,\"context\":%d", d->n_layers,
               d->dim, d->vocab, d->context);
    put_number(b, "eps", (double)d->eps);
    put_number(b, "embed_scale", (double)d->embed_scale);
    put_number(b, "logit_scale", (double)d->logit_scale);
    put_number(b, "logit_softcap", (double)d->logit_softcap);
    buf_format(b, ",\"tied_head\":%s,\"layer\":[", d->tied_head ? "true" : "false");
    for (int i = 0; i < d->n_layers; i++) {
        buf_str(b, i ? S(",\n  ") : S("\n  "));
        put_layer(b, &d->layer[i]);
    }
    buf_str(b, S("]}"));
}

static void put_tensor(struct buf *b, const struct weights_entry *e, const char *slot, int layer) {
    buf_str(b, S("{\"name\":"));
    buf_json(b, e->name);
    buf_str(b, S(",\"dtype\":"));
    buf_json(b, str_of(e->dtype));
    buf_str(b, S(",\"shape\":["));
    for (int i = 0; i < e->t.rank; i++)
        buf_format(b, "%s%lld", i ? "," : "", (long long)e->t.shape[i]);
    buf_format(b, "],\"bytes\":%zu,\"slot\":", e->bytes);
    if (slot) buf_json(b, str_of(slot));
    else buf_str(b, S("null"));
    if (layer >= 0) buf_format(b, ",\"layer\":%d", layer);
    buf_char(b, '}');
}

static void put_tensors(struct buf *b, const struct loaded *m) {
    buf_str(b, S(",\n\"tensors\":["));
    for (size_t i = 0; i < weights_count(m->weights); i++) {
        int layer = -1;
        const char *slot = binder_claim(m->binder, i, &layer);
        buf_str(b, i ? S(",\n  ") : S("\n  "));
        put_tensor(b, weights_entry(m->weights, i), slot, layer);
    }
    buf_char(b, ']');
}

struct unread { struct buf *b; int n; };

static void put_unread(void *to, struct str path) {
    struct unread *u = to;
    if (u->n++) buf_char(u->b, ',');
    buf_json(u->b, path);
}

static void put_memory(struct buf *b, const struct loaded *m, int context, enum dtype kv) {
    const struct decoder_spec *d = &m->spec;
    struct state_need *need = mem_array((size_t)d->n_layers, sizeof *need);
    size_t per_token = 0, per_sequence = 0;
    load_need(m, need, kv);
    for (int i = 0; i < d->n_layers; i++) {
        per_token += need[i].per_token;
        per_sequence += need[i].per_sequence;
    }
    if (!context || context > d->context) context = d->context;
    /* Of the model, so without a limit by this machine's memory. */
    struct cache_options o = { .bytes = SIZE_MAX, .seqs_max = 1, .tokens_max = context,
                               .rows_max = 256 };
    size_t cache = cache_bytes(need, d->n_layers, &o), weights = weights_bytes(m->weights);
    buf_format(b, ",\n\"memory\":{\"weights\":%zu,\"kv_per_token\":%zu,\"state_per_sequence\":%zu,"
               "\"context\":%d,\"cache\":%zu,\"total\":%zu}", weights, per_token, per_sequence,
               context, cache, weights + cache);
    free(need);
}

bool model_inspect(const char *dir, int context, enum dtype kv, struct buf *b, struct err *err) {
    struct loaded m = { 0 };
    struct device dev = { .op = &device_null };
    bool ok = load_spec(&m, dir, err) && load_bind(&m, dir, &dev, NULL, NULL, err);
    if (ok) {
        buf_str(b, S("{\"family\":"));
        buf_json(b, str_of(m.family->name));
        buf_str(b, S(",\"model_type\":"));
        buf_json(b, cfg_str(m.config, "model_type", ""));
        put_spec(b, &m.spec);
        put_tensors(b, &m);
        buf_str(b, S(",\n\"unread\":["));
        cfg_unread(m.config, put_unread, &(struct unread){ b, 0 });
        buf_char(b, ']');
        put_memory(b, &m, context, kv);
        buf_str(b, S("}\n"));
        ok = load_finish(&m, err);
    }
    load_close(&m);
    return ok;
}

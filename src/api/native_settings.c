/* native_settings.c - sampling parameters in llama-server's words, and replies of which a client
 * wants some members only. */
#include "api/native.h"
#include "api/server.h"

#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(struct sample_params, field)

static const struct { const char *name; size_t at; } reals[] = {
    { "temperature", AT(temperature) },             { "top_p", AT(top_p) },
    { "min_p", AT(min_p) },                         { "top_n_sigma", AT(top_n_sigma) },
    { "xtc_probability", AT(xtc_probability) },     { "xtc_threshold", AT(xtc_threshold) },
    { "typical_p", AT(typical_p) },                 { "repeat_penalty", AT(repeat_penalty) },
    { "presence_penalty", AT(presence_penalty) },   { "frequency_penalty", AT(frequency_penalty) },
    { "dry_multiplier", AT(dry_multiplier) },       { "dry_base", AT(dry_base) },
};

static const struct { const char *name; size_t at; } wholes[] = {
    { "top_k", AT(top_k) },                         { "repeat_last_n", AT(penalty_last) },
    { "dry_allowed_length", AT(dry_allowed) },      { "dry_penalty_last_n", AT(dry_last) },
};

/* Dashboards read these whether or not a server can do such things: here they are off. */
static const char fixed[] =
    ",\"dynatemp_range\":0,\"dynatemp_exponent\":1,\"mirostat\":0,\"mirostat_tau\":5,"
    "\"mirostat_eta\":0.1,\"n_keep\":0,\"n_discard\":0,\"min_keep\":0,\"lora\":[],"
    "\"post_sampling_probs\":false,\"speculative.n_max\":0,\"speculative.n_min\":0,"
    "\"speculative.p_min\":0";

static const char *truth(bool b) { return b ? "true" : "false"; }

static void put_samplers(struct buf *b, const struct sample_params *p) {
    buf_str(b, S(",\"samplers\":["));
    for (int i = 0; i < SAMPLER_STEPS_MAX && p->order[i] != STEP_END; i++)
        buf_format(b, "%s\"%s\"", i ? "," : "", sample_step_name(p->order[i]));
    buf_char(b, ']');
}

static void put_breakers(struct buf *b, struct json_object *request) {
    struct fields f = { request, NULL };
    struct json_object *own = request ? field_any(&f, "dry_sequence_breakers") : NULL;
    buf_str(b, S(",\"dry_sequence_breakers\":"));
    if (own) buf_str(b, str_of(json_object_to_json_string_ext(own, JSON_C_TO_STRING_PLAIN)));
    else buf_str(b, S("[\"\\n\",\":\",\"\\\"\",\"*\"]"));
}

static void put_bias(struct buf *b, const struct sample_params *p) {
    buf_str(b, S(",\"logit_bias\":["));
    for (int i = 0; i < p->n_bias; i++) {
        buf_format(b, "%s{\"token\":%d,\"bias\":", i ? "," : "", p->bias[i].token);
        if (isfinite(p->bias[i].bias)) buf_format(b, "%.7g}", (double)p->bias[i].bias);
        else buf_str(b, S("false}"));
    }
    buf_char(b, ']');
}

static void put_own(struct buf *b, const struct sample_params *p, const struct call *c) {
    int n = c ? c->options.n_stop : 0;
    buf_str(b, S(",\"stop\":["));
    for (int i = 0; i < n; i++) {
        if (i) buf_char(b, ',');
        buf_json(b, c->options.stop[i]);
    }
    buf_char(b, ']');
    put_breakers(b, c ? c->json : NULL);
    put_bias(b, p);
    buf_str(b, S(",\"grammar\":\"\""));
}

void native_settings(struct buf *b, const struct server *s, const struct call *c, bool whole) {
    const struct sample_params *p = c ? &c->options.sample : s->sampling;
    const char *base = (const char *)p;
    int n_max = c ? c->options.n_max : -1;
    long long seed = c ? (long long)p->seed : -1;      /* of what a request draws: -1 */
    buf_format(b, "{\"n_predict\":%d,\"max_tokens\":%d,\"seed\":%lld", n_max, n_max, seed);
    for (size_t i = 0; i < COUNT(reals); i++) {
        float value;
        memcpy(&value, base + reals[i].at, sizeof value);
        buf_format(b, ",\"%s\":%.7g", reals[i].name, (double)value);
    }
    for (size_t i = 0; i < COUNT(wholes); i++) {
        int value;
        memcpy(&value, base + wholes[i].at, sizeof value);
        buf_format(b, ",\"%s\":%d", wholes[i].name, value);
    }
    buf_str(b, S(fixed));
    put_samplers(b, p);
    bool probs = c && c->wire_flags & WIRE_LOGPROBS;
    buf_format(b, ",\"ignore_eos\":%s,\"stream\":%s,\"timings_per_token\":%s,\"n_probs\":%d",
               truth(c && c->options.ignore_eos), truth(!c || c->stream), truth(c && c->timings),
               probs ? openai_top(c) : 0);
    if (whole) put_own(b, p, c);
    buf_char(b, '}');
}

/* ---- response_fields ---- */

/* The member that "a/b" means, and its name; NULL: there is none. */
static struct json_object *find(struct json_object *o, const char *path, const char **name) {
    while (o && *path) {
        size_t n = strcspn(path, "/");
        char *key = mem_str((struct str){ path, n });
        struct json_object *inner = NULL;
        if (json_object_is_type(o, json_type_object)) json_object_object_get_ex(o, key, &inner);
        free(key);
        o = inner;
        *name = path;
        path += n + (path[n] == '/');
    }
    return o;
}

void native_pick(struct buf *json, struct json_object *fields) {
    struct json_object *whole = json_tokener_parse(buf_c(json));
    struct json_object *some = json_object_new_object();
    size_t n = json_object_array_length(fields);
    for (size_t i = 0; i < n; i++) {
        const char *name = "", *path = json_object_get_string(json_object_array_get_idx(fields, i));
        struct json_object *value = find(whole, path, &name);
        if (value) json_object_object_add(some, name, json_object_get(value));
    }
    buf_clear(json);
    int flags = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
    buf_str(json, str_of(json_object_to_json_string_ext(some, flags)));
    json_object_put(some);
    json_object_put(whole);
}

/* params.c - the fields about sampling and length that all dialects share.
 *
 * Numbers are rows of two tables; what is left has a function each. A field that would change the
 * answer and is not implemented is refused by name, so that nobody gets another answer than the one
 * that was asked for. */
#include "api/openai.h"
#include "api/server.h"

#include <json-c/json.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define AT(field) offsetof(struct sample_params, field)

/* The ranges are those of sample_check, which knows the parameters but not the field's name. */
static const struct { const char *name; size_t at; double min, max; } reals[] = {
    { "temperature",        AT(temperature),       0,    100 },
    { "top_p",              AT(top_p),             0,    1 },
    { "min_p",              AT(min_p),             0,    1 },
    { "typical_p",          AT(typical_p),         0,    1 },
    { "typ_p",              AT(typical_p),         0,    1 },
    { "top_n_sigma",        AT(top_n_sigma),       -1,   1000 },
    { "repeat_penalty",     AT(repeat_penalty),    0.01, 100 },
    { "repetition_penalty", AT(repeat_penalty),    0.01, 100 },
    { "presence_penalty",   AT(presence_penalty),  -100, 100 },
    { "frequency_penalty",  AT(frequency_penalty), -100, 100 },
    { "dry_multiplier",     AT(dry_multiplier),    0,    1000 },
    { "dry_base",           AT(dry_base),          1,    1000 },
    { "xtc_probability",    AT(xtc_probability),   0,    1 },
    { "xtc_threshold",      AT(xtc_threshold),     0,    1 },
};

static const struct { const char *name; size_t at; int min; } wholes[] = {
    { "top_k",              AT(top_k),        -1 },
    { "repeat_last_n",      AT(penalty_last), -1 },
    { "dry_allowed_length", AT(dry_allowed),  0 },
    { "dry_penalty_last_n", AT(dry_last),     -1 },
};

/* Clients keep these at a value that switches them off; only another one is refused. */
static const struct { const char *name; double off; } unknown_samplers[] = {
    { "mirostat", 0 }, { "dynatemp_range", 0 }, { "adaptive_target", -1 },
};

static const char *const constraints[] = {
    "grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "structured_outputs",
};

static void read_numbers(struct sample_params *p, struct fields *f) {
    char *base = (char *)p;
    for (size_t i = 0; i < COUNT(reals); i++) {
        float *to = (float *)(void *)(base + reals[i].at);
        if (field_has(f, reals[i].name))
            *to = (float)field_real(f, reals[i].name, reals[i].min, reals[i].max, (double)*to);
    }
    for (size_t i = 0; i < COUNT(wholes); i++) {
        int *to = (int *)(void *)(base + wholes[i].at);
        *to = (int)field_int(f, wholes[i].name, wholes[i].min, INT_MAX, *to);
    }
}

static void refuse_unknown(struct fields *f) {
    for (size_t i = 0; i < COUNT(unknown_samplers); i++) {
        const char *name = unknown_samplers[i].name;
        double off = unknown_samplers[i].off;
        double value = field_real(f, name, -1e300, 1e300, off);
        if (off < 0 ? value >= 0 : value > 0)
            fault_unsupported(f->fault, name, "'%s' is not supported by this server.", name);
    }
    for (size_t i = 0; i < COUNT(constraints); i++) {
        struct json_object *value = field_any(f, constraints[i]);
        /* An empty grammar is how some clients say that they have none. */
        if (!value || (json_object_is_type(value, json_type_string) &&
                       !json_object_get_string_len(value))) continue;
        fault_unsupported(f->fault, constraints[i],
                          "'%s' is not supported yet: this server cannot constrain an answer.",
                          constraints[i]);
    }
    struct json_object *format = field_object(f, "response_format");
    if (format) {
        struct fields inner = { format, f->fault };
        struct str type = field_str(&inner, "type");
        if (!str_is(type, "text"))
            fault_unsupported(f->fault, "response_format",
                              "response_format '%.*s' is not supported yet: only 'text' is.",
                              STR_ARG(type));
    }
    struct json_object *lora = field_list(f, "lora");
    if (lora && json_object_array_length(lora))
        fault_unsupported(f->fault, "lora", "No adapters are loaded.");
}

/* Stages that clients list although the parameter that would switch them on is off, or refused. */
static bool is_off(struct str name) {
    return str_is(name, "tfs_z") || str_is(name, "adaptive_p") || str_is(name, "mirostat");
}

/* They change no answer here, but a client that gets their type wrong is told, as by OpenAI. */
static const struct { const char *name; enum json_type type; } ignored[] = {
    { "user",               json_type_string },  { "metadata",               json_type_object },
    { "store",              json_type_boolean }, { "service_tier",           json_type_string },
    { "safety_identifier",  json_type_string },  { "verbosity",              json_type_string },
    { "prediction",         json_type_object },  { "web_search_options",     json_type_object },
    { "audio",              json_type_object },  { "prompt_cache_key",       json_type_string },
    { "mm_processor_kwargs", json_type_object }, { "prompt_cache_retention", json_type_string },
    { "id_slot",            json_type_int },     { "n_keep",                 json_type_int },
    { "n_discard",          json_type_int },
};

static void check_metadata(struct fields *f) {
    struct json_object *all = field_any(f, "metadata");
    if (!json_object_is_type(all, json_type_object)) return;
    struct json_object_iterator i = json_object_iter_begin(all), end = json_object_iter_end(all);
    for (; !json_object_iter_equal(&i, &end); json_object_iter_next(&i)) {
        struct json_object *value = json_object_iter_peek_value(&i);
        if (!value || json_object_is_type(value, json_type_string)) continue;
        fault_set(f->fault, 400, "metadata", "Invalid type for 'metadata.%.100s': expected a "
                  "string.", json_object_iter_peek_name(&i));
    }
}

static void check_ignored(struct fields *f) {
    for (size_t i = 0; i < COUNT(ignored); i++) {
        const char *name = ignored[i].name;
        switch (ignored[i].type) {
        case json_type_boolean: (void)field_bool(f, name, false); break;
        case json_type_object:  (void)field_object(f, name); break;
        case json_type_int:     (void)field_int(f, name, INT64_MIN, INT64_MAX, 0); break;
        default:                (void)field_str(f, name); break;
        }
    }
    check_metadata(f);
}

/* "penalties;top_k" or ["penalties", "top_k"]. */
static void read_samplers(struct sample_params *p, struct fields *f) {
    struct json_object *value = field_any(f, "samplers");
    struct buf text = { 0 };
    struct err err = { 0 };
    bool ok = true;
    if (!value) return;
    if (json_object_is_type(value, json_type_string)) buf_str(&text, json_str(value));
    else ok = json_object_is_type(value, json_type_array);
    size_t n = ok && !text.len && json_object_is_type(value, json_type_array)
             ? json_object_array_length(value) : 0;
    for (size_t i = 0; ok && i < n; i++) {
        struct json_object *name = json_object_array_get_idx(value, i);
        ok = json_object_is_type(name, json_type_string) && i < SAMPLER_STEPS_MAX;
        if (!ok) break;
        if (is_off(json_str(name))) continue;
        buf_str(&text, json_str(name));
        buf_char(&text, ';');
    }
    if (!ok)
        fault_set(f->fault, 400, "samplers",
                  "Invalid value for 'samplers': expected a list of at most %d names.",
                  SAMPLER_STEPS_MAX - 1);
    else if (!sample_order(buf_view(&text), p->order, &err))
        fault_set(f->fault, 400, "samplers", "%s", err.text);
    buf_free(&text);
}

static const struct tokenizer *tokenizer_of(struct call *c) {
    struct engine *e = c->x->server->engine;
    return e ? engine_tokenizer(e) : NULL;
}

static void read_breakers(struct call *c, struct fields *f) {
    static const char *const usual[] = { "\n", ":", "\"", "*" };
    struct sample_params *p = &c->options.sample;
    struct json_object *list = field_list(f, "dry_sequence_breakers");
    const struct tokenizer *tok = tokenizer_of(c);
    if (!tok || p->dry_multiplier <= 0 || (!list && p->n_dry_breakers)) return;
    size_t n = list ? json_object_array_length(list) : COUNT(usual);
    if (n > DRY_BREAKERS_MAX) {
        fault_set(f->fault, 400, "dry_sequence_breakers",
                  "Invalid value for 'dry_sequence_breakers': more than %d.", DRY_BREAKERS_MAX);
        return;
    }
    p->dry_breaker = c->breaker;
    p->n_dry_breakers = 0;
    for (size_t i = 0; i < n; i++) {
        struct json_object *item = list ? json_object_array_get_idx(list, i) : NULL;
        struct ids ids = { 0 };
        if (list && !json_object_is_type(item, json_type_string)) {
            fault_set(f->fault, 400, "dry_sequence_breakers",
                      "Invalid type for 'dry_sequence_breakers[%zu]': expected a string.", i);
            return;
        }
        /* The token that ends the text is the one that a match would have to cross. */
        tok_encode(tok, list ? json_str(item) : str_of(usual[i]), 0, NULL, 0, &ids);
        if (ids.len) c->breaker[p->n_dry_breakers++] = ids.at[ids.len - 1];
        ids_free(&ids);
    }
}

/* ---- stop ---- */

static void add_stop(struct call *c, struct json_object *value, struct fault *f) {
    struct str text = json_object_is_type(value, json_type_string) ? json_str(value)
                                                                   : (struct str){ 0 };
    if (!text.at)
        fault_set(f, 400, "stop", "Invalid type for 'stop': expected a string or a list of them.");
    else if (!text.len) fault_set(f, 400, "stop", "Invalid value for 'stop': an empty string.");
    else if (text.len > STOP_BYTES_MAX)
        fault_set(f, 400, "stop", "Invalid value for 'stop': a string of more than %d bytes.",
                  STOP_BYTES_MAX);
    else if (c->options.n_stop == STOPS_MAX)
        fault_set(f, 400, "stop", "Invalid value for 'stop': more than %d strings.", STOPS_MAX);
    else c->stop[c->options.n_stop++] = text;
}

static void read_stop(struct call *c, struct fields *f) {
    struct json_object *value = field_any(f, "stop");
    c->options.stop = c->stop;
    if (!value) return;
    if (!json_object_is_type(value, json_type_array)) {
        add_stop(c, value, f->fault);
        return;
    }
    size_t n = json_object_array_length(value);
    for (size_t i = 0; i < n && !f->fault->status; i++)
        add_stop(c, json_object_array_get_idx(value, i), f->fault);
}

/* ---- logit_bias ---- */

static bool bias_of(struct json_object *value, bool may_ban, float *out, struct fault *f) {
    if (may_ban && json_object_is_type(value, json_type_boolean) &&
        !json_object_get_boolean(value)) {
        *out = -INFINITY;
        return true;
    }
    bool number = json_object_is_type(value, json_type_int) ||
                  json_object_is_type(value, json_type_double);
    double d = number ? json_object_get_double(value) : 0;
    *out = (float)d;
    return (number && d >= -100 && d <= 100) ||
           fault_set(f, 400, "logit_bias",
                     "Invalid value for 'logit_bias': a bias must be a number from -100 to 100.");
}

static bool add_bias(struct call *c, int64_t token, float bias, struct fault *f) {
    struct sample_params *p = &c->options.sample;
    if (token < 0 || token >= c->x->server->info.vocab)
        return fault_set(f, 400, "logit_bias",
                         "Invalid value for 'logit_bias': the vocabulary has no token %lld.",
                         (long long)token);
    if (p->n_bias == BIAS_MAX)
        return fault_set(f, 400, "logit_bias", "Invalid value for 'logit_bias': more than %d "
                         "tokens.", BIAS_MAX);
    if (!c->bias) c->bias = mem_array(BIAS_MAX, sizeof *c->bias);
    c->bias[p->n_bias++] = (struct logit_bias){ (int)token, bias };
    return true;
}

static bool add_text_bias(struct call *c, struct str text, float bias, struct fault *f) {
    const struct tokenizer *tok = tokenizer_of(c);
    struct ids ids = { 0 };
    /* A text of that many bytes cannot be meant for one word, and would cost time to cut up. */
    bool ok = text.len <= STOP_BYTES_MAX ||
              fault_set(f, 400, "logit_bias", "Invalid value for 'logit_bias': a text of more than "
                        "%d bytes.", STOP_BYTES_MAX);
    if (ok && tok) tok_encode(tok, text, 0, NULL, 0, &ids);
    for (int i = 0; ok && i < ids.len; i++) ok = add_bias(c, ids.at[i], bias, f);
    ids_free(&ids);
    return ok;
}

/* [[15043, -1.5], ["Hello", false]] */
static bool add_bias_pair(struct call *c, struct json_object *pair, struct fault *f) {
    float bias;
    if (!json_object_is_type(pair, json_type_array) || json_object_array_length(pair) != 2)
        return fault_set(f, 400, "logit_bias",
                         "Invalid value for 'logit_bias': expected pairs of a token and a bias.");
    struct json_object *token = json_object_array_get_idx(pair, 0);
    if (!bias_of(json_object_array_get_idx(pair, 1), true, &bias, f)) return false;
    if (json_object_is_type(token, json_type_int))
        return add_bias(c, json_object_get_int64(token), bias, f);
    if (json_object_is_type(token, json_type_string))
        return add_text_bias(c, json_str(token), bias, f);
    return fault_set(f, 400, "logit_bias",
                     "Invalid value for 'logit_bias': a token is an id or a text.");
}

static void read_bias(struct call *c, struct fields *f) {
    struct json_object *value = field_any(f, "logit_bias");
    c->options.sample.n_bias = 0;
    if (!value) return;
    bool ok = true;
    if (json_object_is_type(value, json_type_array)) {
        size_t n = json_object_array_length(value);
        for (size_t i = 0; ok && i < n; i++)
            ok = add_bias_pair(c, json_object_array_get_idx(value, i), f->fault);
    } else if (json_object_is_type(value, json_type_object)) {
        struct json_object_iterator i = json_object_iter_begin(value),
                                    end = json_object_iter_end(value);
        for (; ok && !json_object_iter_equal(&i, &end); json_object_iter_next(&i)) {
            uint64_t token;
            float bias;
            struct str key = str_of(json_object_iter_peek_name(&i));
            if (!str_u64(key, INT_MAX, &token))
                ok = fault_set(f->fault, 400, "logit_bias",
                               "Invalid value for 'logit_bias': '%.*s' is no token id.",
                               STR_ARG(key));
            else
                ok = bias_of(json_object_iter_peek_value(&i), false, &bias, f->fault) &&
                     add_bias(c, (int64_t)token, bias, f->fault);
        }
    } else {
        fault_set(f->fault, 400, "logit_bias",
                  "Invalid type for 'logit_bias': expected an object of token ids.");
    }
    c->options.sample.bias = c->bias;
}

/* ---- the rest ---- */

/* -1 of LM Studio's and llama.cpp's clients is no limit, as null is, and llama.cpp's -2 means the
 * context's end, where all ends anyway. */
static int read_length(struct fields *f) {
    static const char *const names[] = { "max_completion_tokens", "max_tokens", "n_predict" };
    int64_t n_max = -1;
    for (size_t i = COUNT(names); i-- > 0;)
        n_max = field_int(f, names[i], i == 2 ? -2 : -1, INT64_MAX, n_max);
    return (int)MIN(MAX(n_max, -1), INT_MAX);
}

/* Every other number is a seed, negative ones too. For -1 the call's own stays, which is random. */
static void read_seed(struct sample_params *p, struct fields *f) {
    int64_t seed = field_int(f, "seed", INT64_MIN, INT64_MAX, -1);
    if (seed != -1) p->seed = (uint64_t)seed;
}

static void read_stream(struct call *c, struct fields *f) {
    c->stream = field_bool(f, "stream", false);
    c->progress = c->options.progress = field_bool(f, "return_progress", false) && c->stream;
    struct json_object *options = field_object(f, "stream_options");
    if (!options) return;
    struct fields inner = { options, f->fault };
    c->usage = field_bool(&inner, "include_usage", false);
    (void)field_bool(&inner, "include_obfuscation", false);      /* what is sent has none */
    if (!c->stream)
        fault_set(f->fault, 400, "stream_options",
                  "'stream_options' is only allowed when 'stream' is true.");
}

void params_read(struct call *c, struct fields *f) {
    struct sample_params *p = &c->options.sample;
    struct err err = { 0 };
    uint64_t salt;
    read_numbers(p, f);
    refuse_unknown(f);
    check_ignored(f);
    read_samplers(p, f);
    read_breakers(c, f);
    read_stop(c, f);
    read_bias(c, f);
    read_seed(p, f);
    read_stream(c, f);
    c->options.n_max = read_length(f);
    c->options.ignore_eos = field_bool(f, "ignore_eos", false);
    c->timings = field_bool(f, "timings_per_token", false);
    /* vLLM's field, where the lower comes first. */
    int64_t last = field_int(f, "priority", INT32_MIN, INT32_MAX, 0);
    c->options.priority = (int)-MIN(MAX(last, -PRIORITY_MAX), PRIORITY_MAX);
    /* Under a salt of its own nothing is found, and nothing is found by others. */
    if (!field_bool(f, "cache_prompt", true) && getrandom(&salt, sizeof salt, 0) == sizeof salt)
        c->options.salt = salt;
    c->n = (int)field_int(f, "n", 1, CHOICES_MAX, 1);
    if (field_has(f, "best_of") && field_int(f, "best_of", 1, CHOICES_MAX, 1) != c->n)
        fault_unsupported(f->fault, "best_of",
                          "'best_of' is not supported, unless it equals 'n'.");
    if (field_bool(f, "use_beam_search", false))
        fault_unsupported(f->fault, "use_beam_search", "'use_beam_search' is not supported.");
    if (!sample_check(p, &err)) fault_set(f->fault, 400, NULL, "%s.", err.text);
}

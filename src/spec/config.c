/* config.c - typed reads of config.json over a json-c tree.
 *
 * The text is scanned with the pull reader before json-c sees it: json-c takes
 * comments, keeps the last of two equal keys and measures strings by their NUL, so
 * what it would read could differ from what the file says. All configs of a file
 * share the root: one error, one set of keys that were read. */
#include "spec/config.h"
#include "base/arena.h"
#include "base/map.h"
#include "base/pull.h"

#include <json-c/json.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 16 << 20, PATH_MAX_LEN = 1024, SHOWN_MAX = 60 };

struct config {
    struct config *root, *next_sub;
    struct json_object *value;       /* borrowed from the root's tree, but for the root */
    const char *prefix;              /* dotted path from the root, "" for it; in the arena */
    /* of the root only */
    const char *name;
    struct err err;
    struct map read;                 /* dotted paths: enum seen */
    struct arena arena;
};

/* ---- opening ---- */

/* A key with the number of its object in front, so that one map knows all of them. */
static bool key_is_new(struct map *keys, struct arena *arena, uint32_t object, struct str key) {
    size_t len = sizeof object + key.len;
    char *at = arena_new(arena, len);
    memcpy(at, &object, sizeof object);
    memcpy(at + sizeof object, key.at, key.len);
    return map_put(keys, (struct str){ at, len }, 1);
}

/* Every value of the document once. `where` gets the key that is wrong, if it is a key. */
static bool scan(struct pull *j, struct map *keys, struct arena *arena, struct buf *where) {
    /* object[depth] is the number of the object that is open at that depth. */
    uint32_t object[PULL_DEPTH_MAX + 1] = { 0 }, n_objects = 0;
    struct str key;
    if (!pull_object(j)) return false;
    object[j->depth] = n_objects++;
    /* A failed pull_next or pull_key has left its container: the loop then goes on in the outer
     * one, or ends with the error or the document. */
    while (j->depth > 0 && !j->error) {
        if (!(j->in_object >> (j->depth - 1) & 1)) {
            if (!pull_next(j)) continue;
        } else {
            if (!pull_key(j, &key)) continue;
            bool nul = memchr(key.at, 0, key.len);
            if (nul || !key_is_new(keys, arena, object[j->depth], key)) {
                buf_str(where, key);
                return pull_fail(j, nul ? "NUL in a key" : "duplicate key");
            }
        }
        enum pull_kind kind = pull_peek(j);
        if (kind == PULL_OBJECT && pull_object(j)) object[j->depth] = n_objects++;
        else if (kind == PULL_ARRAY) pull_array(j);
        else if (kind != PULL_OBJECT) pull_skip(j);
    }
    return pull_end(j);
}

/* True when json-c will read exactly what the text says. */
static bool text_is_sound(struct str json, const char *name, struct err *err) {
    struct map keys = { 0 };
    struct arena arena = { 0 };
    struct buf where = { .max = 64 };
    struct pull j = pull_open(json);
    j.lenient = true;
    /* Configs in the wild hold NaN and Infinity; each read decides whether it takes them. */
    bool ok = scan(&j, &keys, &arena, &where);
    if (!ok && where.len)
        err_set(err, "%s: %s \"%.*s\" at byte %zu", name, j.error, (int)where.len, where.at,
                j.offset);
    else if (!ok)
        err_set(err, "%s: not valid JSON: %s at byte %zu", name, j.error, j.offset);
    buf_free(&where);
    pull_close(&j);
    map_free(&keys);
    arena_free(&arena);
    return ok;
}

struct config *cfg_parse(struct str json, const char *name, struct err *err) {
    if (json.len > CONFIG_BYTES_MAX) {
        err_set(err, "%s: larger than %d MiB", name, CONFIG_BYTES_MAX >> 20);
        return NULL;
    }
    if (!text_is_sound(json, name, err)) return NULL;
    /* The depth json-c counts is one more for the scalar inside. */
    struct json_tokener *tok = json_tokener_new_ex(PULL_DEPTH_MAX + 2);
    struct json_object *value = tok ? json_tokener_parse_ex(tok, json.at, (int)json.len) : NULL;
    if (tok) json_tokener_free(tok);
    if (!value || !json_object_is_type(value, json_type_object)) {
        json_object_put(value);
        err_set(err, "%s: not valid JSON", name);
        return NULL;
    }
    struct config *c = mem_new(sizeof *c);
    c->root = c;
    c->value = value;
    c->prefix = "";
    c->name = arena_str(&c->arena, str_of(name));
    return c;
}

struct config *cfg_open(const char *path, struct err *err) {
    struct buf text = { 0 };
    struct config *c = NULL;
    if (buf_read_file(&text, path, CONFIG_BYTES_MAX, err))
        c = cfg_parse(buf_view(&text), path, err);
    buf_free(&text);
    return c;
}

void cfg_close(struct config *c) {
    if (!c) return;
    /* Subs borrow from the tree and the arena, so they go first. */
    for (struct config *sub = c->next_sub, *next; sub; sub = next) {
        next = sub->next_sub;
        free(sub);
    }
    json_object_put(c->value);
    map_free(&c->read);
    arena_free(&c->arena);
    free(c);
}

/* ---- errors ---- */

bool cfg_ok(const struct config *c, struct err *err) {
    const struct err *own = &c->root->err;
    return own->code == ERR_NONE || err_code(err, own->code, "%s", own->text);
}

/* Formats twice, because the name of the file goes in front of the caller's sentence. */
bool cfg_fail(struct config *c, const char *format, ...) {
    char text[sizeof c->err.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(&c->root->err, "%s: %s", c->root->name, text);
}

/* The value as the file spells it, cut short, for a message. Valid until the value's next use. */
static const char *shown(struct json_object *value) {
    static _Thread_local char text[SHOWN_MAX + 4];
    const char *full = json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN |
                                                             JSON_C_TO_STRING_NOSLASHESCAPE);
    size_t len = strlen(full);
    snprintf(text, sizeof text, "%.*s%s", SHOWN_MAX, full, len > SHOWN_MAX ? "..." : "");
    return text;
}

/* ---- finding ---- */

struct found {
    struct json_object *value;       /* NULL: absent, or null */
    char path[PATH_MAX_LEN];         /* dotted, from the root */
};

/* An object that was read may have members that were not; one that repeats another has none. */
enum seen { SEEN = 1, SEEN_WHOLE };

/* Paths are kept in the arena: callers build them on the stack. */
static void mark_read(struct config *root, const char *path, enum seen how) {
    struct str key = str_of(path);
    if (!map_get(&root->read, key, NULL))
        map_put(&root->read, (struct str){ arena_str(&root->arena, key), key.len }, how);
}

/* prefix.rest, cut to PATH_MAX_LEN: paths in code are short, so only a hostile file is cut. */
static void join(char *out, const char *prefix, struct str rest) {
    struct str part[] = { str_of(prefix), *prefix && rest.len ? S(".") : S(""), rest };
    size_t len = 0;
    for (size_t i = 0; i < COUNT(part); i++) {
        size_t n = MIN(part[i].len, PATH_MAX_LEN - 1 - len);
        if (n) memcpy(out + len, part[i].at, n);
        len += n;
    }
    out[len] = 0;
}

/* The value at one dotted path below `value`, or NULL. */
static struct json_object *descend(struct json_object *value, struct str path) {
    char key[PATH_MAX_LEN];
    while (path.len && value) {
        const char *dot = memchr(path.at, '.', path.len);
        size_t len = dot ? (size_t)(dot - path.at) : path.len;
        struct json_object *next = NULL;
        if (len >= sizeof key || !json_object_is_type(value, json_type_object)) return NULL;
        memcpy(key, path.at, len);
        key[len] = 0;
        json_object_object_get_ex(value, key, &next);
        value = next;
        path = str_from(path, dot ? len + 1 : len);
    }
    return value;
}

/* The first alternative that is there and not null. All of them count as read: who asks for
 * one of several spellings knows them all. */
static struct found find(struct config *c, const char *path) {
    struct found f = { 0 };
    for (struct str rest = str_of(path);;) {
        const char *bar = rest.len ? memchr(rest.at, '|', rest.len) : NULL;
        struct str one = str_cut(rest, 0, bar ? (size_t)(bar - rest.at) : rest.len);
        struct json_object *value = descend(c->value, one);
        char full[PATH_MAX_LEN];
        join(full, c->prefix, one);
        bool again = f.value && json_object_is_type(value, json_type_object)
            && json_object_equal(value, f.value);
        if (value) mark_read(c->root, full, again ? SEEN_WHOLE : SEEN);
        if (value && !f.value) {
            f.value = value;
            memcpy(f.path, full, sizeof full);
        }
        if (!bar) break;
        rest = str_from(rest, (size_t)(bar - rest.at) + 1);
    }
    return f;
}

/* Names every spelling that would have done: a/b for the path a|b. */
static void fail_missing(struct config *c, const char *path) {
    char full[PATH_MAX_LEN];
    join(full, c->prefix, str_of(path));
    for (char *bar = full; (bar = strchr(bar, '|'));) *bar = '/';
    cfg_fail(c, "the key %s is missing", full);
}

static void fail_kind(struct config *c, const char *path, struct json_object *value,
                      const char *wanted) {
    cfg_fail(c, "%s is %s, but must be %s", path, shown(value), wanted);
}

/* A new config that reads below `value`. */
static struct config *sub_of(struct config *c, struct json_object *value, const char *path) {
    struct config *root = c->root;
    struct config *sub = mem_new(sizeof *sub);
    sub->root = root;
    sub->value = value;
    sub->prefix = arena_str(&root->arena, str_of(path));
    sub->next_sub = root->next_sub;
    root->next_sub = sub;
    return sub;
}

struct config *cfg_sub(struct config *c, const char *path) {
    struct found f = find(c, path);
    if (!f.value || f.value == c->value) return c;
    if (!json_object_is_type(f.value, json_type_object)) {
        fail_kind(c, f.path, f.value, "an object");
        return c;
    }
    for (struct config *sub = c->root->next_sub; sub; sub = sub->next_sub)
        if (sub->value == f.value) return sub;         /* asked for once per layer, made once */
    return sub_of(c, f.value, f.path);
}

struct config *cfg_root(struct config *c) {
    return c->root;
}

bool cfg_has(struct config *c, const char *path) {
    return find(c, path).value != NULL;
}

/* ---- values ---- */

/* A whole number in [min, max]. What is returned after a failure is in range as well, so that a
 * describe() that reads on divides by nothing worse. */
static int to_int(struct config *c, const char *path, struct json_object *value, int min, int max) {
    if (json_object_is_type(value, json_type_int)) {
        int64_t n = json_object_get_int64(value);      /* saturates */
        if (n >= min && n <= max) return (int)n;
    } else if (json_object_is_type(value, json_type_double)) {
        double whole = json_object_get_double(value);
        if (whole >= min && whole <= max && whole == floor(whole)) return (int)whole;
    } else {
        fail_kind(c, path, value, "a whole number");
        return min;
    }
    cfg_fail(c, "%s is %s, but must be a whole number from %d to %d", path, shown(value), min, max);
    return min;
}

int cfg_int_in(struct config *c, const char *path, int otherwise, int min, int max) {
    struct found f = find(c, path);
    if (f.value) return to_int(c, f.path, f.value, min, max);
    if (otherwise != REQUIRED) return otherwise;
    fail_missing(c, path);
    return min;
}

int cfg_int(struct config *c, const char *path, int otherwise) {
    return cfg_int_in(c, path, otherwise, 0, INT_MAX);
}

/* Transformers writes an infinite float as {"__float__": "Infinity"}. */
static double spelt_float(struct json_object *value) {
    struct json_object *word = NULL;
    if (json_object_is_type(value, json_type_object) && json_object_object_length(value) == 1)
        json_object_object_get_ex(value, "__float__", &word);
    struct str s = word ? str_of(json_object_get_string(word)) : S("");
    return str_is(s, "Infinity") ? (double)INFINITY : str_is(s, "-Infinity") ? -(double)INFINITY
                                                                             : (double)NAN;
}

/* 1e400 reads as infinite and 1e308 becomes so as a float: both are refused like a spelt one. */
static float to_float(struct config *c, const char *path, struct json_object *value, bool inf) {
    enum json_type type = json_object_get_type(value);
    bool number = type == json_type_int || type == json_type_double;
    double v = number ? json_object_get_double(value) : spelt_float(value);
    float out = (float)v;
    if (!number && !isnan(v)) {
        char spelt[PATH_MAX_LEN];
        join(spelt, path, S("__float__"));
        mark_read(c->root, spelt, SEEN);
    }
    if (isfinite(out) || (inf && isinf(v))) return out;
    fail_kind(c, path, value, inf ? "a number" : "a finite number");
    return 0;
}

static float number(struct config *c, const char *path, float otherwise, bool inf) {
    struct found f = find(c, path);
    if (f.value) return to_float(c, f.path, f.value, inf);
    /* As a float INT_MIN is exact, so this tells it from every default that makes sense. */
    if (otherwise > (float)REQUIRED || otherwise < (float)REQUIRED) return otherwise;
    fail_missing(c, path);
    return 0;
}

float cfg_num(struct config *c, const char *path, float otherwise) {
    return number(c, path, otherwise, false);
}

float cfg_inf(struct config *c, const char *path, float otherwise) {
    return number(c, path, otherwise, true);
}

bool cfg_bool(struct config *c, const char *path, bool otherwise) {
    struct found f = find(c, path);
    if (!f.value) return otherwise;
    if (json_object_is_type(f.value, json_type_boolean)) return json_object_get_boolean(f.value);
    fail_kind(c, f.path, f.value, "true or false");
    return otherwise;
}

/* The length is json-c's own: a string may hold a NUL. */
static struct str to_str(struct config *c, const char *path, struct json_object *value) {
    if (json_object_is_type(value, json_type_string))
        return (struct str){ json_object_get_string(value),
                             (size_t)json_object_get_string_len(value) };
    fail_kind(c, path, value, "a string");
    return S("");
}

struct str cfg_str(struct config *c, const char *path, const char *otherwise) {
    struct found f = find(c, path);
    return f.value ? to_str(c, f.path, f.value) : str_of(otherwise);
}

/* ---- lists ---- */

/* A key that is no list has no length, which is no error: eos_token_id is a number or a list. */
int cfg_len(struct config *c, const char *path) {
    struct found f = find(c, path);
    return json_object_is_type(f.value, json_type_array) ? (int)json_object_array_length(f.value)
                                                         : -1;
}

/* Entry `index`, its path in f->path; NULL with the error set. */
static struct json_object *entry(struct config *c, const char *path, int index, struct found *f) {
    *f = find(c, path);
    if (!f->value) {
        fail_missing(c, path);
        return NULL;
    }
    if (!json_object_is_type(f->value, json_type_array)) {
        fail_kind(c, f->path, f->value, "a list");
        return NULL;
    }
    size_t n = json_object_array_length(f->value);
    if (index < 0 || (size_t)index >= n) {
        cfg_fail(c, "%s has %zu entries, but entry %d is needed", f->path, n, index);
        return NULL;
    }
    /* The message of a bad entry names it: layer_types[3]. */
    size_t len = strlen(f->path);
    snprintf(f->path + len, sizeof f->path - len, "[%d]", index);
    return json_object_array_get_idx(f->value, (size_t)index);
}

int cfg_int_at(struct config *c, const char *path, int index) {
    struct found f;
    struct json_object *value = entry(c, path, index, &f);
    return value ? to_int(c, f.path, value, 0, INT_MAX) : (cfg_fail(c, "%s is null", f.path), 0);
}

float cfg_num_at(struct config *c, const char *path, int index) {
    struct found f;
    struct json_object *value = entry(c, path, index, &f);
    return value ? to_float(c, f.path, value, false) : (cfg_fail(c, "%s is null", f.path), 0);
}

float cfg_inf_at(struct config *c, const char *path, int index) {
    struct found f;
    struct json_object *value = entry(c, path, index, &f);
    return value ? to_float(c, f.path, value, true) : (cfg_fail(c, "%s is null", f.path), 0);
}

struct str cfg_str_at(struct config *c, const char *path, int index) {
    struct found f;
    struct json_object *value = entry(c, path, index, &f);
    return value ? to_str(c, f.path, value) : (cfg_fail(c, "%s is null", f.path), S(""));
}

/* Numbers and booleans are compared as they would be printed. */
void cfg_only(struct config *c, const char *path, const char *value) {
    struct found f = find(c, path);
    if (!f.value) return;
    bool text = json_object_is_type(f.value, json_type_string);
    if (str_is(text ? to_str(c, f.path, f.value) : str_of(shown(f.value)), value)) return;
    err_code(&c->root->err, ERR_UNSUPPORTED, "%s: %s is %s; only %s is supported", c->root->name,
             f.path, shown(f.value), value);
}

void cfg_each(struct config *c, const char *path,
              void (*found)(void *to, struct str key, struct config *value), void *to) {
    struct found f = find(c, path);
    if (!f.value) return;
    if (!json_object_is_type(f.value, json_type_object)) {
        fail_kind(c, f.path, f.value, "an object");
        return;
    }
    json_object_object_foreach(f.value, key, value) {
        char full[PATH_MAX_LEN];
        join(full, f.path, str_of(key));
        mark_read(c->root, full, SEEN);
        found(to, str_of(key), sub_of(c, value, full));
    }
}

/* ---- what nobody read ---- */

/* Keys that say how the model was made, trained or generated from, not what it computes. */
static const char *const irrelevant[] = {
    "architectures", "transformers_version", "torch_dtype", "dtype", "initializer_range",
    "initializer_factor", "use_cache", "model_type", "_name_or_path", "auto_map",
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id",
    "decoder_start_token_id", "gradient_checkpointing", "output_attentions",
    "output_hidden_states", "output_router_logits", "return_dict", "use_return_dict",
    "pretraining_tp", "problem_type", "id2label", "label2id", "is_encoder_decoder", "is_decoder",
    "torchscript", "chunk_size_feed_forward", "router_aux_loss_coef", "aux_loss_alpha", "seq_aux",
    "router_jitter_noise", "input_jitter_noise", "router_z_loss_coef", "load_balance_coeff",
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation",
    "_commit_hash", "transformers.js_config", "unsloth_fixed", "unsloth_version",
    "keys_to_ignore_at_inference", "cache_implementation", "max_new_tokens", "do_sample",
    "temperature", "top_p", "top_k", "repetition_penalty", "add_cross_attention",
    "cross_attention_hidden_size", "tie_encoder_decoder", "finetuning_task", "task_specific_params",
    "resid_pdrop", "embd_pdrop", "attn_pdrop", "ep_size", "mup_init", "fp32_residual",
};

static bool is_irrelevant(struct str key) {
    if (str_ends(key, "dropout") || str_ends(key, "dropout_rate") || str_ends(key, "dropout_prob"))
        return true;
    for (size_t i = 0; i < COUNT(irrelevant); i++)
        if (str_is(key, irrelevant[i])) return true;
    return false;
}

/* One open object of the walk; `len` is where its path ends. */
struct walk { struct json_object_iterator at, end; size_t len; };

void cfg_unread(struct config *c, void (*found)(void *to, struct str path), void *to) {
    /* As deep as the scan allowed, so the bound below is never the one that decides. */
    struct walk level[PULL_DEPTH_MAX + 1];
    struct buf path = { 0 };
    int depth = 1;
    c = c->root;
    level[0] = (struct walk){ json_object_iter_begin(c->value), json_object_iter_end(c->value), 0 };
    while (depth > 0) {
        struct walk *now = &level[depth - 1];
        if (json_object_iter_equal(&now->at, &now->end)) {
            depth--;
            continue;
        }
        struct str key = str_of(json_object_iter_peek_name(&now->at));
        struct json_object *value = json_object_iter_peek_value(&now->at);
        json_object_iter_next(&now->at);
        if (!value || is_irrelevant(key)) continue;
        path.len = now->len;
        if (now->len) buf_char(&path, '.');
        buf_str(&path, key);
        uint32_t seen = 0;
        bool known = map_get(&c->read, buf_view(&path), &seen);
        if (seen == SEEN_WHOLE) continue;
        bool deeper = json_object_is_type(value, json_type_object);
        if (deeper && json_object_object_length(value) && depth <= PULL_DEPTH_MAX)
            level[depth++] = (struct walk){ json_object_iter_begin(value),
                                            json_object_iter_end(value), path.len };
        else if (!known)
            found(to, buf_view(&path));
    }
    buf_free(&path);
}

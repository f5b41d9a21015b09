/* part.c - reads the pipeline steps of tokenizer.json into flat structs.
 *
 * Iterative: a small stack of open objects. Unknown keys are skipped; an unknown type is
 * refused later, by the table that would have to run it. */
#include "tokens/part.h"
#include <stddef.h>
#include <stdlib.h>
#include "base/arena.h"
#include "base/pull.h"
#include "base/utf8.h"
#include "tokens/normalize.h"
#include "tokens/regex.h"

enum { NESTED_MAX = 8, NUMBER_MAX = 1 << 20 };

static const struct { const char *key; size_t at; } strings[] = {
    { "type", offsetof(struct part, type) }, { "content", offsetof(struct part, content) },
    { "prepend", offsetof(struct part, content) }, { "prefix", offsetof(struct part, prefix) },
    { "suffix", offsetof(struct part, suffix) },
    { "pad_token", offsetof(struct part, pad_token) },
    { "word_delimiter_token", offsetof(struct part, word_delimiter) },
    { "precompiled_charsmap", offsetof(struct part, charsmap_text) },
};

static const struct { const char *key; size_t at; } bools[] = {
    { "invert", offsetof(struct part, invert) },
    { "use_regex", offsetof(struct part, use_regex) },
    { "individual_digits", offsetof(struct part, individual_digits) },
    { "split", offsetof(struct part, split) },
    { "strip_left", offsetof(struct part, strip_left) },
    { "strip_right", offsetof(struct part, strip_right) },
    { "cleanup", offsetof(struct part, cleanup) },
    { "clean_text", offsetof(struct part, clean_text) },
    { "handle_chinese_chars", offsetof(struct part, chinese_chars) },
    { "lowercase", offsetof(struct part, lowercase) },
};

static const struct { const char *key; size_t at; } numbers[] = {
    { "start", offsetof(struct part, start) }, { "stop", offsetof(struct part, stop) },
    { "length", offsetof(struct part, length) },
};

static struct part fresh(void) {
    return (struct part){ .use_regex = true, .split = true, .behavior = ISOLATED,
                          .strip_accents = -1, .sep = -1, .cls = -1, .length = 5,
                          .replacement = 0x2581, .add_prefix_space = true, .cleanup = true,
                          .prefix = S("##"), .suffix = S("</w>"), .pad_token = S("<pad>"),
                          .word_delimiter = S("|") };
}

static bool read_text(struct pull *j, struct arena *a, struct str *out) {
    struct str s;
    if (pull_peek(j) == PULL_NULL)
        return pull_null(j);
    if (!pull_string(j, &s))
        return false;
    *out = (struct str){ arena_str(a, s), s.len };
    return true;
}

static bool one_cp(struct pull *j, uint32_t *cp) {
    struct str s;
    if (!pull_string(j, &s))
        return false;
    int n = utf8_next(s, cp);
    return (n && (size_t)n == s.len) || pull_fail(j, "expected one character");
}

static bool one_of(struct pull *j, const char *const *word, int n, int *out) {
    struct str s;
    if (!pull_string(j, &s))
        return false;
    for (int i = 0; i < n; i++)
        if (str_is(s, word[i]))
            return *out = i, true;
    return pull_fail(j, "unknown word");
}

/* {"String": "..."} or {"Regex": "..."}; the literal kind also stands as a bare string. */
static bool read_pattern(struct pull *j, struct arena *a, struct part *p) {
    struct str key;
    p->has_pattern = true;
    if (pull_peek(j) == PULL_STRING)
        return read_text(j, a, &p->pattern);
    if (!pull_object(j))
        return false;
    while (pull_key(j, &key)) {
        bool regex = str_is(key, "Regex");
        if (!regex && !str_is(key, "String"))
            return pull_fail(j, "a pattern that is neither String nor Regex");
        p->pattern_is_regex = regex;
        if (!read_text(j, a, &p->pattern))
            return false;
    }
    return !j->error;
}

/* ["</s>", 2] */
static bool read_pair(struct pull *j, int *id) {
    struct str text;
    uint64_t n = 0;
    if (!pull_array(j) || !pull_next(j) || !pull_string(j, &text) || !pull_next(j)
        || !pull_u64(j, INT32_MAX, &n))
        return pull_fail(j, "expected a token and its id");
    *id = (int)n;
    return !pull_next(j) && !j->error;
}

/* [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", ...}}] */
static bool read_template(struct pull *j, struct arena *a, struct part *p) {
    struct str key;
    if (!pull_array(j))
        return false;
    p->n_single = 0;
    while (pull_next(j)) {
        if (p->n_single == TEMPLATE_MAX)
            return pull_fail(j, "a template of too many pieces");
        struct template_piece *piece = &p->single[p->n_single++];
        *piece = (struct template_piece){ .id = -1 };
        if (!pull_object(j) || !pull_key(j, &key))
            return pull_fail(j, "an empty template piece");
        piece->is_text = str_is(key, "Sequence");
        if (!pull_object(j))
            return false;
        while (pull_key(j, &key))
            if (!(str_is(key, "id") ? read_text(j, a, &piece->token) : pull_skip(j)))
                return false;
        if (pull_key(j, &key))
            return pull_fail(j, "a template piece of two kinds");
    }
    return !j->error;
}

/* {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}} */
static bool read_specials(struct pull *j, struct arena *a, struct part *p) {
    struct str key;
    uint64_t id = 0;
    if (!pull_object(j))
        return false;
    while (pull_key(j, &key)) {
        if (p->n_special == TEMPLATE_MAX)
            return pull_fail(j, "a template of too many tokens");
        p->special[p->n_special].name = (struct str){ arena_str(a, key), key.len };
        bool found = false;
        if (!pull_object(j))
            return false;
        while (pull_key(j, &key)) {
            if (!str_is(key, "ids")) {
                pull_skip(j);
                continue;
            }
            found = pull_array(j) && pull_next(j) && pull_u64(j, INT32_MAX, &id);
            if (!found || pull_next(j))
                return pull_fail(j, "expected one id for a token of the template");
        }
        if (!found)
            return pull_fail(j, "a token of the template without ids");
        p->special[p->n_special++].id = (int)id;
    }
    return !j->error;
}

static bool read_field(struct pull *j, struct arena *a, struct str key, struct part *p) {
    static const char *const behaviors[] = { "Removed", "Isolated", "MergedWithPrevious",
                                             "MergedWithNext", "Contiguous" };
    static const char *const schemes[] = { "always", "first", "never" };
    int word = 0;
    if (pull_peek(j) == PULL_NULL)
        return pull_null(j);
    for (size_t i = 0; i < COUNT(strings); i++)
        if (str_is(key, strings[i].key))
            return read_text(j, a, (struct str *)((char *)p + strings[i].at));
    for (size_t i = 0; i < COUNT(bools); i++)
        if (str_is(key, bools[i].key))
            return pull_bool(j, (bool *)((char *)p + bools[i].at));
    for (size_t i = 0; i < COUNT(numbers); i++)
        if (str_is(key, numbers[i].key)) {
            uint64_t n = 0;
            bool done = pull_u64(j, NUMBER_MAX, &n);
            *(int *)((char *)p + numbers[i].at) = (int)n;
            return done;
        }
    if (str_is(key, "add_prefix_space")) {
        bool done = pull_bool(j, &p->add_prefix_space);
        p->add_prefix_space_false = !p->add_prefix_space;
        return done;
    }
    if (str_is(key, "strip_accents")) {
        bool on = false, done = pull_bool(j, &on);
        p->strip_accents = on;
        return done;
    }
    if (str_is(key, "replacement") || str_is(key, "delimiter"))
        return one_cp(j, &p->replacement);
    if (str_is(key, "behavior")) {
        bool done = one_of(j, behaviors, COUNT(behaviors), &word);
        p->behavior = (enum behavior)word;
        return done;
    }
    if (str_is(key, "prepend_scheme")) {
        bool done = one_of(j, schemes, COUNT(schemes), &word);
        p->prepend = (enum prepend)word;
        return done;
    }
    if (str_is(key, "pattern"))
        return read_pattern(j, a, p);
    if (str_is(key, "single"))
        return read_template(j, a, p);
    if (str_is(key, "special_tokens"))
        return read_specials(j, a, p);
    if (str_is(key, "sep") || str_is(key, "cls"))
        return read_pair(j, str_is(key, "sep") ? &p->sep : &p->cls);
    return pull_skip(j);
}

static void append(struct parts *list, const struct part *p) {
    list->at = mem_grow(list->at, (size_t)list->n + 1, sizeof *list->at);
    list->at[list->n++] = *p;
}

static bool is_member_list(struct str key) {
    return str_is(key, "normalizers") || str_is(key, "pretokenizers") || str_is(key, "decoders")
        || str_is(key, "processors");
}

/* Depth first, members before their Sequence's end, which is the order in which they run. */
static bool read_tree(struct parts *list, struct pull *j, struct arena *a) {
    struct part open[NESTED_MAX];
    bool in_list[NESTED_MAX] = { false };
    int depth = 0;
    struct str key;
    open[0] = fresh();
    if (!pull_object(j))
        return false;
    while (!j->error) {
        if (in_list[depth]) {
            in_list[depth] = pull_next(j);
            if (!in_list[depth])
                continue;
            if (depth + 1 == NESTED_MAX)
                return pull_fail(j, "sequences nested too deeply");
            open[++depth] = fresh();
            in_list[depth] = false;
            pull_object(j);
        } else if (pull_key(j, &key)) {
            if (is_member_list(key))
                in_list[depth] = pull_array(j);
            else
                read_field(j, a, key, &open[depth]);
        } else if (!j->error) {
            if (list->n == PARTS_MAX)
                return pull_fail(j, "too many steps");
            if (!str_is(open[depth].type, "Sequence"))
                append(list, &open[depth]);
            if (!depth--)
                return true;
        }
    }
    return false;
}

bool parts_read(struct parts *list, struct pull *j, struct arena *a, const char *where,
                struct err *err) {
    /* A key may come twice, and then the last one counts. */
    parts_free(list);
    if (pull_peek(j) == PULL_NULL)
        return pull_null(j);
    if (!read_tree(list, j, a))
        return err_set(err, "tokenizer.json: %s: %s at byte %zu", where,
                       j->error ? j->error : "not understood", j->offset);
    for (int i = 0; i < list->n; i++) {
        struct part *p = &list->at[i];
        if (!p->has_pattern)
            continue;
        if (!p->pattern_is_regex)
            p->regex = regex_literal(p->pattern);
        else if (!(p->regex = regex_new(p->pattern, err)))
            return false;
    }
    return true;
}

size_t part_growth(const struct part *p) {
    size_t n = 1;
    if (p->has_pattern && p->pattern_is_regex)
        n += p->content.len;
    else if (p->has_pattern && p->pattern.len)
        n = (p->content.len + p->pattern.len - 1) / p->pattern.len;
    return MAX(n, (size_t)1);
}

void parts_free(struct parts *list) {
    for (int i = 0; i < list->n; i++) {
        regex_free(list->at[i].regex);
        charsmap_free(list->at[i].charsmap);
    }
    free(list->at);
    *list = (struct parts){ 0 };
}

/* settings.c - what the command line left open: variables, then the config file.
 *
 * The file is what llama-server calls a preset: lines "option = value" below [*] for every
 * model or [NAME] for one, comments on lines of their own. A key is an option's name without
 * dashes, or its variable. Nothing in it is skipped: a key that nobody knows is an error. */
#include "cli/options.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CONFIG_MAX = 1 << 20, LINES_MAX = 4096, VARIABLE_MAX = 80 };

struct line { const char *section, *key, *value; int number; };
struct config { const char *path; struct line *line; int n_lines; bool secret; };

void args_free(struct args *a) {
    free(a->config_text);
    a->config_text = NULL;
}

void option_variable(struct buf *out, const struct option *o) {
    struct str name = option_name(o);
    if (o->variable && !strcmp(o->variable, "-")) return;
    while (str_starts(name, "-")) name = str_from(name, 1);
    buf_str(out, S("MLXCEL_"));
    for (size_t i = 0; i < name.len; i++) {
        char c = name.at[i];
        buf_char(out, c == '-' ? '_' : c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c);
    }
}

/* Several rows may write one field; then the one of the higher rank holds. */
static bool taken(const struct args *a, const struct option *o, enum from rank) {
    for (int i = 0; i < n_options; i++)
        if (options[i].offset == o->offset && a->origin[i].from > rank) return true;
    return false;
}

/* "PORT: option --port takes ..." */
static bool set_from(struct args *a, const struct option *o, const char *value,
                     struct origin origin, struct err *err) {
    struct err inner = { 0 };
    if (option_set(a, o, str_of(value), origin, &inner)) return true;
    if (origin.line)
        return err_code(err, ERR_USAGE, "%.*s:%d: %s", STR_ARG(origin.name), origin.line,
                        inner.text);
    return err_code(err, ERR_USAGE, "variable %.*s: %s", STR_ARG(origin.name), inner.text);
}

static bool read_variable(struct args *a, const struct option *o, struct str name,
                          struct err *err) {
    char word[VARIABLE_MAX];
    if (!name.len || name.len >= sizeof word) return true;
    memcpy(word, name.at, name.len);
    word[name.len] = 0;
    const char *value = getenv(word);
    if (!value || !*value || taken(a, o, FROM_SECTION)) return true;
    /* Its name must outlive this call; the environment has a copy of it, before the value. */
    struct origin from = { .from = FROM_VARIABLE, .name = { value - name.len - 1, name.len } };
    return set_from(a, o, value, from, err);
}

static bool read_variables(struct args *a, unsigned command, struct err *err) {
    for (int i = 0; i < n_options; i++) {
        const struct option *o = &options[i];
        if (!(o->commands & command) || (o->variable && !strcmp(o->variable, "-"))) continue;
        struct buf own = { 0 };
        option_variable(&own, o);
        bool ok = read_variable(a, o, buf_view(&own), err);
        for (int k = 0; ok && o->variable && name_at(o->variable, k).len; k++)
            ok = read_variable(a, o, name_at(o->variable, k), err);
        buf_free(&own);
        if (!ok) return false;
    }
    return true;
}

/* A key: "port", "c", or LLAMA_ARG_PORT. */
static const struct option *find_key(unsigned commands, const char *key) {
    const struct option *found = NULL;
    for (int dashes = 2; dashes && !found; dashes--) {
        struct buf name = { 0 };
        buf_format(&name, "%s%s", dashes == 2 ? "--" : "-", key);
        found = option_find(commands, buf_view(&name));
        buf_free(&name);
    }
    for (int i = 0; !found && i < n_options; i++) {
        if (!(options[i].commands & commands)) continue;
        struct buf own = { 0 };
        option_variable(&own, &options[i]);
        bool is = str_is(buf_view(&own), key) && own.len;
        buf_free(&own);
        for (int k = 0; !is && options[i].variable && name_at(options[i].variable, k).len; k++)
            is = str_is(name_at(options[i].variable, k), key);
        if (is) found = &options[i];
    }
    return found && found->variable && !strcmp(found->variable, "-") ? NULL : found;
}

/* Keys of presets that say something about a section, not about an option. */
static bool is_own_key(const char *key) {
    return !strcmp(key, "load-on-startup") || !strcmp(key, "version");
}

static char *trim(char *begin, char *end) {
    while (begin < end && memchr(" \t\r", *begin, 3)) begin++;
    while (end > begin && memchr(" \t\r", end[-1], 3)) end--;
    *end = 0;
    return begin;
}

static bool bad_line(struct err *err, const char *path, int number, const char *what) {
    return err_code(err, ERR_USAGE, "%s:%d: %s", path, number, what);
}

/* Cuts the text in place. */
static bool parse_lines(struct config *c, char *text, const struct args *a, unsigned command,
                        struct err *err) {
    const char *section = "*";
    int number = 0;
    for (char *at = text; *at; ) {
        char *end = at + strcspn(at, "\n"), *next = *end ? end + 1 : end;
        char *line = trim(at, end);
        at = next;
        number++;
        if (!*line || *line == '#' || *line == ';') continue;
        size_t n = strlen(line);
        if (*line == '[') {
            if (line[n - 1] != ']') return bad_line(err, c->path, number, "a section ends with ]");
            section = trim(line + 1, line + n - 1);
            if (!*section) return bad_line(err, c->path, number, "a section needs a name, or *");
            continue;
        }
        char *equals = memchr(line, '=', n);
        if (!equals) return bad_line(err, c->path, number, "neither [NAME] nor 'option = value'");
        if (c->n_lines == LINES_MAX) return bad_line(err, c->path, number, "too many lines");
        struct line *l = &c->line[c->n_lines++];
        l->value = trim(equals + 1, line + n);
        *l = (struct line){ section, trim(line, equals), l->value, number };
        const struct option *o = is_own_key(l->key) ? NULL : find_key(CMD_ALL, l->key);
        if (o || is_own_key(l->key)) {
            if (o && !*l->value) return bad_line(err, c->path, number, "a value is missing");
            if (o && o->offset == offsetof(struct args, api_keys)) c->secret = true;
            continue;
        }
        struct buf where = { 0 }, name = { 0 };
        buf_format(&where, "%s:%d: ", c->path, number);
        buf_format(&name, "%s%s", strlen(l->key) > 1 ? "--" : "-", l->key);
        option_refuse(err, buf_c(&where), a->command, command, buf_view(&name));
        buf_free(&where);
        buf_free(&name);
        return false;
    }
    return true;
}

/* The section for this model: the one of its name; without a name the only one, or the one that
 * is to be loaded first. NULL with no err: none. */
static const char *pick_section(const struct config *c, const char *model, struct err *err) {
    const char *first = NULL, *startup = NULL;
    bool several = false;
    for (int i = 0; i < c->n_lines; i++) {
        const struct line *l = &c->line[i];
        if (!strcmp(l->section, "*")) continue;
        if (model && !strcmp(l->section, model)) return l->section;
        if (first && strcmp(first, l->section) != 0) several = true;
        if (!first) first = l->section;
        if (!startup && !strcmp(l->key, "load-on-startup")
            && (!strcmp(l->value, "true") || !strcmp(l->value, "1")))
            startup = l->section;
    }
    if (model) return NULL;
    if (startup || !several) return startup ? startup : first;
    err_code(err, ERR_USAGE, "%s has settings for several models; choose one with -m NAME",
             c->path);
    return NULL;
}

static bool apply(struct args *a, const struct config *c, const char *section, enum from rank,
                  unsigned command, struct err *err) {
    for (int i = 0; i < c->n_lines; i++) {
        const struct line *l = &c->line[i];
        if (strcmp(l->section, section) != 0 || is_own_key(l->key)) continue;
        const struct option *o = find_key(command, l->key);
        if (!o || taken(a, o, rank) || o->offset == offsetof(struct args, config)) continue;
        struct origin *old = &a->origin[o - options];
        if (old->from == rank && o->kind != V_LIST)
            return bad_line(err, c->path, l->number, "this option was set in a line before");
        struct origin from = { .from = rank, .name = str_of(c->path), .line = l->number };
        if (!set_from(a, o, l->value, from, err)) return false;
    }
    return true;
}

/* A section's name stands for the model, unless the section names another folder for it. */
static bool apply_all(struct args *a, const struct config *c, unsigned command, bool model_word,
                      struct err *err) {
    bool word = !a->model && model_word && a->n_positionals;
    const char *model = word ? a->positional[0] : a->model;
    const char *section = pick_section(c, model, err);
    if (err->code) return false;
    const struct option *o = option_find(command, S("--model"));
    if (section && o) {
        a->model = NULL;
        a->origin[o - options] = (struct origin){ 0 };
        if (!apply(a, c, section, FROM_SECTION, command, err)) return false;
        if (!a->model) a->model = section;
        if (!a->alias) a->alias = section;
        a->origin[o - options].from = FROM_SECTION;
        a->origin[o - options].name = str_of(c->path);
        if (word) a->n_positionals--;
        if (word)
            memmove(a->positional, a->positional + 1,
                    (size_t)a->n_positionals * sizeof *a->positional);
    } else if (word && o) {
        a->model = model;            /* the common part must not name another one */
        a->origin[o - options].from = FROM_FLAG;
        a->n_positionals--;
        memmove(a->positional, a->positional + 1, (size_t)a->n_positionals * sizeof *a->positional);
    }
    return apply(a, c, "*", FROM_COMMON, command, err);
}

static bool read_config(struct args *a, unsigned command, bool model_word, struct err *err) {
    struct config c = { .path = a->config };
    struct buf text = { 0 };
    struct stat st;
    bool ok = buf_read_file(&text, a->config, CONFIG_MAX, err);
    if (ok && memchr(text.at ? text.at : "", 0, text.len))
        ok = err_code(err, ERR_USAGE, "%s holds a zero byte", a->config);
    if (ok) {
        c.line = mem_array(LINES_MAX, sizeof *c.line);
        a->config_text = mem_str(buf_view(&text));
        ok = parse_lines(&c, a->config_text, a, command, err);
    }
    if (ok && c.secret && !stat(a->config, &st) && st.st_mode & S_IROTH)
        ok = err_code(err, ERR_USAGE, "%s holds API keys and everyone may read it: chmod o-r",
                      a->config);
    ok = ok && apply_all(a, &c, command, model_word, err);
    buf_free(&text);
    free(c.line);
    return ok;
}

bool settings_read(struct args *a, unsigned command, bool model_word, struct err *err) {
    if (!read_variables(a, command, err)) return false;
    return !a->config || read_config(a, command, model_word, err);
}

static void put_value(struct buf *out, const struct option *o, const void *at, int i) {
    switch (o->kind) {
    case V_FLAG: case V_ALWAYS: buf_str(out, *(const bool *)at ? S("on") : S("off")); return;
    case V_OFF: buf_str(out, *(const bool *)at ? S("off") : S("on")); return;
    case V_COUNT: case V_INT: buf_format(out, "%d", *(const int *)at); return;
    case V_FLOAT: buf_format(out, "%g", (double)*(const float *)at); return;
    case V_SECONDS: buf_format(out, "%g", *(const double *)at); return;
    case V_SEED: buf_format(out, "%llu", (unsigned long long)*(const uint64_t *)at); return;
    case V_BYTES: buf_format(out, "%zu", *(const size_t *)at); return;
    case V_MIB: buf_format(out, "%zu", *(const size_t *)at >> 20); return;
    case V_LIST:
        buf_str(out, str_of(((const struct text_list *)at)->at[i]));
        return;
    default: buf_str(out, str_of(*(const char *const *)at));
    }
}

static bool is_empty(const struct option *o, const void *at) {
    switch (o->kind) {
    case V_LIST: return ((const struct text_list *)at)->n == 0;
    case V_TEXT: case V_FILE: case V_DIR: case V_CHOICE: return !*(const char *const *)at;
    default: return false;
    }
}

static void put_origin(struct buf *out, const struct origin *o, bool sampling) {
    switch (o->from) {
    case FROM_FLAG:
        buf_format(out, "flag %.*s", STR_ARG(o->name));
        return;
    case FROM_VARIABLE: buf_format(out, "variable %.*s", STR_ARG(o->name)); return;
    case FROM_SECTION: case FROM_COMMON:
        buf_format(out, "%.*s", STR_ARG(o->name));
        if (o->line) buf_format(out, ":%d", o->line);
        return;
    case FROM_DEFAULT: buf_str(out, sampling ? S("checkpoint") : S("built in"));
    }
}

/* Of the rows of one field, the one that was used; else the first. */
static bool is_spokesman(const struct args *a, unsigned command, int row) {
    for (int i = 0; i < n_options; i++) {
        if (i == row || options[i].offset != options[row].offset
            || !(options[i].commands & command)) continue;
        if (a->origin[i].from > a->origin[row].from) return false;
        if (a->origin[i].from == a->origin[row].from && i < row) return false;
    }
    return true;
}

void settings_print(struct buf *out, const struct args *a, unsigned command,
                    const struct sample_params *model) {
    static const size_t base = offsetof(struct args, sample);
    struct sample_params plain = sample_defaults();
    for (int i = 0; i < n_options; i++) {
        const struct option *o = &options[i];
        bool hidden = o->variable && !strcmp(o->variable, "-");
        if (!(o->commands & command) || hidden || !is_spokesman(a, command, i)) continue;
        if (o->kind == V_ALWAYS || o->offset == offsetof(struct args, config)) continue;
        const char *at = (const char *)a + o->offset;
        bool sampling = o->offset >= base && o->offset < base + sizeof *model, differs = false;
        if (sampling && !a->origin[i].from) {
            at = (const char *)model + (o->offset - base);
            differs = memcmp(at, (const char *)&plain + (o->offset - base), sizeof(int)) != 0;
        }
        struct str name = str_from(option_name(o), 2);
        if (is_empty(o, at)) {
            buf_format(out, "# %.*s is not set\n", STR_ARG(name));
            continue;
        }
        buf_str(out, S("# "));
        put_origin(out, &a->origin[i], differs);
        buf_char(out, '\n');
        int n = o->kind == V_LIST ? ((const struct text_list *)(const void *)at)->n : 1;
        for (int k = 0; k < n; k++) {
            /* A key is never shown; the line is a comment, so that it is not taken for one. */
            bool secret = o->offset == offsetof(struct args, api_keys);
            buf_format(out, "%s%.*s = ", secret ? "# " : "", STR_ARG(name));
            if (secret)
                buf_str(out, S("(hidden)"));
            else
                put_value(out, o, at, k);
            buf_char(out, '\n');
        }
    }
}

/* options.c - reads a command line by the option table.
 *
 * Words after the command: an option, its value, or a positional. No bundling of
 * letters, because -ngl and -sys are whole names to people who come from llama.cpp.
 * It knows kinds of values, not what they mean. */
#include "cli/options.h"
#include "base/pull.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { WORD_MAX = 64, SPELLINGS_MAX = 4 * OPTIONS_MAX };

struct str name_at(const char *names, int i) {
    const char *at = names;
    for (; i > 0 && *at; i--) {
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    return (struct str){ at, strcspn(at, " ") };
}

struct str option_name(const struct option *o) {
    for (int i = 0;; i++) {
        struct str n = name_at(o->names, i);
        if (!n.len) return name_at(o->names, 0);
        if (str_starts(n, "--")) return n;
    }
}

static bool has_name(const char *names, struct str name) {
    for (int i = 0;; i++) {
        struct str n = name_at(names, i);
        if (!n.len) return false;
        if (str_eq(n, name)) return true;
    }
}

/* Damerau-Levenshtein with adjacent swaps, over at most WORD_MAX bytes of each. */
static int distance(struct str a, struct str b) {
    int d[3][WORD_MAX + 1];
    int n = (int)MIN(a.len, (size_t)WORD_MAX), m = (int)MIN(b.len, (size_t)WORD_MAX);
    for (int j = 0; j <= m; j++) d[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *row = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int same = a.at[i - 1] == b.at[j - 1] ? 0 : 1;
            int best = MIN(up[j] + 1, row[j - 1] + 1);
            best = MIN(best, up[j - 1] + same);
            if (i > 1 && j > 1 && a.at[i - 1] == b.at[j - 2] && a.at[i - 2] == b.at[j - 1])
                best = MIN(best, up2[j - 2] + 1);
            row[j] = best;
        }
    }
    return d[n % 3][m];
}

const char *nearest(struct str word, const char *const *candidate, int n) {
    const char *best = NULL;
    int best_distance = 1 + (int)MIN(word.len, (size_t)WORD_MAX) / 3;
    for (int i = 0; i < n; i++) {
        int far = distance(word, str_of(candidate[i]));
        if (far < best_distance) {
            best = candidate[i];
            best_distance = far;
        }
    }
    return best;
}

bool parse_int(struct str s, int64_t min, int64_t max, int64_t *out) {
    bool minus = s.len && s.at[0] == '-';
    uint64_t value;
    if (!str_u64(minus ? str_from(s, 1) : s, INT64_MAX, &value)) return false;
    int64_t v = minus ? -(int64_t)value : (int64_t)value;
    if (v < min || v > max) return false;
    *out = v;
    return true;
}

/* JSON's grammar through the pull reader, and what people type besides: .7, +1, inf. */
bool parse_float(struct str s, double *out) {
    bool minus = s.len && s.at[0] == '-';
    if (s.len && (minus || s.at[0] == '+')) s = str_from(s, 1);
    if (str_is(s, "inf")) {
        *out = minus ? -HUGE_VAL : HUGE_VAL;
        return true;
    }
    /* The reader of JSON would take white space around it, and a second sign. */
    if (!s.len || s.at[0] == '-' || s.at[0] <= ' ' || s.at[s.len - 1] <= ' ') return false;
    struct buf text = { .max = 80 };
    if (s.at[0] == '.') buf_char(&text, '0');
    buf_str(&text, s);
    struct pull p = pull_open(buf_view(&text));
    double value = 0;
    bool ok = !text.failed && pull_double(&p, &value) && pull_end(&p);
    pull_close(&p);
    buf_free(&text);
    if (ok) *out = minus ? -value : value;
    return ok;
}

/* Words that llama.cpp and shells use. */
static bool parse_switch(struct str s, bool *on) {
    static const char *const word[] = { "1", "true", "on", "yes", "enabled",
                                        "0", "false", "off", "no", "disabled" };
    for (size_t i = 0; i < COUNT(word); i++) {
        if (!str_is(s, word[i])) continue;
        *on = i < COUNT(word) / 2;
        return true;
    }
    return false;
}

static bool parse_seconds(struct str s, double *out) {
    double unit = 1;
    if (s.len) {
        switch (s.at[s.len - 1]) {
        case 's': break;
        case 'm': unit = 60; break;
        case 'h': unit = 3600; break;
        default: unit = 0;
        }
    }
    double n;
    if (!parse_float(unit > 0 ? str_cut(s, 0, s.len - 1) : s, &n)) return false;
    /* A year is longer than anything waits, and keeps sums of times exact. */
    if (!(n >= -1 && n <= 31536000)) return false;
    *out = unit > 0 ? n * unit : n;
    return true;
}

static bool parse_bytes(struct str s, size_t *out) {
    size_t unit = 1;
    if (s.len) {
        switch (s.at[s.len - 1]) {
        case 'k': case 'K': unit = (size_t)1 << 10; break;
        case 'm': case 'M': unit = (size_t)1 << 20; break;
        case 'g': case 'G': unit = (size_t)1 << 30; break;
        }
    }
    uint64_t n;
    return str_u64(unit > 1 ? str_cut(s, 0, s.len - 1) : s, SIZE_MAX, &n)
        && mul_size((size_t)n, unit, out);
}

static bool is_choice(const char *choices, struct str value) {
    for (const char *at = choices;; at++) {
        struct str one = { at, strcspn(at, "|") };
        if (str_eq(one, value)) return true;
        at += one.len;
        if (!*at) return false;
    }
}

static bool bad_value(struct err *err, struct str name, struct str value, const char *what) {
    return err_code(err, ERR_USAGE, "option %.*s takes %s, not '%.*s'", STR_ARG(name), what,
                    STR_ARG(value));
}

static bool set_number(const struct option *o, void *to, struct str name, struct str value,
                       struct err *err) {
    int64_t i;
    uint64_t u;
    double d;
    char range[96];
    switch (o->kind) {
    case V_INT:
        if (!parse_int(value, o->min, o->max, &i)) {
            struct buf text = { 0 };
            buf_format(&text, "a whole number from %lld to %lld", (long long)o->min,
                       (long long)o->max);
            size_t n = MIN(text.len, sizeof range - 1);
            memcpy(range, text.at, n);
            range[n] = 0;
            buf_free(&text);
            return bad_value(err, name, value, range);
        }
        *(int *)to = (int)i;
        return true;
    case V_FLOAT:
        if (!parse_float(value, &d)) return bad_value(err, name, value, "a number");
        *(float *)to = (float)d;
        return true;
    case V_SEED:
        if (str_is(value, "-1")) {
            if (getrandom(&u, sizeof u, 0) != sizeof u)
                return err_set(err, "the system gave no random number");
        } else if (!str_u64(value, UINT64_MAX, &u)) {
            return bad_value(err, name, value, "a whole number, or -1 to draw one");
        }
        *(uint64_t *)to = u;
        return true;
    case V_SECONDS:
        return parse_seconds(value, to)
            || bad_value(err, name, value, "seconds, or a time such as 90s, 5m or 1h");
    case V_BYTES:
        return parse_bytes(value, to) || bad_value(err, name, value, "bytes such as 512M or 4G");
    default:
        if (!str_u64(value, SIZE_MAX >> 20, &u)) return bad_value(err, name, value, "MiB");
        *(size_t *)to = (size_t)u << 20;
        return true;
    }
}

/* `value` is terminated: it is the end of a word of argv, a variable or a line. A flag on the
 * command line has the empty value. */
static bool set_value(const struct option *o, void *to, struct str name, struct str value,
                      struct err *err) {
    bool on = true;
    int64_t times;
    switch (o->kind) {
    case V_FLAG: case V_OFF: case V_ALWAYS:
        if (value.len && !parse_switch(value, &on)) return bad_value(err, name, value, "on or off");
        if (!on && o->kind == V_ALWAYS)
            return err_code(err, ERR_USAGE, "option %.*s cannot be off: %s", STR_ARG(name),
                            o->help);
        *(bool *)to = o->kind == V_OFF ? !on : on;
        return true;
    case V_COUNT:
        if (value.len && !parse_int(value, 0, 9, &times))
            return bad_value(err, name, value, "a whole number from 0 to 9");
        if (value.len)
            *(int *)to = (int)times;
        else
            ++*(int *)to;
        return true;
    case V_TEXT: case V_FILE: case V_DIR: *(const char **)to = value.at; return true;
    case V_CHOICE:
        if (!is_choice(o->choices, value)) return bad_value(err, name, value, o->choices);
        *(const char **)to = value.at;
        return true;
    case V_LIST: {
        struct text_list *list = to;
        if (list->n == TEXT_LIST_MAX)
            return err_code(err, ERR_USAGE, "option %.*s was given more than %d times",
                            STR_ARG(name), TEXT_LIST_MAX);
        list->at[list->n++] = value.at;
        return true;
    }
    default: return set_number(o, to, name, value, err);
    }
}

const struct option *option_find(unsigned commands, struct str name) {
    for (int i = 0; i < n_options; i++)
        if (options[i].commands & commands && has_name(options[i].names, name)) return &options[i];
    return NULL;
}

bool option_given(const struct args *a, const void *field) {
    size_t offset = (size_t)((const char *)field - (const char *)a);
    for (int i = 0; i < n_options; i++)
        if (options[i].offset == offset && a->origin[i].from) return true;
    return false;
}

bool option_set(struct args *a, const struct option *o, struct str value, struct origin origin,
                struct err *err) {
    struct str name = origin.from == FROM_FLAG ? origin.name : option_name(o);
    if (!set_value(o, (char *)a + o->offset, name, value, err)) return false;
    a->origin[o - options] = origin;
    return true;
}

static bool is_sampling(const struct option *o) {
    return o->offset >= offsetof(struct args, sample)
        && o->offset < offsetof(struct args, sample) + sizeof(struct sample_params);
}

/* Every name of the options of these commands, each to be freed. */
static int spellings(unsigned commands, bool only_sampling, char *word[SPELLINGS_MAX]) {
    int n = 0;
    for (int i = 0; i < n_options; i++) {
        if (!(options[i].commands & commands) || (only_sampling && !is_sampling(&options[i])))
            continue;
        for (int k = 0; n < SPELLINGS_MAX; k++) {
            struct str one = name_at(options[i].names, k);
            if (!one.len) break;
            word[n++] = mem_str(one);
        }
    }
    return n;
}

/* The sentence for an option this command does not take: a foreign one with its reason, one
 * of another command, or a guess at what was meant. */
bool option_refuse(struct err *err, const char *at, const char *command, unsigned bit,
                   struct str name) {
    for (int i = 0; i < n_foreign_options; i++)
        if (foreign_options[i].commands & bit && has_name(foreign_options[i].names, name))
            return err_code(err, ERR_USAGE, "%soption %.*s is not supported: %s", at,
                            STR_ARG(name), foreign_options[i].reason);
    if (option_find(CMD_ALL, name))
        return err_code(err, ERR_USAGE, "%soption %.*s is not one of '%s' ('mlxcel %s --help' "
                        "lists them)", at, STR_ARG(name), command, command);
    char *word[SPELLINGS_MAX];
    int n = spellings(bit, false, word);
    const char *guess = name.len > 2 ? nearest(name, (const char *const *)word, n) : NULL;
    if (guess)
        err_code(err, ERR_USAGE, "%sunknown option %.*s; did you mean %s?", at, STR_ARG(name),
                 guess);
    else
        err_code(err, ERR_USAGE, "%sunknown option %.*s ('mlxcel %s --help' lists them)", at,
                 STR_ARG(name), command);
    for (int i = 0; i < n; i++) free(word[i]);
    return false;
}

/* One option at argv[i], with its value there or in the next word. Returns the words used. */
static int parse_option(struct args *a, unsigned command, int i, int n, char **argv,
                        struct err *err) {
    struct str word = str_of(argv[i]), name = word;
    const char *equals = word.at[1] == '-' ? memchr(word.at, '=', word.len) : NULL;
    if (equals) name.len = (size_t)(equals - word.at);

    const struct option *o = option_find(command, name);
    if (!o) {
        option_refuse(err, "", a->command, command, name);
        return 0;
    }
    struct str value = { "", 0 };
    int used = 1;
    if (!o->value && equals) {
        err_code(err, ERR_USAGE, "option %.*s takes no value", STR_ARG(name));
        return 0;
    }
    if (o->value && equals) value = str_of(equals + 1);
    if (o->value && !equals) {
        /* A missing value must not swallow the next option. A prompt that is spelt like
         * one can still be given with an equals sign. */
        struct str next = str_of(i + 1 < n ? argv[i + 1] : NULL);
        bool missing = i + 1 >= n || (str_starts(next, "--") && option_find(CMD_ALL, next));
        if (missing) {
            err_code(err, ERR_USAGE, "option %.*s needs a value: %s", STR_ARG(name), o->value);
            return 0;
        }
        value = str_of(argv[i + 1]);
        used = 2;
    }
    return option_set(a, o, value, (struct origin){ .from = FROM_FLAG, .name = name }, err)
         ? used : 0;
}

bool options_parse(struct args *a, unsigned command, int n, char **argv, struct err *err) {
    bool only_words = false;
    for (int i = 0; i < n;) {
        const char *word = argv[i];
        if (!only_words && !strcmp(word, "--")) {
            only_words = true;
            i++;
        } else if (!only_words && word[0] == '-' && word[1]) {
            int used = parse_option(a, command, i, n, argv, err);
            if (!used) return false;
            i += used;
        } else {
            if (a->n_positionals == POSITIONALS_MAX)
                return err_code(err, ERR_USAGE, "more than %d words; quote the prompt",
                                POSITIONALS_MAX);
            a->positional[a->n_positionals++] = word;
            i++;
        }
    }
    return true;
}

static size_t kind_size(enum value_kind kind) {
    return kind == V_FLOAT ? sizeof(float) : kind == V_SEED ? sizeof(uint64_t) : sizeof(int);
}

void options_sample(const struct args *a, struct sample_params *base) {
    for (int i = 0; i < n_options; i++) {
        const struct option *o = &options[i];
        if (!a->origin[i].from || !is_sampling(o)) continue;
        size_t at = o->offset - offsetof(struct args, sample);
        memcpy((char *)base + at, (const char *)a + o->offset, kind_size(o->kind));
    }
}

bool options_set_sample(struct sample_params *p, struct str name, struct str value,
                        struct err *err) {
    char spelt[WORD_MAX] = "--";
    while (str_starts(name, "-")) name = str_from(name, 1);
    size_t n = MIN(name.len, sizeof spelt - 3);
    for (size_t i = 0; i < n; i++) spelt[2 + i] = name.at[i] == '_' ? '-' : name.at[i];
    spelt[2 + n] = 0;

    for (int i = 0; i < n_options; i++) {
        const struct option *o = &options[i];
        if (!is_sampling(o) || !has_name(o->names, str_of(spelt))) continue;
        size_t at = o->offset - offsetof(struct args, sample);
        return set_value(o, (char *)p + at, name, value, err);
    }
    char *word[SPELLINGS_MAX];
    int n_words = spellings(CMD_ALL, true, word);
    const char *guess = nearest(str_of(spelt), (const char *const *)word, n_words);
    if (guess)
        err_code(err, ERR_USAGE, "no parameter '%.*s'; did you mean %s?", STR_ARG(name),
                 guess + strspn(guess, "-"));
    else
        err_code(err, ERR_USAGE, "no parameter '%.*s'", STR_ARG(name));
    for (int i = 0; i < n_words; i++) free(word[i]);
    return false;
}

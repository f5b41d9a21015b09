/* filters_text.c - filters on strings, and tojson's arguments. */
#include "prompt/builtins.h"
#include "prompt/cases.h"
#include <math.h>
#include <string.h>
#include <utf8proc.h>

static struct text *soft(struct vm *vm, struct value v) {
    return v_str(&vm->box, v);
}

BUILTIN(filter_string) {
    return v_text(soft(vm, self));
}

static struct value cased(struct vm *vm, struct value v, enum string_case how) {
    struct text *t = soft(vm, v);
    return vm_markup(vm, v_text(string_case(vm, t, how)), t->markup);
}

BUILTIN(filter_upper) {
    return cased(vm, self, CASE_UPPER);
}

BUILTIN(filter_lower) {
    return cased(vm, self, CASE_LOWER);
}

BUILTIN(filter_capitalize) {
    return cased(vm, self, CASE_CAPITAL);
}

static bool splits_words(uint32_t cp) {
    return point_is_space(cp) || (cp < 0x80 && cp && strchr("-({[<", (int)cp));
}

/* Words begin after white space, '-' or an opening bracket; unlike str.title(), not after "'". */
BUILTIN(filter_title) {
    struct text *t = soft(vm, self);
    struct str s = text_str(t);
    struct builder b = { .box = &vm->box };
    bool first = true, in_gap = false;
    box_work(&vm->box, s.len / 8);
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t cp = point_at(s, i, &n), to[3];
        bool gap = splits_words(cp);
        if (gap != in_gap) first = true;
        in_gap = gap;
        int count = first ? case_upper(cp, to) : case_lower(cp, to);
        first = false;
        for (int k = 0; k < count; k++) put_point(&b, to[k], text_input_at(t, i));
    }
    return v_text(built(&b));
}

BUILTIN(filter_trim) {
    return v_text(string_trim(vm, soft(vm, self), arg[0], true, true));
}

BUILTIN(filter_replace) {
    int64_t times = arg[2].kind == V_NONE ? -1 : vm_int(vm, arg[2], -1);
    return v_text(string_replace(vm, soft(vm, self), soft(vm, arg[0]), soft(vm, arg[1]), times));
}

BUILTIN(filter_center) {
    struct value space = { .kind = V_ABSENT };
    return v_text(string_pad(vm, soft(vm, self), vm_int(vm, arg[0], 80), space, 1, 1));
}

static bool line_break(uint32_t cp) {
    return (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

/* The end of the line that begins at i; *next is where the following one begins. */
static size_t line_end(struct str s, size_t i, size_t *next) {
    for (size_t n; i < s.len; i += n) {
        uint32_t cp = point_at(s, i, &n);
        if (!line_break(cp)) continue;
        *next = i + n + (cp == '\r' && i + 1 < s.len && s.at[i + 1] == '\n');
        return i;
    }
    *next = s.len;
    return s.len;
}

BUILTIN(filter_indent) {
    struct text *t = soft(vm, self), *indent;
    bool first = vm_bool(arg[1], false), blank = vm_bool(arg[2], false);
    if (self.kind == V_UNDEFINED) vm_undefined(vm, self);
    vm_text(vm, self, "what indent takes");
    if (arg[0].kind == V_TEXT) {
        indent = arg[0].u.text;
    } else {
        struct builder spaces = { .box = &vm->box };
        put_fill(&spaces, text_literal(&vm->box, " "), (size_t)MAX(vm_int(vm, arg[0], 4), 0));
        indent = built(&spaces);
    }
    struct str s = text_str(t);
    struct builder b = { .box = &vm->box };
    if (first) put_text(&b, indent);
    for (size_t i = 0, next, lines = 0;; i = next, lines++) {
        size_t end = line_end(s, i, &next);
        if (lines) put_c(&b, "\n");
        if (lines && (blank || end > i)) put_text(&b, indent);
        put_cut(&b, t, i, end);
        /* A break at the very end opens one more, empty line. */
        if (next == end) break;
    }
    return vm_markup(vm, v_text(built(&b)), t->markup);
}

BUILTIN(filter_truncate) {
    if (self.kind != V_TEXT) {
        filter_length(vm, self, arg);
        return self;                 /* a short list passes through Python's as well */
    }
    struct text *t = soft(vm, self), *end;
    int64_t length = vm_int(vm, arg[0], 255), leeway = arg[3].kind == V_NONE ? 5
        : vm_int(vm, arg[3], 5);
    end = arg[2].kind == V_ABSENT ? text_literal(&vm->box, "...") : vm_text(vm, arg[2], "the end");
    int64_t end_points = (int64_t)text_points(&vm->box, end);
    if (length < end_points || leeway < 0 || length > INT32_MAX || leeway > INT32_MAX)
        box_fail(&vm->box, "truncate: the length must hold the end, and the leeway be positive");
    if ((int64_t)text_points(&vm->box, t) <= length + leeway) return v_text(t);
    size_t cut = text_offset(&vm->box, t, (size_t)(length - end_points));
    if (!vm_bool(arg[1], false)) {
        size_t space = str_rfind(text_str(t), S(" "), 0, cut);
        if (space != SIZE_MAX) cut = space;
    }
    return v_text(text_join(&vm->box, text_cut(&vm->box, t, 0, cut), end));
}

BUILTIN(filter_wordcount) {
    struct str s = text_str(soft(vm, self));
    int64_t words = 0;
    bool in_word = false;
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t cp = point_at(s, i, &n);
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
        bool letter = cp == '_' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
                      (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
        words += letter && !in_word;
        in_word = letter;
    }
    return v_int(words);
}

BUILTIN(filter_escape) {
    struct text *t = soft(vm, self);
    return v_text(t->markup ? t : text_escaped(&vm->box, t));
}

BUILTIN(filter_forceescape) {
    return v_text(text_escaped(&vm->box, soft(vm, self)));
}

BUILTIN(filter_safe) {
    struct text *t = soft(vm, self);
    struct text *safe = text_cut(&vm->box, t, 0, t->len);
    safe->markup = true;
    return v_text(safe);
}

/* Without comments and tags, and every run of white space as one blank. */
/* The character of an entity at `i`, and in *n its bytes; 0: there is none. Of the names only those
 * that escaping makes. */
static uint32_t entity(struct str s, size_t i, size_t *n) {
    static const struct { const char *name; char is; } names[] = {
        { "&lt", '<' }, { "&gt", '>' }, { "&amp", '&' }, { "&quot", '"' }, { "&apos;", '\'' },
    };
    enum { DIGITS_MAX = 8 };
    struct str at = str_from(s, i);
    for (size_t k = 0; k < COUNT(names); k++) {
        *n = strlen(names[k].name);
        if (!str_starts(at, names[k].name)) continue;
        *n += *n < at.len && at.at[*n] == ';';
        return (uint32_t)names[k].is;
    }
    if (!str_starts(at, "&#")) return 0;
    bool hex = at.len > 2 && (at.at[2] | 0x20) == 'x';
    uint32_t cp = 0;
    size_t first = hex ? 3 : 2, end = first;
    for (; end < at.len && end - first < DIGITS_MAX; end++) {
        char c = at.at[end], low = (char)(c | 0x20);
        bool digit = c >= '0' && c <= '9';
        if (!digit && !(hex && low >= 'a' && low <= 'f')) break;
        cp = cp * (hex ? 16 : 10) + (uint32_t)(digit ? c - '0' : low - 'a' + 10);
    }
    *n = end + (end < at.len && at.at[end] == ';');
    if (end == first) return 0;
    return !cp || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000) ? 0xFFFD : cp;
}

static struct text *unescaped(struct vm *vm, struct text *t) {
    struct builder b = { .box = &vm->box };
    struct str s = text_str(t);
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t cp = s.at[i] == '&' ? entity(s, i, &n) : 0;
        if (cp) {
            put_point(&b, cp, text_input_at(t, i));
            continue;
        }
        const char *next = memchr(s.at + i + 1, '&', s.len - i - 1);
        n = next ? (size_t)(next - s.at) - i : s.len - i;
        put_cut(&b, t, i, i + n);
    }
    return built(&b);
}

BUILTIN(filter_striptags) {
    struct text *t = soft(vm, self);
    struct str s = text_str(t);
    struct builder b = { .box = &vm->box };
    bool space = false;
    box_work(&vm->box, s.len / 8);
    for (size_t i = 0, n; i < s.len; i += n) {
        n = 1;
        bool note = str_starts(str_from(s, i), "<!--");
        size_t close = SIZE_MAX;
        if (s.at[i] == '<') close = str_find(s, note ? S("-->") : S(">"), i, SIZE_MAX);
        if (close != SIZE_MAX) {
            n = close + (note ? 3 : 1) - i;
            continue;
        }
        if (point_is_space(point_at(s, i, &n))) {
            space = true;
            continue;
        }
        if (space && b.len) put_c(&b, " ");
        space = false;
        put_cut(&b, t, i, i + n);
    }
    return v_text(unescaped(vm, built(&b)));
}

static void put_url(struct builder *b, const struct text *t, bool query) {
    bool input = text_from_input(t);
    for (size_t i = 0; i < t->len; i++) {
        unsigned char c = (unsigned char)t->at[i];
        bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                     strchr("_.-~", c) || (c == '/' && !query);
        static const char hex[] = "0123456789ABCDEF";
        char code[] = { '%', hex[c >> 4], hex[c & 15] };
        if (c && plain) put(b, (const char *)&t->at[i], 1, input);
        else if (c == ' ' && query) put(b, "+", 1, input);
        else put(b, code, 3, input);
    }
}

BUILTIN(filter_urlencode) {
    struct builder b = { .box = &vm->box };
    if (self.kind == V_TEXT || !v_iterable(self)) {
        put_url(&b, soft(vm, self), false);
        return v_text(built(&b));
    }
    struct list *pairs = self.kind == V_DICT ? filter_items(vm, self, arg).u.list
                                             : v_items(&vm->box, self);
    for (size_t i = 0; i < pairs->n; i++) {
        struct list *pair = v_items(&vm->box, pairs->at[i]);
        if (pair->n != 2) box_fail(&vm->box, "urlencode: item %zu is not a pair", i);
        if (i) put_c(&b, "&");
        put_url(&b, soft(vm, pair->at[0]), true);
        put_c(&b, "=");
        put_url(&b, soft(vm, pair->at[1]), true);
    }
    return v_text(built(&b));
}

BUILTIN(filter_filesizeformat) {
    static const char prefixes[] = "kMGTPEZY";
    bool binary = vm_bool(arg[0], false);
    double base = binary ? 1024 : 1000, bytes, unit = base;
    if (v_number(self)) bytes = v_as_float(self);
    else if (self.kind != V_TEXT || !number_float(text_str(self.u.text), &bytes))
        box_fail(&vm->box, "filesizeformat needs a number, not %s", v_type(self));
    struct builder b = { .box = &vm->box };
    if (bytes == 1) put_c(&b, "1 Byte");
    else if (bytes < base) put_format(&b, "%.0f Bytes", trunc(bytes));
    else {
        int i = 0;
        while (i < 7 && bytes >= unit * base) unit *= base, i++;
        put_format(&b, "%.1f %c%s", bytes / unit, binary && !i ? 'K' : prefixes[i], binary ? "iB"
                   : "B");
    }
    return v_text(built(&b));
}

BUILTIN(filter_format) {
    struct list *at = arg[0].u.list;
    struct dict *named = arg[1].u.dict;
    if (at->n && named->n) box_fail(&vm->box, "format takes positions or names, not both");
    return vm_percent(vm, soft(vm, self), named->n ? v_dict(named) : v_list(at));
}

/* The same with the keys of every dict in order. */
static struct value in_order(struct vm *vm, struct value v) {
    bool list = v.kind == V_LIST && v.u.list->kind <= L_TUPLE;
    if (!list && v.kind != V_DICT) return v;
    box_enter(&vm->box);
    size_t n = list ? v.u.list->n : v.u.dict->n;
    struct list *items = list_new(&vm->box, list ? v.u.list->kind : L_LIST, n);
    if (list) {
        for (size_t i = 0; i < n; i++)
            list_put(&vm->box, items, in_order(vm, v.u.list->at[i]));
        v = v_list(items);
    } else {
        struct value *keys = box_array(&vm->box, n, sizeof *keys);
        for (size_t i = 0; i < n; i++)
            list_put(&vm->box, items, keys[i] = v.u.dict->at[i].key);
        vm_sort(vm, items, keys, false);
        struct dict *d = dict_new(&vm->box);
        for (size_t i = 0; i < n; i++)
            dict_put(&vm->box, d, items->at[i],
                     in_order(vm, *dict_get(&vm->box, v.u.dict, items->at[i])));
        v = v_dict(d);
    }
    vm->box.depth--;
    return v;
}

/* Python's breaks lines at 80 columns in ways of its own, which nobody asks a prompt for. */
BUILTIN(filter_pprint) {
    enum { COLUMNS_MAX = 80 };
    struct builder b = { .box = &vm->box };
    put_repr(&b, in_order(vm, self));
    struct text *t = built(&b);
    if (text_points(&vm->box, t) > COLUMNS_MAX)
        box_fail(&vm->box, "pprint of more than %d columns is not supported", COLUMNS_MAX);
    return v_text(t);
}

BUILTIN(filter_tojson) {
    struct json_style style = { .ascii = vm_bool(arg[0], false), .sort = vm_bool(arg[3], false) };
    bool indented = arg[1].kind != V_ABSENT && arg[1].kind != V_NONE;
    if (indented && arg[1].kind == V_TEXT) {
        style.indent = arg[1].u.text;
    } else if (indented) {
        struct builder spaces = { .box = &vm->box };
        put_fill(&spaces, text_literal(&vm->box, " "), (size_t)MAX(vm_int(vm, arg[1], 0), 0));
        style.indent = built(&spaces);
    }
    style.comma = text_literal(&vm->box, indented ? "," : ", ");
    style.colon = text_literal(&vm->box, ": ");
    if (arg[2].kind != V_ABSENT && arg[2].kind != V_NONE) {
        struct list *both = v_items(&vm->box, arg[2]);
        if (both->n != 2) box_fail(&vm->box, "tojson: separators are two strings");
        style.comma = vm_text(vm, both->at[0], "a separator");
        style.colon = vm_text(vm, both->at[1], "a separator");
    }
    struct builder b = { .box = &vm->box };
    put_json(&b, self, &style);
    return v_text(built(&b));
}

/* methods.c - methods of strings. Those that would make bytes are named without a
 * function: they cannot be had. Other methods are in methods_list.c. */
#include "prompt/builtins.h"
#include <string.h>
#include <utf8proc.h>

static struct value text_of(struct text *t) {
    return v_text(t);
}

static size_t span_of(struct vm *vm, struct value self, struct value from, struct value to,
                      size_t *end) {
    int64_t n = (int64_t)text_points(&vm->box, self.u.text);
    int64_t ends[2] = { 0, n };
    struct value given[2] = { from, to };
    for (int i = 0; i < 2; i++) {
        if (given[i].kind == V_ABSENT || given[i].kind == V_NONE) continue;
        int64_t at = vm_int(vm, given[i], 0);
        if (at < 0) at = MAX(at + n, 0);
        ends[i] = i == 1 ? MIN(at, n) : at;
    }
    if (ends[0] > n) {               /* beyond the end nothing is found, not even "" */
        *end = 0;
        return SIZE_MAX;
    }
    *end = text_offset(&vm->box, self.u.text, (size_t)ends[1]);
    return text_offset(&vm->box, self.u.text, (size_t)ends[0]);
}

static struct value find(struct vm *vm, struct value self, struct value *arg, bool last,
                         bool must) {
    struct str what = text_str(vm_text(vm, arg[0], "what to find")), s = text_str(self.u.text);
    size_t end, begin = span_of(vm, self, arg[1], arg[2], &end), at = SIZE_MAX;
    box_work(&vm->box, s.len / 8 + (last ? s.len / 8 * (what.len / 64) : 0));
    if (begin != SIZE_MAX && begin <= end) at = last ? str_rfind(s, what, begin, end)
                                                     : str_find(s, what, begin, end);
    if (at == SIZE_MAX && must) box_fail(&vm->box, "the substring is not found");
    if (at == SIZE_MAX) return v_int(-1);
    return v_int((int64_t)text_points(&vm->box, text_cut(&vm->box, self.u.text, 0, at)));
}

static BUILTIN(do_find) { return find(vm, self, arg, false, false); }
static BUILTIN(do_rfind) { return find(vm, self, arg, true, false); }
static BUILTIN(do_index) { return find(vm, self, arg, false, true); }
static BUILTIN(do_rindex) { return find(vm, self, arg, true, true); }

static BUILTIN(do_count) {
    struct str what = text_str(vm_text(vm, arg[0], "what to count")), s = text_str(self.u.text);
    size_t end, begin = span_of(vm, self, arg[1], arg[2], &end);
    int64_t n = 0;
    box_work(&vm->box, s.len / 8);
    if (begin == SIZE_MAX || begin > end) return v_int(0);
    if (!what.len)
        return v_int((int64_t)text_points(&vm->box,
                                          text_cut(&vm->box, self.u.text, begin, end)) + 1);
    for (size_t at = begin; (at = str_find(s, what, at, end)) != SIZE_MAX; at += what.len) n++;
    return v_int(n);
}

/* startswith and endswith take one string or a tuple of them. */
static struct value affix(struct vm *vm, struct value self, struct value *arg, bool at_end) {
    struct list one = { .at = &arg[0], .n = 1 }, *any = &one;
    if (arg[0].kind == V_LIST && arg[0].u.list->kind == L_TUPLE) any = arg[0].u.list;
    size_t end, begin = span_of(vm, self, arg[1], arg[2], &end);
    for (size_t i = 0; i < any->n; i++) {
        struct str what = text_str(vm_text(vm, any->at[i], "a prefix or suffix"));
        if (begin == SIZE_MAX || begin > end || what.len > end - begin) continue;
        const char *at = self.u.text->at + (at_end ? end - what.len : begin);
        if (!memcmp(at, what.at, what.len)) return v_bool(true);
    }
    return v_bool(false);
}

static BUILTIN(do_startswith) { return affix(vm, self, arg, false); }
static BUILTIN(do_endswith) { return affix(vm, self, arg, true); }

static BUILTIN(do_strip) { return text_of(string_trim(vm, self.u.text, arg[0], true, true)); }
static BUILTIN(do_lstrip) { return text_of(string_trim(vm, self.u.text, arg[0], true, false)); }
static BUILTIN(do_rstrip) { return text_of(string_trim(vm, self.u.text, arg[0], false, true)); }

static BUILTIN(do_upper) { return text_of(string_case(vm, self.u.text, CASE_UPPER)); }
static BUILTIN(do_lower) { return text_of(string_case(vm, self.u.text, CASE_LOWER)); }
static BUILTIN(do_capital) { return text_of(string_case(vm, self.u.text, CASE_CAPITAL)); }
static BUILTIN(do_title) { return text_of(string_case(vm, self.u.text, CASE_TITLE)); }
static BUILTIN(do_swapcase) { return text_of(string_case(vm, self.u.text, CASE_SWAP)); }
static BUILTIN(do_casefold) { return text_of(string_case(vm, self.u.text, CASE_FOLD)); }

static BUILTIN(do_center) {
    return text_of(string_pad(vm, self.u.text, vm_int(vm, arg[0], 0), arg[1], 1, 1));
}
static BUILTIN(do_ljust) {
    return text_of(string_pad(vm, self.u.text, vm_int(vm, arg[0], 0), arg[1], 0, 1));
}
static BUILTIN(do_rjust) {
    return text_of(string_pad(vm, self.u.text, vm_int(vm, arg[0], 0), arg[1], 1, 0));
}

static BUILTIN(do_zfill) {
    struct text *t = self.u.text;
    int64_t width = vm_int(vm, arg[0], 0), points = (int64_t)text_points(&vm->box, t);
    size_t sign = t->len && (t->at[0] == '-' || t->at[0] == '+');
    if (width <= points) return self;
    struct builder b = { .box = &vm->box };
    put_cut(&b, t, 0, sign);
    put_fill(&b, text_literal(&vm->box, "0"), (size_t)(width - points));
    put_cut(&b, t, sign, t->len);
    return v_text(built(&b));
}

static BUILTIN(do_replace) {
    struct text *from = vm_text(vm, arg[0], "what to replace"),
        *to = vm_text(vm, arg[1], "the replacement");
    return text_of(string_replace(vm, self.u.text, from, to, vm_int(vm, arg[2], -1)));
}

static void put_piece(struct vm *vm, struct list *list, struct text *t, size_t begin, size_t end) {
    list_put(&vm->box, list, v_text(text_cut(&vm->box, t, begin, end)));
}

static void reverse(struct list *list) {
    for (size_t i = 0; i < list->n / 2; i++) {
        struct value v = list->at[i];
        list->at[i] = list->at[list->n - 1 - i];
        list->at[list->n - 1 - i] = v;
    }
}

static struct list *split_by(struct vm *vm, struct text *t, struct text *by, uint64_t times) {
    struct list *list = list_new(&vm->box, L_LIST, 0);
    if (!by->len) box_fail(&vm->box, "split: the separator is empty");
    size_t at = 0, found;
    while (list->n < times &&
           (found = str_find(text_str(t), text_str(by), at, SIZE_MAX)) != SIZE_MAX) {
        put_piece(vm, list, t, at, found);
        at = found + by->len;
    }
    put_piece(vm, list, t, at, t->len);
    return list;
}

static struct list *rsplit_by(struct vm *vm, struct text *t, struct text *by, uint64_t times) {
    struct list *list = list_new(&vm->box, L_LIST, 0);
    if (!by->len) box_fail(&vm->box, "rsplit: the separator is empty");
    size_t end = t->len, found;
    box_work(&vm->box, t->len / 8 * (by->len / 64 + 1));
    while (list->n < times && (found = str_rfind(text_str(t), text_str(by), 0, end)) != SIZE_MAX) {
        put_piece(vm, list, t, found + by->len, end);
        end = found;
    }
    put_piece(vm, list, t, 0, end);
    reverse(list);
    return list;
}

static struct list *split_space(struct vm *vm, struct text *t, uint64_t times) {
    struct list *list = list_new(&vm->box, L_LIST, 0);
    struct str s = text_str(t);
    size_t i = 0, n;
    for (;;) {
        while (i < s.len && point_is_space(point_at(s, i, &n))) i += n;
        if (i >= s.len) return list;
        size_t begin = i;
        if (list->n >= times) {
            put_piece(vm, list, t, i, s.len);
            return list;
        }
        while (i < s.len && !point_is_space(point_at(s, i, &n))) i += n;
        put_piece(vm, list, t, begin, i);
    }
}

static size_t space_before(struct str s, size_t end, bool space) {
    size_t n;
    while (end > 0) {
        size_t i = end - 1;
        while (i > 0 && (s.at[i] & 0xC0) == 0x80) i--;
        if (point_is_space(point_at(s, i, &n)) != space) return end;
        end = i;
    }
    return 0;
}

static struct list *rsplit_space(struct vm *vm, struct text *t, uint64_t times) {
    struct list *list = list_new(&vm->box, L_LIST, 0);
    struct str s = text_str(t);
    for (size_t end = s.len, begin;; end = begin) {
        end = space_before(s, end, true);
        if (!end) break;
        if (list->n >= times) {
            put_piece(vm, list, t, 0, end);
            break;
        }
        begin = space_before(s, end, false);
        put_piece(vm, list, t, begin, end);
    }
    reverse(list);
    return list;
}

static struct value split(struct vm *vm, struct value self, struct value *arg, bool from_right) {
    struct text *t = self.u.text;
    int64_t most = vm_int(vm, arg[1], -1);
    uint64_t times = most < 0 ? UINT64_MAX : (uint64_t)most;
    box_work(&vm->box, t->len / 16);
    if (arg[0].kind == V_ABSENT || arg[0].kind == V_NONE)
        return v_list(from_right ? rsplit_space(vm, t, times) : split_space(vm, t, times));
    struct text *by = vm_text(vm, arg[0], "the separator");
    return v_list(from_right ? rsplit_by(vm, t, by, times) : split_by(vm, t, by, times));
}

static BUILTIN(do_split) { return split(vm, self, arg, false); }
static BUILTIN(do_rsplit) { return split(vm, self, arg, true); }

static BUILTIN(do_splitlines) {
    struct text *t = self.u.text;
    struct str s = text_str(t);
    struct list *list = list_new(&vm->box, L_LIST, 0);
    size_t begin = 0;
    box_work(&vm->box, s.len / 16);
    for (size_t i = 0, n; i < s.len; i += n) {
        uint32_t cp = point_at(s, i, &n);
        bool line_break = (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 ||
                          cp == 0x2028 || cp == 0x2029;
        if (!line_break) continue;
        if (cp == '\r' && i + 1 < s.len && s.at[i + 1] == '\n') n = 2;
        put_piece(vm, list, t, begin, vm_bool(arg[0], false) ? i + n : i);
        begin = i + n;
    }
    if (begin < s.len) put_piece(vm, list, t, begin, s.len);
    return v_list(list);
}

static struct value partition(struct vm *vm, struct value self, struct value *arg, bool last) {
    struct text *t = self.u.text, *by = vm_text(vm, arg[0], "the separator");
    if (!by->len) box_fail(&vm->box, "partition: the separator is empty");
    box_work(&vm->box, (size_t)t->len / 16 * (last ? by->len / 64 + 1 : 1));
    size_t at = last ? str_rfind(text_str(t), text_str(by), 0, SIZE_MAX)
                     : str_find(text_str(t), text_str(by), 0, SIZE_MAX);
    struct list *list = list_new(&vm->box, L_TUPLE, 3);
    bool found = at != SIZE_MAX;
    if (!found) at = last ? 0 : t->len;
    put_piece(vm, list, t, 0, at);
    put_piece(vm, list, t, at, found ? at + by->len : at);
    put_piece(vm, list, t, found ? at + by->len : at, t->len);
    return v_list(list);
}

static BUILTIN(do_expandtabs) {
    int64_t width = vm_int(vm, arg[0], 8), column = 0;
    struct text *t = self.u.text, *blank = text_literal(&vm->box, " ");
    struct builder b = { .box = &vm->box };
    for (size_t i = 0, n; i < t->len; i += n) {
        uint32_t cp = point_at(text_str(t), i, &n);
        int64_t gap = width > 0 ? width - column % width : 0;
        if (cp == '\t') put_fill(&b, blank, (size_t)gap);
        else put_cut(&b, t, i, i + n);
        column = cp == '\n' || cp == '\r' ? 0 : cp == '\t' ? column + gap : column + 1;
    }
    return v_text(built(&b));
}

static BUILTIN(do_partition) { return partition(vm, self, arg, false); }
static BUILTIN(do_rpartition) { return partition(vm, self, arg, true); }

static BUILTIN(do_removeprefix) {
    struct text *t = self.u.text, *prefix = vm_text(vm, arg[0], "the prefix");
    bool has = t->len >= prefix->len && !memcmp(t->at, prefix->at, prefix->len);
    return has ? v_text(text_cut(&vm->box, t, prefix->len, t->len)) : self;
}

static BUILTIN(do_removesuffix) {
    struct text *t = self.u.text, *suffix = vm_text(vm, arg[0], "the suffix");
    bool has = t->len >= suffix->len &&
               !memcmp(t->at + t->len - suffix->len, suffix->at, suffix->len);
    return has ? v_text(text_cut(&vm->box, t, 0, t->len - suffix->len)) : self;
}

/* str.join takes strings only; the filter of that name takes anything. */
static BUILTIN(do_join) {
    struct list *items = v_items(&vm->box, arg[0]);
    for (size_t i = 0; i < items->n; i++) vm_text(vm, items->at[i], "an item to join");
    return v_text(string_join(vm, self.u.text, items));
}

static BUILTIN(do_format) {
    return vm_format(vm, self.u.text, arg[0].u.list, arg[1].u.dict);
}

enum { CLASS_ALPHA = 1, CLASS_DECIMAL = 2, CLASS_DIGIT = 4, CLASS_NUMERIC = 8, CLASS_SPACE = 16,
       CLASS_LOWER = 32, CLASS_UPPER = 64, CLASS_ASCII = 128 };

static int class_of(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    int class = cp < 0x80 ? CLASS_ASCII : 0;
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) class |= CLASS_ALPHA;
    if (c == UTF8PROC_CATEGORY_ND) class |= CLASS_DECIMAL | CLASS_DIGIT | CLASS_NUMERIC;
    if (c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO) class |= CLASS_NUMERIC;
    bool small_digit = cp == 0xB2 || cp == 0xB3 || cp == 0xB9 || cp == 0x2070 ||
                       (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089);
    if (small_digit) class |= CLASS_DIGIT;
    if (point_is_space(cp)) class |= CLASS_SPACE;
    if (c == UTF8PROC_CATEGORY_LL) class |= CLASS_LOWER;
    if (c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LT) class |= CLASS_UPPER;
    return class;
}

static struct value all_are(struct vm *vm, struct value self, int classes, bool when_empty) {
    struct str s = text_str(self.u.text);
    box_work(&vm->box, s.len / 16);
    if (!s.len) return v_bool(when_empty);
    for (size_t i = 0, n; i < s.len; i += n)
        if (!(class_of(point_at(s, i, &n)) & classes)) return v_bool(false);
    return v_bool(true);
}

/* Letters without case do not count, but there must be one with it. */
static struct value in_case(struct vm *vm, struct value self, int wanted, int other) {
    struct str s = text_str(self.u.text);
    bool any = false;
    box_work(&vm->box, s.len / 16);
    for (size_t i = 0, n; i < s.len; i += n) {
        int class = class_of(point_at(s, i, &n));
        if (class & other) return v_bool(false);
        any |= (class & wanted) != 0;
    }
    return v_bool(any);
}

#define ALL(f, classes, when_empty) \
    static BUILTIN(f) { return all_are(vm, self, classes, when_empty); }
ALL(do_isalpha, CLASS_ALPHA, false)
ALL(do_isalnum, CLASS_ALPHA | CLASS_NUMERIC | CLASS_DIGIT, false)
ALL(do_isascii, CLASS_ASCII, true)
ALL(do_isdecimal, CLASS_DECIMAL, false)
ALL(do_isdigit, CLASS_DIGIT, false)
ALL(do_isnumeric, CLASS_NUMERIC | CLASS_DIGIT, false)
ALL(do_isspace, CLASS_SPACE, false)
static BUILTIN(do_islower) { return in_case(vm, self, CLASS_LOWER, CLASS_UPPER); }
static BUILTIN(do_isupper) { return in_case(vm, self, CLASS_UPPER, CLASS_LOWER); }

static BUILTIN(do_istitle) {
    struct str s = text_str(self.u.text);
    bool in_word = false, any = false;
    for (size_t i = 0, n; i < s.len; i += n) {
        int class = class_of(point_at(s, i, &n));
        if ((class & CLASS_UPPER && in_word) || (class & CLASS_LOWER && !in_word))
            return v_bool(false);
        in_word = (class & (CLASS_UPPER | CLASS_LOWER)) != 0;
        any |= in_word;
    }
    return v_bool(any);
}

/* "{a}".format_map({"a": 1}) */
static BUILTIN(do_format_map) {
    if (arg[0].kind != V_DICT) box_fail(&vm->box, "format_map needs a dict");
    return vm_format(vm, self.u.text, NULL, arg[0].u.dict);
}

static BUILTIN(do_isprintable) {
    struct str s = text_str(self.u.text);
    for (size_t i = 0, n; i < s.len; i += n)
        if (!point_is_printable(point_at(s, i, &n))) return v_bool(false);
    return v_bool(true);
}

static BUILTIN(do_isidentifier) {
    struct str s = text_str(self.u.text);
    for (size_t i = 0, n; i < s.len; i += n) {
        int class = class_of(point_at(s, i, &n));
        bool mark = i > 0 && utf8proc_category((utf8proc_int32_t)point_at(s, i, &n)) <=
                    UTF8PROC_CATEGORY_MC && !(class & CLASS_ALPHA);
        if (!(class & CLASS_ALPHA || s.at[i] == '_' || mark || (i && class & CLASS_DECIMAL)))
            return v_bool(false);
    }
    return v_bool(s.len > 0);
}

static struct value point_key(struct vm *vm, struct text *t) {
    size_t n;
    if (text_points(&vm->box, t) != 1) box_fail(&vm->box, "maketrans: one character each");
    return v_int(point_at(text_str(t), 0, &n));
}

/* A table for translate: of a dict, or of two strings, and of a third that goes. */
static BUILTIN(do_maketrans) {
    struct dict *table = dict_new(&vm->box);
    if (arg[1].kind == V_ABSENT) {
        if (arg[0].kind != V_DICT) box_fail(&vm->box, "maketrans: one argument must be a dict");
        const struct dict *from = arg[0].u.dict;
        for (size_t i = 0; i < from->n; i++) {
            struct value key = from->at[i].key;
            if (key.kind == V_TEXT) key = point_key(vm, key.u.text);
            dict_put(&vm->box, table, key, from->at[i].value);
        }
        return v_dict(table);
    }
    struct list *from = v_items(&vm->box, v_text(vm_text(vm, arg[0], "what to map")));
    struct list *to = v_items(&vm->box, v_text(vm_text(vm, arg[1], "what to map to")));
    if (from->n != to->n) box_fail(&vm->box, "maketrans: the strings differ in length");
    for (size_t i = 0; i < from->n; i++)
        dict_put(&vm->box, table, point_key(vm, from->at[i].u.text),
                 point_key(vm, to->at[i].u.text));
    if (arg[2].kind == V_ABSENT) return v_dict(table);
    struct list *gone = v_items(&vm->box, v_text(vm_text(vm, arg[2], "what goes")));
    for (size_t i = 0; i < gone->n; i++)
        dict_put(&vm->box, table, point_key(vm, gone->at[i].u.text), v_none());
    return v_dict(table);
}

static BUILTIN(do_translate) {
    struct text *t = self.u.text;
    struct builder b = { .box = &vm->box };
    if (arg[0].kind != V_DICT) box_fail(&vm->box, "translate needs a dict, not %s", v_type(arg[0]));
    for (size_t i = 0, n; i < t->len; i += n) {
        struct value key = v_int(point_at(text_str(t), i, &n));
        struct value *to = dict_get(&vm->box, arg[0].u.dict, key);
        if (!to) put_cut(&b, t, i, i + n);
        else if (to->kind == V_TEXT) put_text(&b, to->u.text);
        else if (v_is_int(*to) && v_as_int(*to) >= 0 && v_as_int(*to) < 0x110000 &&
                 (v_as_int(*to) < 0xD800 || v_as_int(*to) > 0xDFFF))
            put_point(&b, (uint32_t)v_as_int(*to), text_input_at(t, i));
        else if (to->kind != V_NONE)
            box_fail(&vm->box, "translate: a character maps to a string, a code point or none");
    }
    return v_text(built(&b));
}

const struct builtin text_methods[] = {
    { "capitalize", "", do_capital },      { "casefold", "", do_casefold },
    { "center", "width fill?", do_center }, { "count", "sub start? end?", do_count },
    { "endswith", "suffix start? end?", do_endswith }, { "find", "sub start? end?", do_find },
    { "expandtabs", "tabsize?", do_expandtabs }, { "encode", "", NULL },
    { "format", "* **", do_format },       { "format_map", "mapping", do_format_map },
    { "index", "sub start? end?", do_index },
    { "isalnum", "", do_isalnum },         { "isalpha", "", do_isalpha },
    { "isascii", "", do_isascii },         { "isdecimal", "", do_isdecimal },
    { "isdigit", "", do_isdigit },         { "isidentifier", "", do_isidentifier },
    { "islower", "", do_islower },         { "isprintable", "", do_isprintable },
    { "isnumeric", "", do_isnumeric },     { "isspace", "", do_isspace },
    { "istitle", "", do_istitle },         { "isupper", "", do_isupper },
    { "join", "items", do_join },   { "ljust", "width fill?", do_ljust },
    { "lower", "", do_lower },             { "lstrip", "chars?", do_lstrip },
    { "maketrans", "x y? z?", do_maketrans }, { "translate", "table", do_translate },
    { "partition", "sep", do_partition },  { "removeprefix", "prefix", do_removeprefix },
    { "removesuffix", "suffix", do_removesuffix },
    { "replace", "old new count?", do_replace },
    { "rfind", "sub start? end?", do_rfind }, { "rindex", "sub start? end?", do_rindex },
    { "rjust", "width fill?", do_rjust },  { "rpartition", "sep", do_rpartition },
    { "rsplit", "sep? maxsplit?", do_rsplit }, { "rstrip", "chars?", do_rstrip },
    { "split", "sep? maxsplit?", do_split }, { "splitlines", "keepends?", do_splitlines },
    { "startswith", "prefix start? end?", do_startswith }, { "strip", "chars?", do_strip },
    { "swapcase", "", do_swapcase },       { "title", "", do_title },
    { "upper", "", do_upper },             { "zfill", "width", do_zfill },
    { 0 },
};

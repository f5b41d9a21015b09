/* format.c - Python's two ways of formatting, "%s" % x and "{}".format(x), and
 * strftime. Widths are bounded by the box, and fields reach into data only. */
#include "prompt/builtins.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

struct spec {                        /* what both ways can say about one field */
    struct text *fill;
    char align, sign, type;          /* align: < > = ^ or 0; type 0: none given */
    bool alternate, zero, comma, underscore;
    int64_t width, precision;        /* precision -1: none given */
};

static int64_t spec_number(struct vm *vm, struct str s, size_t *i) {
    int64_t n = 0;
    for (; *i < s.len && s.at[*i] >= '0' && s.at[*i] <= '9'; ++*i) {
        n = n * 10 + (s.at[*i] - '0');
        if (n > BOX_OUTPUT_MAX) box_limit(&vm->box, "a format is wider than %d", BOX_OUTPUT_MAX);
    }
    return n;
}

/* Digits of a whole number in a base, grouped if asked. */
static void put_whole(struct builder *b, uint64_t n, int base, bool capital, char group) {
    char digits[100];
    int at = 100, count = 0;
    const char *alphabet = capital ? "0123456789ABCDEF" : "0123456789abcdef";
    do {
        if (group && count && count % (base == 10 ? 3 : 4) == 0) digits[--at] = group;
        digits[--at] = alphabet[n % (uint64_t)base];
        n /= (uint64_t)base;
        count++;
    } while (n);
    put(b, digits + at, (size_t)(100 - at), false);
}

static void group_digits(struct builder *b, const char *digits, char group) {
    size_t whole = strspn(digits, "0123456789");
    for (size_t i = 0; i < whole; i++) {
        if (group && i && (whole - i) % 3 == 0) put(b, &group, 1, false);
        put(b, &digits[i], 1, false);
    }
    put_c(b, digits + whole);
}

/* The number without its sign. */
static struct text *float_digits(struct vm *vm, double f, const struct spec *spec) {
    enum { PRECISION_MAX = 400 };
    char digits[800];
    struct builder b = { .box = &vm->box };
    int64_t precision = spec->precision < 0 ? 6 : spec->precision;
    if (precision > PRECISION_MAX) box_limit(&vm->box, "a precision above %d", PRECISION_MAX);
    if (spec->type == '%') f *= 100;
    f = fabs(f);
    switch (spec->type) {
    case 'e': snprintf(digits, sizeof digits, "%.*e", (int)precision, f); break;
    case 'E': snprintf(digits, sizeof digits, "%.*E", (int)precision, f); break;
    case 'g': snprintf(digits, sizeof digits, "%.*g", (int)precision, f); break;
    case 'G': snprintf(digits, sizeof digits, "%.*G", (int)precision, f); break;
    default: snprintf(digits, sizeof digits, "%.*f", (int)precision, f);
    }
    group_digits(&b, digits, spec->comma ? ',' : spec->underscore ? '_' : 0);
    if (spec->type == '%') put_c(&b, "%");
    return built(&b);
}

static struct text *padded(struct vm *vm, struct text *sign, struct text *body,
                           const struct spec *spec, char align) {
    struct text *fill = spec->fill ? spec->fill : text_literal(&vm->box, spec->zero ? "0" : " ");
    int64_t points = (int64_t)(text_points(&vm->box, sign) + text_points(&vm->box, body));
    int64_t margin = MAX(spec->width - points, 0);
    int64_t left = align == '<' ? 0 : align == '^' ? margin / 2 : margin;
    struct builder b = { .box = &vm->box };
    if (align == '=') put_text(&b, sign);
    put_fill(&b, fill, (size_t)left);
    if (align != '=') put_text(&b, sign);
    put_text(&b, body);
    put_fill(&b, fill, (size_t)(margin - left));
    return built(&b);
}

static struct text *format_int(struct vm *vm, int64_t n, const struct spec *spec) {
    struct builder sign = { .box = &vm->box }, body = { .box = &vm->box };
    int base = spec->type == 'x' || spec->type == 'X' ? 16 : spec->type == 'o' ? 8
             : spec->type == 'b' ? 2 : 10;
    uint64_t size = n < 0 ? -(uint64_t)n : (uint64_t)n;
    if (n < 0) put_c(&sign, "-");
    else if (spec->sign == '+' || spec->sign == ' ') put(&sign, &spec->sign, 1, false);
    if (spec->alternate && base != 10)
        put_format(&sign, "0%c", spec->type);
    put_whole(&body, size, base, spec->type == 'X', spec->comma ? ',' : spec->underscore ? '_' : 0);
    char align = spec->align ? spec->align : spec->zero ? '=' : '>';
    return padded(vm, built(&sign), built(&body), spec, align);
}

static struct text *format_float(struct vm *vm, double f, const struct spec *spec) {
    struct builder sign = { .box = &vm->box }, plain = { .box = &vm->box };
    struct spec as = *spec;
    if (signbit(f) && !isnan(f)) put_c(&sign, "-");
    else if (spec->sign == '+' || spec->sign == ' ') put(&sign, &spec->sign, 1, false);
    struct text *body;
    if (!isfinite(f)) {
        put_float(&plain, fabs(f));
        body = built(&plain);
    } else if (!spec->type && spec->precision < 0) {
        put_float(&plain, fabs(f));
        body = built(&plain);
    } else {
        if (!as.type) as.type = 'g';
        body = float_digits(vm, f, &as);
    }
    char align = spec->align ? spec->align : spec->zero ? '=' : '>';
    return padded(vm, built(&sign), body, spec, align);
}

static struct text *format_text(struct vm *vm, struct text *t, const struct spec *spec) {
    if (spec->precision >= 0)
        t = text_cut(&vm->box, t, 0, text_offset(&vm->box, t, (size_t)spec->precision));
    return padded(vm, text_literal(&vm->box, ""), t, spec, spec->align ? spec->align : '<');
}

static struct text *quoted(struct vm *vm, struct value v) {
    struct builder b = { .box = &vm->box };
    if (v.kind == V_TEXT) put_quoted(&b, v.u.text);
    else put_repr(&b, v);
    return built(&b);
}

static struct text *percent_field(struct vm *vm, struct value v, struct spec *spec) {
    if (strchr("sra", spec->type)) {
        spec->zero = false;
        struct text *t = spec->type == 's' ? v_str(&vm->box, v) : quoted(vm, v);
        if (!spec->align) spec->align = '>';
        return format_text(vm, t, spec);
    }
    bool point = v_is_int(v) && v_as_int(v) >= 0 && v_as_int(v) < 0x110000 &&
                 (v_as_int(v) < 0xD800 || v_as_int(v) > 0xDFFF);
    if (spec->type == 'c' && point) {
        struct builder b = { .box = &vm->box };
        put_point(&b, (uint32_t)v_as_int(v), false);
        v = v_text(built(&b));
    }
    if (spec->type == 'c' && v.kind == V_TEXT && text_points(&vm->box, v.u.text) == 1) {
        if (!spec->align) spec->align = '>';
        return format_text(vm, v.u.text, spec);
    }
    if (v.kind == V_UNDEFINED) vm_undefined(vm, v);
    if (!v_number(v)) box_fail(&vm->box, "%%%c needs a number, not %s", spec->type, v_type(v));
    if (strchr("dixXo", spec->type)) {
        double f = v.kind == V_FLOAT ? v.u.f : 0;
        bool whole = spec->type == 'd' || spec->type == 'i';
        if (v.kind == V_FLOAT && (!whole || !(f >= -0x1p63 && f < 0x1p63)))
            box_fail(&vm->box, "%%%c needs an integer", spec->type);
        if (whole) spec->type = 'd';
        return format_int(vm, v.kind == V_FLOAT ? (int64_t)f : v_as_int(v), spec);
    }
    if (strchr("fFeEgG", spec->type)) return format_float(vm, v_as_float(v), spec);
    box_fail(&vm->box, "%%%c is no known conversion", spec->type);
}

/* The next value for "%": of a tuple in order, by name of a dict, or the one there is. */
struct percent { struct value values; size_t next; bool by_name; };

static struct value percent_next(struct vm *vm, struct percent *p) {
    bool tuple = p->values.kind == V_LIST && p->values.u.list->kind == L_TUPLE;
    size_t n = tuple ? p->values.u.list->n : 1;
    if (p->next >= n) box_fail(&vm->box, "'%%': not enough values for the format");
    return tuple ? p->values.u.list->at[p->next++] : (p->next++, p->values);
}

static struct value percent_named(struct vm *vm, struct percent *p, struct text *f, size_t *i) {
    size_t end = str_find(text_str(f), S(")"), *i, SIZE_MAX);
    if (end == SIZE_MAX || p->values.kind != V_DICT)
        box_fail(&vm->box, "'%%': a name in the format needs ')' and a dict");
    struct value *at = dict_get(&vm->box, p->values.u.dict,
                                v_text(text_cut(&vm->box, f, *i, end)));
    if (!at) box_fail(&vm->box, "'%%': the dict lacks a name of the format");
    *i = end + 1;
    p->by_name = true;
    return *at;
}

struct value vm_percent(struct vm *vm, struct text *f, struct value values) {
    struct str s = text_str(f);
    struct builder b = { .box = &vm->box };
    struct percent p = { .values = values };
    for (size_t i = 0; i < s.len;) {
        size_t at = str_find(s, S("%"), i, SIZE_MAX);
        put_cut(&b, f, i, MIN(at, s.len));
        if (at == SIZE_MAX) break;
        i = at + 1;
        struct spec spec = { .precision = -1 };
        struct value v = { .kind = V_ABSENT };
        if (i < s.len && s.at[i] == '(') {
            i++;
            v = percent_named(vm, &p, f, &i);
        }
        for (; i < s.len && s.at[i] && strchr("-+ #0", s.at[i]); i++) {
            if (s.at[i] == '-') spec.align = '<';
            else if (s.at[i] == '#') spec.alternate = true;
            else if (s.at[i] == '0') spec.zero = true;
            else if (spec.sign != '+') spec.sign = s.at[i];
        }
        if (spec.align == '<') spec.zero = false;
        spec.width = spec_number(vm, s, &i);
        if (i < s.len && s.at[i] == '.') {
            i++;
            spec.precision = spec_number(vm, s, &i);
        }
        if (i >= s.len) box_fail(&vm->box, "'%%': the format is incomplete");
        spec.type = s.at[i++];
        if (spec.type == '%') {
            put_c(&b, "%");
            continue;
        }
        if (!spec.type) box_fail(&vm->box, "'%%': a NUL is no known conversion");
        if (v.kind == V_ABSENT) v = percent_next(vm, &p);
        put_text(&b, percent_field(vm, v, &spec));
    }
    bool tuple = values.kind == V_LIST && values.u.list->kind == L_TUPLE;
    size_t n = tuple ? values.u.list->n : values.kind == V_DICT || values.kind == V_LIST ||
               values.kind == V_UNDEFINED ? 0 : 1;
    if (!p.by_name && p.next < n) box_fail(&vm->box, "'%%': not all values are in the format");
    return v_text(built(&b));
}

static struct spec parse_spec(struct vm *vm, struct text *t) {
    struct str s = text_str(t);
    struct spec spec = { .precision = -1 };
    size_t i = 0, n = 0;
    if (s.len) point_at(s, 0, &n);
    if (n && n < s.len && strchr("<>=^", s.at[n]) && s.at[n]) {
        spec.fill = text_cut(&vm->box, t, 0, n);
        spec.align = s.at[n];
        i = n + 1;
    } else if (s.len && s.at[0] && strchr("<>=^", s.at[0])) {
        spec.align = s.at[0];
        i = 1;
    }
    if (i < s.len && s.at[i] && strchr("+- ", s.at[i])) spec.sign = s.at[i++];
    if (i < s.len && s.at[i] == '#') spec.alternate = true, i++;
    if (i < s.len && s.at[i] == '0') spec.zero = true, i++;
    spec.width = spec_number(vm, s, &i);
    if (i < s.len && s.at[i] == ',') spec.comma = true, i++;
    if (i < s.len && s.at[i] == '_') spec.underscore = true, i++;
    if (i < s.len && s.at[i] == '.') {
        i++;
        spec.precision = spec_number(vm, s, &i);
    }
    if (i < s.len) spec.type = s.at[i++];
    if (i < s.len) box_fail(&vm->box, "format: a field's specification is not understood");
    return spec;
}

static struct text *format_field(struct vm *vm, struct value v, struct text *spec_text) {
    struct spec spec = parse_spec(vm, spec_text);
    if (!spec_text->len) return v_str(&vm->box, v);
    bool text = v.kind == V_TEXT && (!spec.type || spec.type == 's');
    if (text && (spec.comma || spec.underscore || spec.sign || spec.alternate || spec.align == '='))
        box_fail(&vm->box, "format: a string with a specification for numbers");
    if (text) return format_text(vm, v.u.text, &spec);
    bool whole = spec.type == 'd' || spec.type == 'x' || spec.type == 'X' || spec.type == 'o' ||
                 spec.type == 'b' || spec.type == 'n';
    if (v_is_int(v) && (whole || !spec.type)) return format_int(vm, v_as_int(v), &spec);
    bool real = spec.type && strchr("eEfFgG%", spec.type);
    if ((v.kind == V_FLOAT && !spec.type) || (v_number(v) && real))
        return format_float(vm, v_as_float(v), &spec);
    box_fail(&vm->box, "format: a value of type %s with this specification", v_type(v));
}

struct fields { struct list *at; struct dict *named; int64_t next; };

/* "0.name[key]": data only, by the same rules as in the template itself. */
static struct value field_value(struct vm *vm, struct fields *f, struct text *path) {
    struct str s = text_str(path);
    size_t end = strcspn(s.len ? arena_str(&vm->box.arena, s) : "", ".[");
    struct text *first = text_cut(&vm->box, path, 0, end);
    uint64_t number;
    struct value v;
    bool indexed = str_u64(text_str(first), INT32_MAX, &number);
    /* As string.Formatter: "{0.a}" and "{0[1]}" do not count as numbered. */
    if (indexed && end == s.len) {
        if (f->next > 0) box_fail(&vm->box, "format: numbered and plain fields together");
        f->next = -1;
    }
    if (!first->len && s.len) box_fail(&vm->box, "format: a field begins with '.' or '['");
    if (!first->len) {
        if (f->next < 0) box_fail(&vm->box, "format: numbered and plain fields together");
        number = (uint64_t)f->next++;
        indexed = true;
    }
    if (indexed) {
        if (!f->at) box_fail(&vm->box, "format_map takes names only");
        if (number >= f->at->n) box_fail(&vm->box, "format: there is no argument %d", (int)number);
        v = f->at->at[number];
    } else {
        struct value *at = dict_get(&vm->box, f->named, v_text(first));
        if (!at) box_fail(&vm->box, "format: no argument \"%.*s\"", STR_ARG(text_str(first)));
        v = *at;
    }
    for (size_t i = end; i < s.len;) {
        bool item = s.at[i] == '[';
        size_t from = i + 1, to = from;
        while (to < s.len && (item ? s.at[to] != ']' : s.at[to] != '.' && s.at[to] != '[')) to++;
        if (item && to >= s.len) box_fail(&vm->box, "format: ']' is missing");
        struct text *name = text_cut(&vm->box, path, from, to);
        bool digits = str_u64(text_str(name), INT32_MAX, &number);
        v = item ? vm_item(vm, v, digits ? v_int((int64_t)number) : v_text(name))
            : vm_attr(vm, v, name);
        i = to + item;
    }
    return v;
}

static size_t field_end(struct vm *vm, struct str s, size_t i) {
    int depth = 1;
    for (; i < s.len; i++) {
        if (s.at[i] == '{') depth++;
        if (s.at[i] == '}' && --depth == 0) return i;
    }
    box_fail(&vm->box, "format: '}' is missing");
}

static struct text *format_with(struct vm *vm, struct text *f, struct fields *fields) {
    struct str s = text_str(f);
    struct builder b = { .box = &vm->box };
    for (size_t i = 0; i < s.len;) {
        char c = s.at[i];
        if (c != '{' && c != '}') {
            size_t from = i;
            while (i < s.len && s.at[i] != '{' && s.at[i] != '}') i++;
            put_cut(&b, f, from, i);
            continue;
        }
        if (i + 1 < s.len && s.at[i + 1] == c) {
            put_cut(&b, f, i, i + 1);
            i += 2;
            continue;
        }
        if (c == '}') box_fail(&vm->box, "format: a single '}'");
        size_t end = field_end(vm, s, i + 1), path_end = i + 1;
        while (path_end < end && s.at[path_end] != ':' && s.at[path_end] != '!') path_end++;
        struct value v = field_value(vm, fields, text_cut(&vm->box, f, i + 1, path_end));
        if (s.at[path_end] == '!') {
            char how = path_end + 1 < end ? s.at[path_end + 1] : 0;
            if (how != 'r' && how != 's')
                box_fail(&vm->box, "format: the conversion must be !r or !s");
            v = v_text(how == 'r' ? quoted(vm, v) : v_str(&vm->box, v));
            path_end += 2;
        }
        struct text *spec = text_cut(&vm->box, f, MIN(path_end + 1, end), end);
        if (memchr(spec->at, '{', spec->len)) {
            /* A width may itself be a field, once. */
            box_enter(&vm->box);
            spec = format_with(vm, spec, fields);
            vm->box.depth--;
        }
        put_text(&b, format_field(vm, v, spec));
        i = end + 1;
    }
    return built(&b);
}

struct value vm_format(struct vm *vm, struct text *f, struct list *at, struct dict *named) {
    struct fields fields = { .at = at, .named = named };
    return v_text(format_with(vm, f, &fields));
}

/* Names are English whatever the locale; a conversion not known is copied as it is. */
static void put_time(struct builder *b, const struct tm *t, char c) {
    static const char *const days[] = { "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday",
                                        "Friday", "Saturday" };
    static const char *const months[] = { "January", "February", "March", "April", "May", "June",
        "July", "August", "September", "October", "November", "December" };
    const char *day = days[t->tm_wday], *month = months[t->tm_mon];
    int hour12 = t->tm_hour % 12 ? t->tm_hour % 12 : 12, year = t->tm_year + 1900;
    switch (c) {
    case 'a': put_format(b, "%.3s", day); break;
    case 'A': put_c(b, day); break;
    case 'b': case 'h': put_format(b, "%.3s", month); break;
    case 'B': put_c(b, month); break;
    case 'd': put_format(b, "%02d", t->tm_mday); break;
    case 'e': put_format(b, "%2d", t->tm_mday); break;
    case 'm': put_format(b, "%02d", t->tm_mon + 1); break;
    case 'y': put_format(b, "%02d", year % 100); break;
    case 'Y': put_format(b, "%d", year); break;
    case 'H': put_format(b, "%02d", t->tm_hour); break;
    case 'I': put_format(b, "%02d", hour12); break;
    case 'M': put_format(b, "%02d", t->tm_min); break;
    case 'S': put_format(b, "%02d", t->tm_sec); break;
    case 'f': put_c(b, "000000"); break;
    case 'p': put_c(b, t->tm_hour < 12 ? "AM" : "PM"); break;
    case 'j': put_format(b, "%03d", t->tm_yday + 1); break;
    case 'w': put_format(b, "%d", t->tm_wday); break;
    case 'u': put_format(b, "%d", t->tm_wday ? t->tm_wday : 7); break;
    case 'F': put_format(b, "%d-%02d-%02d", year, t->tm_mon + 1, t->tm_mday); break;
    case 'T': put_format(b, "%02d:%02d:%02d", t->tm_hour, t->tm_min, t->tm_sec); break;
    case 'R': put_format(b, "%02d:%02d", t->tm_hour, t->tm_min); break;
    case 'D': case 'x':
        put_format(b, "%02d/%02d/%02d", t->tm_mon + 1, t->tm_mday, year % 100);
        break;
    case 'X': put_format(b, "%02d:%02d:%02d", t->tm_hour, t->tm_min, t->tm_sec); break;
    case 'c':
        put_format(b, "%.3s %.3s %2d %02d:%02d:%02d %d", day, month, t->tm_mday, t->tm_hour,
                   t->tm_min, t->tm_sec, year);
        break;
    case 'z': case 'Z': break;       /* Python's plain datetime has no zone */
    case 'n': put_c(b, "\n"); break;
    case 't': put_c(b, "\t"); break;
    case '%': put_c(b, "%"); break;
    default: put_format(b, "%%%c", c);
    }
}

struct text *vm_strftime(struct vm *vm, const struct text *format) {
    struct str s = text_str(format);
    struct builder b = { .box = &vm->box };
    for (size_t i = 0; i < s.len; i++) {
        if (s.at[i] != '%' || i + 1 == s.len) {
            put_cut(&b, format, i, i + 1);
            continue;
        }
        i++;
        bool unpadded = s.at[i] == '-' && i + 1 < s.len;
        if (unpadded) i++;
        if (s.at[i] & 0x80) {        /* not a conversion: keep the code point whole */
            put_c(&b, "%");
            i--;
            continue;
        }
        struct builder part = { .box = &vm->box };
        put_time(&part, &vm->now, s.at[i]);
        struct text *made = built(&part);
        size_t skip = unpadded && made->len > 1 && (made->at[0] == '0' || made->at[0] == ' ');
        put_cut(&b, made, skip, made->len);
    }
    return built(&b);
}

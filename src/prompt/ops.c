/* ops.c - operators, attributes, subscripts and slices, with Python's rules;
 * where Python's integers would grow beyond 64 bits, an error. */
#include "prompt/vm.h"
#include <math.h>
#include <string.h>

static _Noreturn void overflow(struct vm *vm) {
    box_fail(&vm->box, "an integer beyond 64 bits");
}

static struct value add_texts(struct vm *vm, struct text *a, struct text *b) {
    bool markup = a->markup || b->markup;
    if (markup && !a->markup) a = text_escaped(&vm->box, a);
    if (markup && !b->markup) b = text_escaped(&vm->box, b);
    struct text *joined = text_join(&vm->box, a, b);
    if (markup && !joined->markup) {
        joined = text_cut(&vm->box, joined, 0, joined->len);
        joined->markup = true;
    }
    return v_text(joined);
}

static struct value add_lists(struct vm *vm, const struct list *a, const struct list *b) {
    box_work(&vm->box, a->n + b->n);
    struct list *all = list_new(&vm->box, a->kind, a->n + b->n);
    for (size_t i = 0; i < a->n; i++) list_put(&vm->box, all, a->at[i]);
    for (size_t i = 0; i < b->n; i++) list_put(&vm->box, all, b->at[i]);
    return v_list(all);
}

static bool both_lists(struct value a, struct value b) {
    return a.kind == V_LIST && b.kind == V_LIST && a.u.list->kind == b.u.list->kind &&
           a.u.list->kind <= L_TUPLE;
}

static struct value repeat(struct vm *vm, struct value v, int64_t times) {
    times = MAX(times, 0);
    if (v.kind == V_TEXT) {
        struct builder b = { .box = &vm->box };
        put_fill(&b, v.u.text, (size_t)times);
        return vm_markup(vm, v_text(built(&b)), v.u.text->markup);
    }
    const struct list *list = v.u.list;
    size_t n;
    if (!mul_size(list->n, (size_t)times, &n)) box_limit(&vm->box, "a list grows too long");
    box_work(&vm->box, n);
    struct list *all = list_new(&vm->box, list->kind, n);
    for (size_t i = 0; i < n; i++) list_put(&vm->box, all, list->at[i % list->n]);
    return v_list(all);
}

static int64_t floor_div(struct vm *vm, int64_t a, int64_t b) {
    if (b == -1) {
        if (a == INT64_MIN) overflow(vm);
        return -a;
    }
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static int64_t floor_mod(int64_t a, int64_t b) {
    if (b == -1) return 0;
    int64_t r = a % b;
    return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}

static int64_t int_power(struct vm *vm, int64_t base, int64_t exponent) {
    int64_t n = 1;
    while (exponent > 0) {
        if (exponent & 1 && __builtin_mul_overflow(n, base, &n)) overflow(vm);
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base)) overflow(vm);
    }
    return n;
}

static struct value int_binary(struct vm *vm, int op, int64_t a, int64_t b) {
    int64_t n;
    switch (op) {
    case '+': if (__builtin_add_overflow(a, b, &n)) overflow(vm); return v_int(n);
    case '-': if (__builtin_sub_overflow(a, b, &n)) overflow(vm); return v_int(n);
    case '*': if (__builtin_mul_overflow(a, b, &n)) overflow(vm); return v_int(n);
    default: break;
    }
    if (op == OP2('*', '*')) {
        if (b >= 0) return v_int(int_power(vm, a, b));
        if (!a) box_fail(&vm->box, "zero to a negative power");
        return v_float(pow((double)a, (double)b));
    }
    if (!b) box_fail(&vm->box, "division by zero");
    if (op == '/') return v_float((double)a / (double)b);
    return v_int(op == '%' ? floor_mod(a, b) : floor_div(vm, a, b));
}

static struct value float_binary(struct vm *vm, int op, double a, double b) {
    switch (op) {
    case '+': return v_float(a + b);
    case '-': return v_float(a - b);
    case '*': return v_float(a * b);
    default: break;
    }
    if (op == OP2('*', '*')) {
        if (a == 0 && b < 0) box_fail(&vm->box, "zero to a negative power");
        double p = pow(a, b);
        if (isnan(p) && !isnan(a) && !isnan(b))
            box_fail(&vm->box, "a power that is not a real number");
        if (isinf(p) && isfinite(a) && isfinite(b)) box_fail(&vm->box, "a power beyond any float");
        return v_float(p);
    }
    if (b == 0) box_fail(&vm->box, "division by zero");
    if (op == '/') return v_float(a / b);
    double rest = fmod(a, b), whole = (a - rest) / b;
    if (rest == 0) {
        rest = copysign(0, b);
    } else if ((rest < 0) != (b < 0)) {
        rest += b;
        whole -= 1;
    }
    if (op == '%') return v_float(rest);
    if (whole == 0) return v_float(copysign(0, a / b));
    return v_float(whole - floor(whole) > 0.5 ? floor(whole) + 1 : floor(whole));
}

struct value vm_binary(struct vm *vm, int op, struct value a, struct value b) {
    if (op == '%' && a.kind == V_TEXT) return vm_percent(vm, a.u.text, b);
    if (a.kind == V_UNDEFINED) vm_undefined(vm, a);
    if (b.kind == V_UNDEFINED) vm_undefined(vm, b);
    if (v_is_int(a) && v_is_int(b)) return int_binary(vm, op, v_as_int(a), v_as_int(b));
    if (v_number(a) && v_number(b)) return float_binary(vm, op, v_as_float(a), v_as_float(b));
    if (op == '+' && a.kind == V_TEXT && b.kind == V_TEXT) return add_texts(vm, a.u.text, b.u.text);
    if (op == '+' && both_lists(a, b)) return add_lists(vm, a.u.list, b.u.list);
    bool a_repeats = a.kind == V_TEXT || (a.kind == V_LIST && a.u.list->kind <= L_TUPLE);
    bool b_repeats = b.kind == V_TEXT || (b.kind == V_LIST && b.u.list->kind <= L_TUPLE);
    if (op == '*' && a_repeats && v_is_int(b)) return repeat(vm, a, v_as_int(b));
    if (op == '*' && b_repeats && v_is_int(a)) return repeat(vm, b, v_as_int(a));
    char name[3] = { (char)(op & 0xFF), (char)(op >> 8), 0 };
    box_fail(&vm->box, "'%s' cannot take %s and %s", name, v_type(a), v_type(b));
}

struct value vm_negate(struct vm *vm, struct value v) {
    if (v.kind == V_UNDEFINED) vm_undefined(vm, v);
    if (v.kind == V_FLOAT) return v_float(-v.u.f);
    if (!v_is_int(v)) box_fail(&vm->box, "'-' cannot take %s", v_type(v));
    if (v_as_int(v) == INT64_MIN) overflow(vm);
    return v_int(-v_as_int(v));
}

static const struct builtin *methods_of(struct value v) {
    switch (v.kind) {
    case V_TEXT: return text_methods;
    case V_BOOL:
    case V_INT: return int_methods;
    case V_FLOAT: return float_methods;
    case V_BUILTIN: return !strcmp(v.u.bound->builtin->name, "dict") ? dict_functions : NULL;
    case V_DICT: return dict_methods;
    case V_LOOP: return loop_methods;
    case V_CYCLER: return cycler_methods;
    case V_LIST: return v.u.list->kind == L_LIST ? list_methods
                      : v.u.list->kind == L_TUPLE || v.u.list->kind == L_RANGE ? tuple_methods
                      : NULL;
    default: return NULL;
    }
}

static bool method(struct vm *vm, struct value v, const struct text *name, struct value *out) {
    const struct builtin *methods = methods_of(v);
    const struct builtin *f = methods ? builtin_find(methods, text_str(name)) : NULL;
    if (!f) return false;
    /* What would change a list or dict is known but cannot be had. */
    if (!f->run && v.kind == V_TEXT) {
        *out = v_missing(&vm->box, "str.%s() is not supported: there are no bytes", f->name);
        return true;
    }
    if (!f->run) {
        *out = v_missing(&vm->box, "%s.%s() would change data, which a template cannot", v_type(v),
                         f->name);
        return true;
    }
    struct bound *bound = box_new(&vm->box, sizeof *bound);
    *bound = (struct bound){ v, f };
    *out = (struct value){ .kind = V_BUILTIN, .u.bound = bound };
    return true;
}

static bool macro_attr(struct vm *vm, struct value v, const struct text *name, struct value *out) {
    const struct node *node = v.u.macro->node;
    if (text_is(name, "name")) *out = v_text(node->name);
    else if (text_is(name, "caller")) *out = v_bool(node->calls_caller);
    else if (text_is(name, "catch_varargs")) *out = v_bool(node->takes_varargs);
    else if (text_is(name, "catch_kwargs")) *out = v_bool(node->takes_kwargs);
    else if (text_is(name, "arguments")) {
        struct list *list = list_new(&vm->box, L_TUPLE, 0);
        for (const struct node *n = node->a; n; n = n->next)
            list_put(&vm->box, list, v_text(n->name));
        *out = v_list(list);
    } else return false;
    return true;
}

static bool number_attr(struct value v, const struct text *name, struct value *out) {
    struct value whole = v_is_int(v) ? v_int(v_as_int(v)) : v;
    if (text_is(name, "real")) *out = whole;
    else if (text_is(name, "imag")) *out = v_is_int(v) ? v_int(0) : v_float(0);
    else if (v_is_int(v) && text_is(name, "numerator")) *out = whole;
    else if (v_is_int(v) && text_is(name, "denominator")) *out = v_int(1);
    else return false;
    return true;
}

/* What the value itself offers under a name, before its items are looked at. */
static bool own_attr(struct vm *vm, struct value v, struct text *name, struct value *out) {
    if (v.kind == V_SPACE) {
        struct value *at = dict_get(&vm->box, v.u.dict, v_text(name));
        if (at) *out = *at;
        return at != NULL;
    }
    if (method(vm, v, name, out)) return true;
    if (v_number(v)) return number_attr(v, name, out);
    bool grouper = text_is(name, "grouper");
    if (v.kind == V_LIST && v.u.list->group && (grouper || text_is(name, "list"))) {
        *out = v.u.list->at[grouper ? 0 : 1];
        return true;
    }
    if (v.kind == V_MACRO) return macro_attr(vm, v, name, out);
    if (v.kind == V_CYCLER && text_is(name, "current")) {
        *out = v.u.cycler->items->at[v.u.cycler->next % v.u.cycler->items->n];
        return true;
    }
    if (v.kind != V_LOOP) return false;
    *out = vm_loop_attr(vm, v.u.loop, name);
    return out->kind != V_UNDEFINED || text_is(name, "previtem") || text_is(name, "nextitem");
}

static struct value no_attr(struct vm *vm, struct value v, const struct text *name) {
    return v_missing(&vm->box, "a value of type %s has no attribute '%.*s'", v_type(v),
                     STR_ARG(text_str(name)));
}

struct value vm_attr(struct vm *vm, struct value v, struct text *name) {
    struct value out;
    if (v.kind == V_UNDEFINED) vm_undefined(vm, v);
    if (own_attr(vm, v, name, &out)) return out;
    if (v.kind == V_DICT) {
        struct value *at = dict_get(&vm->box, v.u.dict, v_text(name));
        if (at) return *at;
    }
    return no_attr(vm, v, name);
}

static bool index_of(struct value key, size_t n, size_t *i) {
    int64_t at = v_as_int(key);
    if (at < 0) at += (int64_t)n;
    *i = (size_t)at;
    return at >= 0 && (uint64_t)at < n;
}

static bool indexable(struct value v) {
    return v.kind == V_LIST && (v.u.list->kind <= L_TUPLE || v.u.list->kind == L_RANGE);
}

struct value vm_item(struct vm *vm, struct value v, struct value key) {
    size_t i;
    struct value out;
    if (v.kind == V_UNDEFINED) vm_undefined(vm, v);
    if (v.kind == V_DICT && !(key.kind == V_LIST && key.u.list->kind != L_TUPLE) &&
        key.kind != V_DICT && key.kind <= V_BIG && key.kind != V_UNDEFINED) {
        struct value *at = dict_get(&vm->box, v.u.dict, key);
        if (at) return *at;
    }
    if (indexable(v) && v_is_int(key)) {
        if (index_of(key, v.u.list->n, &i)) return v.u.list->at[i];
        return v_missing(&vm->box, "index %lld is outside of a list of %zu",
                         (long long)v_as_int(key),
                         v.u.list->n);
    }
    if (v.kind == V_TEXT && v_is_int(key)) {
        if (!index_of(key, text_points(&vm->box, v.u.text), &i))
            return v_missing(&vm->box, "index %lld is outside of a string",
                             (long long)v_as_int(key));
        size_t at = text_offset(&vm->box, v.u.text, i), n;
        point_at(text_str(v.u.text), at, &n);
        return v_text(text_cut(&vm->box, v.u.text, at, at + n));
    }
    if (key.kind != V_TEXT)
        return v_missing(&vm->box, "a value of type %s has no such item", v_type(v));
    return own_attr(vm, v, key.u.text, &out) ? out : no_attr(vm, v, key.u.text);
}

struct value vm_path(struct vm *vm, struct value v, struct value path) {
    if (path.kind != V_TEXT) return vm_item(vm, v, path);
    struct text *text = path.u.text;
    for (size_t begin = 0; begin <= text->len;) {
        size_t end = str_find(text_str(text), S("."), begin, SIZE_MAX);
        if (end == SIZE_MAX) end = text->len;
        struct text *part = text_cut(&vm->box, text, begin, end);
        uint64_t number;
        bool digits = str_u64(text_str(part), INT64_MAX, &number);
        v = vm_item(vm, v, digits ? v_int((int64_t)number) : v_text(part));
        begin = end + 1;
    }
    return v;
}

/* Python's slice.indices: where to begin and to end, and how many items at `step`. */
static size_t slice_span(struct vm *vm, size_t n, struct value from, struct value to, int64_t step,
                         int64_t ends[2]) {
    int64_t len = (int64_t)n, low = step > 0 ? 0 : -1, high = step > 0 ? len : len - 1;
    ends[0] = step > 0 ? low : high;
    ends[1] = step > 0 ? high : low;
    struct value given[2] = { from, to };
    for (int i = 0; i < 2; i++) {
        if (given[i].kind == V_NONE) continue;
        if (!v_is_int(given[i]))
            box_fail(&vm->box, "a slice needs integers, not %s", v_type(given[i]));
        int64_t at = v_as_int(given[i]);
        if (at < 0) at += len;
        ends[i] = at < low ? low : at > high ? high : at;
    }
    uint64_t span = step > 0 ? (uint64_t)MAX(ends[1] - ends[0], 0)
        : (uint64_t)MAX(ends[0] - ends[1], 0);
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
    return (size_t)(span / stride + (span % stride != 0));
}

static struct value slice_text(struct vm *vm, struct text *t, int64_t begin, size_t n,
                               int64_t step) {
    if (step == 1 || !n) {
        size_t from = text_offset(&vm->box, t, (size_t)MAX(begin, 0));
        size_t to = n ? text_offset(&vm->box, t, (size_t)begin + n) : from;
        return v_text(text_cut(&vm->box, t, from, to));
    }
    /* Offsets of all code points at once: one by one would be quadratic. */
    size_t points = text_points(&vm->box, t), count = 0;
    uint32_t *offset = box_array(&vm->box, points + 1, sizeof *offset);
    for (size_t i = 0; i < t->len; i++)
        if ((t->at[i] & 0xC0) != 0x80) offset[count++] = (uint32_t)i;
    offset[points] = t->len;
    box_work(&vm->box, n + points / 8);
    struct builder b = { .box = &vm->box };
    for (size_t i = 0; i < n; i++) {
        size_t at = (size_t)(begin + (int64_t)i * step);
        put_cut(&b, t, offset[at], offset[at + 1]);
    }
    return vm_markup(vm, v_text(built(&b)), t->markup);
}

struct value vm_slice(struct vm *vm, struct value v, struct value from, struct value to,
                      struct value step_value) {
    if (v.kind == V_UNDEFINED) vm_undefined(vm, v);
    if (step_value.kind != V_NONE && !v_is_int(step_value))
        box_fail(&vm->box, "a slice needs integers, not %s", v_type(step_value));
    int64_t step = step_value.kind == V_NONE ? 1 : v_as_int(step_value), ends[2];
    bool sliceable = indexable(v) || v.kind == V_TEXT;
    if (!sliceable) box_fail(&vm->box, "a value of type %s cannot be sliced", v_type(v));
    if (!step) box_fail(&vm->box, "a slice's step cannot be zero");
    size_t len = v.kind == V_TEXT ? text_points(&vm->box, v.u.text) : v.u.list->n;
    size_t n = slice_span(vm, len, from, to, step, ends);
    if (v.kind == V_TEXT) return slice_text(vm, v.u.text, ends[0], n, step);
    box_work(&vm->box, n);
    struct list *list = list_new(&vm->box, v.u.list->kind, n);
    for (size_t i = 0; i < n; i++)
        list_put(&vm->box, list, v.u.list->at[ends[0] + (int64_t)i * step]);
    /* Of a range; unsigned, as what lies behind its last item may be beyond 64 bits. */
    uint64_t start = (uint64_t)v.u.list->start, stride = (uint64_t)v.u.list->step;
    list->start = (int64_t)(start + (uint64_t)ends[0] * stride);
    list->stop = (int64_t)(start + (uint64_t)ends[1] * stride);
    list->step = (int64_t)(stride * (uint64_t)step);
    return v_list(list);
}

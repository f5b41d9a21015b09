/* filters_list.c - filters on sequences and dicts. What Python computes lazily
 * is computed at once here, and still called a generator. */
#include "prompt/builtins.h"
#include <string.h>

static struct value absent(void) {
    return (struct value){ .kind = V_ABSENT };
}

static bool given(struct value v) {
    return v.kind != V_ABSENT && v.kind != V_NONE;
}

BUILTIN(filter_length) {
    bool counted = self.kind == V_LIST && self.u.list->kind != L_GENERATOR;
    if (self.kind == V_UNDEFINED) return v_int(0);
    if (self.kind == V_TEXT) return v_int((int64_t)text_points(&vm->box, self.u.text));
    if (self.kind == V_DICT) return v_int((int64_t)self.u.dict->n);
    if (counted) return v_int((int64_t)self.u.list->n);
    if (self.kind == V_LOOP) return vm_loop_attr(vm, self.u.loop, text_literal(&vm->box, "length"));
    box_fail(&vm->box, "a value of type %s has no length", v_type(self));
}

static struct list *copy_items(struct vm *vm, struct value v, enum list_kind kind) {
    struct list *from = v_items(&vm->box, v), *to = list_new(&vm->box, kind, from->n);
    box_work(&vm->box, from->n / 4);
    for (size_t i = 0; i < from->n; i++) list_put(&vm->box, to, from->at[i]);
    return to;
}

BUILTIN(filter_list) {
    return v_list(copy_items(vm, self, L_LIST));
}

BUILTIN(filter_first) {
    if (self.kind == V_TEXT && self.u.text->len)
        return vm_markup(vm, vm_item(vm, self, v_int(0)), false);
    struct list *items = v_items(&vm->box, self);
    if (self.kind == V_LIST && self.u.list->kind == L_GENERATOR && items->n) {
        *self.u.list = *items;           /* takes one and leaves the others */
        self.u.list->kind = L_GENERATOR;
        self.u.list->at++;
        self.u.list->n--;
        self.u.list->cap = 0;
    }
    return items->n ? items->at[0] : v_missing(&vm->box, "no first item, the sequence is empty");
}

BUILTIN(filter_last) {
    if (self.kind == V_LIST && self.u.list->kind == L_GENERATOR)
        box_fail(&vm->box, "last needs a list, not a generator");
    if (self.kind == V_TEXT && self.u.text->len)
        return vm_markup(vm, vm_item(vm, self, v_int(-1)), false);
    struct list *items = v_items(&vm->box, self);
    return items->n ? items->at[items->n - 1]
                    : v_missing(&vm->box, "no last item, the sequence is empty");
}

BUILTIN(filter_reverse) {
    if (self.kind == V_TEXT) return vm_slice(vm, self, v_none(), v_none(), v_int(-1));
    /* What has no end to begin with is gone through first, and so is there as a list. */
    bool through = self.kind == V_LIST && self.u.list->kind == L_GENERATOR;
    struct list *list = copy_items(vm, self, through ? L_LIST : L_GENERATOR);
    for (size_t i = 0; i < list->n / 2; i++) {
        struct value v = list->at[i];
        list->at[i] = list->at[list->n - 1 - i];
        list->at[list->n - 1 - i] = v;
    }
    return v_list(list);
}

static struct value path_of(struct vm *vm, struct value item, struct value path,
                            struct value other) {
    struct value v = vm_path(vm, item, path);
    return v.kind == V_UNDEFINED && given(other) ? other : v;
}

BUILTIN(filter_join) {
    struct list *items = v_items(&vm->box, self);
    struct text *separator = arg[0].kind == V_ABSENT ? text_literal(&vm->box, "")
                                                     : v_str(&vm->box, arg[0]);
    if (given(arg[1])) {
        struct list *picked = list_new(&vm->box, L_LIST, items->n);
        for (size_t i = 0; i < items->n; i++)
            list_put(&vm->box, picked, path_of(vm, items->at[i], arg[1], absent()));
        items = picked;
    }
    return v_text(string_join(vm, separator, items));
}

static struct list *pairs(struct vm *vm, const struct dict *d, enum list_kind kind) {
    struct list *list = list_new(&vm->box, kind, d->n);
    for (size_t i = 0; i < d->n; i++) {
        struct list *pair = list_new(&vm->box, L_TUPLE, 2);
        list_put(&vm->box, pair, d->at[i].key);
        list_put(&vm->box, pair, d->at[i].value);
        list_put(&vm->box, list, v_list(pair));
    }
    return list;
}

BUILTIN(filter_items) {
    if (self.kind == V_UNDEFINED) return v_list(list_new(&vm->box, L_GENERATOR, 0));
    if (self.kind != V_DICT) box_fail(&vm->box, "items needs a dict, not %s", v_type(self));
    return v_list(pairs(vm, self.u.dict, L_GENERATOR));
}

static struct value folded(struct vm *vm, struct value v, bool case_sensitive) {
    if (case_sensitive || v.kind != V_TEXT) return v;
    return v_text(string_case(vm, v.u.text, CASE_LOWER));
}

/* What an item is ordered by: itself, an attribute, or several ("age,name"). */
static struct value sort_key(struct vm *vm, struct value item, struct value attribute, bool cases,
                             struct value other) {
    if (!given(attribute)) return folded(vm, item, cases);
    bool several = attribute.kind == V_TEXT &&
        memchr(attribute.u.text->at, ',', attribute.u.text->len);
    if (!several) return folded(vm, path_of(vm, item, attribute, other), cases);
    struct list *keys = list_new(&vm->box, L_LIST, 0);
    struct text *text = attribute.u.text;
    for (size_t begin = 0; begin <= text->len;) {
        size_t end = MIN(str_find(text_str(text), S(","), begin, SIZE_MAX), (size_t)text->len);
        struct value part = v_text(text_cut(&vm->box, text, begin, end));
        list_put(&vm->box, keys, folded(vm, path_of(vm, item, part, other), cases));
        begin = end + 1;
    }
    return v_list(keys);
}

struct sorting { struct vm *vm; const struct value *keys; size_t *order, *spare; bool reverse; };

static void merge_sort(struct sorting *s, size_t begin, size_t end) {
    if (end - begin < 2) return;
    size_t half = begin + (end - begin) / 2, left = begin, right = half;
    merge_sort(s, begin, half);
    merge_sort(s, half, end);
    memcpy(s->spare + begin, s->order + begin, (end - begin) * sizeof *s->order);
    for (size_t i = begin; i < end; i++) {
        bool take_right = left == half;
        if (left < half && right < end) {
            struct value a = s->keys[s->spare[left]], b = s->keys[s->spare[right]];
            take_right = s->reverse ? v_less(&s->vm->box, a, b, "<")
                : v_less(&s->vm->box, b, a, "<");
        }
        s->order[i] = s->spare[take_right ? right++ : left++];
    }
}

void vm_sort(struct vm *vm, struct list *items, const struct value *keys, bool reverse) {
    size_t n = items->n;
    struct sorting s = { vm, keys, box_array(&vm->box, n, sizeof(size_t)),
                         box_array(&vm->box, n, sizeof(size_t)), reverse };
    for (size_t i = 0; i < n; i++) s.order[i] = i;
    merge_sort(&s, 0, n);
    struct value *sorted = box_array(&vm->box, n, sizeof *sorted);
    for (size_t i = 0; i < n; i++) sorted[i] = items->at[s.order[i]];
    items->at = sorted;
    items->cap = n;
}

/* `listed` makes each key a list of one, which two undefined values can be compared as: Jinja's
 * sort does so, its groupby does not. */
static struct list *sorted_by(struct vm *vm, struct value v, struct value attribute, bool cases,
                              bool reverse, struct value other, bool listed) {
    struct list *list = copy_items(vm, v, L_LIST);
    struct value *keys = box_array(&vm->box, list->n, sizeof *keys);
    for (size_t i = 0; i < list->n; i++) {
        keys[i] = sort_key(vm, list->at[i], attribute, cases, other);
        if (!listed) continue;
        struct list *key = list_new(&vm->box, L_LIST, 1);
        list_put(&vm->box, key, keys[i]);
        keys[i] = v_list(key);
    }
    vm_sort(vm, list, keys, reverse);
    return list;
}

BUILTIN(filter_sort) {
    return v_list(sorted_by(vm, self, arg[2], vm_bool(arg[1], false), vm_bool(arg[0], false),
                            absent(), true));
}

BUILTIN(filter_dictsort) {
    if (self.kind == V_UNDEFINED) vm_undefined(vm, self);
    if (self.kind != V_DICT) box_fail(&vm->box, "dictsort needs a dict, not %s", v_type(self));
    bool by_value = arg[1].kind == V_TEXT && text_is(arg[1].u.text, "value");
    if (arg[1].kind != V_ABSENT && !by_value &&
        !(arg[1].kind == V_TEXT && text_is(arg[1].u.text, "key")))
        box_fail(&vm->box, "dictsort sorts by \"key\" or \"value\"");
    struct list *list = pairs(vm, self.u.dict, L_LIST);
    struct value *keys = box_array(&vm->box, list->n, sizeof *keys);
    for (size_t i = 0; i < list->n; i++)
        keys[i] = folded(vm, list->at[i].u.list->at[by_value], vm_bool(arg[0], false));
    vm_sort(vm, list, keys, vm_bool(arg[2], false));
    return v_list(list);
}

BUILTIN(filter_unique) {
    struct list *items = v_items(&vm->box, self), *unique = list_new(&vm->box, L_GENERATOR, 0);
    struct dict *seen = dict_new(&vm->box);
    for (size_t i = 0; i < items->n; i++) {
        struct value item = items->at[i];
        struct value key = given(arg[1]) ? path_of(vm, item, arg[1], absent()) : item;
        key = folded(vm, key, vm_bool(arg[0], false));
        if (dict_get(&vm->box, seen, key)) continue;
        dict_put(&vm->box, seen, key, v_none());
        list_put(&vm->box, unique, item);
    }
    return v_list(unique);
}

static struct value extreme(struct vm *vm, struct value v, struct value *arg, bool max) {
    struct list *items = v_items(&vm->box, v);
    if (!items->n) return v_missing(&vm->box, "nothing to choose from, the sequence is empty");
    size_t best = 0;
    struct value best_key = absent();
    for (size_t i = 0; i < items->n; i++) {
        struct value key = given(arg[1]) ? path_of(vm, items->at[i], arg[1], absent())
            : items->at[i];
        key = folded(vm, key, vm_bool(arg[0], false));
        bool better = i == 0 || (max ? v_less(&vm->box, best_key, key, ">")
                                     : v_less(&vm->box, key, best_key, "<"));
        if (!better) continue;
        best = i;
        best_key = key;
    }
    return items->at[best];
}

BUILTIN(filter_min) {
    return extreme(vm, self, arg, false);
}

BUILTIN(filter_max) {
    return extreme(vm, self, arg, true);
}

BUILTIN(filter_sum) {
    struct list *items = v_items(&vm->box, self);
    struct value sum = arg[1].kind == V_ABSENT ? v_int(0) : arg[1];
    if (sum.kind == V_TEXT) box_fail(&vm->box, "sum cannot add strings, join does");
    for (size_t i = 0; i < items->n; i++) {
        struct value item = items->at[i];
        sum = vm_binary(vm, '+', sum, given(arg[0]) ? path_of(vm, item, arg[0], absent()) : item);
    }
    return sum;
}

BUILTIN(filter_groupby) {
    bool cases = vm_bool(arg[2], false);
    struct list *sorted = sorted_by(vm, self, arg[0], cases, false, arg[1], false);
    struct list *groups = list_new(&vm->box, L_LIST, 0), *members = NULL;
    struct value last = absent();
    for (size_t i = 0; i < sorted->n; i++) {
        struct value key = sort_key(vm, sorted->at[i], arg[0], cases, arg[1]);
        if (!members || !v_equal(&vm->box, key, last)) {
            struct list *group = list_new(&vm->box, L_TUPLE, 2);
            members = list_new(&vm->box, L_LIST, 0);
            group->group = true;
            list_put(&vm->box, group, path_of(vm, sorted->at[i], arg[0], arg[1]));
            list_put(&vm->box, group, v_list(members));
            list_put(&vm->box, groups, v_list(group));
            last = key;
        }
        list_put(&vm->box, members, sorted->at[i]);
    }
    return v_list(groups);
}

/* Arguments after the first n, and keywords, for a filter or test named at run time. */
static struct args rest_of(struct vm *vm, struct value *arg, size_t n) {
    struct list *at = arg[0].u.list;
    struct dict *named = arg[1].u.dict;
    struct args args = { .at = *at };
    if (at->n) args.at.at += MIN(n, at->n);
    args.at.n -= MIN(n, at->n);
    args.named = box_array(&vm->box, named->n, sizeof *args.named);
    args.n_named = args.named_cap = named->n;
    for (size_t i = 0; i < named->n; i++)
        args.named[i] = (struct keyword){ named->at[i].key.u.text, named->at[i].value };
    return args;
}

/* What map and select go through: anything false, none above all, is empty to them. */
static struct list *items_if_any(struct vm *vm, struct value v) {
    return v_truth(v) ? v_items(&vm->box, v) : list_new(&vm->box, L_LIST, 0);
}

BUILTIN(filter_map) {
    struct list *items = items_if_any(vm, self), *out = list_new(&vm->box, L_GENERATOR, items->n);
    struct value *attribute = dict_find(&vm->box, arg[1].u.dict, "attribute");
    if (!arg[0].u.list->n && attribute) {
        struct value *other = dict_find(&vm->box, arg[1].u.dict, "default");
        for (size_t i = 0; i < items->n; i++)
            list_put(&vm->box, out,
                     path_of(vm, items->at[i], *attribute, other ? *other : absent()));
        return v_list(out);
    }
    if (!items->n) return v_list(out);           /* no item asks for the filter */
    if (!arg[0].u.list->n) box_fail(&vm->box, "map needs a filter's name or attribute=");
    struct text *name = vm_text(vm, arg[0].u.list->at[0], "a filter's name");
    const struct builtin *filter = builtin_find(filters, text_str(name));
    if (!filter) box_fail(&vm->box, "there is no filter \"%.*s\"", STR_ARG(text_str(name)));
    for (size_t i = 0; i < items->n; i++) {
        struct args args = rest_of(vm, arg, 1);
        list_put(&vm->box, out, vm_builtin(vm, filter, items->at[i], &args));
    }
    return v_list(out);
}

static struct value choose(struct vm *vm, struct value v, struct value *arg, bool attr, bool keep) {
    struct list *items = items_if_any(vm, v), *out = list_new(&vm->box, L_GENERATOR, 0);
    struct list *at = arg[0].u.list;
    if (!items->n) return v_list(out);           /* no item asks for the test */
    if (attr && !at->n) box_fail(&vm->box, "an attribute's name is missing");
    const struct builtin *test = NULL;
    if (at->n > attr) {
        struct text *name = vm_text(vm, at->at[attr], "a test's name");
        test = builtin_find(tests, text_str(name));
        if (!test) box_fail(&vm->box, "there is no test \"%.*s\"", STR_ARG(text_str(name)));
    }
    for (size_t i = 0; i < items->n; i++) {
        struct value item = attr ? path_of(vm, items->at[i], at->at[0], absent()) : items->at[i];
        struct args args = rest_of(vm, arg, (size_t)attr + 1);
        bool yes = test ? vm_test(vm, test, item, &args) : v_truth(item);
        if (yes == keep) list_put(&vm->box, out, items->at[i]);
    }
    return v_list(out);
}

BUILTIN(filter_select) {
    return choose(vm, self, arg, false, true);
}

BUILTIN(filter_reject) {
    return choose(vm, self, arg, false, false);
}

BUILTIN(filter_selectattr) {
    return choose(vm, self, arg, true, true);
}

BUILTIN(filter_rejectattr) {
    return choose(vm, self, arg, true, false);
}

BUILTIN(filter_batch) {
    struct list *items = v_items(&vm->box, self), *out = list_new(&vm->box, L_GENERATOR, 0);
    int64_t size = vm_int(vm, arg[0], 1);
    if (size < 1) box_fail(&vm->box, "batch needs a positive size");
    struct list *batch = NULL;
    for (size_t i = 0; i < items->n; i++) {
        if (!batch || batch->n == (size_t)size) {
            batch = list_new(&vm->box, L_LIST, 0);
            list_put(&vm->box, out, v_list(batch));
        }
        list_put(&vm->box, batch, items->at[i]);
    }
    while (batch && given(arg[1]) && batch->n < (size_t)size) {
        box_work(&vm->box, 1);
        list_put(&vm->box, batch, arg[1]);
    }
    return v_list(out);
}

BUILTIN(filter_slice) {
    struct list *items = v_items(&vm->box, self), *out = list_new(&vm->box, L_GENERATOR, 0);
    int64_t count = vm_int(vm, arg[0], 1);
    if (count < 1) box_fail(&vm->box, "slice needs a positive number of slices");
    size_t slices = (size_t)count, each = items->n / slices, longer = items->n % slices, at = 0;
    for (size_t s = 0; s < slices; s++) {
        box_work(&vm->box, 1);
        struct list *slice = list_new(&vm->box, L_LIST, 0);
        for (size_t i = 0; i < each + (s < longer); i++) list_put(&vm->box, slice, items->at[at++]);
        if (given(arg[1]) && s >= longer) list_put(&vm->box, slice, arg[1]);
        list_put(&vm->box, out, v_list(slice));
    }
    return v_list(out);
}

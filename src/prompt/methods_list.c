/* methods_list.c - methods of lists, dicts, numbers and cyclers. Those that would change
 * a list or dict are named without a function: they cannot be had. */
#include "prompt/builtins.h"
#include <math.h>

static BUILTIN(list_count) {
    int64_t n = 0;
    for (size_t i = 0; i < self.u.list->n; i++) n += v_equal(&vm->box, self.u.list->at[i], arg[0]);
    return v_int(n);
}

static BUILTIN(list_index) {
    int64_t n = (int64_t)self.u.list->n, ends[2] = { vm_int(vm, arg[1], 0), vm_int(vm, arg[2], n) };
    for (int i = 0; i < 2; i++)
        if (ends[i] < 0) ends[i] = MAX(ends[i] + n, 0);
    for (size_t i = (size_t)ends[0]; i < (size_t)MIN(ends[1], n); i++)
        if (v_equal(&vm->box, self.u.list->at[i], arg[0])) return v_int((int64_t)i);
    box_fail(&vm->box, "the item is not in the list");
}

/* Nothing changes a list or dict, so a copy is the thing itself. */
static BUILTIN(same) { return self; }

static BUILTIN(dict_get_method) {
    struct value *at = dict_get(&vm->box, self.u.dict, arg[0]);
    return at ? *at : arg[1].kind == V_ABSENT ? v_none() : arg[1];
}

static struct value view(struct vm *vm, struct value self, enum list_kind kind) {
    const struct dict *d = self.u.dict;
    struct list *list = list_new(&vm->box, kind, d->n);
    box_work(&vm->box, d->n / 4);
    for (size_t i = 0; i < d->n; i++) {
        struct list *pair = list_new(&vm->box, L_TUPLE, kind == L_ITEMS ? 2 : 0);
        if (kind == L_ITEMS) {
            list_put(&vm->box, pair, d->at[i].key);
            list_put(&vm->box, pair, d->at[i].value);
        }
        list_put(&vm->box, list, kind == L_ITEMS ? v_list(pair)
                               : kind == L_KEYS ? d->at[i].key : d->at[i].value);
    }
    return v_list(list);
}

static BUILTIN(dict_items) { return view(vm, self, L_ITEMS); }
static BUILTIN(dict_keys) { return view(vm, self, L_KEYS); }
static BUILTIN(dict_values) { return view(vm, self, L_VALUES); }

static BUILTIN(dict_fromkeys) {
    struct list *keys = v_items(&vm->box, arg[0]);
    struct dict *d = dict_new(&vm->box);
    for (size_t i = 0; i < keys->n; i++)
        dict_put(&vm->box, d, keys->at[i], arg[1].kind == V_ABSENT ? v_none() : arg[1]);
    return v_dict(d);
}

static uint64_t magnitude(struct value v) {
    int64_t i = v_as_int(v);
    return i < 0 ? -(uint64_t)i : (uint64_t)i;
}

static BUILTIN(int_bit_length) {
    uint64_t n = magnitude(self);
    return v_int(n ? 64 - __builtin_clzll(n) : 0);
}

static BUILTIN(int_bit_count) {
    return v_int(__builtin_popcountll(magnitude(self)));
}

static BUILTIN(float_is_integer) {
    return v_bool(isfinite(self.u.f) && floor(self.u.f) == self.u.f);
}

static BUILTIN(number_itself) {
    return v_is_int(self) ? v_int(v_as_int(self)) : self;
}

static BUILTIN(cycler_next) {
    struct cycler *c = self.u.cycler;
    return c->items->at[c->next++ % c->items->n];
}

static BUILTIN(cycler_reset) {
    self.u.cycler->next = 0;
    return v_none();
}

const struct builtin list_methods[] = {
    { "count", "item", list_count }, { "index", "item start? stop?", list_index },
    { "copy", "", same },
    { "append", "", NULL }, { "clear", "", NULL }, { "extend", "", NULL }, { "insert", "", NULL },
    { "pop", "", NULL }, { "remove", "", NULL }, { "reverse", "", NULL }, { "sort", "", NULL },
    { 0 },
};

const struct builtin tuple_methods[] = {
    { "count", "item", list_count }, { "index", "item start? stop?", list_index }, { 0 },
};

const struct builtin dict_methods[] = {
    { "get", "key default?", dict_get_method }, { "items", "", dict_items },
    { "keys", "", dict_keys }, { "values", "", dict_values }, { "copy", "", same },
    { "clear", "", NULL }, { "pop", "", NULL }, { "popitem", "", NULL }, { "setdefault", "", NULL },
    { "update", "", NULL }, { "fromkeys", "keys value?", dict_fromkeys }, { 0 },
};

/* Of the function `dict` itself. */
const struct builtin dict_functions[] = {
    { "fromkeys", "keys value?", dict_fromkeys }, { 0 },
};

const struct builtin int_methods[] = {
    { "bit_length", "", int_bit_length }, { "bit_count", "", int_bit_count },
    { "conjugate", "", number_itself }, { 0 },
};

const struct builtin float_methods[] = {
    { "is_integer", "", float_is_integer }, { "conjugate", "", number_itself }, { 0 },
};

const struct builtin cycler_methods[] = {
    { "next", "", cycler_next }, { "reset", "", cycler_reset }, { 0 },
};

/* functions.c - the functions a template can call by name. */
#include "prompt/builtins.h"
#include <string.h>

/* As Jinja's sandbox has it: at most 100,000 numbers, whatever they are used for. */
static BUILTIN(function_range) {
    int64_t first = 0, stop = vm_int(vm, arg[0], 0), step = vm_int(vm, arg[2], 1);
    if (arg[1].kind != V_ABSENT) {
        first = stop;
        stop = vm_int(vm, arg[1], 0);
    }
    if (!step) box_fail(&vm->box, "range: the step cannot be zero");
    uint64_t span = step > 0 ? (stop > first ? (uint64_t)stop - (uint64_t)first : 0)
                             : (first > stop ? (uint64_t)first - (uint64_t)stop : 0);
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;
    uint64_t n = span / stride + (span % stride != 0);
    if (n > RANGE_MAX) box_limit(&vm->box, "a range of more than %d numbers", RANGE_MAX);
    box_work(&vm->box, n);
    struct list *list = list_new(&vm->box, L_RANGE, n);
    list->start = first, list->step = step, list->stop = stop;
    for (uint64_t i = 0; i < n; i++)
        list_put(&vm->box, list, v_int((int64_t)((uint64_t)first + i * (uint64_t)step)));
    return v_list(list);
}

/* dict(mapping or pairs, more=...), and namespace(...) likewise. */
static struct dict *dict_from(struct vm *vm, struct value *arg) {
    struct dict *d = dict_new(&vm->box);
    struct list *at = arg[0].u.list;
    if (at->n > 1) box_fail(&vm->box, "dict takes one mapping, and names");
    if (at->n && at->at[0].kind == V_UNDEFINED) vm_undefined(vm, at->at[0]);
    if (at->n && at->at[0].kind == V_DICT) {
        const struct dict *from = at->at[0].u.dict;
        for (size_t i = 0; i < from->n; i++)
            dict_put(&vm->box, d, from->at[i].key, from->at[i].value);
    } else if (at->n) {
        struct list *pairs = v_items(&vm->box, at->at[0]);
        for (size_t i = 0; i < pairs->n; i++) {
            struct list *pair = v_items(&vm->box, pairs->at[i]);
            if (pair->n != 2) box_fail(&vm->box, "dict: item %zu is not a pair", i);
            dict_put(&vm->box, d, pair->at[0], pair->at[1]);
        }
    }
    const struct dict *named = arg[1].u.dict;
    for (size_t i = 0; i < named->n; i++)
        dict_put(&vm->box, d, named->at[i].key, named->at[i].value);
    return d;
}

static BUILTIN(function_dict) {
    return v_dict(dict_from(vm, arg));
}

static BUILTIN(function_namespace) {
    struct dict *d = dict_from(vm, arg);
    for (size_t i = 0; i < d->n; i++) {
        struct value key = d->at[i].key;
        if (key.kind == V_TEXT && key.u.text->len && key.u.text->at[0] == '_')
            box_fail(&vm->box, "an attribute of a namespace cannot start with '_'");
    }
    return (struct value){ .kind = V_SPACE, .u.dict = d };
}

static BUILTIN(function_raise) {
    enum { QUOTED_MAX = 300 };
    struct str s = str_cut(text_str(v_str(&vm->box, arg[0])), 0, QUOTED_MAX);
    while (s.len && (s.at[s.len - 1] & 0xC0) == 0x80 && s.len == QUOTED_MAX) s.len--;
    box_fail(&vm->box, "the template refuses this dialog: %.*s", (int)s.len, s.at);
}

static BUILTIN(function_strftime_now) {
    return v_text(vm_strftime(vm, vm_text(vm, arg[0], "the format")));
}

static BUILTIN(function_cycler) {
    if (!arg[0].u.list->n) box_fail(&vm->box, "cycler needs at least one item");
    struct cycler *c = box_new(&vm->box, sizeof *c);
    c->items = arg[0].u.list;
    return (struct value){ .kind = V_CYCLER, .u.cycler = c };
}

static BUILTIN(function_joiner) {
    struct cycler *c = box_new(&vm->box, sizeof *c);
    c->items = list_new(&vm->box, L_LIST, 1);
    list_put(&vm->box, c->items,
             arg[0].kind == V_ABSENT ? v_text(text_literal(&vm->box, ", ")) : arg[0]);
    return (struct value){ .kind = V_JOINER, .u.cycler = c };
}

static BUILTIN(function_lipsum) {
    box_fail(&vm->box, "lipsum is not supported: a dialog must always give the same prompt");
}

const struct builtin functions[] = {
    { "range", "start stop? step?", function_range },
    { "dict", "* **", function_dict },
    { "namespace", "* **", function_namespace },
    { "raise_exception", "message", function_raise },
    { "strftime_now", "format", function_strftime_now },
    { "cycler", "*", function_cycler },
    { "joiner", "sep?", function_joiner },
    { "lipsum", "* **", function_lipsum },
    { 0 },
};

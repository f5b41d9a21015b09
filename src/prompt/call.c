/* call.c - calling macros and built-in functions: arguments to parameters. */
#include "prompt/vm.h"
#include <string.h>

const struct builtin *builtin_find(const struct builtin *table, struct str name) {
    for (; table->name; table++)
        if (str_is(name, table->name)) return table;
    return NULL;
}

static int number_in(const struct builtin *table, struct str name) {
    const struct builtin *found = builtin_find(table, name);
    return found ? (int)(found - table) : -1;
}

int filter_number(struct str name) {
    return number_in(filters, name);
}

int test_number(struct str name) {
    return number_in(tests, name);
}

/* The next word of a parameter list; empty at its end. */
static struct str next_param(const char **params) {
    while (**params == ' ') ++*params;
    struct str word = { *params, strcspn(*params, " ") };
    *params += word.len;
    return word;
}

static struct value take_keyword(struct args *args, struct str name) {
    for (size_t i = 0; i < args->n_named; i++)
        if (str_eq(text_str(args->named[i].name), name)) {
            struct value v = args->named[i].value;
            memmove(&args->named[i], &args->named[i + 1],
                    (args->n_named - i - 1) * sizeof *args->named);
            args->n_named--;
            return v;
        }
    return (struct value){ .kind = V_ABSENT };
}

struct value vm_builtin(struct vm *vm, const struct builtin *f, struct value self,
                        struct args *args) {
    struct value bound[ARGS_MAX];
    size_t taken = 0;
    int n = 0;
    const char *params = f->params;
    for (struct str word; (word = next_param(&params)).len; n++) {
        if (str_is(word, "*")) {
            struct list *rest = list_new(&vm->box, L_TUPLE, args->at.n - taken);
            while (taken < args->at.n) list_put(&vm->box, rest, args->at.at[taken++]);
            bound[n] = v_list(rest);
            continue;
        }
        if (str_is(word, "**")) {
            struct dict *named = dict_new(&vm->box);
            for (size_t i = 0; i < args->n_named; i++)
                dict_put(&vm->box, named, v_text(args->named[i].name), args->named[i].value);
            args->n_named = 0;
            bound[n] = v_dict(named);
            continue;
        }
        bool optional = str_ends(word, "?");
        if (optional) word.len--;
        bound[n] = taken < args->at.n ? args->at.at[taken++] : take_keyword(args, word);
        if (bound[n].kind == V_ABSENT && !optional)
            box_fail(&vm->box, "%s() needs the argument \"%.*s\"", f->name, STR_ARG(word));
    }
    if (taken < args->at.n) box_fail(&vm->box, "%s() takes fewer arguments", f->name);
    if (args->n_named)
        box_fail(&vm->box, "%s() takes no argument \"%.*s\"", f->name,
                 STR_ARG(text_str(args->named[0].name)));
    box_enter(&vm->box);
    struct value v = f->run(vm, self, bound);
    vm->box.depth--;
    return v;
}

bool vm_test(struct vm *vm, const struct builtin *test, struct value v, struct args *args) {
    return v_truth(vm_builtin(vm, test, v, args));
}

static struct value call_cycler(struct vm *vm, struct value v, struct args *args) {
    struct cycler *joiner = v.u.cycler;
    if (args->at.n || args->n_named) box_fail(&vm->box, "a joiner takes no arguments");
    return joiner->next++ ? joiner->items->at[0] : v_text(text_literal(&vm->box, ""));
}

struct value vm_markup(struct vm *vm, struct value v, bool markup) {
    if (v.kind == V_LIST && markup) {
        struct list *list = list_new(&vm->box, v.u.list->kind, v.u.list->n);
        for (size_t i = 0; i < v.u.list->n; i++)
            list_put(&vm->box, list, vm_markup(vm, v.u.list->at[i], true));
        return v_list(list);
    }
    if (v.kind != V_TEXT || v.u.text->markup == markup) return v;
    struct text *t = text_cut(&vm->box, v.u.text, 0, v.u.text->len);
    t->markup = markup;
    return v_text(t);
}

static struct value escaped(struct vm *vm, struct value v) {
    bool plain = v.kind == V_TEXT && !v.u.text->markup;
    return plain ? v_text(text_escaped(&vm->box, v.u.text)) : v;
}

/* A method of a string that was marked safe: what it makes is safe too, and so what goes into that
 * is escaped. */
static struct value call_markup(struct vm *vm, const struct bound *f, struct args *args) {
    static const struct { const char *name; size_t first; } inserts[] = {
        { "join", 0 }, { "format", 0 }, { "replace", 1 }, { "center", 1 }, { "ljust", 1 },
        { "rjust", 1 },
    };
    struct list *given = list_new(&vm->box, L_LIST, args->at.n);
    size_t from = SIZE_MAX;
    for (size_t i = 0; i < COUNT(inserts); i++)
        if (!strcmp(f->builtin->name, inserts[i].name)) from = inserts[i].first;
    for (size_t i = 0; i < args->at.n; i++) {
        struct value v = args->at.at[i];
        if (i == 0 && !strcmp(f->builtin->name, "join")) {
            struct list *items = v_items(&vm->box, v);
            struct list *texts = list_new(&vm->box, L_LIST, items->n);
            for (size_t k = 0; k < items->n; k++)
                list_put(&vm->box, texts, escaped(vm, v_text(v_str(&vm->box, items->at[k]))));
            v = v_list(texts);
        }
        list_put(&vm->box, given, i >= from ? escaped(vm, v) : v);
    }
    args->at = *given;
    for (size_t i = 0; from != SIZE_MAX && i < args->n_named; i++)
        args->named[i].value = escaped(vm, args->named[i].value);
    return vm_markup(vm, vm_builtin(vm, f->builtin, f->self, args), true);
}

struct value vm_call(struct vm *vm, struct value callee, struct args *args) {
    switch (callee.kind) {
    case V_MACRO: return vm_macro(vm, callee.u.macro, args);
    case V_BUILTIN:
        if (callee.u.bound->self.kind == V_TEXT && callee.u.bound->self.u.text->markup)
            return call_markup(vm, callee.u.bound, args);
        return vm_builtin(vm, callee.u.bound->builtin, callee.u.bound->self, args);
    case V_LOOP: return vm_loop_call(vm, callee.u.loop, args);
    case V_JOINER: return call_cycler(vm, callee, args);
    case V_UNDEFINED: vm_undefined(vm, callee);
    default: box_fail(&vm->box, "a value of type %s cannot be called", v_type(callee));
    }
}

int64_t vm_int(struct vm *vm, struct value v, int64_t when_absent) {
    if (v.kind == V_ABSENT) return when_absent;
    if (!v_is_int(v)) box_fail(&vm->box, "an integer is needed here, not %s", v_type(v));
    return v_as_int(v);
}

struct text *vm_text(struct vm *vm, struct value v, const char *what) {
    if (v.kind != V_TEXT) box_fail(&vm->box, "%s must be a string, not %s", what, v_type(v));
    return v.u.text;
}

bool vm_bool(struct value v, bool when_absent) {
    return v.kind == V_ABSENT ? when_absent : v_truth(v);
}

/* eval.c - expressions of a template to values. Operators are in ops.c, calls
 * in call.c; this file walks the tree. */
#include "prompt/vm.h"
#include <string.h>

struct value vm_get(struct vm *vm, uint32_t symbol) {
    for (const struct scope *s = vm->scope; s; s = s->up)
        for (size_t i = s->n; i-- > 0;)
            if (s->at[i].symbol == symbol) return s->at[i].value;
    if (vm->unset && vm->unset[symbol] && !vm->blocks)
        return v_missing(&vm->box, "'%.*s' is undefined: it is set later",
                         STR_ARG(text_str(vm->t->symbol[symbol])));
    return vm->root[symbol];
}

void vm_set(struct vm *vm, uint32_t symbol, struct value v) {
    struct scope *s = vm->scope;
    if (!s) {
        vm->root[symbol] = v;
        if (vm->unset) vm->unset[symbol] = false;
        return;
    }
    box_work(&vm->box, s->n / 16);
    for (size_t i = 0; i < s->n; i++)
        if (s->at[i].symbol == symbol) {
            s->at[i].value = v;
            return;
        }
    if (s->n == s->cap) {
        s->cap = MAX(2 * s->cap, (size_t)4);
        struct binding *at = box_array(&vm->box, s->cap, sizeof *at);
        if (s->n) memcpy(at, s->at, s->n * sizeof *at);
        s->at = at;
    }
    s->at[s->n++] = (struct binding){ symbol, v };
}

void vm_undefined(struct vm *vm, struct value v) {
    if (v.u.missing) box_fail(&vm->box, "%.*s", STR_ARG(text_str(v.u.missing)));
    box_fail(&vm->box, "a value is undefined");
}

static struct value eval_name(struct vm *vm, const struct node *n) {
    struct value v = vm_get(vm, n->symbol);
    if (v.kind != V_ABSENT) return v;
    const struct builtin *f = builtin_find(functions, text_str(n->name));
    if (!f) return v_missing(&vm->box, "'%.*s' is undefined", STR_ARG(text_str(n->name)));
    struct bound *bound = box_new(&vm->box, sizeof *bound);
    bound->builtin = f;
    return (struct value){ .kind = V_BUILTIN, .u.bound = bound };
}

static struct list *eval_list(struct vm *vm, const struct node *first, enum list_kind kind) {
    struct list *list = list_new(&vm->box, kind, 0);
    for (const struct node *n = first; n; n = n->next) list_put(&vm->box, list, vm_eval(vm, n));
    return list;
}

static struct value eval_dict(struct vm *vm, const struct node *n) {
    struct dict *dict = dict_new(&vm->box);
    for (const struct node *key = n->a, *item = n->b; key; key = key->next, item = item->next) {
        struct value k = vm_eval(vm, key);
        dict_put(&vm->box, dict, k, vm_eval(vm, item));
    }
    return v_dict(dict);
}

static struct value eval_concat(struct vm *vm, const struct node *n) {
    struct text *all = v_str(&vm->box, vm_eval(vm, n->a));
    for (const struct node *part = n->a->next; part; part = part->next)
        all = text_join(&vm->box, all, v_str(&vm->box, vm_eval(vm, part)));
    return v_text(all);
}

static bool compare(struct vm *vm, int op, struct value a, struct value b) {
    switch (op) {
    case OP_IN: return v_contains(&vm->box, b, a);
    case OP_NOT_IN: return !v_contains(&vm->box, b, a);
    case OP2('=', '='): return v_equal(&vm->box, a, b);
    case OP2('!', '='): return !v_equal(&vm->box, a, b);
    case '<': return v_less(&vm->box, a, b, "<");
    case '>': return v_less(&vm->box, b, a, ">");
    /* Not "not less": NaN is neither. */
    case OP2('<', '='): return v_less(&vm->box, a, b, "<=") || v_equal(&vm->box, a, b);
    default: return v_less(&vm->box, b, a, ">=") || v_equal(&vm->box, a, b);
    }
}

static struct value eval_compare(struct vm *vm, const struct node *n) {
    struct value left = vm_eval(vm, n->a);
    for (const struct node *operand = n->b; operand; operand = operand->next) {
        struct value right = vm_eval(vm, operand->a);
        vm->box.at = operand->at;
        if (!compare(vm, operand->op, left, right)) return v_bool(false);
        left = right;
    }
    return v_bool(true);
}

static struct value eval_item(struct vm *vm, const struct node *n) {
    struct value on = vm_eval(vm, n->a);
    if (n->b->kind != E_SLICE) {
        struct value key = vm_eval(vm, n->b);
        vm->box.at = n->at;
        return vm_item(vm, on, key);
    }
    struct value part[3];
    const struct node *from[3] = { n->b->a, n->b->b, n->b->c };
    for (int i = 0; i < 3; i++) part[i] = from[i] ? vm_eval(vm, from[i]) : v_none();
    vm->box.at = n->at;
    return vm_slice(vm, on, part[0], part[1], part[2]);
}

static void add_keyword(struct vm *vm, struct args *args, struct text *name, struct value v) {
    for (size_t i = 0; i < args->n_named; i++)
        if (str_eq(text_str(args->named[i].name), text_str(name)))
            box_fail(&vm->box, "the argument \"%.*s\" is given twice", STR_ARG(text_str(name)));
    if (args->n_named == args->named_cap) {
        size_t cap = MAX(2 * args->named_cap, (size_t)4);
        struct keyword *named = box_array(&vm->box, cap, sizeof *named);
        if (args->n_named) memcpy(named, args->named, args->n_named * sizeof *named);
        args->named = named;
        args->named_cap = cap;
    }
    box_work(&vm->box, args->n_named);
    args->named[args->n_named++] = (struct keyword){ name, v };
}

static struct args eval_args(struct vm *vm, const struct node *first) {
    struct args args = { 0 };
    for (const struct node *n = first; n; n = n->next) {
        struct value v = vm_eval(vm, n->a);
        vm->box.at = n->at;
        if (n->op == 0) {
            list_put(&vm->box, &args.at, v);
        } else if (n->op == '=') {
            add_keyword(vm, &args, n->name, v);
        } else if (n->op == '*') {
            struct list *more = v_items(&vm->box, v);
            for (size_t i = 0; i < more->n; i++) list_put(&vm->box, &args.at, more->at[i]);
        } else {
            if (v.kind != V_DICT) box_fail(&vm->box, "'**' needs a dict, not %s", v_type(v));
            for (size_t i = 0; i < v.u.dict->n; i++)
                add_keyword(vm, &args, vm_text(vm, v.u.dict->at[i].key, "a keyword"),
                            v.u.dict->at[i].value);
        }
    }
    return args;
}

static struct value eval_call(struct vm *vm, const struct node *n) {
    struct value callee = vm_eval(vm, n->a);
    struct args args = eval_args(vm, n->args);
    vm->box.at = n->at;
    return vm_call(vm, callee, &args);
}

static struct value eval_filter(struct vm *vm, const struct node *n) {
    struct value on = vm_eval(vm, n->a);
    struct args args = eval_args(vm, n->args);
    vm->box.at = n->at;
    if (n->builtin < 0)
        box_fail(&vm->box, "there is no filter \"%.*s\"", STR_ARG(text_str(n->name)));
    return vm_builtin(vm, &filters[n->builtin], on, &args);
}

static struct value eval_test(struct vm *vm, const struct node *n) {
    struct value on = vm_eval(vm, n->a);
    struct args args = eval_args(vm, n->args);
    vm->box.at = n->at;
    if (n->builtin < 0)
        box_fail(&vm->box, "there is no test \"%.*s\"", STR_ARG(text_str(n->name)));
    return v_bool(vm_test(vm, &tests[n->builtin], on, &args));
}

static struct value eval_if(struct vm *vm, const struct node *n) {
    if (v_truth(vm_eval(vm, n->a))) return vm_eval(vm, n->b);
    if (n->c) return vm_eval(vm, n->c);
    return v_missing(&vm->box, "an inline 'if' without 'else' was false");
}

static struct value eval_binary(struct vm *vm, const struct node *n) {
    struct value a = vm_eval(vm, n->a), b = vm_eval(vm, n->b);
    vm->box.at = n->at;
    return vm_binary(vm, n->op, a, b);
}

static struct value eval_unary(struct vm *vm, const struct node *n) {
    struct value v = vm_eval(vm, n->a);
    vm->box.at = n->at;
    if (n->kind == E_NEG) return vm_negate(vm, v);
    if (v.kind == V_UNDEFINED) vm_undefined(vm, v);
    if (!v_number(v)) box_fail(&vm->box, "'+' cannot take %s", v_type(v));
    return v.kind == V_BOOL ? v_int(v.u.truth) : v;
}

static struct value eval_attr(struct vm *vm, const struct node *n) {
    struct value on = vm_eval(vm, n->a);
    vm->box.at = n->at;
    return vm_attr(vm, on, n->name);
}

static struct value dispatch(struct vm *vm, const struct node *n) {
    struct value v;
    switch ((enum node_kind)n->kind) {
    case E_CONST: return n->constant;
    case E_CAPTURED: return v_text(vm->captured);
    case E_NAME: return eval_name(vm, n);
    case E_ATTR: return eval_attr(vm, n);
    case E_ITEM: return eval_item(vm, n);
    case E_CALL: return eval_call(vm, n);
    case E_FILTER: return eval_filter(vm, n);
    case E_TEST: return eval_test(vm, n);
    case E_BINARY: return eval_binary(vm, n);
    case E_COMPARE: return eval_compare(vm, n);
    case E_AND:
        v = vm_eval(vm, n->a);
        return v_truth(v) ? vm_eval(vm, n->b) : v;
    case E_OR:
        v = vm_eval(vm, n->a);
        return v_truth(v) ? v : vm_eval(vm, n->b);
    case E_NOT: return v_bool(!v_truth(vm_eval(vm, n->a)));
    case E_NEG:
    case E_POS: return eval_unary(vm, n);
    case E_IF: return eval_if(vm, n);
    case E_LIST: return v_list(eval_list(vm, n->a, L_LIST));
    case E_TUPLE: return v_list(eval_list(vm, n->a, L_TUPLE));
    case E_DICT: return eval_dict(vm, n);
    case E_CONCAT: return eval_concat(vm, n);
    default: box_fail(&vm->box, "a slice outside of a single pair of brackets");
    }
}

struct value vm_eval(struct vm *vm, const struct node *n) {
    vm->box.at = n->at;
    box_work(&vm->box, 1);
    box_enter(&vm->box);
    struct value v = dispatch(vm, n);
    vm->box.depth--;
    return v;
}

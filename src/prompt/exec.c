/* exec.c - statements of a template: output, choices, loops, assignments and
 * the making of macros. */
#include "prompt/vm.h"
#include <string.h>

enum flow { GO_ON, BREAK, CONTINUE };

/* A running loop, also the value of `loop`. Items that pass the loop's condition are
 * found one by one, as the condition may depend on what the body does. */
struct loop {
    struct list *source, *items;
    size_t taken;                    /* of source */
    size_t i;                        /* of items: the current one */
    const struct node *node;
    struct scope *outside;
    int depth;
    struct value changed;            /* V_ABSENT, or what loop.changed() saw last */
};

static enum flow run(struct vm *, const struct node *);

static struct scope *scope_new(struct vm *vm, struct scope *up) {
    struct scope *s = box_new(&vm->box, sizeof *s);
    s->up = up;
    return s;
}

/* Makes a new scope see nothing of what its own variables will be. */
static struct scope *hide(struct vm *vm, const struct hidden *hidden, struct scope *scope) {
    struct scope *outer = vm->scope;
    vm->scope = scope;
    for (uint32_t i = 0; hidden && i < hidden->n; i++) {
        struct str name = text_str(vm->t->symbol[hidden->symbol[i]]);
        vm_set(vm, hidden->symbol[i],
               v_missing(&vm->box, "'%.*s' is undefined: it is set later", STR_ARG(name)));
    }
    vm->scope = outer;
    return scope;
}

static void assign(struct vm *vm, const struct node *target, struct value v) {
    if (target->kind == E_NAME) {
        vm_set(vm, target->symbol, v);
        return;
    }
    if (target->kind == E_ATTR) {
        struct value space = vm_get(vm, target->symbol);
        vm->box.at = target->at;
        if (space.kind != V_SPACE)
            box_fail(&vm->box, "cannot set an attribute: only a namespace takes one");
        if (target->name->len && target->name->at[0] == '_')
            box_fail(&vm->box, "an attribute of a namespace cannot start with '_'");
        dict_put(&vm->box, space.u.dict, v_text(target->name), v);
        return;
    }
    struct list *items = v_items(&vm->box, v);
    size_t i = 0;
    box_enter(&vm->box);
    for (const struct node *part = target->a; part; part = part->next, i++) {
        vm->box.at = part->at;
        if (i >= items->n)
            box_fail(&vm->box, "not enough values to unpack: there are %zu", items->n);
        assign(vm, part, items->at[i]);
    }
    vm->box.at = target->at;
    if (i < items->n) box_fail(&vm->box, "too many values to unpack: there are %zu", items->n);
    vm->box.depth--;
}

/* Runs a body in a scope of its own and gives what it writes. */
static struct text *capture(struct vm *vm, const struct node *body, struct scope *scope,
                            enum flow *flow) {
    struct builder made = { .box = &vm->box }, *out = vm->out;
    struct scope *outer = vm->scope;
    vm->out = &made;
    vm->scope = scope;
    *flow = run(vm, body);
    vm->scope = outer;
    vm->out = out;
    return built(&made);
}

static bool passes(struct vm *vm, struct loop *loop, struct value item) {
    if (!loop->node->e) return true;
    struct scope *outer = vm->scope;
    vm->scope = scope_new(vm, loop->outside);
    assign(vm, loop->node->a, item);
    bool yes = v_truth(vm_eval(vm, loop->node->e));
    vm->scope = outer;
    return yes;
}

/* Whether there is an item number n, finding it if need be. */
static bool has_item(struct vm *vm, struct loop *loop, size_t n) {
    while (n >= loop->items->n && loop->taken < loop->source->n) {
        struct value item = loop->source->at[loop->taken++];
        if (passes(vm, loop, item)) list_put(&vm->box, loop->items, item);
    }
    return n < loop->items->n;
}

static enum flow loop_over(struct vm *vm, const struct node *n, struct value over,
                           struct scope *outside, int depth) {
    static const char name[] = "loop";
    struct loop *loop = box_new(&vm->box, sizeof *loop);
    *loop = (struct loop){ .source = v_items(&vm->box, over), .node = n, .outside = outside,
                           .depth = depth, .changed = { .kind = V_ABSENT } };
    loop->items = n->e ? list_new(&vm->box, L_LIST, 0) : loop->source;
    if (!n->e) loop->taken = loop->source->n;
    uint32_t symbol = UINT32_MAX;
    map_get(&vm->t->symbols, S(name), &symbol);
    struct scope *outer = vm->scope, *scope = scope_new(vm, outside);
    size_t closures = vm->n_closures;
    enum flow flow = GO_ON;
    for (; flow != BREAK && has_item(vm, loop, loop->i); loop->i++) {
        /* A scope that nothing can have kept is used again. */
        if (vm->n_closures != closures) scope = scope_new(vm, outside);
        closures = vm->n_closures;
        scope->n = 0;
        vm->scope = hide(vm, n->hidden, scope);
        box_work(&vm->box, 1);
        if (symbol != UINT32_MAX)
            vm_set(vm, symbol, (struct value){ .kind = V_LOOP, .u.loop = loop });
        assign(vm, n->a, loop->items->at[loop->i]);
        flow = run(vm, n->c);
    }
    vm->scope = outer;
    if (loop->i || !n->d) return GO_ON;
    vm->scope = scope_new(vm, outside);
    flow = run(vm, n->d);
    vm->scope = outer;
    return flow;
}

struct value vm_loop_call(struct vm *vm, struct loop *loop, struct args *args) {
    if (!loop->node->op) box_fail(&vm->box, "this loop is not recursive");
    if (args->at.n != 1 || args->n_named) box_fail(&vm->box, "loop() takes what to go through");
    struct builder made = { .box = &vm->box }, *out = vm->out;
    vm->out = &made;
    box_enter(&vm->box);
    loop_over(vm, loop->node, args->at.at[0], loop->outside, loop->depth + 1);
    vm->box.depth--;
    vm->out = out;
    return v_text(built(&made));
}

struct value vm_loop_attr(struct vm *vm, struct loop *loop, const struct text *name) {
    int64_t i = (int64_t)loop->i;
    if (text_is(name, "index")) return v_int(i + 1);
    if (text_is(name, "index0")) return v_int(i);
    if (text_is(name, "first")) return v_bool(i == 0);
    if (text_is(name, "last")) return v_bool(!has_item(vm, loop, loop->i + 1));
    if (text_is(name, "depth")) return v_int(loop->depth);
    if (text_is(name, "depth0")) return v_int(loop->depth - 1);
    if (text_is(name, "previtem"))
        return i ? loop->items->at[i - 1] : v_missing(&vm->box, "there is no previous item");
    if (text_is(name, "nextitem"))
        return has_item(vm, loop, loop->i + 1) ? loop->items->at[i + 1]
                                               : v_missing(&vm->box, "there is no next item");
    bool length = text_is(name, "length"), back = text_is(name, "revindex");
    if (!length && !back && !text_is(name, "revindex0"))
        return v_missing(&vm->box, "'loop' has no attribute '%.*s'", STR_ARG(text_str(name)));
    has_item(vm, loop, SIZE_MAX);
    int64_t n = (int64_t)loop->items->n;
    return v_int(length ? n : back ? n - i : n - i - 1);
}

static struct value loop_cycle(struct vm *vm, struct value self, struct value *arg) {
    struct list *items = arg[0].u.list;
    if (!items->n) box_fail(&vm->box, "loop.cycle() needs something to cycle through");
    return items->at[self.u.loop->i % items->n];
}

static struct value loop_changed(struct vm *vm, struct value self, struct value *arg) {
    struct loop *loop = self.u.loop;
    bool changed = loop->changed.kind == V_ABSENT || !v_equal(&vm->box, loop->changed, arg[0]);
    loop->changed = arg[0];
    return v_bool(changed);
}

const struct builtin loop_methods[] = {
    { "cycle", "*", loop_cycle },
    { "changed", "*", loop_changed },
    { 0 },
};

/* Parameters of a macro bound to arguments; what is left over goes to varargs and kwargs. */
static void bind(struct vm *vm, const struct node *node, struct args *args, struct scope *scope) {
    size_t i = 0, used = 0;
    struct value named;
    struct list *varargs = list_new(&vm->box, L_TUPLE, 0);
    struct dict *kwargs = dict_new(&vm->box);
    for (const struct node *param = node->a; param; param = param->next, i++) {
        named.kind = V_ABSENT;
        for (size_t k = 0; k < args->n_named; k++)
            if (str_eq(text_str(args->named[k].name), text_str(param->name))) {
                named = args->named[k].value;
                args->named[k].name = NULL;
                used++;
                args->named[k] = args->named[args->n_named - 1];
                args->n_named--;
                break;
            }
        if (i < args->at.n && named.kind != V_ABSENT)
            box_fail(&vm->box, "the argument \"%.*s\" is given twice",
                     STR_ARG(text_str(param->name)));
        struct value v = i < args->at.n ? args->at.at[i] : named;
        struct scope *outer = vm->scope;
        vm->scope = scope;
        if (v.kind == V_ABSENT) {
            vm_set(vm, param->symbol, v_missing(&vm->box, "the parameter '%.*s' was not given",
                                                STR_ARG(text_str(param->name))));
            if (param->a) v = vm_eval(vm, param->a);
        }
        if (v.kind != V_ABSENT) vm_set(vm, param->symbol, v);
        vm->scope = outer;
    }
    for (; i < args->at.n; i++) list_put(&vm->box, varargs, args->at.at[i]);
    struct value caller = { .kind = V_ABSENT };
    for (size_t k = 0; k < args->n_named; k++) {
        if (text_is(args->named[k].name, "caller") && node->calls_caller)
            caller = args->named[k].value;
        else dict_put(&vm->box, kwargs, v_text(args->named[k].name), args->named[k].value);
    }
    vm->box.at = node->at;
    if (varargs->n && !node->takes_varargs)
        box_fail(&vm->box, "the macro \"%.*s\" takes fewer arguments",
                 STR_ARG(text_str(node->name)));
    if (kwargs->n && !node->takes_kwargs)
        box_fail(&vm->box, "the macro \"%.*s\" takes no argument \"%.*s\"",
                 STR_ARG(text_str(node->name)), STR_ARG(text_str(kwargs->at[0].key.u.text)));
    static const char *const names[] = { "varargs", "kwargs", "caller" };
    struct value values[] = { v_list(varargs), v_dict(kwargs), caller };
    bool wanted[] = { node->takes_varargs, node->takes_kwargs, node->calls_caller };
    if (caller.kind == V_ABSENT)
        values[2] = v_missing(&vm->box, "no caller: the macro was not called by a call block");
    struct scope *outer = vm->scope;
    vm->scope = scope;
    for (int k = 0; k < 3; k++) {
        uint32_t symbol;
        if (wanted[k] && map_get(&vm->t->symbols, str_of(names[k]), &symbol))
            vm_set(vm, symbol, values[k]);
    }
    vm->scope = outer;
}

struct value vm_macro(struct vm *vm, const struct macro *macro, struct args *args) {
    enum flow flow;
    struct scope *scope = hide(vm, macro->node->hidden, scope_new(vm, macro->scope));
    box_enter(&vm->box);
    bind(vm, macro->node, args, scope);
    struct text *text = capture(vm, macro->node->c, scope, &flow);
    vm->box.depth--;
    return v_text(text);
}

static struct value make_macro(struct vm *vm, const struct node *n) {
    struct macro *macro = box_new(&vm->box, sizeof *macro);
    *macro = (struct macro){ n, vm->scope };
    vm->n_closures++;
    return (struct value){ .kind = V_MACRO, .u.macro = macro };
}

/* {% call(x) f(1) %}body{% endcall %}: f gets one more keyword, the body as a macro. */
static void run_call(struct vm *vm, const struct node *n) {
    struct node caller = { .kind = E_CONST, .at = n->at, .constant = make_macro(vm, n) };
    struct node last = { .kind = E_ARG, .op = '=', .at = n->at, .a = &caller, .name = n->name };
    struct node call = *n->b, *copies = NULL, **link = &copies;
    for (const struct node *arg = n->b->args; arg; arg = arg->next) {
        *link = box_new(&vm->box, sizeof **link);
        **link = *arg;
        link = &(*link)->next;
        *link = NULL;
    }
    *link = &last;
    call.args = copies;
    call.next = NULL;
    put_value(vm->out, vm_eval(vm, &call));
}

static enum flow run_if(struct vm *vm, const struct node *n) {
    for (;;) {
        if (v_truth(vm_eval(vm, n->a))) return run(vm, n->b);
        if (!n->c) return GO_ON;
        /* An elif is an S_IF alone in the else body: a loop keeps long chains off the stack. */
        if (n->c->kind != S_IF || n->c->next) return run(vm, n->c);
        n = n->c;
    }
}

static enum flow run_filtered(struct vm *vm, const struct node *n) {
    enum flow flow;
    struct scope *scope = hide(vm, n->hidden, scope_new(vm, vm->scope));
    struct text *text = capture(vm, n->c, scope, &flow);
    struct value v = v_text(text);
    if (n->b) {                      /* the filters see what the body has set */
        struct scope *outer = vm->scope;
        vm->captured = text;
        vm->scope = scope;
        v = vm_eval(vm, n->b);
        vm->scope = outer;
    }
    if (n->kind == S_FILTER) put_value(vm->out, v);
    else assign(vm, n->a, v);
    return flow;
}

static enum flow run_with(struct vm *vm, const struct node *n) {
    struct scope *outer = vm->scope, *scope = hide(vm, n->hidden, scope_new(vm, outer));
    const struct node *target = n->a;
    for (const struct node *v = n->b; v; v = v->next, target = target->next) {
        vm->scope = outer;
        struct value made = vm_eval(vm, v);
        vm->scope = scope;
        assign(vm, target, made);
    }
    vm->scope = scope;
    enum flow flow = run(vm, n->c);
    vm->scope = outer;
    return flow;
}

/* outside: what the body sees besides its own variables; NULL: only the root's. */
static enum flow run_scope(struct vm *vm, const struct node *n, struct scope *outside) {
    enum flow flow;
    struct scope *scope = hide(vm, n->hidden, scope_new(vm, outside));
    put_text(vm->out, capture(vm, n->c, scope, &flow));
    return flow;
}

static enum flow run_block(struct vm *vm, const struct node *n) {
    vm->blocks++;
    enum flow flow = run_scope(vm, n, n->op ? vm->scope : NULL);
    vm->blocks--;
    return flow;
}

static enum flow run_one(struct vm *vm, const struct node *n) {
    switch ((enum node_kind)n->kind) {
    case S_DATA: put_text(vm->out, n->constant.u.text); return GO_ON;
    case S_PRINT: put_value(vm->out, vm_eval(vm, n->a)); return GO_ON;
    case S_IF: return run_if(vm, n);
    case S_FOR: return loop_over(vm, n, vm_eval(vm, n->b), vm->scope, 1);
    case S_SET: assign(vm, n->a, vm_eval(vm, n->b)); return GO_ON;
    case S_SET_BLOCK:
    case S_FILTER: return run_filtered(vm, n);
    case S_MACRO: vm_set(vm, n->symbol, make_macro(vm, n)); return GO_ON;
    case S_CALL: run_call(vm, n); return GO_ON;
    case S_WITH: return run_with(vm, n);
    case S_SCOPE: return run_scope(vm, n, vm->scope);
    case S_BLOCK: return run_block(vm, n);
    case S_SCOPELESS: return run(vm, n->c);
    case S_BREAK: return BREAK;
    default: return CONTINUE;
    }
}

static enum flow run(struct vm *vm, const struct node *first) {
    enum flow flow = GO_ON;
    box_enter(&vm->box);
    for (const struct node *n = first; n && flow == GO_ON; n = n->next) {
        vm->box.at = n->at;
        box_work(&vm->box, 1);
        flow = run_one(vm, n);
    }
    vm->box.depth--;
    return flow;
}

void vm_body(struct vm *vm, const struct node *body) {
    run(vm, body);
}

void vm_run(struct vm *vm) {
    const struct hidden *hidden = vm->t->hidden;
    if (hidden) vm->unset = box_array(&vm->box, vm->t->n_symbols, sizeof *vm->unset);
    for (uint32_t i = 0; hidden && i < hidden->n; i++) vm->unset[hidden->symbol[i]] = true;
    run(vm, vm->t->body);
}

/* vm.h - running a compiled template: variables, calls, and the tables of what
 * is built in.
 *
 * A rendering is single-threaded and owns all it makes; the template is shared
 * and constant. Failures leave through the box. */
#pragma once
#include "prompt/template.h"
#include <time.h>

enum { ARGS_MAX = 8, RANGE_MAX = 100000 };

struct binding { uint32_t symbol; struct value value; };
struct scope { struct scope *up; struct binding *at; size_t n, cap; };

struct macro {
    const struct node *node;         /* S_MACRO, or S_CALL for a caller */
    struct scope *scope;             /* where it was made: its free variables are found there */
};

struct vm {
    struct box box;
    const struct template *t;
    struct value *root;              /* by symbol; V_ABSENT: not set */
    bool *unset;                     /* by symbol: the root hides it until it sets it; or NULL */
    int blocks;                      /* open {% block %}s, which see what the root hides */
    struct scope *scope;             /* innermost; NULL: the root */
    size_t n_closures;               /* macros made so far: their scopes are not reused */
    struct builder *out;
    struct text *captured;           /* what E_CAPTURED stands for */
    int loop_depth;
    struct tm now;                   /* for strftime_now */
    struct held *held;               /* JSON that values borrow from, let go with the vm */
};
struct held { struct json_object *json; struct held *next; };

struct keyword { struct text *name; struct value value; };
struct args { struct list at; struct keyword *named; size_t n_named, named_cap; };

/* `params` names them in order, '?' behind a name: optional, "*": the rest as a list,
 * "**": other keywords as a dict. The function gets one value per name, V_ABSENT when not given. */
struct builtin {
    const char *name, *params;
    struct value (*run)(struct vm *, struct value self, struct value *arg);
};
extern const struct builtin filters[], tests[], functions[];       /* end with a NULL name */
extern const struct builtin text_methods[], list_methods[], tuple_methods[], dict_methods[],
                            loop_methods[], cycler_methods[], int_methods[], float_methods[],
                            dict_functions[];
const struct builtin *builtin_find(const struct builtin *table, struct str name);

void vm_run(struct vm *);                                  /* body of the template to vm->out */
void vm_body(struct vm *, const struct node *);
struct value vm_eval(struct vm *, const struct node *);
void vm_set(struct vm *, uint32_t symbol, struct value);
struct value vm_get(struct vm *, uint32_t symbol);         /* V_ABSENT: not set anywhere */

/* Calls of any value, and of each kind that can be called. */
struct value vm_call(struct vm *, struct value callee, struct args *);
struct value vm_builtin(struct vm *, const struct builtin *, struct value self, struct args *);
struct value vm_macro(struct vm *, const struct macro *, struct args *);
struct value vm_loop_call(struct vm *, struct loop *, struct args *);
struct value vm_loop_attr(struct vm *, struct loop *, const struct text *name);

struct value vm_attr(struct vm *, struct value, struct text *name);           /* v.name */
struct value vm_item(struct vm *, struct value, struct value key);            /* v[key] */
struct value vm_path(struct vm *, struct value, struct value path);           /* "a.b.0" */
struct value vm_slice(struct vm *, struct value, struct value from, struct value to,
                      struct value step);
struct value vm_binary(struct vm *, int op, struct value, struct value);
struct value vm_negate(struct vm *, struct value);
bool vm_test(struct vm *, const struct builtin *, struct value, struct args *);

/* The value with its text, or the texts in its list, marked as safe or not. */
struct value vm_markup(struct vm *, struct value, bool markup);

/* Typed arguments: fail with a sentence when the value is of another type. */
int64_t vm_int(struct vm *, struct value, int64_t when_absent);
struct text *vm_text(struct vm *, struct value, const char *what);
bool vm_bool(struct value, bool when_absent);
_Noreturn void vm_undefined(struct vm *, struct value);    /* fails: "'x' is undefined" */

/* Python's "format % values", "format".format(...) and strftime. */
struct value vm_percent(struct vm *, struct text *format, struct value);
struct value vm_format(struct vm *, struct text *format, struct list *at, struct dict *named);
struct text *vm_strftime(struct vm *, const struct text *format);

/* A stable sort of items by their keys. */
void vm_sort(struct vm *, struct list *items, const struct value *keys, bool reverse);

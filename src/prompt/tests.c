/* tests.c - what may follow `is`. */
#include "prompt/builtins.h"
#include <utf8proc.h>

#define TEST(f, yes) static BUILTIN(f) { return v_bool(yes); }

TEST(is_defined, self.kind != V_UNDEFINED)
TEST(is_undefined, self.kind == V_UNDEFINED)
TEST(is_none, self.kind == V_NONE)
TEST(is_boolean, self.kind == V_BOOL)
TEST(is_true, self.kind == V_BOOL && self.u.truth)
TEST(is_false, self.kind == V_BOOL && !self.u.truth)
TEST(is_integer, self.kind == V_INT || self.kind == V_BIG)
TEST(is_float, self.kind == V_FLOAT)
TEST(is_number, v_number(self) || self.kind == V_BIG)
TEST(is_string, self.kind == V_TEXT)
TEST(is_mapping, self.kind == V_DICT)
TEST(is_escaped, self.kind == V_TEXT && self.u.text->markup)
TEST(is_iterable, v_iterable(self) || self.kind == V_LOOP)
TEST(is_callable, self.kind == V_MACRO || self.kind == V_BUILTIN || self.kind == V_LOOP ||
                  self.kind == V_JOINER || self.kind == V_UNDEFINED)
TEST(is_equal, v_equal(&vm->box, self, arg[0]))
TEST(is_unequal, !v_equal(&vm->box, self, arg[0]))
TEST(is_less, v_less(&vm->box, self, arg[0], "<"))
TEST(is_greater, v_less(&vm->box, arg[0], self, ">"))
TEST(is_at_most, v_less(&vm->box, self, arg[0], "<=") || v_equal(&vm->box, self, arg[0]))
TEST(is_at_least, v_less(&vm->box, arg[0], self, ">=") || v_equal(&vm->box, self, arg[0]))
TEST(is_in, v_contains(&vm->box, arg[0], self))
TEST(is_filter, self.kind == V_TEXT && filter_number(text_str(self.u.text)) >= 0)
TEST(is_test, self.kind == V_TEXT && test_number(text_str(self.u.text)) >= 0)

static BUILTIN(is_sequence) {
    enum list_kind kind = self.kind == V_LIST ? self.u.list->kind : L_GENERATOR;
    return v_bool(self.kind == V_UNDEFINED || self.kind == V_TEXT || self.kind == V_DICT ||
                  (self.kind == V_LIST && (kind <= L_TUPLE || kind == L_RANGE)));
}

static bool divides(struct vm *vm, struct value v, struct value by) {
    struct value rest = vm_binary(vm, '%', v, by);
    return v_number(rest) && v_as_float(rest) == 0;
}

static BUILTIN(is_even) {
    return v_bool(divides(vm, self, v_int(2)));
}

static BUILTIN(is_odd) {
    return v_bool(v_equal(&vm->box, vm_binary(vm, '%', self, v_int(2)), v_int(1)));
}

static BUILTIN(is_divisible) {
    return v_bool(divides(vm, self, arg[0]));
}

static BUILTIN(is_same) {
    struct value a = self, b = arg[0];
    if (a.kind != b.kind) return v_bool(false);
    if (a.kind == V_NONE) return v_bool(true);
    if (a.kind == V_BOOL) return v_bool(a.u.truth == b.u.truth);
    if (a.kind == V_TEXT || a.kind == V_INT) return v_bool(v_equal(&vm->box, a, b));
    return v_bool(a.kind != V_FLOAT && a.u.dict == b.u.dict);
}

/* At least one letter with case, and all of those in this case. */
static bool all_in_case(struct vm *vm, struct value v, utf8proc_category_t wanted) {
    struct str s = text_str(v_str(&vm->box, v));
    bool any = false;
    for (size_t i = 0, n; i < s.len; i += n) {
        utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)point_at(s, i, &n));
        bool cased = c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL ||
            c == UTF8PROC_CATEGORY_LT;
        if (cased && c != wanted) return false;
        any |= cased;
    }
    return any;
}

static BUILTIN(is_lower) {
    return v_bool(all_in_case(vm, self, UTF8PROC_CATEGORY_LL));
}

static BUILTIN(is_upper) {
    return v_bool(all_in_case(vm, self, UTF8PROC_CATEGORY_LU));
}

const struct builtin tests[] = {
    { "defined", "", is_defined },       { "undefined", "", is_undefined },
    { "none", "", is_none },             { "boolean", "", is_boolean },
    { "true", "", is_true },             { "false", "", is_false },
    { "integer", "", is_integer },       { "float", "", is_float },
    { "number", "", is_number },         { "string", "", is_string },
    { "mapping", "", is_mapping },       { "sequence", "", is_sequence },
    { "iterable", "", is_iterable },     { "callable", "", is_callable },
    { "escaped", "", is_escaped },       { "sameas", "other", is_same },
    { "in", "seq", is_in },              { "odd", "", is_odd },
    { "even", "", is_even },             { "divisibleby", "num", is_divisible },
    { "lower", "", is_lower },           { "upper", "", is_upper },
    { "filter", "", is_filter },         { "test", "", is_test },
    { "eq", "other", is_equal },         { "equalto", "other", is_equal },
    { "==", "other", is_equal },         { "ne", "other", is_unequal },
    { "!=", "other", is_unequal },       { "lt", "other", is_less },
    { "lessthan", "other", is_less },    { "<", "other", is_less },
    { "gt", "other", is_greater },       { "greaterthan", "other", is_greater },
    { ">", "other", is_greater },        { "le", "other", is_at_most },
    { "<=", "other", is_at_most },       { "ge", "other", is_at_least },
    { ">=", "other", is_at_least },      { 0 },
};

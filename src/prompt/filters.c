/* filters.c - the tables of filters, tests and functions, with the small ones
 * among them; larger ones are in filters_text.c and filters_list.c. */
#include "prompt/builtins.h"
#include <json-c/json.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static BUILTIN(filter_default) {
    struct value other = arg[0].kind == V_ABSENT ? v_text(text_literal(&vm->box, "")) : arg[0];
    bool use_other = self.kind == V_UNDEFINED || (vm_bool(arg[1], false) && !v_truth(self));
    return use_other ? other : self;
}

static BUILTIN(filter_abs) {
    if (self.kind == V_FLOAT) return v_float(fabs(self.u.f));
    if (!v_is_int(self)) box_fail(&vm->box, "abs needs a number, not %s", v_type(self));
    return v_as_int(self) < 0 ? vm_negate(vm, self) : v_int(v_as_int(self));
}

static bool float_to_int(double f, int64_t *out) {
    if (!(f >= -0x1p63 && f < 0x1p63)) return false;
    *out = (int64_t)f;
    return true;
}

static BUILTIN(filter_int) {
    struct value other = arg[0].kind == V_ABSENT ? v_int(0) : arg[0];
    int64_t base = vm_int(vm, arg[1], 10), n;
    double f;
    if (self.kind == V_UNDEFINED) vm_undefined(vm, self);
    if (base != 0 && (base < 2 || base > 36)) return other;
    if (v_is_int(self)) return v_int(v_as_int(self));
    if (self.kind == V_FLOAT) {
        if (isnan(self.u.f)) return other;
        if (!float_to_int(self.u.f, &n)) box_fail(&vm->box, "int: the float has no 64-bit integer");
        return v_int(n);
    }
    if (self.kind != V_TEXT) return other;
    struct str s = text_str(self.u.text);
    if (number_int(s, (int)base, &n)) return v_int(n);
    return number_float(s, &f) && float_to_int(f, &n) ? v_int(n) : other;
}

static BUILTIN(filter_float) {
    double f;
    if (self.kind == V_UNDEFINED) vm_undefined(vm, self);
    if (v_number(self)) return v_float(v_as_float(self));
    if (self.kind == V_TEXT && number_float(text_str(self.u.text), &f)) return v_float(f);
    return arg[0].kind == V_ABSENT ? v_float(0) : arg[0];
}

/* To a decimal place, ties as the exact binary value decides: printf rounds just so. */
static double round_to(double f, int64_t places) {
    char digits[800];
    if (!isfinite(f) || places > 340) return f;
    if (places < 0) {
        double unit = pow(10, (double)-places);
        return isfinite(unit) ? nearbyint(f / unit) * unit : copysign(0, f);
    }
    snprintf(digits, sizeof digits, "%.*f", (int)places, f);
    return text_double(digits);
}

static BUILTIN(filter_round) {
    int64_t places = vm_int(vm, arg[0], 0);
    struct text *method = arg[1].kind == V_ABSENT ? NULL : vm_text(vm, arg[1], "the method");
    if (self.kind == V_UNDEFINED) vm_undefined(vm, self);
    if (!v_number(self)) box_fail(&vm->box, "round needs a number, not %s", v_type(self));
    if (!method || text_is(method, "common")) {
        if (v_is_int(self) && places >= 0) return v_int(v_as_int(self));
        if (v_is_int(self)) return v_int((int64_t)round_to((double)v_as_int(self), places));
        return v_float(round_to(self.u.f, places));
    }
    double unit = pow(10, (double)places), scaled = v_as_float(self) * unit;
    bool up = text_is(method, "ceil");
    if (!up && !text_is(method, "floor"))
        box_fail(&vm->box, "round: the method must be common, ceil or floor");
    if (!isfinite(scaled)) box_fail(&vm->box, "round: there is no whole number next to this one");
    /* Python has an integer here, which is never -0. */
    return v_float(((up ? ceil(scaled) : floor(scaled)) + 0.0) / unit);
}

static BUILTIN(filter_attr) {
    struct text *name = vm_text(vm, arg[0], "an attribute's name");
    if (self.kind == V_UNDEFINED) vm_undefined(vm, self);
    if (self.kind == V_DICT && !builtin_find(dict_methods, text_str(name)))
        return v_missing(&vm->box, "a dict has no attribute '%.*s'", STR_ARG(text_str(name)));
    return vm_attr(vm, self, name);
}

static BUILTIN(filter_from_json) {
    enum { JSON_DEPTH_MAX = 128 };
    struct text *t = vm_text(vm, self, "what from_json reads");
    struct held *held = box_new(&vm->box, sizeof *held);
    struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH_MAX);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
    /* A NUL ends the text for the parser, which a bare number needs to know. */
    held->json = json_tokener_parse_ex(tokener, arena_str(&vm->box.arena, text_str(t)),
                                       (int)t->len + 1);
    bool good = json_tokener_get_error(tokener) == json_tokener_success &&
                json_tokener_get_parse_end(tokener) >= t->len;
    json_tokener_free(tokener);
    held->next = vm->held;
    vm->held = held;
    if (!good) box_fail(&vm->box, "from_json: the string is not JSON");
    return v_json(&vm->box, held->json, text_from_input(t));
}

const struct builtin filters[] = {
    { "abs", "", filter_abs },
    { "attr", "name", filter_attr },
    { "batch", "linecount fill_with?", filter_batch },
    { "capitalize", "", filter_capitalize },
    { "center", "width?", filter_center },
    { "count", "", filter_length },
    { "d", "default_value? boolean?", filter_default },
    { "default", "default_value? boolean?", filter_default },
    { "dictsort", "case_sensitive? by? reverse?", filter_dictsort },
    { "e", "", filter_escape },
    { "escape", "", filter_escape },
    { "filesizeformat", "binary?", filter_filesizeformat },
    { "first", "", filter_first },
    { "float", "default?", filter_float },
    { "forceescape", "", filter_forceescape },
    { "format", "* **", filter_format },
    { "from_json", "", filter_from_json },
    { "groupby", "attribute default? case_sensitive?", filter_groupby },
    { "indent", "width? first? blank?", filter_indent },
    { "int", "default? base?", filter_int },
    { "items", "", filter_items },
    { "join", "d? attribute?", filter_join },
    { "last", "", filter_last },
    { "length", "", filter_length },
    { "list", "", filter_list },
    { "lower", "", filter_lower },
    { "map", "* **", filter_map },
    { "max", "case_sensitive? attribute?", filter_max },
    { "min", "case_sensitive? attribute?", filter_min },
    { "pprint", "", filter_pprint },
    { "random", "", filter_random },
    { "reject", "* **", filter_reject },
    { "rejectattr", "* **", filter_rejectattr },
    { "replace", "old new count?", filter_replace },
    { "reverse", "", filter_reverse },
    { "round", "precision? method?", filter_round },
    { "safe", "", filter_safe },
    { "select", "* **", filter_select },
    { "selectattr", "* **", filter_selectattr },
    { "slice", "slices fill_with?", filter_slice },
    { "sort", "reverse? case_sensitive? attribute?", filter_sort },
    { "string", "", filter_string },
    { "striptags", "", filter_striptags },
    { "sum", "attribute? start?", filter_sum },
    { "title", "", filter_title },
    { "tojson", "ensure_ascii? indent? separators? sort_keys?", filter_tojson },
    { "trim", "chars?", filter_trim },
    { "truncate", "length? killwords? end? leeway?", filter_truncate },
    { "unique", "case_sensitive? attribute?", filter_unique },
    { "upper", "", filter_upper },
    { "urlencode", "", filter_urlencode },
    { "urlize", "* **", filter_urlize },
    { "wordcount", "", filter_wordcount },
    { "wordwrap", "width? break_long_words? wrapstring? break_on_hyphens?", filter_wordwrap },
    { "xmlattr", "autospace?", filter_xmlattr },
    { 0 },
};

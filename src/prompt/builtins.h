/* builtins.h - what the files of built-in functions share with each other. */
#pragma once
#include "prompt/vm.h"

#define UNUSED __attribute__((unused))
#define BUILTIN(f) \
    struct value f(UNUSED struct vm *vm, UNUSED struct value self, UNUSED struct value *arg)

/* Strings (strings.c): used by filters and by methods of the same name. */
enum string_case { CASE_UPPER, CASE_LOWER, CASE_CAPITAL, CASE_TITLE, CASE_SWAP, CASE_FOLD };
struct text *string_case(struct vm *, struct text *, enum string_case);
struct text *string_trim(struct vm *, struct text *, struct value set, bool left, bool right);
struct text *string_replace(struct vm *, struct text *, struct text *from, struct text *to,
                            int64_t times);                        /* negative: all */
struct text *string_pad(struct vm *, struct text *, int64_t width, struct value fill,
                        int left_parts, int right_parts);          /* (0, 1), (1, 0) or (1, 1) */
struct text *string_join(struct vm *, struct text *separator, struct list *items);

/* Filters on text (filters_text.c) and on sequences (filters_list.c). */
BUILTIN(filter_upper); BUILTIN(filter_lower); BUILTIN(filter_capitalize); BUILTIN(filter_title);
BUILTIN(filter_trim); BUILTIN(filter_replace); BUILTIN(filter_center); BUILTIN(filter_indent);
BUILTIN(filter_truncate); BUILTIN(filter_wordcount);
BUILTIN(filter_escape); BUILTIN(filter_forceescape); BUILTIN(filter_safe);
BUILTIN(filter_striptags);
BUILTIN(filter_urlencode); BUILTIN(filter_filesizeformat);
BUILTIN(filter_format); BUILTIN(filter_string); BUILTIN(filter_pprint); BUILTIN(filter_tojson);

/* (filters_wrap.c) */
BUILTIN(filter_wordwrap); BUILTIN(filter_xmlattr); BUILTIN(filter_random); BUILTIN(filter_urlize);

BUILTIN(filter_length); BUILTIN(filter_list); BUILTIN(filter_first); BUILTIN(filter_last);
BUILTIN(filter_join); BUILTIN(filter_items); BUILTIN(filter_dictsort); BUILTIN(filter_sort);
BUILTIN(filter_unique); BUILTIN(filter_min); BUILTIN(filter_max); BUILTIN(filter_sum);
BUILTIN(filter_groupby); BUILTIN(filter_map); BUILTIN(filter_select); BUILTIN(filter_reject);
BUILTIN(filter_selectattr); BUILTIN(filter_rejectattr); BUILTIN(filter_batch);
BUILTIN(filter_slice); BUILTIN(filter_reverse);

/* Text that is a number as Python's float() and int() take it. */
bool number_float(struct str, double *);
bool number_int(struct str, int base, int64_t *);

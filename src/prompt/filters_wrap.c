/* filters_wrap.c - wordwrap and xmlattr, and the filters that a prompt cannot have.
 *
 * wordwrap is Python's textwrap: a line is cut into words, gaps and dashes, and these are put
 * into lines by their number of code points. */
#include "prompt/builtins.h"
#include <string.h>
#include <utf8proc.h>

struct wrap {
    struct vm *vm;
    struct text *t;
    const uint32_t *cp;              /* of the line, and where each begins */
    const size_t *offset;            /* [n + 1] */
    size_t n;
    size_t width;
    bool break_words, break_hyphens;
    struct list *lines;
};

static bool blank(uint32_t cp) {
    return cp == ' ' || (cp >= 0x09 && cp <= 0x0D);
}

static bool wordy(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return cp == '_' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
           (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
}

static bool letter(const struct wrap *w, size_t i) {
    return i < w->n && wordy(w->cp[i]) &&
           utf8proc_category((utf8proc_int32_t)w->cp[i]) != UTF8PROC_CATEGORY_ND;
}

static bool before_dash(uint32_t cp) {
    return wordy(cp) || (cp < 0x80 && cp && strchr("!\"'&.,?", (int)cp));
}

/* The end of two dashes or more at i with a word behind them; 0: there are none. */
static size_t dashes(const struct wrap *w, size_t i) {
    size_t end = i;
    while (end < w->n && w->cp[end] == '-') end++;
    return end - i >= 2 && end < w->n && wordy(w->cp[end]) ? end : 0;
}

/* A hyphen at i between letters: "well-known" may be parted behind it. */
static bool parts(const struct wrap *w, size_t i) {
    bool left = (i >= 2 && letter(w, i - 1) && letter(w, i - 2)) ||
                (i >= 3 && letter(w, i - 3) && w->cp[i - 2] == '-' && before_dash(w->cp[i - 1]));
    size_t next = i + 2 < w->n && w->cp[i + 2] == '-' ? i + 3 : i + 2;
    return left && letter(w, i + 1) && letter(w, next);
}

/* Where the piece that begins at i ends. */
static size_t piece_end(const struct wrap *w, size_t i) {
    size_t end = i;
    while (end < w->n && blank(w->cp[end])) end++;
    if (end > i) return end;
    if (w->break_hyphens && i > 0 && before_dash(w->cp[i - 1]) && (end = dashes(w, i))) return end;
    for (end = i + 1; end < w->n && !blank(w->cp[end]); end++) {
        if (!w->break_hyphens) continue;
        if (w->cp[end] == '-' && parts(w, end)) return end + 1;
        if (before_dash(w->cp[end - 1]) && dashes(w, end)) return end;
    }
    return end;
}

/* Where a word from `from` that has no room in a line of `room` more is broken. */
static size_t broken(const struct wrap *w, size_t from, size_t end, size_t room) {
    bool solid = false;
    size_t at = from + MIN(room, end - from);
    for (size_t i = from; w->break_hyphens && end - from > room && i < from + room; i++) {
        if (w->cp[i] == '-' && solid) at = i + 1;
        solid |= w->cp[i] != '-';
    }
    return at;
}

static bool is_gap(const struct wrap *w, size_t from, size_t to) {
    while (from < to && point_is_space(w->cp[from])) from++;
    return from == to;
}

/* Goes on with the line that begins at `at`; gives where the next one does. */
static size_t put_line(struct wrap *w, size_t at, size_t *piece) {
    size_t begin = at, last = at;    /* the last piece in the line begins at `last` */
    while (at < w->n && *piece - begin <= w->width) {
        last = at;
        at = *piece;
        *piece = at < w->n ? piece_end(w, at) : at;
    }
    if (at < w->n && *piece - at > w->width) {
        size_t end = w->break_words ? broken(w, at, *piece, w->width - (at - begin))
                   : at == begin ? *piece : at;
        if (end > at || w->break_words) last = at;
        at = end;
        if (at == *piece && at < w->n) *piece = piece_end(w, at);
    }
    size_t end = is_gap(w, last, at) ? last : at;
    if (end > begin)
        list_put(&w->vm->box, w->lines,
                 v_text(text_cut(&w->vm->box, w->t, w->offset[begin], w->offset[end])));
    return at;
}

static void wrap_line(struct wrap *w) {
    size_t at = 0, before = w->lines->n, piece = w->n ? piece_end(w, 0) : 0;
    while (at < w->n) {
        box_work(&w->vm->box, 1);
        /* No line but the first begins with a gap. */
        if (w->lines->n > before && is_gap(w, at, piece)) {
            at = piece;
            if (at < w->n) piece = piece_end(w, at);
            if (at >= w->n) break;
        }
        at = put_line(w, at, &piece);
    }
}

static void wrap_text(struct wrap *w, struct text *line) {
    struct str s = text_str(line);
    size_t points = text_points(&w->vm->box, line), n;
    uint32_t *cp = box_array(&w->vm->box, points + 1, sizeof *cp);
    size_t *offset = box_array(&w->vm->box, points + 1, sizeof *offset);
    box_work(&w->vm->box, points);
    w->n = 0;
    for (size_t i = 0; i < s.len; i += n) {
        offset[w->n] = i;
        cp[w->n++] = point_at(s, i, &n);
    }
    offset[w->n] = s.len;
    w->t = line;
    w->cp = cp;
    w->offset = offset;
    wrap_line(w);
}

BUILTIN(filter_wordwrap) {
    struct text *t = vm_text(vm, self, "what wordwrap takes");
    struct text *end = arg[2].kind == V_ABSENT || arg[2].kind == V_NONE
        ? text_literal(&vm->box, "\n") : vm_text(vm, arg[2], "the line's end");
    int64_t width = vm_int(vm, arg[0], 79);
    struct list *lines = v_items(&vm->box, vm_builtin(vm, builtin_find(text_methods,
        S("splitlines")), v_text(t), &(struct args){ 0 }));
    struct list *wrapped = list_new(&vm->box, L_LIST, lines->n);
    if (width < 1 && lines->n) box_fail(&vm->box, "wordwrap needs a positive width");
    for (size_t i = 0; i < lines->n; i++) {
        struct wrap w = { .vm = vm, .width = (size_t)width, .lines = list_new(&vm->box, L_LIST, 0),
                          .break_words = vm_bool(arg[1], true),
                          .break_hyphens = vm_bool(arg[3], true) };
        wrap_text(&w, lines->at[i].u.text);
        list_put(&vm->box, wrapped, v_text(string_join(vm, end, w.lines)));
    }
    return v_text(string_join(vm, end, wrapped));
}

BUILTIN(filter_xmlattr) {
    struct builder b = { .box = &vm->box };
    if (self.kind != V_DICT) box_fail(&vm->box, "xmlattr needs a dict, not %s", v_type(self));
    for (size_t i = 0; i < self.u.dict->n; i++) {
        const struct pair *pair = &self.u.dict->at[i];
        if (pair->value.kind == V_NONE || pair->value.kind == V_UNDEFINED) continue;
        struct text *key = vm_text(vm, pair->key, "an attribute's name");
        for (size_t k = 0; k < key->len; k++)
            if (key->at[k] && strchr(" \t\n\r\f\v/>=", key->at[k]))
                box_fail(&vm->box, "xmlattr: a name with white space, '/', '>' or '='");
        if (b.len || vm_bool(arg[0], true)) put_c(&b, " ");
        struct text *value = v_str(&vm->box, pair->value);
        put_text(&b, key->markup ? key : text_escaped(&vm->box, key));
        put_c(&b, "=\"");
        put_text(&b, value->markup ? value : text_escaped(&vm->box, value));
        put_c(&b, "\"");
    }
    return v_text(built(&b));
}

BUILTIN(filter_random) {
    box_fail(&vm->box, "random is not supported: a dialog must always give the same prompt");
}

BUILTIN(filter_urlize) {
    box_fail(&vm->box, "urlize is not supported: a prompt is no HTML");
}

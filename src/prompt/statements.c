/* statements.c - template statements: tokens to a tree, and compiling as a
 * whole. Bodies nest by recursion, counted and capped. */
#include "prompt/parse.h"
#include "base/utf8.h"
#include <stdlib.h>
#include <string.h>

static struct node *statement(struct parser *p);

static void block_end(struct parser *p) {
    if (p->token->kind != T_BLOCK_END) parse_fail(p, "the end of the tag");
    p->token++;
}

static bool at_tag(const struct parser *p, const char *name) {
    return p->token->kind == T_BLOCK && p->token[1].kind == T_NAME &&
           str_is(p->token[1].u.text, name);
}

static bool at_any_tag(const struct parser *p, const char *const *names) {
    while (names && *names)
        if (at_tag(p, *names++)) return true;
    return false;
}

static struct node *print(struct parser *p) {
    struct node *n = node_new(p, S_PRINT);
    p->token++;
    n->a = parse_tuple(p, true);
    if (p->token->kind != T_PRINT_END) parse_fail(p, "the end of the print tag");
    p->token++;
    return n;
}

/* Up to one of `ends` (a NULL-ended list; NULL: the template's end), which stays. */
static struct node *body_until(struct parser *p, const char *const *ends) {
    struct node *first = NULL, **last = &first;
    uint32_t opened = p->token->at;
    parse_enter(p);
    while (p->token->kind != T_END && !at_any_tag(p, ends)) {
        if (p->token->kind == T_DATA) {
            *last = node_new(p, S_DATA);
            (*last)->constant = v_text(text_view(p->box, p->token->u.text, false));
            p->token++;
        } else if (p->token->kind == T_PRINT) {
            *last = print(p);
        } else {
            *last = statement(p);
        }
        parse_known(p);
        last = &(*last)->next;
    }
    p->nesting--;
    if (ends && p->token->kind == T_END) {
        p->box->at = opened;
        box_fail(p->box, "the block that opens before this is never closed by \"%s\"", ends[0]);
    }
    return first;
}

/* A body with variables of its own, in which `soft` no longer holds. */
static struct node *inner_body(struct parser *p, const char *const *ends) {
    bool soft = p->soft;
    p->soft = false;
    struct node *n = body_until(p, ends);
    p->soft = soft;
    return n;
}

/* Such a body and its closing tag. */
static struct node *body(struct parser *p, const char *end) {
    const char *const ends[] = { end, NULL };
    block_end(p);
    struct node *n = inner_body(p, ends);
    p->token += 2;
    return n;
}

/* Filters on what a block writes. */
static struct node *filters_on_body(struct parser *p, bool first) {
    bool soft = p->soft;
    p->soft = false;
    struct node *n = parse_filters(p, node_new(p, E_CAPTURED), first);
    p->soft = soft;
    return n;
}

static struct node *if_statement(struct parser *p) {
    static const char *const ends[] = { "endif", "elif", "else", NULL };
    static const char *const last_ends[] = { "endif", NULL };
    struct node *first = NULL, **link = &first;
    bool soft = p->soft;
    p->soft = true;
    for (;;) {
        struct node *n = node_new(p, S_IF);
        p->token++;
        n->a = parse_tuple(p, false);
        block_end(p);
        n->b = body_until(p, ends);
        *link = n;
        link = &n->c;
        p->token++;
        if (next_word(p, "elif")) continue;
        if (next_word(p, "else")) {
            p->token++;
            block_end(p);
            *link = body_until(p, last_ends);
            p->token++;
        }
        p->token++;
        p->soft = soft;
        return first;
    }
}

/* A loop over message.content means the template takes content as a list of parts. */
static bool reads_content(const struct node *n) {
    if (n->kind == E_ATTR || n->kind == E_NAME) return text_is(n->name, "content");
    return n->kind == E_ITEM && n->b->kind == E_CONST && n->b->constant.kind == V_TEXT &&
           text_is(n->b->constant.u.text, "content");
}

/* The names of a target, as set by a statement or bound by a loop or a `with`. */
static void use_target(struct parser *p, const struct node *target, bool set) {
    if (target->kind != E_TUPLE) {
        frame_use(p, target->symbol, set && target->kind == E_NAME);
        return;
    }
    for (const struct node *part = target->a; part; part = part->next) use_target(p, part, set);
}

/* The part of a loop that is not its body. */
static void open_beside(struct parser *p) {
    frame_open(p, box_new(p->box, sizeof(struct hidden *)), false);
}

static struct node *for_statement(struct parser *p) {
    static const char *const ends[] = { "endfor", "else", NULL };
    struct node *n = node_new(p, S_FOR);
    p->token++;
    n->a = parse_target(p, false);
    if (!take_word(p, "in")) parse_fail(p, "'in'");
    n->b = parse_tuple(p, false);
    p->t->reads_parts |= reads_content(n->b);
    bool soft = p->soft;
    p->soft = false;
    open_beside(p);
    use_target(p, n->a, false);
    if (take_word(p, "if")) n->e = parse_expression(p);
    frame_close(p);
    p->soft = soft;
    n->op = take_word(p, "recursive");
    block_end(p);
    p->loops++;
    frame_open(p, &n->hidden, false);
    use_target(p, n->a, false);
    n->c = inner_body(p, ends);
    frame_close(p);
    p->loops--;
    p->token++;
    if (take_word(p, "else")) {
        n->d = node_new(p, S_SCOPE);
        frame_open(p, &n->d->hidden, false);
        n->d->c = body(p, "endfor");
        frame_close(p);
        return n;
    }
    p->token++;
    return n;
}

static struct node *set_statement(struct parser *p) {
    struct node *n = node_new(p, S_SET);
    p->token++;
    n->a = parse_target(p, true);
    if (take(p, '=')) {
        n->b = parse_tuple(p, true);
        use_target(p, n->a, true);
        return n;
    }
    n->kind = S_SET_BLOCK;
    use_target(p, n->a, true);
    frame_open(p, &n->hidden, false);
    n->b = filters_on_body(p, false);
    n->c = body(p, "endset");
    frame_close(p);
    return n;
}

static struct node *parameters(struct parser *p) {
    struct node *first = NULL, **last = &first;
    bool defaults = false;
    expect(p, '(', "'('");
    while (!next_is(p, ')')) {
        struct node *n = name_node(p);
        frame_use(p, n->symbol, false);
        if (take(p, '=')) n->a = parse_expression(p);
        if (defaults && !n->a) parse_fail(p, "a default, as the parameter before has one");
        defaults |= n->a != NULL;
        *last = n;
        last = &n->next;
        if (!take(p, ',')) break;
        if (next_is(p, ')')) parse_fail(p, "a name");
    }
    expect(p, ')', "',' or ')'");
    return first;
}

/* A body that runs apart from its surroundings: what it names decides what it may be given. */
static void closed_body(struct parser *p, struct node *n, const char *end) {
    bool caller = p->saw_caller, varargs = p->saw_varargs, kwargs = p->saw_kwargs;
    int loops = p->loops;
    p->saw_caller = p->saw_varargs = p->saw_kwargs = false;
    p->loops = 0;
    n->c = body(p, end);
    n->calls_caller = p->saw_caller;
    n->takes_varargs = p->saw_varargs;
    n->takes_kwargs = p->saw_kwargs;
    p->loops = loops;
    p->saw_caller |= caller;
    p->saw_varargs |= varargs;
    p->saw_kwargs |= kwargs;
}

static struct node *macro_statement(struct parser *p) {
    struct node *n = node_new(p, S_MACRO);
    p->token++;
    struct node *name = name_node(p);
    n->symbol = name->symbol;
    n->name = name->name;
    frame_use(p, n->symbol, true);
    frame_open(p, &n->hidden, false);
    n->a = parameters(p);
    closed_body(p, n, "endmacro");
    frame_close(p);
    return n;
}

static struct node *call_statement(struct parser *p) {
    struct node *n = node_new(p, S_CALL);
    p->token++;
    frame_open(p, &n->hidden, false);
    struct frame *frame = p->frame;
    if (next_is(p, '(')) n->a = parameters(p);
    frame_close(p);
    n->b = parse_expression(p);
    if (n->b->kind != E_CALL) parse_fail(p, "a call");
    n->name = text_literal(p->box, "caller");
    p->frame = frame;
    closed_body(p, n, "endcall");
    frame_close(p);
    return n;
}

static struct node *filter_statement(struct parser *p) {
    struct node *n = node_new(p, S_FILTER);
    p->token++;
    n->b = filters_on_body(p, true);
    frame_open(p, &n->hidden, false);
    n->c = body(p, "endfilter");
    frame_close(p);
    return n;
}

static struct node *with_statement(struct parser *p) {
    struct node *n = node_new(p, S_WITH), **a = &n->a, **b = &n->b;
    p->token++;
    while (p->token->kind != T_BLOCK_END) {
        if (n->a) expect(p, ',', "','");
        *a = parse_target(p, false);
        a = &(*a)->next;
        expect(p, '=', "'='");
        *b = parse_expression(p);
        b = &(*b)->next;
    }
    frame_open(p, &n->hidden, false);
    for (const struct node *target = n->a; target; target = target->next)
        use_target(p, target, false);
    n->c = body(p, "endwith");
    frame_close(p);
    return n;
}

static struct node *scope_statement(struct parser *p) {
    struct node *n = node_new(p, S_SCOPE);
    p->token++;
    frame_open(p, &n->hidden, false);
    n->c = body(p, "endgeneration");
    frame_close(p);
    return n;
}

/* {% block name %} is written where it stands, as nothing can extend a chat template. */
static struct node *block_statement(struct parser *p) {
    enum { BLOCKS_MAX = 1000 };
    struct node *n = node_new(p, S_BLOCK);
    p->token++;
    n->symbol = name_node(p)->symbol;
    for (const struct node *b = p->blocks; b; b = b->d)
        if (b->symbol == n->symbol) parse_fail(p, "a name that no other block has");
    if (++p->n_blocks > BLOCKS_MAX) box_limit(p->box, "more than %d blocks", BLOCKS_MAX);
    n->op = take_word(p, "scoped");
    n->d = p->blocks;
    p->blocks = n;
    if (next_word(p, "required")) parse_fail(p, "no required block: nothing can fill it");
    int loops = p->loops;
    p->loops = 0;
    frame_open(p, &n->hidden, true);
    n->c = body(p, "endblock");
    frame_close(p);
    p->loops = loops;
    if (p->token->kind == T_NAME && p->t->symbol[n->symbol] &&
        str_eq(p->token->u.text, text_str(p->t->symbol[n->symbol]))) p->token++;
    return n;
}

/* {% print a, b %} writes one after the other. */
static struct node *print_statement(struct parser *p) {
    struct node *n = node_new(p, S_SCOPELESS), **last = &n->c;
    p->token++;
    while (p->token->kind != T_BLOCK_END) {
        if (n->c) expect(p, ',', "','");
        *last = node_new(p, S_PRINT);
        (*last)->a = parse_expression(p);
        last = &(*last)->next;
    }
    return n;
}

static struct node *jump_statement(struct parser *p) {
    struct node *n = node_new(p, next_word(p, "break") ? S_BREAK : S_CONTINUE);
    if (!p->loops) parse_fail(p, "a loop around it");
    p->token++;
    return n;
}

static const struct statement {
    const char *name;
    struct node *(*parse)(struct parser *);
} statements[] = {
    { "if", if_statement },         { "for", for_statement },
    { "set", set_statement },       { "macro", macro_statement },
    { "call", call_statement },     { "filter", filter_statement },
    { "with", with_statement },     { "generation", scope_statement },
    { "block", block_statement },
    { "print", print_statement },   { "break", jump_statement },
    { "continue", jump_statement },
};

static struct node *statement(struct parser *p) {
    static const char *const loaders[] = { "include", "import", "from", "extends" };
    p->token++;
    if (p->token->kind != T_NAME) parse_fail(p, "a statement");
    for (size_t i = 0; i < COUNT(statements); i++) {
        if (!next_word(p, statements[i].name)) continue;
        struct node *n = statements[i].parse(p);
        block_end(p);
        return n;
    }
    p->box->at = p->token->at;
    for (size_t i = 0; i < COUNT(loaders); i++)
        if (next_word(p, loaders[i]))
            box_fail(p->box, "{%% %s %%} is not supported: a chat template stands alone",
                     loaders[i]);
    if (next_word(p, "autoescape"))
        box_fail(p->box, "{%% autoescape %%} is not supported: a prompt is no HTML");
    box_fail(p->box, "unknown statement \"%.*s\"", STR_ARG(p->token->u.text));
}

struct node *parse_body(struct parser *p) {
    return body_until(p, NULL);
}

/* Line ends become "\n", and one at the very end goes, as Jinja does it. */
static struct str normalised(struct box *box, struct str text) {
    char *to = box_new(box, text.len + 1);
    size_t n = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (c == '\r') {
            if (i + 1 < text.len && text.at[i + 1] == '\n') i++;
            c = '\n';
        }
        to[n++] = c;
    }
    if (n && to[n - 1] == '\n') n--;
    return (struct str){ to, n };
}

static bool usable(struct str text, struct err *err) {
    if (!text.len) return err_set(err, "chat template: it is empty");
    if (text.len > SOURCE_MAX)
        return err_set(err, "chat template: it has %zu bytes, more than %d", text.len, SOURCE_MAX);
    for (size_t i = 0, line = 1; i < text.len;) {
        uint32_t cp;
        int n = utf8_next(str_from(text, i), &cp);
        if (!n) return err_set(err, "chat template line %zu: it is not valid UTF-8", line);
        line += cp == '\n';
        i += (size_t)n;
    }
    return true;
}

struct template *template_open(struct str text, struct err *err) {
    if (!usable(text, err)) return NULL;
    struct template *t = mem_new(sizeof *t);
    box_open(&t->box, NULL, err);
    if (setjmp(t->box.exit)) {
        template_close(t);
        return NULL;
    }
    t->source.text = normalised(&t->box, text);
    t->box.source = &t->source;
    struct tokens tokens = { 0 };
    lex(&t->box, t->source.text, &tokens);
    struct parser p = { .box = &t->box, .t = t, .token = tokens.at };
    frame_open(&p, &t->hidden, true);
    t->body = parse_body(&p);
    frames_settle(&p);
    t->box.err = NULL;
    return t;
}

void template_close(struct template *t) {
    if (!t) return;
    map_free(&t->symbols);
    box_close(&t->box);
    free(t);
}

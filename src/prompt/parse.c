/* parse.c - expressions: tokens to a tree, with Jinja's precedences. Recursion
 * is counted and capped; long chains (a + b + c ...) are loops, capped too. */
#include "prompt/parse.h"
#include <string.h>

struct node *node_new(struct parser *p, int kind) {
    struct node *n = box_new(p->box, sizeof *n);
    n->kind = (uint8_t)kind;
    n->at = p->token->at;
    return n;
}

void parse_fail(struct parser *p, const char *expected) {
    p->box->at = p->token->at;
    const struct token *t = p->token;
    char op[3] = { (char)(t->op & 0xFF), (char)(t->op >> 8), 0 };
    switch (t->kind) {
    case T_NAME: case T_STRING:
        box_fail(p->box, "%s expected, not \"%.*s\"", expected, STR_ARG(str_cut(t->u.text, 0, 60)));
    case T_INT: case T_FLOAT: box_fail(p->box, "%s expected, not a number", expected);
    case T_OP: box_fail(p->box, "%s expected, not \"%s\"", expected, op);
    case T_END: box_fail(p->box, "%s expected, not the end of the template", expected);
    default: box_fail(p->box, "%s expected, not the end of the tag", expected);
    }
}

void parse_enter(struct parser *p) {
    if (++p->nesting > NESTING_MAX) {
        p->box->at = p->token->at;
        box_limit(p->box, "nested too deeply");
    }
}

static void link_chain(struct parser *p, int *links) {
    if (++*links > CHAIN_MAX) {
        p->box->at = p->token->at;
        box_limit(p->box, "an expression with more than %d parts", CHAIN_MAX);
    }
}

bool next_is(const struct parser *p, int op) {
    return p->token->kind == T_OP && p->token->op == op;
}

bool next_word(const struct parser *p, const char *name) {
    return p->token->kind == T_NAME && str_is(p->token->u.text, name);
}

bool take(struct parser *p, int op) {
    bool is = next_is(p, op);
    p->token += is;
    return is;
}

bool take_word(struct parser *p, const char *name) {
    bool is = next_word(p, name);
    p->token += is;
    return is;
}

void expect(struct parser *p, int op, const char *what) {
    if (!take(p, op)) parse_fail(p, what);
}

struct node *name_node(struct parser *p) {
    if (p->token->kind != T_NAME) parse_fail(p, "a name");
    struct node *n = node_new(p, E_NAME);
    struct str name = (p->token++)->u.text;
    struct template *t = p->t;
    uint32_t number;
    if (!map_get(&t->symbols, name, &number)) {
        number = t->n_symbols;
        map_put(&t->symbols, name, number);
        if (!(number & (number - 1))) {          /* full at every power of two */
            struct text **more = box_array(p->box, number ? 2 * (size_t)number : 1, sizeof *more);
            if (number) memcpy(more, t->symbol, number * sizeof *more);
            t->symbol = more;
        }
        t->symbol[t->n_symbols++] = text_view(p->box, name, false);
    }
    n->symbol = number;
    n->name = t->symbol[number];
    p->saw_caller |= str_is(name, "caller");
    p->saw_varargs |= str_is(name, "varargs");
    p->saw_kwargs |= str_is(name, "kwargs");
    return n;
}

static struct node *constant(struct parser *p, struct value v) {
    struct node *n = node_new(p, E_CONST);
    n->constant = v;
    p->token++;
    return n;
}

static struct node *strings(struct parser *p) {
    struct node *n = constant(p, v_text(text_view(p->box, p->token->u.text, false)));
    if (p->token->kind != T_STRING) return n;
    struct builder b = { .box = p->box };
    put_text(&b, n->constant.u.text);
    for (; p->token->kind == T_STRING; p->token++)
        put(&b, p->token->u.text.at, p->token->u.text.len, false);
    n->constant = v_text(built(&b));
    return n;
}

/* [a, b] or {a: b}: the opening bracket is next. */
static struct node *display(struct parser *p, int close, bool pairs) {
    struct node *n = node_new(p, pairs ? E_DICT : E_LIST), **a = &n->a, **b = &n->b;
    p->token++;
    while (!next_is(p, close)) {
        *a = parse_expression(p);
        a = &(*a)->next;
        if (pairs) {
            expect(p, ':', "':'");
            *b = parse_expression(p);
            b = &(*b)->next;
        }
        if (!take(p, ',')) break;
    }
    expect(p, close, close == ']' ? "',' or ']'" : "',' or '}'");
    return n;
}

static struct node *parenthesis(struct parser *p) {
    struct node *n = node_new(p, E_TUPLE);
    p->token++;
    if (take(p, ')')) return n;
    n = parse_tuple(p, true);
    expect(p, ')', "')'");
    return n;
}

static struct node *read_name(struct parser *p) {
    struct node *n = name_node(p);
    frame_use(p, n->symbol, false);
    return n;
}

static struct node *primary(struct parser *p) {
    const struct token *t = p->token;
    switch (t->kind) {
    case T_NAME:
        if (str_is(t->u.text, "true") || str_is(t->u.text, "True"))
            return constant(p, v_bool(true));
        if (str_is(t->u.text, "false") || str_is(t->u.text, "False"))
            return constant(p, v_bool(false));
        if (str_is(t->u.text, "none") || str_is(t->u.text, "None")) return constant(p, v_none());
        return read_name(p);
    case T_STRING: return strings(p);
    case T_INT: return constant(p, v_int(t->u.i));
    case T_FLOAT: return constant(p, v_float(t->u.f));
    case T_OP:
        if (t->op == '(') return parenthesis(p);
        if (t->op == '[') return display(p, ']', false);
        if (t->op == '{') return display(p, '}', true);
        break;
    default:
        break;
    }
    parse_fail(p, "an expression");
}

static bool ends_slice_part(const struct parser *p) {
    return next_is(p, ']') || next_is(p, ',') || next_is(p, ':');
}

static struct node *subscribed(struct parser *p) {
    struct node *slice = node_new(p, E_SLICE);
    if (!next_is(p, ':')) {
        slice->a = parse_expression(p);
        if (!next_is(p, ':')) return slice->a;
    }
    p->token++;
    if (!ends_slice_part(p)) slice->b = parse_expression(p);
    if (take(p, ':') && !ends_slice_part(p)) slice->c = parse_expression(p);
    return slice;
}

static struct node *subscript(struct parser *p, struct node *on) {
    if (take(p, '.')) {
        struct node *n = node_new(p, E_ATTR);
        n->a = on;
        if (p->token->kind == T_INT) {
            n->kind = E_ITEM;
            n->b = constant(p, v_int(p->token->u.i));
            return n;
        }
        if (p->token->kind != T_NAME) parse_fail(p, "a name or number after '.'");
        n->name = text_view(p->box, (p->token++)->u.text, false);
        return n;
    }
    struct node *n = node_new(p, E_ITEM), *tuple = node_new(p, E_TUPLE), **last = &tuple->a;
    p->token++;
    n->a = on;
    size_t count = 0;
    do {
        if (count && next_is(p, ']')) break;
        *last = subscribed(p);
        last = &(*last)->next;
        count++;
    } while (take(p, ','));
    expect(p, ']', "']'");
    n->b = count == 1 ? tuple->a : tuple;
    return n;
}

static struct node *argument(struct parser *p, int *before) {
    struct node *n = node_new(p, E_ARG);
    bool keyword = p->token->kind == T_NAME && p->token[1].kind == T_OP && p->token[1].op == '=';
    n->op = take(p, '*') ? '*' : take(p, OP2('*', '*')) ? 'k' : keyword ? '=' : 0;
    /* Positions come before *list, names and **dict; a second star is nonsense. */
    bool in_order = n->op == 0 ? *before == 0 : n->op == '*' ? *before == 0 || *before == '='
                  : *before != 'k';
    if (!in_order) parse_fail(p, "arguments in order");
    if (n->op != 0) *before = n->op;
    if (keyword && n->op == '=') {
        n->name = text_view(p->box, p->token->u.text, false);
        p->token += 2;
    }
    n->a = parse_expression(p);
    return n;
}

/* After the '('. */
static struct node *arguments(struct parser *p) {
    struct node *first = NULL, **last = &first;
    int before = 0;
    while (!next_is(p, ')')) {
        *last = argument(p, &before);
        last = &(*last)->next;
        if (!take(p, ',')) break;
    }
    expect(p, ')', "',' or ')'");
    return first;
}

static struct node *call(struct parser *p, struct node *on) {
    struct node *n = node_new(p, E_CALL);
    p->token++;
    n->a = on;
    n->args = arguments(p);
    return n;
}

static struct node *postfix(struct parser *p, struct node *n) {
    for (int links = 0;; link_chain(p, &links)) {
        if (next_is(p, '.') || next_is(p, '[')) n = subscript(p, n);
        else if (next_is(p, '(')) n = call(p, n);
        else return n;
    }
}

/* A template can ask for what an engine may not have: {% if 'x' is filter %}{{ a|x }}{% endif %}.
 * Elsewhere a name that is not known is a mistake, also where it is never run. */
static void note_unknown(struct parser *p, struct node *n) {
    if (n->builtin < 0 && !p->soft && !p->unknown) p->unknown = n;
}

void parse_known(struct parser *p) {
    if (!p->unknown) return;
    p->box->at = p->unknown->at;
    box_fail(p->box, "there is no %s \"%.*s\"", p->unknown->kind == E_FILTER ? "filter" : "test",
             STR_ARG(text_str(p->unknown->name)));
}

struct node *parse_filters(struct parser *p, struct node *on, bool first) {
    for (int links = 0; first || take(p, '|'); link_chain(p, &links), first = false) {
        struct node *n = node_new(p, E_FILTER);
        if (p->token->kind != T_NAME) parse_fail(p, "a filter's name");
        struct str name = p->token->u.text;
        n->builtin = filter_number(name);
        n->name = text_view(p->box, name, false);
        note_unknown(p, n);
        p->token++;
        n->a = on;
        if (take(p, '(')) n->args = arguments(p);
        on = n;
    }
    return on;
}

static bool starts_argument(const struct parser *p) {
    switch (p->token->kind) {
    case T_NAME: return !next_word(p, "else") && !next_word(p, "or") && !next_word(p, "and");
    case T_STRING: case T_INT: case T_FLOAT: return true;
    case T_OP: return next_is(p, '[') || next_is(p, '{');
    default: return false;
    }
}

static struct node *test(struct parser *p, struct node *on) {
    bool negated = take_word(p, "not");
    struct node *n = node_new(p, E_TEST), *outer = n;
    if (p->token->kind != T_NAME) parse_fail(p, "a test's name");
    struct str name = p->token->u.text;
    n->builtin = test_number(name);
    n->name = text_view(p->box, name, false);
    note_unknown(p, n);
    p->token++;
    n->a = on;
    if (take(p, '(')) {
        n->args = arguments(p);
    } else if (starts_argument(p)) {
        if (next_word(p, "is")) parse_fail(p, "no second 'is'");
        n->args = node_new(p, E_ARG);
        n->args->a = postfix(p, primary(p));
    }
    if (negated) {
        outer = node_new(p, E_NOT);
        outer->a = n;
    }
    return outer;
}

static struct node *filter_expression(struct parser *p, struct node *n) {
    for (int links = 0;; link_chain(p, &links)) {
        if (next_is(p, '|')) n = parse_filters(p, n, false);
        else if (take_word(p, "is")) n = test(p, n);
        else if (next_is(p, '(')) n = call(p, n);
        else return n;
    }
}

static struct node *unary(struct parser *p, bool filters) {
    struct node *n;
    parse_enter(p);
    if (next_is(p, '-') || next_is(p, '+')) {
        n = node_new(p, next_is(p, '-') ? E_NEG : E_POS);
        p->token++;
        n->a = unary(p, false);
    } else {
        n = primary(p);
    }
    n = postfix(p, n);
    if (filters) n = filter_expression(p, n);
    p->nesting--;
    return n;
}

enum { LEVEL_OR, LEVEL_AND, LEVEL_NOT, LEVEL_COMPARE, LEVEL_SUM, LEVEL_CONCAT, LEVEL_PRODUCT,
       LEVEL_POWER, LEVEL_UNARY };

/* Takes a comparison's operator; 0: there is none. */
static int comparison(struct parser *p) {
    if (p->token->kind == T_NAME) {
        if (take_word(p, "in")) return OP_IN;
        if (!next_word(p, "not") || p->token[1].kind != T_NAME ||
            !str_is(p->token[1].u.text, "in")) return 0;
        p->token += 2;
        return OP_NOT_IN;
    }
    if (p->token->kind != T_OP) return 0;
    int op = p->token->op;
    bool is = op == '<' || op == '>' || op == OP2('=', '=') || op == OP2('!', '=') ||
              op == OP2('<', '=') || op == OP2('>', '=');
    p->token += is;
    return is ? op : 0;
}

static bool belongs(const struct parser *p, int level) {
    int op = p->token->kind == T_OP ? p->token->op : 0;
    switch (level) {
    case LEVEL_OR: return next_word(p, "or");
    case LEVEL_AND: return next_word(p, "and");
    case LEVEL_SUM: return op == '+' || op == '-';
    case LEVEL_PRODUCT: return op == '*' || op == '/' || op == '%' || op == OP2('/', '/');
    case LEVEL_POWER: return op == OP2('*', '*');
    default: return false;
    }
}

static struct node *level(struct parser *p, int at);

static struct node *comparisons(struct parser *p) {
    struct node *left = level(p, LEVEL_COMPARE + 1), *compare = NULL, **last = NULL;
    for (int links = 0;; link_chain(p, &links)) {
        struct node *operand = node_new(p, E_OPERAND);
        operand->op = comparison(p);
        if (!operand->op) return compare ? compare : left;
        operand->a = level(p, LEVEL_COMPARE + 1);
        if (!compare) {
            compare = node_new(p, E_COMPARE);
            compare->at = operand->at;
            compare->a = left;
            last = &compare->b;
        }
        *last = operand;
        last = &operand->next;
    }
}

static struct node *concatenation(struct parser *p) {
    struct node *first = level(p, LEVEL_CONCAT + 1), **last = &first->next;
    if (!next_is(p, '~')) return first;
    struct node *n = node_new(p, E_CONCAT);
    n->a = first;
    while (take(p, '~')) {
        *last = level(p, LEVEL_CONCAT + 1);
        last = &(*last)->next;
    }
    return n;
}

static struct node *negation(struct parser *p) {
    if (!next_word(p, "not")) return level(p, LEVEL_NOT + 1);
    struct node *n = node_new(p, E_NOT);
    p->token++;
    parse_enter(p);
    n->a = negation(p);
    p->nesting--;
    return n;
}

static struct node *level(struct parser *p, int at) {
    if (at == LEVEL_UNARY) return unary(p, true);
    if (at == LEVEL_COMPARE) return comparisons(p);
    if (at == LEVEL_CONCAT) return concatenation(p);
    if (at == LEVEL_NOT) return negation(p);
    struct node *left = level(p, at + 1);
    for (int links = 0; belongs(p, at); link_chain(p, &links)) {
        struct node *n = node_new(p, at == LEVEL_OR ? E_OR : at == LEVEL_AND ? E_AND : E_BINARY);
        n->op = p->token->op;
        p->token++;
        n->a = left;
        n->b = level(p, at + 1);
        left = n;
    }
    return left;
}

struct node *parse_conditionless(struct parser *p) {
    parse_enter(p);
    struct node *n = level(p, LEVEL_OR);
    p->nesting--;
    return n;
}

struct node *parse_expression(struct parser *p) {
    const struct node *unknown = p->unknown;
    bool soft = p->soft;
    parse_enter(p);
    struct node *n = level(p, LEVEL_OR);
    for (int links = 0; next_word(p, "if"); link_chain(p, &links)) {
        struct node *choice = node_new(p, E_IF);
        p->unknown = unknown;
        p->soft = true;
        p->token++;
        choice->b = n;
        choice->a = level(p, LEVEL_OR);
        if (take_word(p, "else")) choice->c = parse_expression(p);
        n = choice;
    }
    p->soft = soft;
    p->nesting--;
    return n;
}

static bool tuple_ends(const struct parser *p) {
    return p->token->kind == T_PRINT_END || p->token->kind == T_BLOCK_END || next_is(p, ')') ||
           next_word(p, "in") || next_word(p, "recursive");
}

struct node *parse_tuple(struct parser *p, bool conditions) {
    struct node *tuple = node_new(p, E_TUPLE), **last = &tuple->a;
    bool comma = false;
    do {
        if (comma && tuple_ends(p)) break;
        *last = conditions ? parse_expression(p) : parse_conditionless(p);
        last = &(*last)->next;
        if (next_is(p, ',')) comma = true;
    } while (take(p, ','));
    return comma ? tuple : tuple->a;
}

static struct node *target_part(struct parser *p, bool spaces) {
    if (take(p, '(')) {
        parse_enter(p);
        struct node *n = parse_target(p, spaces);
        p->nesting--;
        expect(p, ')', "')'");
        return n;
    }
    static const char *const reserved[] = { "true", "false", "none", "True", "False", "None" };
    for (size_t i = 0; i < COUNT(reserved); i++)
        if (next_word(p, reserved[i])) parse_fail(p, "a name to set");
    struct node *n = name_node(p);
    if (spaces && take(p, '.')) {
        if (p->token->kind != T_NAME) parse_fail(p, "a name");
        n->kind = E_ATTR;
        n->name = text_view(p->box, (p->token++)->u.text, false);
    }
    return n;
}

struct node *parse_target(struct parser *p, bool spaces) {
    struct node *tuple = node_new(p, E_TUPLE), **last = &tuple->a;
    bool comma = false;
    do {
        if (comma && (tuple_ends(p) || next_is(p, '='))) break;
        *last = target_part(p, spaces);
        last = &(*last)->next;
        if (next_is(p, ',')) comma = true;
    } while (take(p, ','));
    return comma ? tuple : tuple->a;
}

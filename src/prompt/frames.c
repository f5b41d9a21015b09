/* frames.c - which names a part of a template has for itself, found while it is parsed.
 *
 * In Jinja a name belongs to the part (the template, a loop's body, a macro ...) that sets it,
 * from the part's beginning on: what is set before anything there reads it is undefined until
 * then, also where a variable of the same name was given from outside. Parts further in see that
 * undefined value. Sets in an if do not count, and neither do names that a part around has. */
#include "prompt/parse.h"
#include <string.h>

struct use { uint32_t symbol; bool set; };
struct frame {
    struct frame *up, *child, *next; /* next: of the same parent, or of those without one */
    struct use *at;
    size_t n, cap;
    struct hidden **to;
    uint32_t number;
};

void frame_open(struct parser *p, struct hidden **to, bool apart) {
    struct frame *f = box_new(p->box, sizeof *f), *up = apart ? NULL : p->frame;
    struct frame **first = up ? &up->child : &p->frames;
    f->up = p->frame;
    f->next = *first;
    f->to = to;
    f->number = ++p->n_frames;
    *first = f;
    p->frame = f;
}

void frame_close(struct parser *p) {
    p->frame = p->frame->up;
}

void frame_use(struct parser *p, uint32_t symbol, bool set) {
    struct frame *f = p->frame;
    if (f->n == f->cap) {
        f->cap = MAX(2 * f->cap, (size_t)8);
        struct use *more = box_array(p->box, f->cap, sizeof *more);
        if (f->n) memcpy(more, f->at, f->n * sizeof *more);
        f->at = more;
    }
    f->at[f->n++] = (struct use){ symbol, set && !p->soft };
}

/* uses: by symbol, of frames around; seen: the last frame that had the symbol. */
static void settle(struct parser *p, struct frame *f, uint32_t *uses, uint32_t *seen) {
    struct hidden *hidden = NULL;
    for (size_t i = 0; i < f->n; i++) {
        uint32_t symbol = f->at[i].symbol;
        bool first = seen[symbol] != f->number;
        seen[symbol] = f->number;
        if (!first || !f->at[i].set || uses[symbol]) continue;
        if (!hidden)
            hidden = box_new(p->box, sizeof *hidden + f->n * sizeof hidden->symbol[0]);
        hidden->symbol[hidden->n++] = symbol;
    }
    *f->to = hidden;
    for (size_t i = 0; i < f->n; i++) uses[f->at[i].symbol]++;
}

static void leave(const struct frame *f, uint32_t *uses) {
    for (size_t i = 0; i < f->n; i++) uses[f->at[i].symbol]--;
}

void frames_settle(struct parser *p) {
    uint32_t n = p->t->n_symbols;
    uint32_t *uses = box_array(p->box, (size_t)n + 1, sizeof *uses);
    uint32_t *seen = box_array(p->box, (size_t)n + 1, sizeof *seen);
    for (struct frame *top = p->frames; top; top = top->next) {
        struct frame *f = top;
        top->up = NULL;
        settle(p, f, uses, seen);
        while (f) {
            struct frame *in = f->child;
            if (in) {
                f->child = in->next;
                f = in;
                settle(p, f, uses, seen);
            } else {
                leave(f, uses);
                f = f == top ? NULL : f->up;
            }
        }
    }
}

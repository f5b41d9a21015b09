/* bind.c - the binder's life: which name serves a slot, who claimed what, what is left.
 *
 * Loading of weights is in bind_load.c, of heads and experts in bind_many.c. */
#include "weights/binder.h"
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors ---- */

bool bind_failed(const struct binder *b) {
    return b->err.code != ERR_NONE;
}

/* Formats first: the sentence itself may hold a percent sign of a tensor's name. */
bool bind_fail(struct binder *b, const char *format, ...) {
    char text[sizeof b->err.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return err_set(&b->err, "%s", text);
}

/* ---- names ---- */

/* The rule's name in this file: stem or prefix in front, numbers filled in. */
static void expand(const struct binder *b, const char *pattern, int64_t expert, char *out) {
    struct buf name = { .max = BASE_MAX - 1 };
    bool stem = str_starts(str_of(pattern), "model.");
    buf_str(&name, str_of(stem ? b->stem : b->prefix));
    for (const char *p = pattern + (stem ? strlen("model.") : 0); *p;) {
        if (!strncmp(p, "{l}", 3)) buf_format(&name, "%d", b->layer), p += 3;
        else if (!strncmp(p, "{e}", 3)) buf_format(&name, "%lld", (long long)expert), p += 3;
        else buf_char(&name, *p++);
    }
    snprintf(out, BASE_MAX, "%s", buf_c(&name));
    buf_free(&name);
}

/* A recording binder has no file, and finds nothing. */
static const struct weights_entry *lookup(const struct binder *b, const char *base,
                                          const char *suffix) {
    char name[BASE_MAX + 16];
    snprintf(name, sizeof name, "%s%s", base, suffix);
    return b->w ? weights_find(b->w, str_of(name)) : NULL;
}

/* Family rules stand before names_hf. A rule that is found settles the slot: its tensor may still
 * have the wrong shape, which is then an error and no reason to try the next name. */
bool bind_locate(struct binder *b, enum slot slot, int64_t expert, struct site *site) {
    for (size_t i = 0; i < COUNT(b->rules); i++)
        for (const struct name_rule *r = b->rules[i]; r && r->slot != W_END; r++) {
            if (r->slot != slot) continue;
            expand(b, r->name, expert, site->base);
            bool exact = r->fix & EXACT;
            if (!lookup(b, site->base, exact ? "" : ".weight") &&
                !(exact && lookup(b, site->base, "_blocks")))
                continue;
            site->slot = slot;
            site->fix = r->fix;
            site->each = strstr(r->name, "{e}");
            return true;
        }
    return false;
}

/* The name a checkpoint would most likely have: the family's first rule, else the last of
 * names_hf, where the plainest stands. */
static const struct name_rule *plainest(const struct binder *b, enum slot slot) {
    const struct name_rule *found = NULL;
    for (const struct name_rule *r = b->rules[0]; r && r->slot != W_END; r++)
        if (r->slot == slot) return r;
    for (const struct name_rule *r = b->rules[1]; r->slot != W_END; r++)
        if (r->slot == slot) found = r;
    return found;
}

/* What is missing is named as the plainest rule would name it: a list of all spellings that were
 * tried would be longer than the sentence. */
bool bind_require(struct binder *b, enum slot slot, int64_t expert, struct site *site) {
    if (bind_failed(b)) return false;
    if (bind_locate(b, slot, expert, site)) return true;
    const struct name_rule *r = plainest(b, slot);
    if (!r) return bind_fail(b, "%s: no rule names a tensor for %s", weights_dir(b->w),
                             slot_name(slot));
    expand(b, r->name, expert, site->base);
    const char *suffix = r->fix & EXACT ? "" : ".weight";
    return bind_fail(b, "%s: the tensor %s%s is missing (or another one for %s)",
                     weights_dir(b->w), site->base, suffix, slot_name(slot));
}

const struct weights_entry *bind_entry(struct binder *b, const struct site *site,
                                       const char *suffix) {
    const struct weights_entry *e = lookup(b, site->base, suffix);
    if (e) b->claim[e - weights_entry(b->w, 0)] = (struct claim){ site->slot, b->layer };
    return e;
}

bool bind_has(struct binder *b, enum slot slot) {
    struct site site;
    return !bind_failed(b) && b->w && bind_locate(b, slot, 0, &site);
}

/* ---- what stands before the names ---- */

/* Finds the embedding of this rule: the shortest name that ends with it after a dot. */
static struct str embedding_prefix(const struct weights *w, const char *end, bool *found) {
    struct str best = { 0 };
    char suffix[256];
    snprintf(suffix, sizeof suffix, "%s.weight", end);
    for (size_t i = 0; i < weights_count(w); i++) {
        struct str name = weights_entry(w, i)->name;
        if (!str_ends(name, suffix)) continue;
        struct str before = str_cut(name, 0, name.len - strlen(suffix));
        if (before.len && !str_ends(before, ".")) continue;
        if (*found && best.len <= before.len) continue;
        *found = true;
        best = before;
    }
    return best;
}

/* a followed by b; free it. */
static char *joined(struct str a, const char *b) {
    struct buf text = { 0 };
    buf_str(&text, a);
    buf_str(&text, str_of(b));
    char *out = mem_str(buf_view(&text));
    buf_free(&text);
    return out;
}

/* The embedding is the one tensor that every decoder has, so where it lies tells where the decoder
 * lies in a checkpoint of several models. Without one the rules' names are taken as they are, and
 * the missing embedding is reported by its own bind. */
static void find_prefix(struct binder *b) {
    for (size_t i = 0; b->w && i < COUNT(b->rules); i++)
        for (const struct name_rule *r = b->rules[i]; r && r->slot != W_END; r++) {
            if (r->slot != W_EMBED) continue;
            bool stem = str_starts(str_of(r->name), "model."), found = false;
            struct str before = embedding_prefix(b->w, r->name + (stem ? 6 : 0), &found);
            if (!found) continue;
            bool nested = str_ends(before, "model.");
            struct str outer = nested ? str_cut(before, 0, before.len - 6) : S("");
            struct str prefix = stem ? outer : before;
            /* In model.language_model.embed_tokens the last word is a name, not the stem. */
            if (stem && prefix.len && !str_ends(prefix, ".")) prefix = S("");
            b->prefix = mem_str(prefix);
            b->stem = stem ? mem_str(before) : joined(before, "model.");
            return;
        }
    b->prefix = mem_str(S(""));
    b->stem = mem_str(S("model."));
}

/* ---- claims ---- */

/* How many digits the name begins with. */
static size_t digits(struct str s) {
    size_t n = 0;
    while (n < s.len && s.at[n] >= '0' && s.at[n] <= '9') n++;
    return n;
}

/* Whether a drop rule's pattern covers the name. Here {l} and {e} are any number. */
static bool covers(const struct binder *b, const char *pattern, struct str name) {
    uint64_t number;
    for (; *pattern; ) {
        if (*pattern == '*' && !pattern[1]) return true;
        if (*pattern != '{') {
            if (!name.len || name.at[0] != *pattern++) return false;
            name = str_from(name, 1);
            continue;
        }
        size_t n = digits(name);
        if (!n) return false;
        bool past = !strncmp(pattern, "{past}", 6);
        if (past && str_u64(str_cut(name, 0, n), UINT64_MAX, &number) &&
            number < (uint64_t)b->n_layers)
            return false;
        pattern = strchr(pattern, '}') + 1;
        name = str_from(name, n);
    }
    return !name.len;
}

/* Drop rules are tried as they are and behind the prefix: a tower stands beside the decoder, its
 * rotary tables inside. */
static bool dropped(const struct binder *b, struct str name) {
    for (size_t i = 0; i < COUNT(b->rules); i++)
        for (const struct name_rule *r = b->rules[i]; r && r->slot != W_END; r++) {
            if (r->slot != W_DROP) continue;
            bool stem = str_starts(str_of(r->name), "model.");
            const char *front = stem ? b->stem : b->prefix;
            if (covers(b, r->name, name)) return true;
            if (str_starts(name, front) &&
                covers(b, r->name + (stem ? 6 : 0), str_from(name, strlen(front))))
                return true;
        }
    return false;
}

/* A claim goes before a drop rule: lm_head.* is dropped only where nobody asked for the head. */
const char *binder_claim(const struct binder *b, size_t i, int *layer) {
    *layer = -1;
    if (b->claim[i].slot != W_END) {
        *layer = b->claim[i].layer;
        return slot_name(b->claim[i].slot);
    }
    return dropped(b, weights_entry(b->w, i)->name) ? slot_name(W_DROP) : NULL;
}

/* A tied head that the file holds as well is not used: the config says so. When it differs from the
 * embedding, one of the two is wrong; the first bytes tell, without reading all of it. */
static void compare_tied_head(const struct binder *b) {
    const struct weights_entry *head = lookup(b, b->prefix, "lm_head.weight"), *embed = NULL;
    for (size_t i = 0; i < weights_count(b->w); i++)
        if (b->claim[i].slot == W_EMBED && !embed) embed = weights_entry(b->w, i);
    if (!head || !embed || b->claim[head - weights_entry(b->w, 0)].slot != W_END) return;
    if (!head->t.at || !embed->t.at || head->bytes != embed->bytes) return;
    if (memcmp(head->t.at, embed->t.at, MIN(head->bytes, (size_t)4096)))
        log_line(LOG_WARN, "%s: tensor %.*s differs from the embedding, but config.json ties them; "
                 "the embedding is used", head->file, STR_ARG(head->name));
}

/* A tensor that nobody knows is an error, because it could be a part of the computation that this
 * program does not have. */
static bool nothing_is_left(struct binder *b) {
    const struct weights_entry *first = NULL;
    size_t n = 0;
    int layer;
    for (size_t i = 0; b->w && i < weights_count(b->w); i++) {
        if (binder_claim(b, i, &layer)) continue;
        if (!n++) first = weights_entry(b->w, i);
    }
    if (!n) return true;
    return err_code(&b->err, ERR_UNSUPPORTED, "%s: no part of the model uses the tensor %.*s%s",
                    first->file, STR_ARG(first->name), n > 1 ? " (and others)" : "");
}

/* ---- life ---- */

/* What both kinds of binder begin with. */
static struct binder *binder_new(struct arena *arena, const struct name_rule *family_names,
                                 int n_layers) {
    struct binder *b = mem_new(sizeof *b);
    b->arena = arena;
    b->rules[0] = family_names;
    b->rules[1] = names_hf;
    b->n_layers = n_layers;
    b->layer = -1;
    return b;
}

static void binder_free(struct binder *b) {
    quant_config_free(&b->quant);
    free(b->claim);
    free(b->product);
    free(b->prefix);
    free(b->stem);
    free(b);
}

struct binder *binder_open(struct weights *w, struct config *c, struct device *dev,
                           struct arena *arena, const struct name_rule *family_names,
                           int n_layers, struct err *err) {
    struct binder *b = binder_new(arena, family_names, n_layers);
    b->w = w;
    b->dev = dev;
    b->claim = mem_array(MAX(weights_count(w), (size_t)1), sizeof *b->claim);
    find_prefix(b);
    if (quant_config_read(&b->quant, c, err)) return b;
    binder_free(b);
    return NULL;
}

struct binder *binder_record(struct arena *arena, const struct name_rule *family_names,
                             int n_layers, bind_want *want, void *to) {
    struct binder *b = binder_new(arena, family_names, n_layers);
    b->want = want;
    b->to = to;
    find_prefix(b);
    return b;
}

static bool adopt(void *to, const void *at, size_t bytes) {
    struct device *dev = to;
    return dev->op->adopt(dev, at, bytes);
}

bool binder_adopt(struct binder *b, struct err *err) {
    bool ok = true;
    if (bind_failed(b) || !b->w) return true;          /* binder_finish says what is wrong */
    for (size_t i = 0; i < weights_count(b->w) && ok; i++) {
        const struct weights_entry *e = weights_entry(b->w, i);
        ok = b->claim[i].slot == W_END || adopt(b->dev, e->t.at, e->bytes);
    }
    ok = ok && arena_each(b->arena, adopt, b->dev);
    if (ok && (!b->dev->op->adopted || b->dev->op->adopted(b->dev, err))) return true;
    if (ok) return false;
    return err_code(err, ERR_MEMORY, "%s: no device memory for %zu MiB of weights",
                    weights_dir(b->w), weights_bytes(b->w) >> 20);
}

void bind_product(struct binder *b, struct tensor *w) {
    if (b->want || !w->at) return;
    if (b->n_products == b->products_cap) {
        b->products_cap = MAX(2 * b->products_cap, (size_t)256);
        b->product = mem_grow(b->product, b->products_cap, sizeof(*b->product));
    }
    b->product[b->n_products++] = w;
}

struct packing { const struct binder *b; void (*progress)(void *, double); void *to; };

static void let_go(void *to, const struct tensor *w) {
    const struct packing *p = to;
    size_t scales = (size_t)(tensor_count(w) / w->quant.group) * dtype_bytes(w->quant.scale_dtype);
    weights_let_go(p->b->w, w->at, (size_t)tensor_count(w) / 8 * w->quant.bits);
    weights_let_go(p->b->w, w->quant.scales, scales);
    weights_let_go(p->b->w, w->quant.biases, scales);
}

static void pack_progress(void *to, double done) {
    const struct packing *p = to;
    if (p->progress) p->progress(p->to, done);
}

void binder_pack(struct binder *b, const struct pack_place *place,
                 void (*progress)(void *, double), void *to) {
    /* A checkpoint that will be refused is not packed before. */
    if (bind_failed(b) || !b->w || !b->dev->op->pack || !nothing_is_left(b)) return;
    struct packing p = { b, progress, to };
    struct pack_item *item = mem_array(MAX(b->n_products, (size_t)1), sizeof *item);
    struct pack_job job = { .item = item, .place = *place, .model = weights_dir(b->w),
                            .let_go = let_go, .progress = pack_progress, .to = &p };
    for (size_t i = 0; i < b->n_products; i++) {
        item[job.n].w = b->product[i];
        job.n += weights_place(b->w, b->product[i]->at, &item[job.n].at);
    }
    weights_identity(b->w, job.source);
    b->dev->op->pack(b->dev, &job);
    /* Reading small vectors mapped their neighbours, too. */
    weights_let_go_all(b->w);
    free(item);
}

bool binder_finish(struct binder *b, struct err *err) {
    if (!bind_failed(b) && b->w && nothing_is_left(b)) compare_tied_head(b);
    bool ok = !bind_failed(b);
    if (!ok) err_code(err, b->err.code, "%s", b->err.text);
    binder_free(b);
    return ok;
}

/* kv_b's cut is a matter of one layer: the next one must not see this one's. */
void binder_layer(struct binder *b, int layer) {
    b->layer = layer;
    b->k_rows = 0;
}

void *bind_new(struct binder *b, size_t bytes) {
    return arena_new(b->arena, bytes);
}

bool bind_family_has(const struct binder *b, enum slot slot) {
    for (const struct name_rule *r = b->rules[0]; r && r->slot != W_END; r++)
        if (r->slot == slot) return true;
    return false;
}

/* The shape as it is stored under this rule. */
static void stored_shape(struct bind_want *want, const struct name_rule *r, int64_t experts,
                         int rank, const int64_t *shape) {
    bool stack = experts && !strstr(r->name, "{e}");
    want->rank = rank + stack;
    want->shape[0] = experts;
    for (int i = 0; i < rank; i++) want->shape[i + stack] = shape[i];
    if (r->fix & CONV && rank == 2) {
        want->rank = 3;
        want->shape[2] = shape[1];
        want->shape[1] = 1;
    }
    if (r->fix & TRANSPOSED && rank == 2) {
        want->shape[stack] = shape[1];
        want->shape[stack + 1] = shape[0];
    }
}

void bind_report(struct binder *b, enum slot slot, int64_t experts, const char *suffix, bool matrix,
                 int rank, const int64_t *shape) {
    const struct name_rule *r = plainest(b, slot);
    char name[BASE_MAX], full[BASE_MAX + 16];
    if (!r) {
        bind_fail(b, "no rule names a tensor for %s", slot_name(slot));
        return;
    }
    bool exact = r->fix & EXACT, bias = !strcmp(suffix, ".bias");
    struct bind_want want = { .name = full, .slot = slot, .layer = b->layer,
                              .fix = bias ? 0 : r->fix,
                              .matrix = matrix && !(r->fix & (EXACT | TRANSPOSED)) };
    stored_shape(&want, r, experts, rank, shape);
    int64_t times = experts && strstr(r->name, "{e}") ? experts : 1;
    for (int64_t e = 0; e < times; e++) {
        expand(b, r->name, e, name);
        snprintf(full, sizeof full, "%s%s", name, !exact ? suffix : bias ? "_bias" : "");
        b->want(b->to, &want);
    }
}

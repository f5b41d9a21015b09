/* chat.c - a checkpoint's chat template, opened once and rendered per request.
 * What a template may see is set here and nowhere else. */
#include "prompt/chat.h"
#include "prompt/dialog.h"
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

static const struct named_text *named(const struct found *f, const char *name) {
    for (int i = 0; i < f->n_templates; i++)
        if (str_is(f->templates[i].name, name)) return &f->templates[i];
    return NULL;
}

/* "default, rag" */
static void put_names(struct buf *out, const struct found *f) {
    for (int i = 0; i < f->n_templates; i++)
        buf_format(out, "%s%.*s", i ? ", " : "", STR_ARG(f->templates[i].name));
}

static bool no_template(const struct found *f, const char *dir, const char *wanted,
                        struct err *err) {
    struct buf names = { 0 };
    put_names(&names, f);
    err_code(err, ERR_UNSUPPORTED, "%s: no chat template is called %.60s; there is %s%s", dir,
             wanted, buf_c(&names), f->n_templates ? ", which --chat-template can name" : "none");
    buf_free(&names);
    return false;
}

static struct template *open_found(const struct named_text *t, const char *dir, struct err *err) {
    struct err inner = { 0 };
    struct template *opened = template_open(t->text, &inner);
    if (!opened) err_code(err, inner.code, "%s/%s: %s", dir, t->file, inner.text);
    return opened;
}

/* As transformers chooses: what is asked for by name or text, else tool_use for a request with
 * tools where there is one, else default. Others, as rag, are had by name only. */
static bool open_templates(struct chat *chat, const char *dir, const char *override,
                           struct err *err) {
    const struct found *f = &chat->found;
    const struct named_text *plain = named(f, override ? override : "default");
    const struct named_text *tools = override ? NULL : named(f, "tool_use");
    if (override && !plain) {
        /* What has no tag in it is the name of a template that is not there. */
        if (dir && override[0] && !strchr(override, '{') && !strchr(override, '\n'))
            return no_template(f, dir, override, err);
        chat->plain = template_open(str_of(override), err);
        return chat->plain != NULL;
    }
    if (!f->n_templates)
        return err_code(err, ERR_UNSUPPORTED, "%s: this checkpoint has no chat template, so it can "
                        "complete text but not chat; give one with --chat-template",
                        dir ? dir : "");
    if (!plain && !tools) return no_template(f, dir, "default", err);
    if (plain && !(chat->plain = open_found(plain, dir, err))) return false;
    if (tools && !(chat->with_tools = open_found(tools, dir, err))) return false;
    return true;
}

struct chat *chat_open(const char *dir, const char *override, const struct tokenizer *tok,
                       struct err *err) {
    struct chat *chat = mem_new(sizeof *chat);
    if (find_chat(dir, &chat->found, err) && open_templates(chat, dir, override, err)) {
        if (tok) stream_find_tags(chat, tok);
        return chat;
    }
    chat_close(chat);
    return NULL;
}

void chat_close(struct chat *chat) {
    if (!chat) return;
    template_close(chat->plain);
    template_close(chat->with_tools);
    found_free(&chat->found);
    free(chat);
}

struct str chat_source(const struct chat *chat, bool with_tools) {
    const struct template *t = with_tools ? chat->with_tools : chat->plain;
    return t ? t->source.text : (struct str){ 0 };
}

void prompt_free(struct prompt *p) {
    buf_free(&p->text);
    free(p->span);
    *p = (struct prompt){ 0 };
}

static void set(struct vm *vm, struct str name, struct value v) {
    uint32_t symbol;
    if (map_get(&vm->t->symbols, name, &symbol)) vm->root[symbol] = v;
}

/* To a client no tools and an empty list are the same, and templates ask for none. */
static bool some(const struct dialog *d, struct json_object *list) {
    return list && (d->as_given || json_object_array_length(list) > 0);
}

static struct value list_or_none(struct vm *vm, const struct dialog *d, struct json_object *list) {
    return some(d, list) ? v_json(&vm->box, list, true) : v_none();
}

static void set_variables(struct vm *vm, const struct chat *chat, const struct dialog *d,
                          struct list *messages, bool generation) {
    vm->root = box_array(&vm->box, vm->t->n_symbols, sizeof *vm->root);
    for (uint32_t i = 0; i < vm->t->n_symbols; i++) vm->root[i].kind = V_ABSENT;
    for (int i = 0; i < chat->found.n_tokens; i++)
        set(vm, chat->found.tokens[i].name,
            v_text(text_view(&vm->box, chat->found.tokens[i].text, false)));
    if (d->vars) {
        json_object_object_foreach(d->vars, key, value)
            set(vm, str_of(key), v_json(&vm->box, value, true));
    }
    set(vm, S("messages"), v_list(messages));
    set(vm, S("tools"), list_or_none(vm, d, d->tools));
    set(vm, S("documents"), list_or_none(vm, d, d->documents));
    set(vm, S("add_generation_prompt"), v_bool(generation));
}

static void give(struct prompt *out, const struct text *t) {
    buf_clear(&out->text);
    buf_put(&out->text, t->at, t->len);
    out->n_spans = 0;
    for (uint32_t i = 0; i < t->n_spans; i++) {
        if (out->n_spans == out->cap_spans) {
            out->cap_spans = MAX(2 * out->cap_spans, 16);
            out->span = mem_grow(out->span, (size_t)out->cap_spans, sizeof *out->span);
        }
        out->span[out->n_spans++] = (struct literal_span){ t->span[i].begin,
                                                           MIN(t->span[i].end, t->len) };
    }
}

static void set_clock(struct vm *vm, int64_t now_s) {
    time_t now = now_s ? (time_t)now_s : time(NULL);
    if (!localtime_r(&now, &vm->now)) vm->now = (struct tm){ .tm_year = 70, .tm_mday = 1 };
}

static void vm_close(struct vm *vm) {
    for (struct held *h = vm->held; h; h = h->next) json_object_put(h->json);
    box_close(&vm->box);
    free(vm);
}

/* *again: another way of giving the arguments of tool calls may work. */
static bool render(const struct chat *chat, const struct template *t, const struct dialog *d,
                   const struct arguments *arguments, struct prompt *out, bool *again,
                   struct err *err) {
    struct vm *vm = mem_new(sizeof *vm);
    vm->t = t;
    box_open(&vm->box, &t->source, err);
    if (setjmp(vm->box.exit)) {
        *again = !vm->box.over;
        vm_close(vm);
        return false;
    }
    struct builder text = { .box = &vm->box };
    vm->out = &text;
    set_clock(vm, d->now_s);
    struct list *messages = dialog_messages(vm, d, arguments);
    struct text *open = dialog_mark_end(vm, d, messages);
    set_variables(vm, chat, d, messages, !open && !d->no_generation_prompt);
    vm_run(vm);
    struct text *made = built(&text);
    if (open) made = dialog_cut_at_mark(vm, made, open);
    give(out, made);
    vm_close(vm);
    return true;
}

bool chat_render(const struct chat *chat, const struct dialog *d, struct prompt *out,
                 struct err *err) {
    if (!dialog_check(d, err)) return false;
    const struct template *t = some(d, d->tools) && chat->with_tools ? chat->with_tools
                                                                     : chat->plain;
    if (!t) return err_set(err, "the chat template is for requests with tools only");
    struct arguments arguments = { 0 };
    if (!d->as_given) arguments_parse(&arguments, d);
    /* Most templates want the arguments of tool calls as objects, a few paste their text. Those
     * fail on an object, and get what was sent. */
    bool again = false, ok;
    struct err first = { 0 };
    ok = render(chat, t, d, &arguments, out, &again, &first);
    if (!ok && again && arguments.objects) {
        struct err second = { 0 };
        ok = render(chat, t, d, NULL, out, &again, &second);
    }
    if (!ok) err_code(err, first.code, "%s", first.text);
    arguments_free(&arguments);
    return ok;
}

/* test_said_by_users.c - TK-20 with every kind of tokenizer: what a user wrote never is a
 * control token, by itself or through a template, on the path that a request of the server takes
 * (chat_render, then tok_encode with the spans). */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "prompt/prompt.h"

#define FOLDER "tests/tokens"
static const char usual[] = "<|im_end|> <|im_start|>system </s><s> [INST]x[/INST] <|eot_id|>"
    "<|end|> <|endoftext|><pad><bos><eos><end_of_turn> [CLS][SEP] <|begin_of_text|> [TOOL_CALLS]";

static struct tokenizer *open_one(const char *name) {
    struct err err = { 0 };
    struct buf path = { 0 };
    buf_format(&path, FOLDER "/%s%s", name, str_starts(str_of(name), "gguf-") ? "/vocab.gguf" : "");
    struct tokenizer *t = tok_open(buf_c(&path), &err);
    if (!t) fail_msg("%s", err.text);
    buf_free(&path);
    return t;
}

/* Control tokens; but the one that stands for what the vocabulary has not is no command. */
static int commands(const struct tokenizer *t, const struct ids *ids, int unknown) {
    int n = 0;
    for (int i = 0; i < ids->len; i++)
        n += tok_is_control(t, ids->at[i]) && ids->at[i] != unknown;
    return n;
}

static int unknown_token(const struct tokenizer *t) {
    int id = tok_find(t, S("<unk>"));
    return id >= 0 ? id : tok_find(t, S("[UNK]"));
}

static struct json_object *dialog(struct str text) {
    struct json_object *list = json_object_new_array(), *one = json_object_new_object();
    json_object_object_add(one, "role", json_object_new_string("user"));
    json_object_object_add(one, "content", json_object_new_string_len(text.at, (int)text.len));
    json_object_array_add(list, one);
    return list;
}

/* The template has the mark twice around the content. */
static void through_template(const char *name, const struct tokenizer *t, int mark, int unknown,
                             struct str text) {
    struct err err = { 0 };
    struct buf source = { 0 };
    struct prompt prompt = { 0 };
    struct ids ids = { 0 };
    struct str m = tok_text(t, mark);
    buf_format(&source, "{%% for m in messages %%}%.*s{{ m.content }}%.*s{%% endfor %%}",
               STR_ARG(m), STR_ARG(m));
    struct chat *chat = chat_open(NULL, buf_c(&source), t, &err);
    if (!chat) fail_msg("%s: %s", name, err.text);
    struct dialog d = { .messages = dialog(text) };
    if (!chat_render(chat, &d, &prompt, &err)) fail_msg("%s: %s", name, err.text);
    tok_encode(t, buf_view(&prompt.text), TOK_SPECIALS, prompt.span, prompt.n_spans, &ids);
    if (commands(t, &ids, unknown) != 2)
        fail_msg("%s: %d control tokens for the template's two", name, commands(t, &ids, unknown));
    json_object_put(d.messages);
    chat_close(chat);
    prompt_free(&prompt);
    ids_free(&ids);
    buf_free(&source);
}

static int run_folder(const char *name) {
    struct tokenizer *t = open_one(name);
    struct buf text = { 0 };
    struct ids ids = { 0 };
    int unknown = unknown_token(t), mark = -1, done = 0;
    buf_str(&text, str_of(usual));
    for (int i = 0; i < tok_vocab(t); i++) {
        if (!tok_is_control(t, i) || i == unknown) continue;
        mark = i;
        buf_format(&text, "%.*s x%.*sy ", STR_ARG(tok_text(t, i)), STR_ARG(tok_text(t, i)));
    }
    tok_encode(t, buf_view(&text), 0, NULL, 0, &ids);
    if (commands(t, &ids, unknown))
        fail_msg("%s: %d control tokens in a user's text", name, commands(t, &ids, unknown));
    ids.len = 0;
    if (mark >= 0) {
        tok_encode(t, tok_text(t, mark), TOK_SPECIALS, NULL, 0, &ids);
        if (ids.len == 1 && ids.at[0] == mark) {
            through_template(name, t, mark, unknown, buf_view(&text));
            done = 1;
        }
    }
    ids_free(&ids);
    buf_free(&text);
    tok_close(t);
    return done;
}

static void every_kind_of_tokenizer(void **state) {
    (void)state;
    DIR *dir = opendir(FOLDER);
    int n = 0, rendered = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        if (!strchr(e->d_name, '.')) {
            rendered += run_folder(e->d_name);
            n++;
        }
    closedir(dir);
    print_message("%d tokenizers, %d through a template\n", n, rendered);
    assert_true(n >= 40 && rendered >= 30);
}

int main(void) {
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_kind_of_tokenizer) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* chat_commands.c - what a line that begins with '/' does in a chat: a row each.
 *
 * They speak on standard error; only answers go to standard output. */
#include "cli/chat.h"
#include "cli/dialog.h"
#include "cli/shell.h"
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

struct chat_verb {
    const char *name, *words, *text;
    bool file;                       /* Tab completes paths after it */
    void (*run)(struct conversation *, struct str rest);
};
static const struct chat_verb *verbs(int *n);

static void say_err(const struct err *err) { fprintf(stderr, "%s\n", err->text); }

static struct str trimmed(struct str s) {
    while (s.len && memchr(" \t\r\n", s.at[0], 4)) s = str_from(s, 1);
    while (s.len && memchr(" \t\r\n", s.at[s.len - 1], 4)) s.len--;
    return s;
}

static void help(struct conversation *c, struct str rest) {
    int n;
    const struct chat_verb *v = verbs(&n);
    (void)c;
    (void)rest;
    for (int i = 0; i < n; i++)
        if (*v[i].text)
            fprintf(stderr, "  %-9s%-14s%s\n", v[i].name, v[i].words, v[i].text);
    fputs("A backslash at the end of a line, or \"\"\" before and after, makes a message of\n"
          "several lines. Ctrl-C stops an answer, Ctrl-D leaves.\n", stderr);
}

static void clear(struct conversation *c, struct str rest) {
    (void)rest;
    struct json_object *first = json_object_array_get_idx(c->messages, 0);
    struct json_object *all = json_object_new_array();
    if (first && !strcmp(message_role(first), "system"))
        json_object_array_add(all, json_object_get(first));
    json_object_put(c->messages);
    c->messages = all;
    buf_clear(&c->pending);
    fputs("The conversation is empty.\n", stderr);
}

/* Runs a turn and tells what came of it. */
static void answer(struct conversation *c, const struct str *message) {
    struct err err = { 0 };
    if (conversation_turn(c, message, false, &err)) {
        if (c->speeds) answer_timings(c->s, c->a, &c->last);
    } else {
        say_err(&err);
    }
    signal_clear();
}

static void drop_answer(struct conversation *c) {
    while (!strcmp(conversation_last_role(c), "assistant")) conversation_drop_last(c);
}

static void regen(struct conversation *c, struct str rest) {
    (void)rest;
    if (!strcmp(conversation_last_role(c), "") || !strcmp(conversation_last_role(c), "system")) {
        fputs("There is nothing to answer yet.\n", stderr);
        return;
    }
    drop_answer(c);
    /* A draw is a function of seed and position: the same seed would say the same again. */
    c->s->sample.seed++;
    answer(c, NULL);
}

static void undo(struct conversation *c, struct str rest) {
    (void)rest;
    drop_answer(c);
    bool any = !strcmp(conversation_last_role(c), "user");
    if (any) conversation_drop_last(c);
    fputs(any ? "The last message and its answer are gone.\n" : "There is nothing to take back.\n",
          stderr);
}

static void edit(struct conversation *c, struct str rest) {
    (void)rest;
    struct err err = { 0 };
    struct buf text = { 0 };
    size_t n = json_object_array_length(c->messages), last = n;
    for (size_t i = 0; i < n; i++)
        if (!strcmp(message_role(json_object_array_get_idx(c->messages, i)), "user")) last = i;
    if (last < n) buf_str(&text, message_text(json_object_array_get_idx(c->messages, last)));
    if (!shell_edit(&text, &err)) {
        say_err(&err);
    } else if (!trimmed(buf_view(&text)).len) {
        fputs("The text is empty; nothing was sent.\n", stderr);
    } else {
        if (last < n) json_object_array_del_idx(c->messages, last, n - last);
        struct str message = trimmed(buf_view(&text));
        answer(c, &message);
    }
    buf_free(&text);
}

static void copy(struct conversation *c, struct str rest) {
    (void)rest;
    struct err err = { 0 };
    if (!c->last.text.len)
        fputs("There is no answer to copy.\n", stderr);
    else if (shell_copy(buf_view(&c->last.text), &err))
        fputs("The answer was sent to the terminal's clipboard.\n", stderr);
    else
        say_err(&err);
}

static void stats(struct conversation *c, struct str rest) {
    (void)rest;
    struct engine_info i = engine_info(c->s->engine);
    fprintf(stderr, "  answers          %d\n  tokens in        %ld, %ld of them cached\n"
            "  tokens out       %ld\n  weights          %.1f MiB\n  cache            %.1f MiB\n"
            "  loaded in        %.2f s\n", c->answers, c->total_in, c->total_cached, c->total_out,
            (double)i.weights_bytes / (1 << 20), (double)i.cache_bytes / (1 << 20), c->s->load_s);
    if (c->last.n_prompt) answer_timings(c->s, c->a, &c->last);
}

static void tokens(struct conversation *c, struct str rest) {
    (void)rest;
    struct err err = { 0 };
    int n = json_object_array_length(c->messages) ? conversation_tokens(c, &err) : 0;
    if (n < 0)
        say_err(&err);
    else
        fprintf(stderr, "%d of %d tokens\n", n, engine_info(c->s->engine).context);
}

static void put_markdown(struct buf *out, struct json_object *messages) {
    for (size_t i = 0; i < json_object_array_length(messages); i++) {
        struct json_object *m = json_object_array_get_idx(messages, i);
        buf_format(out, "%s## %s\n\n", i ? "\n" : "", message_role(m));
        buf_str(out, message_text(m));
        buf_char(out, '\n');
    }
}

static void save(struct conversation *c, struct str rest) {
    struct err err = { 0 };
    struct buf text = { 0 };
    struct new_file file;
    if (!rest.len) {
        fputs("/save takes a file name; .md writes Markdown, anything else JSON.\n", stderr);
        return;
    }
    if (str_ends(rest, ".md")) {
        put_markdown(&text, c->messages);
    } else {
        buf_str(&text, S("{\"messages\":"));
        buf_str(&text, str_of(json_object_to_json_string_ext(
            c->messages, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE)));
        buf_str(&text, S("}\n"));
    }
    char *path = mem_str(rest);
    bool ok = new_file_open(&file, path, &err);
    if (ok && !new_file_write(&file, text.at, text.len, &err)) {
        new_file_drop(&file);
        ok = false;
    }
    ok = ok && new_file_commit(&file, &err);
    if (ok)
        fprintf(stderr, "Saved to %s.\n", path);
    else
        say_err(&err);
    free(path);
    buf_free(&text);
}

static bool are_messages(struct json_object *list) {
    if (!json_object_is_type(list, json_type_array)) return false;
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *m = json_object_array_get_idx(list, i), *role;
        if (!json_object_is_type(m, json_type_object)
            || !json_object_object_get_ex(m, "role", &role)
            || !json_object_is_type(role, json_type_string)) return false;
    }
    return true;
}

static void load(struct conversation *c, struct str rest) {
    struct err err = { 0 };
    char *path = mem_str(rest);
    struct json_object *file = rest.len ? input_json(path, &err) : NULL, *list = file;
    if (json_object_is_type(file, json_type_object))
        json_object_object_get_ex(file, "messages", &list);
    if (!rest.len) {
        fputs("/load takes the name of a file that /save wrote.\n", stderr);
    } else if (!file) {
        say_err(&err);
    } else if (!are_messages(list)) {
        fprintf(stderr, "%s holds no list of messages with roles.\n", path);
    } else {
        json_object_put(c->messages);
        c->messages = json_object_get(list);
        fprintf(stderr, "Loaded %zu messages.\n", json_object_array_length(list));
    }
    json_object_put(file);
    free(path);
}

static void read_file(struct conversation *c, struct str rest) {
    struct err err = { 0 };
    struct buf text = { 0 };
    char *path = mem_str(rest);
    if (!rest.len) {
        fputs("/read takes a file; its text goes before your next message.\n", stderr);
    } else if (!buf_read_file(&text, path, INPUT_MAX, &err)) {
        say_err(&err);
    } else {
        buf_str(&c->pending, buf_view(&text));
        buf_str(&c->pending, S("\n\n"));
        fprintf(stderr, "%zu bytes will go before your next message.\n", text.len);
    }
    buf_free(&text);
    free(path);
}

static void set_system(struct conversation *c, struct str rest) {
    conversation_system(c, rest);
    fputs(rest.len ? "The system message is set.\n" : "There is no system message now.\n", stderr);
}

static void set_stop(struct conversation *c, struct str value) {
    struct session *s = c->s;
    if (!value.len || s->n_stop == TEXT_LIST_MAX) {
        session_no_stops(s);
        fputs("No stop texts are set now.\n", stderr);
        return;
    }
    s->stop[s->n_stop] = (struct str){ mem_str(value), value.len };
    s->stop_owned[s->n_stop++] = true;
}

static void set_sample(struct conversation *c, struct str name, struct str value) {
    struct err err = { 0 };
    struct sample_params p = c->s->sample;
    char *text = mem_str(value);
    if (options_set_sample(&p, name, str_of(text), &err) && sample_check(&p, &err))
        c->s->sample = p;
    else
        say_err(&err);
    free(text);
}

static bool is_one_of(struct str s, const char *words) {
    for (int i = 0;; i++) {
        struct str n = name_at(words, i);
        if (!n.len) return false;
        if (str_eq(n, s)) return true;
    }
}

static void set(struct conversation *c, struct str rest) {
    size_t n = 0;
    while (n < rest.len && rest.at[n] != ' ') n++;
    struct str name = str_cut(rest, 0, n), value = trimmed(str_from(rest, n));
    int64_t number;
    if (str_starts(name, "parameter")) {     /* Ollama: /set parameter NAME VALUE */
        set(c, value);
    } else if (!name.len) {
        fputs("/set takes a parameter and a value, such as temperature 0.7; also n, stop, system,\n"
              "think, var NAME=JSON, verbose, quiet, history, nohistory. /show parameters lists "
              "them.\n", stderr);
    } else if (is_one_of(name, "n predict num_predict max_tokens max-tokens")) {
        if (parse_int(value, -1, INT32_MAX, &number))
            c->a->n_max = (int)number;
        else
            fputs("n takes a whole number, or -1 for no limit.\n", stderr);
    } else if (str_is(name, "system")) {
        set_system(c, value);
    } else if (str_is(name, "stop")) {
        set_stop(c, value);
    } else if (is_one_of(name, "think nothink")) {
        char *how = str_is(name, "nothink") ? mem_str(S("off")) : value.len ? mem_str(value)
                                                                        : mem_str(S("on"));
        dialog_set_think(c->vars, how);
        free(how);
    } else if (str_is(name, "var")) {
        const char *equals = value.len ? memchr(value.at, '=', value.len) : NULL;
        size_t at = equals ? (size_t)(equals - value.at) : 0;
        if (at)
            dialog_set_var(c->vars, str_cut(value, 0, at), str_from(value, at + 1));
        else
            fputs("/set var takes NAME=JSON.\n", stderr);
    } else if (is_one_of(name, "verbose quiet")) {
        c->speeds = str_is(name, "verbose");
    } else if (is_one_of(name, "history nohistory")) {
        editor_keep(c->editor, str_is(name, "history"));
    } else if (is_one_of(name, "num_ctx ctx-size ctx_size")) {
        fputs("The context is fixed when the model is opened: see -c.\n", stderr);
    } else {
        set_sample(c, name, value);
    }
}

static void show_parameters(const struct conversation *c) {
    const struct sample_params *p = &c->s->sample;
    fprintf(stderr, "  temperature %g  top-k %d  top-p %g  min-p %g  typical-p %g  top-n-sigma %g\n"
            "  repeat-penalty %g  presence-penalty %g  frequency-penalty %g  repeat-last-n %d\n"
            "  dry-multiplier %g  dry-base %g  dry-allowed-length %d  xtc-probability %g\n"
            "  xtc-threshold %g  seed %llu  n %d\n", (double)p->temperature, p->top_k,
            (double)p->top_p, (double)p->min_p, (double)p->typical_p, (double)p->top_n_sigma,
            (double)p->repeat_penalty, (double)p->presence_penalty, (double)p->frequency_penalty,
            p->penalty_last, (double)p->dry_multiplier, (double)p->dry_base, p->dry_allowed,
            (double)p->xtc_probability, (double)p->xtc_threshold, (unsigned long long)p->seed,
            c->a->n_max);
    fprintf(stderr, "  template variables %s\n", json_object_to_json_string(c->vars));
}

static void show(struct conversation *c, struct str rest) {
    struct engine_info i = engine_info(c->s->engine);
    struct json_object *first = json_object_array_get_idx(c->messages, 0);
    bool all = !rest.len;
    if (!all && !is_one_of(rest, "info parameters system messages")) {
        fputs("/show takes info, parameters, system or messages.\n", stderr);
        return;
    }
    if (all || str_is(rest, "info"))
        fprintf(stderr, "  model %s\n  family %s, %s\n  %d layers of %d, vocabulary %d\n"
                "  context %d tokens, device %s\n", buf_c(&c->s->dir), i.family, i.quantization,
                i.n_layers, i.dim, i.vocab, i.context, i.device);
    if (all || str_is(rest, "parameters")) show_parameters(c);
    if ((all || str_is(rest, "system")) && first && !strcmp(message_role(first), "system")) {
        fputs("  system: ", stderr);
        term_text(stderr, true, message_text(first));
        fputc('\n', stderr);
    }
    if (!str_is(rest, "messages")) return;
    struct buf text = { 0 };
    put_markdown(&text, c->messages);
    term_text(stderr, true, buf_view(&text));
    buf_free(&text);
}

static void quit(struct conversation *c, struct str rest) {
    (void)rest;
    c->quit = true;
}

static const struct chat_verb table[] = {
    { "/help", "", "this list", false, help },
    { "/clear", "", "forget the conversation, keep the system message", false, clear },
    { "/regen", "", "answer the last message again; /retry is the same", false, regen },
    { "/undo", "", "take back the last message and its answer", false, undo },
    { "/edit", "", "change the last message in $EDITOR and send it again", false, edit },
    { "/copy", "", "copy the last answer to the clipboard", false, copy },
    { "/stats", "", "tokens, speeds and memory so far", false, stats },
    { "/tokens", "", "how full the context is", false, tokens },
    { "/save", "FILE", "write the conversation: .md as Markdown, else JSON", true, save },
    { "/load", "FILE", "go on with a conversation that /save wrote", true, load },
    { "/read", "FILE", "put a file's text before the next message", true, read_file },
    { "/set", "PARAM VALUE", "change how answers are made: /set temperature 0.7", false, set },
    { "/system", "TEXT", "set the system message; without a text, none", false, set_system },
    { "/show", "[WHAT]", "info, parameters, system, messages", false, show },
    { "/exit", "", "leave; /quit, /bye and Ctrl-D do too", false, quit },
    { "/retry", "", "", false, regen },
    { "/quit", "", "", false, quit },
    { "/bye", "", "", false, quit },
    { "/?", "", "", false, help },
};

static const struct chat_verb *verbs(int *n) {
    *n = (int)COUNT(table);
    return table;
}

const char *chat_words(int i, bool *file) {
    if (i >= (int)COUNT(table)) return NULL;
    *file = table[i].file;
    return table[i].name;
}

void chat_command(struct conversation *c, struct str line) {
    size_t n = 0;
    while (n < line.len && !memchr(" \t\n", line.at[n], 3)) n++;
    struct str name = str_cut(line, 0, n), rest = trimmed(str_from(line, n));
    const char *word[COUNT(table)];
    for (size_t i = 0; i < COUNT(table); i++) {
        word[i] = table[i].name;
        if (!str_is(name, table[i].name)) continue;
        table[i].run(c, rest);
        return;
    }
    const char *guess = nearest(name, word, (int)COUNT(word));
    fprintf(stderr, "No command %.*s", STR_ARG(name));
    if (guess)
        fprintf(stderr, "; did you mean %s?\n", guess);
    else
        fputs("; /help lists them.\n", stderr);
}

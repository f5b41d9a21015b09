/* run.c - `mlxcel run`: a chat on a terminal, or one answer to a prompt or a pipe. */
#include "cli/chat.h"
#include <signal.h>
#include <string.h>

/* The prompt of one shot: -p or words, then --file or a pipe. False with no err: there is none,
 * and a person is there to chat. */
static bool read_prompt(const struct args *a, struct buf *text, struct err *err) {
    bool dash = a->prompt && !strcmp(a->prompt, "-");
    if (a->prompt && a->n_positionals)
        return err_code(err, ERR_USAGE, "give the prompt once: with -p or as words");
    if (a->prompt && !dash) buf_str(text, str_of(a->prompt));
    for (int i = 0; i < a->n_positionals; i++) {
        if (i) buf_char(text, ' ');
        buf_str(text, str_of(a->positional[i]));
    }
    if (a->file) {
        if (text->len) buf_str(text, S("\n\n"));
        return input_file(text, a->file, err);
    }
    if (dash || (!text->len && !term_of("never").in)) {
        if (!input_file(text, "-", err)) return false;
        while (text->len && text->at[text->len - 1] == '\n') text->len--;
    }
    if (text->len) return true;
    if (a->prompt || a->n_positionals || !term_of("never").in)
        return err_code(err, ERR_USAGE, "the prompt is empty");
    return false;
}

static int answer_once(struct conversation *c, struct str prompt, struct err *err) {
    struct buf json = { 0 };
    if (!conversation_turn(c, &prompt, c->a->json, err)) return cli_fail(err);
    if (c->a->json) {
        answer_json(&json, c->s, &c->last, true);
        buf_char(&json, '\n');
        fwrite(json.at, 1, json.len, stdout);
        fflush(stdout);
    }
    buf_free(&json);
    answer_timings(c->s, c->a, &c->last);
    return c->last.finish == FINISH_CANCELLED ? 128 + signal_seen() : 0;
}

static void banner(const struct session *s) {
    struct engine_info i = engine_info(s->engine);
    fprintf(stderr, "%smlxcel %s: %s, %s, %.1f MiB, context %d, %s\n"
            "/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves%s\n",
            dim_on(s->term.err_color), MLXCEL_VERSION, i.family, i.quantization,
            (double)i.weights_bytes / (1 << 20), i.context, i.device, dim_off(s->term.err_color));
}

static void say(struct conversation *c, const struct buf *message) {
    struct err err = { 0 };
    struct buf whole = { 0 };
    buf_str(&whole, buf_view(&c->pending));
    buf_str(&whole, buf_view(message));
    struct str text = buf_view(&whole);
    if (conversation_turn(c, &text, false, &err)) {
        buf_clear(&c->pending);
        if (c->speeds) answer_timings(c->s, c->a, &c->last);
    } else {
        fprintf(stderr, "%s\n", err.text);
    }
    buf_free(&whole);
}

static int chat(struct conversation *c, struct err *err) {
    struct buf message = { 0 };
    int interrupts = 0, code = 0;
    c->editor = editor_open(!c->a->no_history, chat_words, err);
    if (!c->editor) return cli_fail(err);
    if (!c->a->quiet) banner(c->s);
    while (!c->quit) {
        signal_clear();
        enum line_end end = editor_read(c->editor, &message);
        if (end == LINE_EOF) break;
        if (end == LINE_INTERRUPT) {
            code = 128 + signal_seen();
            if (signal_seen() == SIGTERM || ++interrupts > 1) break;
            fputs("Ctrl-C again or Ctrl-D to leave\n", stderr);
            code = 0;
            continue;
        }
        interrupts = 0;
        if (!message.len) continue;
        if (message.at[0] == '/')
            chat_command(c, buf_view(&message));
        else
            say(c, &message);
        if (signal_seen() == SIGTERM) {
            code = 128 + SIGTERM;
            break;
        }
    }
    buf_free(&message);
    return code;
}

int cli_run(struct args *a) {
    struct err err = { 0 };
    struct session s = { 0 };
    struct conversation c = { 0 };
    struct buf prompt = { 0 };
    struct session_plan plan = { .running = 1 };
    int code = 0;
    model_from_words(a, false);
    bool once = read_prompt(a, &prompt, &err);
    bool ok = !err.code;
    if (ok && !once && a->json) ok = err_code(&err, ERR_USAGE, "--json needs a prompt");
    ok = ok && session_open(&s, a, &plan, &err) && conversation_open(&c, &s, a, &err);
    if (ok) {
        signal_catch();
        code = once ? answer_once(&c, buf_view(&prompt), &err) : chat(&c, &err);
    } else {
        code = cli_fail(&err);
    }
    conversation_close(&c);
    session_close(&s);
    buf_free(&prompt);
    return code;
}

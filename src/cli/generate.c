/* generate.c - raw completion: a text or ids in, what the model goes on with out.
 * No template is applied. */
#include "cli/session.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

struct showing { bool terminal; bool ends_line; };

static void show(void *to, enum chat_kind kind, struct str piece) {
    struct showing *s = to;
    if (kind != CHAT_TEXT || !piece.len) return;
    term_text(stdout, s->terminal, piece);
    s->ends_line = piece.at[piece.len - 1] == '\n';
}

static bool read_prompt(const struct args *a, struct buf *text, struct err *err) {
    const char *word = a->prompt ? a->prompt : a->n_positionals ? a->positional[0] : NULL;
    if ((a->ids != NULL) + (word != NULL) + (a->file != NULL) > 1)
        return err_code(err, ERR_USAGE, "give one of a prompt, --file and --ids");
    if (a->ids) return true;
    if (a->file) return input_file(text, a->file, err);
    if (word && strcmp(word, "-") != 0) {
        buf_str(text, str_of(word));
        return true;
    }
    if (!word && term_of("never").in)
        return err_code(err, ERR_USAGE, "generate needs -p TEXT, -f FILE, --ids LIST or a pipe");
    return input_file(text, "-", err);
}

static bool prompt_ids(const struct args *a, const struct session *s, struct str text,
                       struct ids *ids, struct err *err) {
    if (a->ids) return input_ids(ids, a->ids, err);
    unsigned flags = (a->literal ? 0u : TOK_SPECIALS) | (a->no_bos ? 0u : TOK_ADD_BOS);
    tok_encode(engine_tokenizer(s->engine), text, flags, NULL, 0, ids);
    return true;
}

static int finish(const struct args *a, const struct session *s, const struct answer *answer,
                  bool ends_line) {
    struct buf out = { 0 };
    if (a->json) {
        answer_json(&out, s, answer, false);
        if (a->print_ids) {
            out.len--;
            buf_str(&out, S(",\"ids\":["));
            put_ids(&out, &answer->ids);
            buf_str(&out, S("]}"));
        }
        buf_char(&out, '\n');
    } else if (a->print_ids) {
        put_ids(&out, &answer->ids);
        buf_char(&out, '\n');
    } else if (!ends_line) {
        buf_char(&out, '\n');
    }
    fwrite(out.at, 1, out.len, stdout);
    buf_free(&out);
    answer_timings(s, a, answer);
    return answer->finish == FINISH_CANCELLED ? 128 + signal_seen() : 0;
}

int cli_generate(struct args *a) {
    struct err err = { 0 };
    struct session s = { 0 };
    struct buf text = { 0 };
    struct ids ids = { 0 };
    struct answer answer = { 0 };
    int code = 0;
    bool only_ids = a->ids && a->print_ids && !a->json && !a->stop.n;
    struct session_plan plan = { .no_tokenizer = only_ids, .running = 1 };
    model_from_words(a, false);
    bool ok = read_prompt(a, &text, &err) && session_open(&s, a, &plan, &err)
           && prompt_ids(a, &s, buf_view(&text), &ids, &err);
    if (ok) {
        struct showing to = { .terminal = s.term.out };
        struct question q = { .ids = ids.at, .n_ids = ids.len, .options = session_options(&s, a),
                              .show = a->json || a->print_ids ? NULL : show, .to = &to };
        signal_catch();
        ok = session_ask(&s, &q, &answer, &err);
        if (ok) code = finish(a, &s, &answer, to.ends_line);
    }
    answer_free(&answer);
    ids_free(&ids);
    buf_free(&text);
    session_close(&s);
    return ok ? code : cli_fail(&err);
}

/* text.c - /tokenize, /detokenize and /apply-template in llama-server's shapes: what the model
 * would see, without running it. */
#include "api/openai.h"
#include "api/routes.h"
#include "api/server.h"
#include "base/utf8.h"

#include <json-c/json.h>

/* A reply is up to forty times as long as its request, and each text of a list costs a start. */
enum { TOKENS_MAX = 1 << 20, PARTS_MAX = 1 << 16 };

/* Every reply here is made from a request in one go. */
typedef bool maker(struct exchange *, struct fields *, struct buf *reply);

static void answer(struct exchange *x, maker *make) {
    struct fault f = { 0 };
    struct buf reply = { 0 };
    struct json_object *json = body_json(x, &f);
    struct fields r = { json, &f };
    bool ok = json && make(x, &r, &reply) && !f.status;
    json_object_put(json);
    if (ok) {
        reply_json(x, 200, &reply);
        return;
    }
    buf_free(&reply);
    reply_fault(x, &f);
}

static bool read_id(const struct server *s, struct json_object *item, const char *field, size_t i,
                    int *id, struct fault *f) {
    int64_t n = json_object_is_type(item, json_type_int) ? json_object_get_int64(item) : -1;
    if (n < 0 || n >= s->info.vocab)
        return fault_set(f, 400, field, "'%s[%zu]' is no token: ids are from 0 to %d.", field, i,
                         s->info.vocab - 1);
    *id = (int)n;
    return true;
}

/* ---- /tokenize ---- */

/* A text, or texts and ids as a prompt may have them; only the first text begins something. */
static bool encode(const struct server *s, struct fields *f, struct ids *ids) {
    const struct tokenizer *t = engine_tokenizer(s->engine);
    unsigned flags = field_bool(f, "parse_special", true) ? TOK_SPECIALS : 0u;
    unsigned begin = field_bool(f, "add_special", false) ? TOK_ADD_BOS : 0u;
    struct json_object *content = field_any(f, "content");
    if (json_object_is_type(content, json_type_string)) {
        tok_encode(t, json_str(content), flags | begin, NULL, 0, ids);
        return true;
    }
    if (!json_object_is_type(content, json_type_array))
        return fault_set(f->fault, 400, "content", "'content' must be a string, or a list of "
                         "strings and ids.");
    size_t n = json_object_array_length(content);
    if (n > PARTS_MAX)
        return fault_set(f->fault, 400, "content", "'content' has more than %d parts.", PARTS_MAX);
    for (size_t i = 0; i < n; i++) {
        struct json_object *item = json_object_array_get_idx(content, i);
        int id;
        if (json_object_is_type(item, json_type_string))
            tok_encode(t, json_str(item), flags | (i ? 0u : begin), NULL, 0, ids);
        else if (read_id(s, item, "content", i, &id, f->fault)) ids_put(ids, id);
        else return false;
    }
    return true;
}

/* A piece that is a part of a character is given as its bytes. */
static void put_piece(struct buf *b, struct str piece) {
    if (utf8_valid(piece)) {
        buf_json(b, piece);
        return;
    }
    buf_char(b, '[');
    for (size_t i = 0; i < piece.len; i++)
        buf_format(b, i ? ",%d" : "%d", (unsigned char)piece.at[i]);
    buf_char(b, ']');
}

static bool tokens_of(struct exchange *x, struct fields *f, struct buf *b) {
    const struct server *s = x->server;
    struct ids ids = { 0 };
    struct buf piece = { 0 };
    bool pieces = field_bool(f, "with_pieces", false);
    bool ok = encode(s, f, &ids);
    if (ok && ids.len > TOKENS_MAX)
        ok = fault_set(f->fault, 400, "content", "'content' has %d tokens, more than the limit of "
                       "%d.", ids.len, TOKENS_MAX);
    buf_str(b, S("{\"tokens\":["));
    for (int i = 0; ok && i < ids.len; i++) {
        if (i) buf_char(b, ',');
        if (!pieces) {
            buf_format(b, "%d", ids.at[i]);
            continue;
        }
        buf_clear(&piece);
        engine_token_text(s->engine, ids.at[i], &piece);
        buf_format(b, "{\"id\":%d,\"piece\":", ids.at[i]);
        put_piece(b, buf_view(&piece));
        buf_char(b, '}');
    }
    buf_str(b, S("]}"));
    buf_free(&piece);
    ids_free(&ids);
    return ok;
}

void text_tokenize(struct exchange *x) {
    answer(x, tokens_of);
}

/* ---- /detokenize ---- */

static bool content_of(struct exchange *x, struct fields *f, struct buf *b) {
    const struct server *s = x->server;
    struct json_object *list = field_list(f, "tokens");
    struct ids ids = { 0 };
    struct buf text = { 0 };
    size_t n = list ? json_object_array_length(list) : 0;
    if (!list) return fault_set(f->fault, 400, "tokens", "'tokens' must be a list of ids.");
    for (size_t i = 0; i < n; i++) {
        int id;
        if (!read_id(s, json_object_array_get_idx(list, i), "tokens", i, &id, f->fault)) break;
        ids_put(&ids, id);
    }
    tok_decode(engine_tokenizer(s->engine), ids.at, ids.len, true, &text);
    buf_str(b, S("{\"content\":"));
    buf_json(b, buf_view(&text));
    buf_char(b, '}');
    buf_free(&text);
    ids_free(&ids);
    return true;
}

void text_detokenize(struct exchange *x) {
    answer(x, content_of);
}

/* ---- /apply-template ---- */

static bool prompt_of(struct exchange *x, struct fields *f, struct buf *b) {
    struct call *c = call_new(x, NULL, "", json_object_get(f->object));
    const struct chat *chat;
    struct chat_in in;
    struct prompt prompt = { 0 };
    struct err err = { 0 };
    chat_read(c, f, &in);
    bool ok = !f->fault->status;
    if (ok) {
        chat = engine_chat(x->server->engine, &err);
        ok = chat && call_render(chat, &in.dialog, &prompt, &err);
        if (!ok) fault_set(f->fault, 400, "messages", "%s", err.text);
    }
    buf_str(b, S("{\"prompt\":"));
    buf_json(b, buf_view(&prompt.text));
    buf_char(b, '}');
    prompt_free(&prompt);
    chat_in_free(&in);
    call_free(c);
    return ok;
}

void text_template(struct exchange *x) {
    answer(x, prompt_of);
}

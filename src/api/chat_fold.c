/* chat_fold.c - system messages for templates that know none, or none but at the beginning.
 *
 * Such templates refuse the whole dialog, but a client cannot know that. What the system said is
 * then put before what the user says next, where models of these families were taught to find it.
 * The template is asked first: one that takes the dialog as it is gets it so. */
#include "api/call.h"

#include <json-c/json.h>

static struct json_object *member(struct json_object *message, const char *name) {
    struct json_object *value = NULL;
    json_object_object_get_ex(message, name, &value);
    return value;
}

static bool is_role(struct json_object *message, const char *role) {
    return str_is(json_str(member(message, "role")), role);
}

/* Content, which is a text or a list of text parts, as one text. */
static void put_text(struct buf *to, struct json_object *content) {
    if (json_object_is_type(content, json_type_string)) buf_str(to, json_str(content));
    if (!json_object_is_type(content, json_type_array)) return;
    for (size_t i = 0; i < json_object_array_length(content); i++) {
        if (i) buf_char(to, '\n');
        buf_str(to, json_str(member(json_object_array_get_idx(content, i), "text")));
    }
}

static struct json_object *user_message(struct json_object *copied, struct str text) {
    struct json_object *m = NULL;
    if (!copied || json_object_deep_copy(copied, &m, NULL)) m = json_object_new_object();
    json_object_object_add(m, "role", json_object_new_string("user"));
    json_object_object_add(m, "content", json_object_new_string_len(text.at ? text.at : "",
                                                                    (int)text.len));
    return m;
}

/* The dialog's messages without the system's from `from` on; NULL: there is none of these. What
 * stands before an answer of the assistant, with no user in between, is a turn of the user's. */
static struct json_object *fold(struct json_object *messages, size_t from) {
    struct json_object *out = json_object_new_array();
    struct buf said = { 0 };
    size_t n = json_object_array_length(messages), n_folded = 0;
    for (size_t i = 0; i <= n; i++) {
        struct json_object *m = i < n ? json_object_array_get_idx(messages, i) : NULL;
        bool user = m && is_role(m, "user");
        if (m && i >= from && is_role(m, "system")) {
            if (said.len) buf_str(&said, S("\n\n"));
            put_text(&said, member(m, "content"));
            n_folded++;
            continue;
        }
        if (said.len && user) {
            buf_str(&said, S("\n\n"));
            put_text(&said, member(m, "content"));
        }
        if (said.len) json_object_array_add(out, user_message(user ? m : NULL, buf_view(&said)));
        if (m && !(user && said.len)) json_object_array_add(out, json_object_get(m));
        buf_clear(&said);
    }
    buf_free(&said);
    if (n_folded) return out;
    json_object_put(out);
    return NULL;
}

bool call_render(const struct chat *chat, const struct dialog *d, struct prompt *out,
                 struct err *err) {
    struct err first = { 0 };
    if (chat_render(chat, d, out, &first)) return true;
    for (size_t from = 2; from-- > 0;) {       /* all but a first one, then that one too */
        struct err again = { 0 };
        struct dialog folded = *d;
        struct json_object *messages = fold(d->messages, from);
        if (!messages) continue;
        folded.messages = messages;
        bool ok = chat_render(chat, &folded, out, &again);
        json_object_put(messages);
        if (ok) return true;
    }
    return err_code(err, first.code, "%s", first.text);
}

/* templates_pipe.c - renders chat templates that a script sends, for differential tests.
 *
 * One JSON object a line on standard input: "t", the template's text, or "dir", a checkpoint's
 * folder; and "messages", "tools", "documents", "vars", "no_generation_prompt", "as_given" as the
 * fields of struct dialog. One JSON object a line comes back: {"out": text} or {"error": text}. */
#include "prompt/prompt.h"
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

enum { NOW = 1720105569 };           /* 2024-07-04 15:06:09 UTC, as the scripts say */

static struct json_object *member(struct json_object *j, const char *key) {
    return json_object_object_get(j, key);
}

static const char *string(struct json_object *j, const char *key) {
    struct json_object *s = member(j, key);
    return s ? json_object_get_string(s) : NULL;
}

static void answer(struct json_object *j) {
    struct err err = { 0 };
    struct prompt prompt = { 0 };
    struct json_object *none = json_object_new_array(), *out = json_object_new_object();
    struct json_object *messages = member(j, "messages");
    struct dialog d = {
        .messages = messages ? messages : none, .tools = member(j, "tools"),
        .documents = member(j, "documents"), .vars = member(j, "vars"),
        .no_generation_prompt = json_object_get_boolean(member(j, "no_generation_prompt")),
        .as_given = json_object_get_boolean(member(j, "as_given")), .now_s = NOW,
    };
    struct chat *chat = chat_open(string(j, "dir"), string(j, "t"), NULL, &err);
    if (chat && chat_render(chat, &d, &prompt, &err))
        json_object_object_add(out, "out", json_object_new_string_len(
            prompt.text.len ? prompt.text.at : "", (int)prompt.text.len));
    else
        json_object_object_add(out, "error", json_object_new_string(err.text));
    puts(json_object_to_json_string_ext(out, JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
    chat_close(chat);
    prompt_free(&prompt);
    json_object_put(out);
    json_object_put(none);
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    setenv("TZ", "UTC", 1);
    while (getline(&line, &cap, stdin) > 0) {
        struct json_object *j = json_tokener_parse(line);
        if (!j) {
            fprintf(stderr, "templates_pipe: not JSON: %.200s\n", line);
            return 1;
        }
        answer(j);
        json_object_put(j);
    }
    free(line);
    return 0;
}

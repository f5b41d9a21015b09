/* caps.c - what a chat template can show, for /props: it is given small dialogs, and what comes out
 * is searched for what went in. */
#include "api/native.h"
#include "api/server.h"

#include <json-c/json.h>
#include <string.h>

#define USER "{\"role\":\"user\",\"content\":\"mark-user\"}"
#define CALL(name) "{\"id\":\"call00000\",\"type\":\"function\",\"function\":{\"name\":\"" name \
                   "\",\"arguments\":{\"key\":\"" name "-value\"}}}"
#define CALLS(calls) USER ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[" calls "]}"

/* A cap holds when the dialog renders and every mark is in the prompt. The last message is never
 * the assistant's: that would be continued. */
static const struct { const char *name, *messages, *tools, *mark[2]; } caps[] = {
    { "supports_string_content", "[" USER "]", NULL, { "mark-user" } },
    { "supports_system_role", "[{\"role\":\"system\",\"content\":\"mark-system\"}," USER "]", NULL,
      { "mark-system" } },
    { "supports_tools", "[" USER "]",
      "[{\"type\":\"function\",\"function\":{\"name\":\"mark-tool\","
      "\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}}]",
      { "mark-tool" } },
    { "supports_tool_calls", "[" CALLS(CALL("mark-one")) ",{\"role\":\"tool\",\"tool_call_id\":"
      "\"call00000\",\"content\":\"mark-said\"}]", NULL, { "mark-one-value", "mark-said" } },
    { "supports_parallel_tool_calls", "[" CALLS(CALL("mark-one") "," CALL("mark-two")) "," USER "]",
      NULL, { "mark-one-value", "mark-two-value" } },
    { "supports_preserve_reasoning", "[" USER ",{\"role\":\"assistant\",\"reasoning_content\":"
      "\"mark-thought\",\"content\":\"a\"}," USER "]", NULL, { "mark-thought" } },
};

static bool holds(const struct chat *chat, size_t i) {
    struct json_object *messages = json_tokener_parse(caps[i].messages);
    struct json_object *tools = caps[i].tools ? json_tokener_parse(caps[i].tools) : NULL;
    struct dialog d = { .messages = messages, .tools = tools };
    struct prompt prompt = { 0 };
    struct err err = { 0 };
    bool ok = chat_render(chat, &d, &prompt, &err);
    for (size_t k = 0; ok && k < COUNT(caps[i].mark) && caps[i].mark[k]; k++)
        ok = strstr(buf_c(&prompt.text), caps[i].mark[k]) != NULL;
    prompt_free(&prompt);
    json_object_put(messages);
    json_object_put(tools);
    return ok;
}

void native_caps(struct buf *b, const struct chat *chat) {
    buf_char(b, '{');
    for (size_t i = 0; chat && i < COUNT(caps); i++)
        buf_format(b, "%s\"%s\":%s", i ? "," : "", caps[i].name, holds(chat, i) ? "true" : "false");
    buf_char(b, '}');
}

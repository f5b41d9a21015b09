/* Chat templates and special tokens are found where checkpoints keep them, and chosen as
 * transformers chooses: folders.json has files and what tools/make_template_vectors.py got of
 * them. What is broken is refused by the name of its file. */
#include "base/buf.h"
#include "prompt/prompt.h"
#include <ftw.h>
#include <json-c/json.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static struct json_object *member(struct json_object *j, const char *key) {
    return json_object_object_get(j, key);
}

static const char *string(struct json_object *j, const char *key) {
    return member(j, key) ? json_object_get_string(member(j, key)) : NULL;
}

/* "folder/name" makes the folder too. */
static void put_file(const char *name, const char *text) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *slash = strchr(path + strlen(dir) + 1, '/');
    if (slash) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void open_folder(void) {
    snprintf(dir, sizeof dir, "/tmp/mlxcel-chat-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void remove_folder(void) {
    assert_int_equal(nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void ask(struct json_object *one, const char *files) {
    struct err err = { 0 };
    struct prompt p = { 0 };
    struct json_object *messages = json_tokener_parse("[{\"role\":\"user\",\"content\":\"hi\"}]");
    struct json_object *lists = json_tokener_parse(
        "[[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],[{\"title\":\"d\"}]]");
    struct dialog d = {
        .messages = messages, .vars = member(one, "vars"),
        .tools = member(one, "tools") ? json_object_array_get_idx(lists, 0) : NULL,
        .documents = member(one, "documents") ? json_object_array_get_idx(lists, 1) : NULL,
    };
    const char *want = string(one, "want"), *refusal = string(one, "refuses");
    struct chat *chat = chat_open(dir, string(one, "template"), NULL, &err);
    bool ok = chat && chat_render(chat, &d, &p, &err);
    if (ok != (want != NULL) || (ok && !str_is(buf_view(&p.text), want)))
        fail_msg("%s %s: \"%s\" %s", files, json_object_to_json_string(one),
                 ok ? buf_c(&p.text) : "", err.text);
    if (!ok) assert_non_null(strstr(err.text, refusal ? refusal : "chat template"));
    chat_close(chat);
    prompt_free(&p);
    json_object_put(lists);
    json_object_put(messages);
}

static void folders(void **state) {
    (void)state;
    struct json_object *cases = json_object_from_file("tests/prompt/folders.json");
    assert_non_null(cases);
    size_t n = json_object_array_length(cases), asked = 0;
    for (size_t i = 0; i < n; i++) {
        struct json_object *one = json_object_array_get_idx(cases, i);
        struct json_object *files = member(one, "files"), *asks = member(one, "asks");
        open_folder();
        json_object_object_foreach(files, name, text)
            put_file(name, json_object_get_string(text));
        for (size_t k = 0; k < json_object_array_length(asks); k++, asked++)
            ask(json_object_array_get_idx(asks, k), json_object_to_json_string(files));
        remove_folder();
    }
    assert_true(asked > 40);
    json_object_put(cases);
}

static void refused(const char *name, const char *text, const char *has) {
    struct err err = { 0 };
    open_folder();
    put_file(name, text);
    if (chat_open(dir, NULL, NULL, &err)) fail_msg("not refused: %s %s", name, text);
    if (!strstr(err.text, has) || !strstr(err.text, name))
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", err.text, has, name);
    remove_folder();
}

static void broken_files(void **state) {
    (void)state;
    static const char config[] = "tokenizer_config.json";
    refused(config, "[]", "not a JSON object");
    refused(config, "{", "not a JSON object");
    refused(config, "{\"chat_template\": 5}", "neither a string nor a list");
    refused(config, "{\"chat_template\": [5]}", "chat_template[0] has no name and template");
    refused(config, "{\"chat_template\": [{\"name\": \"x\"}]}", "chat_template[0]");
    refused(config, "{\"chat_template\": {\"x\": 1}}", "chat_template.x is not a string");
    refused(config, "{\"chat_template\": \"\"}", "it is empty");
    refused(config, "{\"chat_template\": \"a\\n{{ 1 + }}\"}", "chat template line 2, column 8");
    refused("chat_template.json", "{\"chat_template\": \"{% nope %}\"}", "line 1, column 4");
    refused("chat_template.jinja", "", "it is empty");
    refused("chat_template.jinja", "\n\n{{ x", "chat template line 3");
    refused("additional_chat_templates/tool_use.jinja", "\n{% if %}", "chat template line 2");
}

static void no_regular_file(void **state) {
    (void)state;
    struct err err = { 0 };
    open_folder();
    put_file("chat_template.jinja/x", "");
    assert_null(chat_open(dir, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "chat_template.jinja"));
    remove_folder();
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(folders), cmocka_unit_test(broken_files),
        cmocka_unit_test(no_regular_file),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}

/* models.c - GET /v1/models: one model under each of its names, described with every field that
 * some client looks for at this address: OpenAI's, vLLM's, llama-server's, Anthropic's and those of
 * context meters. While the model loads its names are known, and nothing else. */
#include "api/openai.h"
#include "api/routes.h"
#include "api/server.h"

#include <string.h>
#include <time.h>

/* ---- what is known of it ---- */

/* Its details may be read: they were set before the state was. */
static bool is_loaded(const struct server *s) {
    int state = atomic_load(&s->state);
    return state == SERVER_READY || state == SERVER_FAILED;
}

static bool mentions(const struct chat *chat, const char *word) {
    for (int i = 0; i < 2; i++) {
        struct str text = chat_source(chat, i);
        if (text.len && memmem(text.at, text.len, word, strlen(word))) return true;
    }
    return false;
}

/* A template that knows of tools or thinking names their variables. */
static void put_capabilities(struct buf *b, const struct server *s) {
    const struct chat *chat = is_loaded(s) ? engine_chat(s->engine, NULL) : NULL;
    buf_str(b, S(",\"capabilities\":[\"completion\""));
    if (chat) buf_str(b, S(",\"chat\""));
    if (chat && mentions(chat, "tools")) buf_str(b, S(",\"tools\""));
    if (chat && (mentions(chat, "enable_thinking") || mentions(chat, "reasoning_effort") ||
                 mentions(chat, "<think>")))
        buf_str(b, S(",\"thinking\""));
    buf_char(b, ']');
}

/* llama.cpp's numbers for kinds of vocabularies. */
static int vocab_type(const struct server *s) {
    static const struct { const char *name; int number; } types[] = {
        { "BPE", 2 }, { "WordPiece", 3 }, { "Unigram", 4 }, { "RWKV", 5 }, { "PLaMo", 6 },
    };
    const char *type = tok_type(engine_tokenizer(s->engine));
    for (size_t i = 0; i < COUNT(types); i++)
        if (!strcmp(type, types[i].name)) return types[i].number;
    return 0;
}

static void put_meta(struct buf *b, const struct server *s) {
    const struct engine_info *i = &s->info;
    if (!is_loaded(s)) {
        buf_str(b, S(",\"meta\":null"));
        return;
    }
    buf_format(b, ",\"max_model_len\":%d,\"context_length\":%d,\"max_context_length\":%d",
               i->context, i->context, i->context);
    buf_format(b, ",\"meta\":{\"vocab_type\":%d,\"n_vocab\":%d,\"n_ctx\":%d,\"n_ctx_train\":%d,"
               "\"n_embd\":%d,\"n_params\":%lld,\"size\":%zu}", vocab_type(s), i->vocab, i->context,
               i->context_train, i->dim, (long long)i->params, i->weights_bytes);
}

static void put_name(struct buf *b, const char *key, struct str name) {
    buf_format(b, ",\"%s\":", key);
    buf_json(b, name);
}

/* ---- names ---- */

/* The name before the next comma, and the rest after it. */
static struct str next_name(struct str *list) {
    size_t n = 0;
    while (n < list->len && list->at[n] != ',') n++;
    struct str name = str_cut(*list, 0, n);
    *list = str_from(*list, n + 1);
    return name;
}

bool models_have(const struct server *s, struct str name) {
    bool found = str_is(name, s->model);
    for (struct str rest = str_of(s->options.alias); rest.len && !found;)
        found = name.len && str_eq(next_name(&rest), name);
    return found;
}

/* The names, one after the other, from a zeroed `rest` on: what replies call the model comes
 * first. */
static bool walk_names(const struct server *s, struct str *rest, struct str *name) {
    if (!rest->at) {
        *rest = str_of(s->options.alias ? s->options.alias : "");
        next_name(rest);
        *name = str_of(s->model);
        return true;
    }
    while (rest->len)
        if ((*name = next_name(rest)).len) return true;
    return false;
}

/* All other names than this one. */
static void put_aliases(struct buf *b, const struct server *s, struct str id) {
    struct str rest = { 0 }, name;
    bool any = false;
    buf_str(b, S(",\"aliases\":["));
    while (walk_names(s, &rest, &name)) {
        if (str_eq(name, id)) continue;
        if (any) buf_char(b, ',');
        buf_json(b, name);
        any = true;
    }
    buf_char(b, ']');
}

/* ---- the shapes ---- */

static void put_model(struct buf *b, const struct server *s, struct str id) {
    char made[32] = "";
    time_t created = (time_t)s->created;
    struct tm utc;
    if (gmtime_r(&created, &utc)) strftime(made, sizeof made, "%Y-%m-%dT%H:%M:%SZ", &utc);
    buf_str(b, S("{\"object\":\"model\",\"type\":\"model\",\"owned_by\":\"mlxcel\""));
    put_name(b, "id", id);
    put_name(b, "display_name", id);
    put_name(b, "root", str_of(s->model));
    buf_format(b, ",\"parent\":null,\"created\":%lld,\"created_at\":\"%s\",\"tags\":[]",
               (long long)s->created, made);
    put_aliases(b, s, id);
    buf_str(b, S(",\"architecture\":{\"input_modalities\":[\"text\"],"
                 "\"output_modalities\":[\"text\"]}"));
    put_capabilities(b, s);
    buf_format(b, ",\"status\":{\"value\":\"%s\"}", is_loaded(s) ? "loaded" : "loading");
    put_meta(b, s);
    buf_char(b, '}');
}

/* The list that llama-server has beside OpenAI's, in Ollama's words. Codex looks for one of this
 * name, with a "slug". */
static void put_other(struct buf *b, const struct server *s, struct str id) {
    bool loaded = is_loaded(s);
    buf_str(b, S("{\"type\":\"model\""));
    put_name(b, "name", id);
    put_name(b, "model", id);
    put_name(b, "slug", id);
    put_name(b, "display_name", id);
    buf_str(b, S(",\"modified_at\":\"\",\"size\":\"\",\"digest\":\"\",\"description\":\"\","
                 "\"tags\":[\"\"],\"parameters\":\"\""));
    put_capabilities(b, s);
    if (loaded) buf_format(b, ",\"context_window\":%d", s->info.context);
    buf_str(b, S(",\"details\":{\"parent_model\":\"\",\"format\":\"safetensors\",\"family\":"));
    buf_json(b, str_of(loaded ? s->info.family : ""));
    buf_str(b, S(",\"families\":["));
    buf_json(b, str_of(loaded ? s->info.family : ""));
    buf_str(b, S("],\"parameter_size\":\""));
    if (loaded) buf_format(b, "%.1fM", (double)s->info.params / 1e6);
    buf_str(b, S("\",\"quantization_level\":"));
    buf_json(b, str_of(loaded ? s->info.quantization : ""));
    buf_str(b, S("}}"));
}

typedef void put_one(struct buf *, const struct server *, struct str id);

/* One entry for each name: clients offer their users those that are listed, and no others. */
static struct str put_all(struct buf *b, const struct server *s, put_one *put) {
    struct str rest = { 0 }, name, last = { 0 };
    while (walk_names(s, &rest, &name)) {
        if (last.at) buf_char(b, ',');
        put(b, s, name);
        last = name;
    }
    return last;
}

void models_list(struct exchange *x) {
    const struct server *s = x->server;
    struct buf b = { 0 };
    buf_str(&b, S("{\"object\":\"list\",\"data\":["));
    struct str last = put_all(&b, s, put_model);
    buf_str(&b, S("],\"models\":["));
    put_all(&b, s, put_other);
    buf_str(&b, S("],\"has_more\":false"));
    put_name(&b, "first_id", str_of(s->model));
    put_name(&b, "last_id", last);
    buf_char(&b, '}');
    reply_json(x, 200, &b);
}

/* ---- one ---- */

static int hex(char c) {
    static const char digits[] = "0123456789abcdef";
    const char *at = memchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c, 16);
    return at ? (int)(at - digits) : -1;
}

/* "owner%2Fname" as clients write a name into a path. */
static void unescape(struct buf *to, struct str text) {
    for (size_t i = 0; i < text.len; i++) {
        int high = i + 2 < text.len && text.at[i] == '%' ? hex(text.at[i + 1]) : -1;
        int low = high < 0 ? -1 : hex(text.at[i + 2]);
        buf_char(to, low < 0 ? text.at[i] : (char)(high << 4 | low));
        if (low >= 0) i += 2;
    }
}

void models_one(struct exchange *x) {
    const struct server *s = x->server;
    struct fault f = { 0 };
    struct buf name = { 0 }, b = { 0 };
    const char *prefix = s->options.prefix;
    size_t begin = strlen(x->route->path) - 1 + (prefix ? strlen(prefix) : 0);
    unescape(&name, str_from(x->path, begin));
    if (models_have(s, buf_view(&name))) {
        put_model(&b, s, buf_view(&name));
        reply_json(x, 200, &b);
    } else {
        fault_set(&f, 404, "model", "The model '%.*s' does not exist; this server has '%s'.",
                  STR_ARG(buf_view(&name)), s->model);
        f.code = "model_not_found";
        reply_fault(x, &f);
    }
    buf_free(&name);
}

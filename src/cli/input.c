/* input.c - what a person gives by name: files, standard input, JSON, lists of ids.
 *
 * All of it is bounded by INPUT_MAX and checked here, so that commands handle
 * texts and ids only. */
#include "base/pull.h"
#include "cli/cli.h"
#include <errno.h>
#include <json-c/json_tokener.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

enum { JSON_DEPTH_MAX = 64, IDS_MAX = 1 << 24 };

static bool read_stdin(struct buf *text, struct err *err) {
    char piece[65536];
    for (;;) {
        ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_set(err, "cannot read standard input: %s", strerror(errno));
        if (n == 0) return true;
        if (text->len + (size_t)n > INPUT_MAX)
            return err_set(err, "standard input holds more than %d MiB", INPUT_MAX >> 20);
        buf_put(text, piece, (size_t)n);
    }
}

bool input_file(struct buf *text, const char *path, struct err *err) {
    if (!strcmp(path, "-")) return read_stdin(text, err);
    return buf_read_file(text, path, INPUT_MAX, err);
}

struct json_object *input_json_text(struct str text, const char *what, struct err *err) {
    if (text.len > INT_MAX) {
        err_set(err, "%s is too long", what);
        return NULL;
    }
    struct json_tokener *t = json_tokener_new_ex(JSON_DEPTH_MAX);
    json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *o = json_tokener_parse_ex(t, text.at, (int)text.len);
    enum json_tokener_error e = json_tokener_get_error(t);
    size_t end = json_tokener_get_parse_end(t);
    /* A number at the very end is complete only once the parser sees that nothing follows. */
    if (e == json_tokener_continue) {
        o = json_tokener_parse_ex(t, "", 1);
        e = json_tokener_get_error(t);
        end = text.len;
    }
    for (; e == json_tokener_success && end < text.len; end++)
        if (!memchr(" \t\r\n", text.at[end], 4)) e = json_tokener_error_parse_unexpected;
    if (e != json_tokener_success) {
        err_set(err, "%s is not JSON: %s at byte %zu", what, json_tokener_error_desc(e), end);
        json_object_put(o);
        o = NULL;
    } else if (!o) {
        err_set(err, "%s is null", what);
    }
    json_tokener_free(t);
    return o;
}

struct json_object *input_json(const char *path, struct err *err) {
    struct buf text = { 0 };
    struct json_object *o = NULL;
    if (input_file(&text, path, err)) o = input_json_text(buf_view(&text), path, err);
    buf_free(&text);
    return o;
}

static bool put_id(struct ids *ids, uint64_t id, const char *what, struct err *err) {
    if (ids->len >= IDS_MAX) return err_set(err, "%s holds more than %d ids", what, IDS_MAX);
    ids_put(ids, (int)id);
    return true;
}

static bool ids_list(struct ids *ids, struct pull *p, const char *what, struct err *err) {
    uint64_t id;
    if (pull_array(p))
        while (pull_next(p))
            if (pull_u64(p, INT_MAX, &id) && !put_id(ids, id, what, err)) return false;
    return true;
}

/* A JSON list, or an object that has one as "ids". */
static bool ids_json(struct ids *ids, struct str text, const char *what, struct err *err) {
    struct pull p = pull_open(text);
    bool found = true, ok = true;
    if (pull_peek(&p) == PULL_OBJECT) {
        struct str key;
        found = false;
        pull_object(&p);
        while (ok && pull_key(&p, &key)) {
            if (str_is(key, "ids")) {
                found = true;
                ok = ids_list(ids, &p, what, err);
            } else {
                pull_skip(&p);
            }
        }
    } else {
        ok = ids_list(ids, &p, what, err);
    }
    if (ok && !pull_end(&p))
        ok = err_set(err, "%s: %s at byte %zu", what, p.error, p.offset);
    if (ok && !found) ok = err_set(err, "%s: the object has no list \"ids\"", what);
    pull_close(&p);
    return ok;
}

bool input_ids_text(struct ids *ids, struct str text, const char *what, struct err *err) {
    size_t i = 0;
    while (i < text.len && memchr(" \t\r\n", text.at[i], 4)) i++;
    if (i < text.len && (text.at[i] == '[' || text.at[i] == '{'))
        return ids_json(ids, text, what, err);
    while (i < text.len) {
        size_t end = i;
        while (end < text.len && !memchr(", \t\r\n", text.at[end], 5)) end++;
        struct str one = str_cut(text, i, end);
        uint64_t id;
        if (!str_u64(one, INT_MAX, &id))
            return err_code(err, ERR_USAGE, "%s: '%.*s' is not a token id", what, STR_ARG(one));
        if (!put_id(ids, id, what, err)) return false;
        i = end;
        while (i < text.len && memchr(", \t\r\n", text.at[i], 5)) i++;
    }
    return true;
}

bool input_ids(struct ids *ids, const char *list, struct err *err) {
    bool ok;
    if (list[0] == '@') {
        struct buf text = { 0 };
        ok = input_file(&text, list + 1, err)
          && input_ids_text(ids, buf_view(&text), list + 1, err);
        buf_free(&text);
    } else {
        ok = input_ids_text(ids, str_of(list), "--ids", err);
    }
    if (ok && !ids->len) ok = err_code(err, ERR_USAGE, "--ids holds no token ids");
    return ok;
}

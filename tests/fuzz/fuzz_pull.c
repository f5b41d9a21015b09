/* fuzz_pull.c - the pull reader against json-c: what it takes, json-c takes; and an entered
 * walk accepts exactly what a skip accepts. */
#include "base/pull.h"
#include <json-c/json.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Enters every container instead of skipping it. */
static bool walk(struct pull *j) {
    struct str s, pair[2];
    double d;
    bool b;
    int floor = j->depth;
    do {
        bool inside = j->depth > floor;
        if (inside && !(j->in_object >> (j->depth - 1) & 1 ? pull_key(j, &s) : pull_next(j)))
            continue;
        switch (pull_peek(j)) {
        case PULL_NULL:   pull_null(j); break;
        case PULL_BOOL:   pull_bool(j, &b); break;
        case PULL_NUMBER: pull_double(j, &d); break;
        case PULL_STRING: pull_string(j, &s); break;
        case PULL_ARRAY:  if (!pull_pair(j, &pair[0], &pair[1])) pull_array(j); break;
        case PULL_OBJECT: pull_object(j); break;
        case PULL_NONE:   pull_fail(j, "expected a value"); break;
        }
    } while (j->depth > floor && !j->error);
    return pull_end(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = { (const char *)data, size };
    for (int lenient = 0; lenient < 2; lenient++) {
        struct pull skipped = pull_open(text), entered = pull_open(text);
        skipped.lenient = entered.lenient = lenient;
        bool ok = pull_skip(&skipped) && pull_end(&skipped), same = walk(&entered);
        /* pull_double alone bounds the length of a number. */
        if (ok != same && !(ok && size > 63)) abort();
        if (ok && !lenient) {
            struct json_tokener *tok = json_tokener_new_ex(PULL_DEPTH_MAX + 2);
            struct json_object *value = json_tokener_parse_ex(tok, text.at, (int)size);
            enum json_tokener_error error = json_tokener_get_error(tok);
            /* A bare number could go on, so json-c waits for more. */
            if (error != json_tokener_success && error != json_tokener_continue) abort();
            json_object_put(value);
            json_tokener_free(tok);
        }
        pull_close(&skipped);
        pull_close(&entered);
    }
    return 0;
}

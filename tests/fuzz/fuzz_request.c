/* Fuzzes what a body means: the first byte chooses a route, the rest is JSON for it. Whatever it
 * says, the answer is one of the shapes that clients know, and no fault of ours. */
#include "../api/offline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BODY_MAX = 1 << 16, STREAM_MAX = 1 << 16 };

static const char *const paths[] = {
    "/v1/chat/completions", "/v1/completions", "/completion", "/tokenize", "/detokenize",
    "/apply-template",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!offline_server) offline_open();
    if (!size || size > BODY_MAX) return 0;
    struct buf text = { 0 };
    struct offline_reply r = { 0 };
    buf_format(&text, "POST %s HTTP/1.1\nHost: localhost\nContent-Type: application/json\n\n",
               paths[data[0] % COUNT(paths)]);
    buf_put(&text, (const char *)data + 1, size - 1);
    if (!offline_ask(text.at, text.len, STREAM_MAX, &r)) abort();
    const char *wrong = r.status ? offline_wrong(&r) : "no reply";
    if (wrong) {
        fprintf(stderr, "%s: %d %s\n", wrong, r.status, buf_c(&r.body));
        abort();
    }
    offline_reply_free(&r);
    buf_free(&text);
    return 0;
}

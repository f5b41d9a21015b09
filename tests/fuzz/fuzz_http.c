/* Fuzzes whole requests, from the line at the top to the last byte of the body, through the checks
 * of headers and every route's handler, without a socket. What libmicrohttpd itself refuses is
 * left out. */
#include "../api/offline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_MAX = 1 << 16, STREAM_MAX = 1 << 14 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!offline_server) offline_open();
    if (size > TEXT_MAX) return 0;
    struct buf text = { 0 };
    struct offline_reply r = { 0 };
    buf_put(&text, data, size);
    /* Without a reply the connection was closed: a body beyond every limit. */
    bool asked = size && offline_ask(text.at, text.len, STREAM_MAX, &r);
    const char *wrong = asked && r.status ? offline_wrong(&r) : NULL;
    if (wrong) {
        fprintf(stderr, "%s: %d %s\n", wrong, r.status, buf_c(&r.body));
        abort();
    }
    offline_reply_free(&r);
    buf_free(&text);
    return 0;
}

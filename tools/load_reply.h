/* load_reply.h - a reply of the server as the load generator reads it: head, chunks, events.
 *
 * Bytes go in as they come; what comes out is the text of the answer, still escaped as JSON, since
 * two replies with the same text escape it alike. No tree is built: the generator shares its
 * cores with the server. */
#pragma once
#include "base/buf.h"
#include <string.h>

enum reply_part { PART_HEAD, PART_SIZE, PART_DATA, PART_DATA_LINE, PART_LAST_LINE, PART_BODY,
                  PART_OVER };

struct reply {
    enum reply_part part;
    int status;
    bool chunked, stream, closes;
    size_t left;                     /* bytes of the chunk or body that are still to come */
    struct buf line;                 /* of the head, or of a chunk's size */
    struct buf body;                 /* a body without events, or the event that is not complete */
    struct buf text;                 /* of the answer */
    int n_text, n_events;            /* events with text, and all */
    int n_prompt, n_cached, n_generated;     /* of the usage */
    bool finished, done, broken;     /* a finish_reason came; [DONE]; not what HTTP allows */
    char finish[16];
};

static inline void reply_clear(struct reply *r) {
    struct buf line = r->line, body = r->body, text = r->text;
    *r = (struct reply){ .line = line, .body = body, .text = text };
    buf_clear(&r->line);
    buf_clear(&r->body);
    buf_clear(&r->text);
}

static inline void reply_free(struct reply *r) {
    buf_free(&r->line);
    buf_free(&r->body);
    buf_free(&r->text);
}

/* What stands behind `key`, or NULL. */
static inline const char *reply_find(const char *json, const char *key) {
    const char *at = strstr(json, key);
    return at ? at + strlen(key) : NULL;
}

static inline int reply_number(const char *json, const char *key) {
    const char *at = reply_find(json, key);
    int n = 0;
    while (at && *at >= '0' && *at <= '9' && n < 100000000) n = n * 10 + (*at++ - '0');
    return n;
}

/* The string behind the first of the keys, escapes and all. */
static inline struct str reply_string(const char *json, const char *key) {
    const char *at = reply_find(json, key), *end = at;
    if (!at) return (struct str){ 0 };
    while (*end && *end != '"') end += *end == '\\' && end[1] ? 2 : 1;
    return (struct str){ at, (size_t)(end - at) };
}

static inline void reply_json(struct reply *r, const char *json) {
    struct str text = reply_string(json, "\"text\":\"");
    if (!text.at) text = reply_string(json, "\"content\":\"");
    if (text.len) {
        buf_str(&r->text, text);
        r->n_text++;
    }
    struct str finish = reply_string(json, "\"finish_reason\":\"");
    if (finish.len && finish.len < sizeof r->finish) {
        r->broken |= r->finished;
        r->finished = true;
        memcpy(r->finish, finish.at, finish.len);
        r->finish[finish.len] = 0;
    }
    if (!reply_find(json, "\"usage\":{")) return;
    r->n_prompt = reply_number(json, "\"prompt_tokens\":");
    r->n_cached = reply_number(json, "\"cached_tokens\":");
    r->n_generated = reply_number(json, "\"completion_tokens\":");
}

/* Every whole event of the body: "data: ..." or a comment, and an empty line. */
static inline void reply_events(struct reply *r) {
    size_t begin = 0;
    buf_c(&r->body);
    for (char *end; (end = strstr(r->body.at + begin, "\n\n"));) {
        char *event = r->body.at + begin;
        *end = 0;
        begin = (size_t)(end - r->body.at) + 2;
        r->broken |= r->done;
        if (event[0] == ':') continue;
        r->n_events++;
        if (strncmp(event, "data: ", 6)) r->broken = true;
        else if (!strcmp(event + 6, "[DONE]")) r->done = true;
        else reply_json(r, event + 6);
    }
    struct buf rest = { 0 };
    if (!begin) return;
    buf_put(&rest, r->body.at + begin, r->body.len - begin);
    buf_clear(&r->body);
    buf_str(&r->body, buf_view(&rest));
    buf_free(&rest);
}

static inline void reply_head_line(struct reply *r) {
    const char *line = buf_c(&r->line);
    if (!strncmp(line, "HTTP/1.1 ", 9)) r->status = reply_number(line, "HTTP/1.1 ");
    if (!strncmp(line, "Content-Length: ", 16))
        r->left = (size_t)reply_number(line, "Content-Length: ");
    r->chunked |= !strcmp(line, "Transfer-Encoding: chunked");
    r->stream |= !strncmp(line, "Content-Type: text/event-stream", 31);
    r->closes |= !strcmp(line, "Connection: close");
    if (line[0]) return;
    if (r->status == 100) r->status = 0;         /* the real head comes after it */
    else if (r->chunked) r->part = PART_SIZE;
    else r->part = r->left ? PART_BODY : PART_OVER;
}

static inline void reply_size_line(struct reply *r) {
    static const char digits[] = "0123456789abcdef";
    r->left = 0;
    for (const char *c = buf_c(&r->line); *c; c++) {
        const char *digit = strchr(digits, *c >= 'A' && *c <= 'F' ? *c + 32 : *c);
        r->broken |= !digit || r->left > 1u << 24;
        r->left = r->left * 16 + (digit ? (size_t)(digit - digits) : 0);
    }
    r->part = r->left ? PART_DATA : PART_LAST_LINE;
}

static inline void reply_line(struct reply *r) {
    switch (r->part) {
    case PART_HEAD: reply_head_line(r); break;
    case PART_SIZE: reply_size_line(r); break;
    case PART_DATA_LINE: r->part = PART_SIZE; break;
    default: r->part = PART_OVER; break;
    }
    buf_clear(&r->line);
}

/* Takes bytes until the reply is over; how many it took. */
static inline size_t reply_take(struct reply *r, const char *bytes, size_t n) {
    size_t at = 0;
    while (at < n && r->part != PART_OVER && !r->broken) {
        if (r->part == PART_DATA || r->part == PART_BODY) {
            size_t some = MIN(n - at, r->left);
            buf_put(&r->body, bytes + at, some);
            at += some;
            r->left -= some;
            if (!r->left) r->part = r->part == PART_BODY ? PART_OVER : PART_DATA_LINE;
            continue;
        }
        char c = bytes[at++];
        if (c == '\n') reply_line(r);
        else if (c != '\r') buf_char(&r->line, c);
    }
    if (r->stream) reply_events(r);
    else if (r->part == PART_OVER && r->body.len) reply_json(r, buf_c(&r->body));
    return at;
}

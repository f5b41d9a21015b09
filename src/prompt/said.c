/* said.c - looking for marks; see said.h. */
#include "prompt/said.h"
#include <string.h>

bool said_blank(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

static void count(const struct said *s, size_t bytes) {
    if (s->work) *s->work += bytes;
}

size_t said_skip(const struct said *s, size_t from) {
    size_t begin = from;
    while (from < s->text.len && said_blank(s->text.at[from])) from++;
    count(s, from - begin + 1);
    return from;
}

bool said_by_token(const struct tags *tags, const char *mark) {
    struct str m = str_of(mark);
    for (int i = 0; i < tags->n; i++)
        if (memmem(m.at, m.len, tags->at[i].text.at, tags->at[i].text.len)) return true;
    return false;
}

/* Whether tokens of their own wrote all those parts of a mark that the vocabulary has as such. */
static bool by_control(const struct said *s, size_t at, struct str mark) {
    for (int i = 0; s->tags && i < s->tags->n; i++) {
        struct str tag = s->tags->at[i].text;
        for (size_t from = 0; from + tag.len <= mark.len; from++) {
            if (memcmp(mark.at + from, tag.at, tag.len) != 0) continue;
            for (size_t k = 0; k < tag.len; k++)
                if (!s->control[at + from + k]) return false;
        }
    }
    return true;
}

enum match said_at(const struct said *s, size_t at, const char *mark) {
    struct str m = str_of(mark), rest = str_from(s->text, at);
    size_t n = MIN(m.len, rest.len);
    count(s, 1);
    if (n && memcmp(m.at, rest.at, n) != 0) return MATCH_NO;
    if (n < m.len) return s->last ? MATCH_NO : MATCH_MORE;
    return by_control(s, at, m) ? MATCH_YES : MATCH_NO;
}

size_t said_find(const struct said *s, size_t from, const char *mark, size_t *hold) {
    *hold = s->text.len;
    count(s, s->text.len - MIN(from, s->text.len));
    while (from < s->text.len) {
        const char *at = memchr(s->text.at + from, mark[0], s->text.len - from);
        if (!at) break;
        from = (size_t)(at - s->text.at);
        enum match f = said_at(s, from, mark);
        if (f == MATCH_YES) return from;
        if (f == MATCH_MORE) {
            *hold = from;
            break;
        }
        from++;
    }
    return SIZE_MAX;
}

size_t said_find_near(const struct said *s, size_t from, const char *mark, size_t max,
                      size_t *hold) {
    struct said near = *s;
    size_t enough = from + max + strlen(mark);
    if (near.text.len > enough) {
        near.text.len = enough;
        near.last = true;            /* what is cut here begins too late in any case */
    }
    return said_find(&near, from, mark, hold);
}

/* charsmap.c - SentencePiece's precompiled character map: a length, a double array trie of
 * that many bytes, and the replacements, each ended by a NUL.
 *
 * A unit of the trie is 32 bits: its label in the low 8 and the top bit, whether a value
 * follows in bit 8, and how far its children are, by exclusive or, in the rest. */
#include "tokens/normalize.h"
#include <stdlib.h>
#include <string.h>
#include "base/buf.h"
#include "base/utf8.h"

/* A replacement beyond REPLACEMENT_MAX bytes is hostile: Unicode's longest have 33. So is a key
 * beyond KEY_MAX, which a trie with a circle in it has. */
enum { MAP_BYTES_MAX = 1 << 26, REPLACEMENT_MAX = 256, KEY_MAX = 256 };

struct charsmap { uint32_t *unit; size_t n_units; char *text; size_t text_len; };

struct charsmap *charsmap_from(struct str bytes, struct err *err) {
    uint32_t size = 0;
    if (bytes.len < 4 || bytes.len > MAP_BYTES_MAX) {
        err_set(err, "precompiled_charsmap: %zu bytes", bytes.len);
        return NULL;
    }
    for (int i = 0; i < 4; i++)
        size |= (uint32_t)(uint8_t)bytes.at[i] << 8 * i;
    if (!size || size % 4 || size > bytes.len - 4) {
        err_set(err, "precompiled_charsmap: a trie of %u bytes in a map of %zu", size, bytes.len);
        return NULL;
    }
    struct str text = str_from(bytes, 4 + (size_t)size);
    if (!utf8_valid(text)) {
        err_set(err, "precompiled_charsmap: the replacements are not UTF-8");
        return NULL;
    }
    for (size_t i = 0, run = 0; i < text.len; i++) {
        run = text.at[i] ? run + 1 : 0;
        if (run > REPLACEMENT_MAX) {
            err_set(err, "precompiled_charsmap: a replacement is too long");
            return NULL;
        }
    }
    struct charsmap *map = mem_new(sizeof *map);
    map->n_units = size / 4;
    map->unit = mem_array(map->n_units, sizeof *map->unit);
    for (size_t i = 0; i < size; i++)
        map->unit[i / 4] |= (uint32_t)(uint8_t)bytes.at[4 + i] << i % 4 * 8;
    map->text = mem_str(text);
    map->text_len = text.len;
    return map;
}

static int digit(char c) {
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26
        : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_read(struct str s, struct buf *out) {
    uint32_t bits = 0;
    int n = 0;
    while (s.len && s.at[s.len - 1] == '=')
        s.len--;
    for (size_t i = 0; i < s.len; i++) {
        int d = digit(s.at[i]);
        if (d < 0)
            return false;
        bits = bits << 6 | (uint32_t)d;
        n += 6;
        if (n >= 8) {
            n -= 8;
            buf_char(out, (char)(bits >> n));
        }
    }
    return n < 6;
}

struct charsmap *charsmap_new(struct str base64, struct err *err) {
    struct buf bytes = { 0 };
    struct charsmap *map = NULL;
    if (base64_read(base64, &bytes))
        map = charsmap_from(buf_view(&bytes), err);
    else
        err_set(err, "precompiled_charsmap is not base64");
    buf_free(&bytes);
    return map;
}

void charsmap_free(struct charsmap *map) {
    if (!map)
        return;
    free(map->unit);
    free(map->text);
    free(map);
}

static size_t offset(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

/* A key that begins the text: the shortest or the longest; 0: none. */
static size_t search(const struct charsmap *map, struct str text, bool shortest, struct str *out) {
    size_t at = offset(map->unit[0]), found = 0;
    for (size_t i = 0; i < text.len && i < KEY_MAX && text.at[i]; i++) {
        uint8_t c = (uint8_t)text.at[i];
        at ^= c;
        if (at >= map->n_units || (map->unit[at] & (1u << 31 | 0xff)) != c)
            break;
        uint32_t unit = map->unit[at];
        at ^= offset(unit);
        if (!(unit >> 8 & 1))
            continue;
        if (at >= map->n_units)
            break;
        size_t begin = map->unit[at] & 0x7fffffff;
        if (begin >= map->text_len)
            continue;
        const char *end = memchr(map->text + begin, 0, map->text_len - begin);
        *out = (struct str){ map->text + begin,
                             end ? (size_t)(end - map->text) - begin : map->text_len - begin };
        found = i + 1;
        if (shortest)
            break;
    }
    return found;
}

bool charsmap_get(const struct charsmap *map, struct str piece, struct str *out) {
    return search(map, piece, true, out) > 0;
}

size_t charsmap_longest(const struct charsmap *map, struct str text, struct str *out) {
    return search(map, text, false, out);
}

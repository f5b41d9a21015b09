/* utf8.h - UTF-8 by RFC 3629: no overlong forms, no surrogates, at most U+10FFFF. */
#pragma once
#include "base/buf.h"

/* Bytes of the first code point, *cp set; 0 when the bytes are not valid UTF-8,
 * or are cut off inside a code point. */
int utf8_next(struct str, uint32_t *cp);
void utf8_put(struct buf *, uint32_t cp);                 /* invalid cp becomes U+FFFD */
bool utf8_valid(struct str);

/* Length of the longest prefix that does not end inside a code point: what a
 * stream may show now. Invalid bytes count as complete. */
size_t utf8_complete(struct str);

/* A copy with every invalid sequence replaced by U+FFFD, one for each maximal
 * subpart (Unicode 15, 3.9, as Python's errors="replace"). */
void utf8_repair(struct buf *, struct str);

/* byte_chars.h - GPT-2's printable stand-ins for bytes: printable Latin-1 stands for
 * itself, the other 68 bytes are U+0100 and on, in order. */
#pragma once
#include "base/buf.h"

static inline uint32_t byte_to_cp(uint8_t b) {
    if (b >= 0x21 && b <= 0x7e)
        return b;
    if (b < 0x21)
        return 0x100u + b;
    if (b <= 0xa0)
        return 0x100u + 0x21 + (uint32_t)(b - 0x7f);
    return b == 0xad ? 0x143 : b;
}

/* -1: stands for no byte. */
static inline int cp_to_byte(uint32_t cp) {
    if (cp > 0x143 || cp < 0x21)
        return -1;
    if (cp < 0x100)
        return byte_to_cp((uint8_t)cp) == cp ? (int)cp : -1;
    if (cp < 0x121)
        return (int)(cp - 0x100);
    return cp == 0x143 ? 0xad : (int)(cp - 0x121 + 0x7f);
}

/* Puts the stand-ins of all bytes. */
void byte_chars_put(struct buf *, struct str bytes);
/* Puts the bytes that a spelling stands for. False, nothing put: a character stands for none. */
bool byte_chars_read(struct buf *, struct str spelling);

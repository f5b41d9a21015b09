/* byte_chars.c - whole spellings in stand-ins, both ways. */
#include "tokens/byte_chars.h"
#include "base/utf8.h"
#include "tokens/text.h"

void byte_chars_put(struct buf *to, struct str bytes) {
    for (size_t i = 0; i < bytes.len; i++)
        utf8_put(to, byte_to_cp((uint8_t)bytes.at[i]));
}

bool byte_chars_read(struct buf *to, struct str spelling) {
    const size_t before = to->len;
    for (size_t i = 0; i < spelling.len;) {
        uint32_t cp;
        i += (size_t)cp_at(spelling, i, &cp);
        int byte = cp_to_byte(cp);
        if (byte < 0) {
            to->len = before;
            return false;
        }
        buf_char(to, (char)byte);
    }
    return true;
}

/* Fuzzes what follows the heads of a connection: however its bytes are cut the verdict is the same,
 * and for the first head it is that of a plain look at its lines. */
#include "api/framing.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first head, from its first letter up to and with its empty line; empty: it does not end. */
static struct str first_head(struct str all) {
    while (all.len && (*all.at == '\r' || *all.at == '\n')) all = str_from(all, 1);
    for (size_t begin = 0, i = 0; i < all.len; i++) {
        if (all.at[i] != '\n') continue;
        bool empty = i == begin || (i == begin + 1 && all.at[begin] == '\r');
        if (empty) return str_cut(all, 0, i + 1);
        begin = i + 1;
    }
    return (struct str){ 0 };
}

static bool looks_plain(struct str head) {
    bool crlf = false, lf = false, odd = memchr(head.at, 0, head.len) != NULL;
    for (size_t begin = 0, i = 0; i < head.len; i++) {
        char c = head.at[i];
        bool begins = i == begin && begin > 0;
        odd |= begins && (c == ':' || c == ' ' || c == '\t');
        odd |= c == '\r' && (i + 1 == head.len || head.at[i + 1] != '\n');
        if (c != '\n') continue;
        bool both = i > begin && head.at[i - 1] == '\r';
        crlf |= both;
        lf |= !both;
        begin = i + 1;
    }
    return !odd && !(crlf && lf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size) return 0;
    struct framing whole = { 0 }, cut = { 0 }, first = { 0 };
    struct str all = { (const char *)data + 1, size - 1 };
    framing_see(&whole, all.at, all.len);
    for (size_t i = 0, n; i < all.len; i += n) {
        n = MIN(all.len - i, (size_t)1 + (data[0] + i) % 7);
        framing_see(&cut, all.at + i, n);
    }
    if (whole.part != cut.part || whole.n_heads != cut.n_heads || whole.bad_from != cut.bad_from ||
        whole.left != cut.left) abort();
    struct str head = first_head(all);
    if (!head.len) return 0;
    framing_see(&first, head.at, head.len);
    if (first.n_heads == 1 && framing_is_plain(&first, 1) != looks_plain(head)) abort();
    return 0;
}

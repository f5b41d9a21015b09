/* fuzz_safetensors.c - any bytes as a safetensors file: no crash, and a file that is taken has
 * all of its tensors inside of it.
 *
 * An input with an odd first byte gets its length field written for it, so that mutations of
 * the header stay headers; the byte's other bits say how many bytes of data follow. */
#include "weights/safetensors.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tensor_list list = { 0 };
    struct err err = { 0 };
    unsigned sum = 0;
    char *copy = malloc(size ? size : 1);            /* its ends are watched */
    if (!copy) return 0;
    memcpy(copy, data, size);
    if (size >= 8 && data[0] & 1) {
        size_t rest = size - 8, tail = MIN((size_t)data[0] >> 1, rest);
        for (int i = 0; i < 8; i++) copy[i] = (char)((rest - tail) >> 8 * i & 255);
    }
    if (safetensors_read((struct str){ copy, size }, "fuzz", &list, &err)) {
        for (size_t i = 0; i < list.n; i++) {
            const struct weights_entry *e = &list.at[i];
            if (e->t.at && ((char *)e->t.at < copy || e->bytes > size)) abort();
            for (size_t j = 0; e->t.at && j < e->bytes; j++) sum += ((uint8_t *)e->t.at)[j];
        }
    } else if (!err.text[0]) {
        abort();
    }
    tensor_list_free(&list);
    free(copy);
    return sum == UINT32_MAX;        /* never: so that the reads above are not left out */
}

/* Fuzzes the compiler of chat templates with any text as a template: it compiles, or is refused by
 * a sentence. What compiles is not run: fuzz_template_run.c does that. */
#include "prompt/template.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct err err = { 0 };
    /* A copy of its own, so that reading past its end is seen. */
    char *text = size ? malloc(size) : NULL;
    if (size) memcpy(text, data, size);
    struct template *t = template_open((struct str){ text, size }, &err);
    if (!t == !err.text[0]) abort();
    if (!t && strncmp(err.text, "chat template", strlen("chat template")) != 0) abort();
    template_close(t);
    free(text);
    return 0;
}

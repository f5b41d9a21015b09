/* Fuzzes the config file and the variables: the first line names a variable or says "file", what
 * follows is its value or the file. What is refused has a reason, what is taken can be printed. */
#include "../maker.h"
#include "cli/options.h"
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];

static void remove_file(void) { remove(path); }

static bool read_all(struct args *a, struct err *err) {
    static char word[] = "section";    /* the settings point into it */
    char *words[] = { word };
    args_init(a);
    a->command = "serve";
    a->config = path;
    return options_parse(a, CMD_SERVE, 1, words, err) && settings_read(a, CMD_SERVE, true, err);
}

static void write_file(struct str text) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(text.at ? text.at : "", 1, text.len, f) != text.len || fclose(f)) abort();
}

static void print(const struct args *a) {
    struct sample_params plain = sample_defaults();
    struct buf text = { 0 };
    settings_print(&text, a, CMD_SERVE, &plain);
    buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = { (const char *)data, size };
    struct err err = { 0 };
    struct args a;
    if (!path[0]) {
        snprintf(path, sizeof path, "/tmp/mlxcel-fuzz-settings-%d", (int)getpid());
        write_file(S(""));
        chmod(path, 0600);
        atexit(remove_file);
    }
    const char *end = size ? memchr(data, '\n', size) : NULL;
    size_t n = end ? (size_t)(end - text.at) : 0;
    if (!n || size > 1 << 16) return 0;
    char *name = mem_str(str_cut(text, 0, n)), *value = mem_str(str_from(text, n + 1));
    bool variable = str_starts(str_of(name), "MLXCEL_") || str_starts(str_of(name), "LLAMA_ARG_");
    if (variable && !strchr(name, '=')) setenv(name, value, 1);
    write_file(variable ? S("") : str_from(text, n + 1));
    if (read_all(&a, &err)) print(&a);
    else if (!err.text[0]) abort();
    args_free(&a);
    if (variable) unsetenv(name);
    free(name);
    free(value);
    return 0;
}

/* bench_tokens.c - how long a tokenizer.json of 250,000 tokens takes to open, and its memory.
 *
 * Usage: bench_tokens FILE [TOKENS]. FILE is made where it is not there: a byte-level BPE
 * vocabulary of drawn tokens, spelt and laid out as the format's own writer does, a merge for
 * each. It is opened 9 times, each in a process of its own. One JSON object: median seconds, the
 * file's bytes, and what the process' peak of resident memory grew by. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/arena.h"
#include "base/map.h"
#include "tokens/byte_chars.h"
#include "tokens/tokenizer.h"

enum { TOKENS = 250000, RUNS = 9, RIGHTS = 2000, TEXT_MAX = 40, ASCII = 94 };

struct drawn { struct str text; uint32_t left, right; };

static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Two of three merges are of what ASCII letters make, the others of anything. */
static void draw_tokens(struct drawn *d, size_t n, struct arena *a) {
    struct map seen = { 0 };
    uint64_t state = 1;
    size_t made = 0;
    map_reserve(&seen, n);
    for (; made < 256; made++) {
        struct buf b = { 0 };
        uint32_t cp = byte_to_cp((uint8_t)(made < ASCII ? made + 33 : (made + 33) % 256));
        if (cp < 0x80)
            buf_char(&b, (char)cp);
        else {
            buf_char(&b, (char)(0xc0 | cp >> 6));
            buf_char(&b, (char)(0x80 | (cp & 63)));
        }
        d[made].text = (struct str){ arena_str(a, buf_view(&b)), b.len };
        map_put(&seen, d[made].text, 0);
        buf_free(&b);
    }
    while (made < n) {
        bool any = draw(&state) % 3 == 0;
        size_t left = draw(&state) % made * (draw(&state) & 0xffff) >> 16;
        size_t right = draw(&state) % (any ? MIN(made, (size_t)RIGHTS) : ASCII);
        char text[TEXT_MAX];
        size_t len = d[left].text.len + d[right].text.len;
        if (len > sizeof text)
            continue;
        memcpy(text, d[left].text.at, d[left].text.len);
        memcpy(text + d[left].text.len, d[right].text.at, d[right].text.len);
        struct str whole = { text, len };
        if (map_get(&seen, whole, NULL))
            continue;
        d[made] = (struct drawn){ { arena_str(a, whole), len }, (uint32_t)left, (uint32_t)right };
        map_put(&seen, d[made].text, 0);
        made++;
    }
    map_free(&seen);
}

static bool make_file(const char *path, size_t n) {
    struct arena a = { 0 };
    struct drawn *d = mem_array(n, sizeof *d);
    struct buf b = { 0 };
    draw_tokens(d, n, &a);
    buf_str(&b, S("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
                  "  \"added_tokens\": [],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\n"
                  "    \"type\": \"ByteLevel\",\n    \"add_prefix_space\": false,\n"
                  "    \"trim_offsets\": true,\n    \"use_regex\": true\n  },\n"
                  "  \"post_processor\": null,\n"
                  "  \"decoder\": {\n    \"type\": \"ByteLevel\"\n  },\n"
                  "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n"
                  "    \"unk_token\": null,\n    \"vocab\": {\n"));
    for (size_t i = 0; i < n; i++) {
        buf_str(&b, S("      "));
        buf_json(&b, d[i].text);
        buf_format(&b, ": %zu%s\n", i, i + 1 < n ? "," : "");
    }
    buf_str(&b, S("    },\n    \"merges\": [\n"));
    for (size_t i = 256; i < n; i++) {
        buf_str(&b, S("      [\n        "));
        buf_json(&b, d[d[i].left].text);
        buf_str(&b, S(",\n        "));
        buf_json(&b, d[d[i].right].text);
        buf_format(&b, "\n      ]%s\n", i + 1 < n ? "," : "");
    }
    buf_str(&b, S("    ]\n  }\n}\n"));
    FILE *f = fopen(path, "wb");
    bool done = f && fwrite(b.at, 1, b.len, f) == b.len;
    done = f && fclose(f) == 0 && done;
    buf_free(&b);
    arena_free(&a);
    free(d);
    return done;
}

/* In a child, so that each open starts from a fresh heap. */
static bool open_once(const char *dir, double *seconds, double *bytes) {
    double got[2] = { 0 };
    int pipes[2];
    if (pipe(pipes))
        return false;
    pid_t child = fork();
    if (child == 0) {
        struct rusage before, after;
        struct err err = { 0 };
        getrusage(RUSAGE_SELF, &before);
        double from = clock_s();
        struct tokenizer *t = tok_open(dir, &err);
        got[0] = clock_s() - from;
        getrusage(RUSAGE_SELF, &after);
        got[1] = (double)(after.ru_maxrss - before.ru_maxrss) * 1024;
        if (!t)
            fprintf(stderr, "%s\n", err.text);
        _exit(!t || write(pipes[1], got, sizeof got) != (ssize_t)sizeof got);
    }
    close(pipes[1]);
    bool done = child > 0 && read(pipes[0], got, sizeof got) == (ssize_t)sizeof got;
    close(pipes[0]);
    if (child > 0)
        waitpid(child, NULL, 0);
    *seconds = got[0];
    *bytes = got[1];
    return done;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    uint64_t n = TOKENS;
    double seconds[RUNS], bytes[RUNS];
    struct stat st;
    if (argc < 2 || argc > 3 || (argc == 3 && !str_u64(str_of(argv[2]), 1 << 22, &n)) || n < 256)
        return 2;
    char *slash = strrchr(argv[1], '/');
    if (!slash || strcmp(slash, "/tokenizer.json"))
        return fprintf(stderr, "FILE is .../tokenizer.json\n"), 2;
    if (access(argv[1], R_OK)) {     /* in a child as well: the memory it takes is not to count */
        pid_t child = fork();
        if (child == 0)
            _exit(!make_file(argv[1], n));
        int status = 1;
        if (child < 0 || waitpid(child, &status, 0) != child || status)
            return fprintf(stderr, "%s cannot be written\n", argv[1]), 1;
    }
    if (stat(argv[1], &st))
        return 1;
    *slash = 0;
    for (int i = 0; i < RUNS; i++)
        if (!open_once(argv[1], &seconds[i], &bytes[i]))
            return 1;
    qsort(seconds, RUNS, sizeof *seconds, by_value);
    qsort(bytes, RUNS, sizeof *bytes, by_value);
    printf("{\"open_s\":%.4f,\"file_bytes\":%lld,\"memory_bytes\":%.0f}\n", seconds[RUNS / 2],
           (long long)st.st_size, bytes[RUNS / 2]);
    return 0;
}

/* test_exchanges.c - every file of tests/api/cases against the built program: one test for each
 * file, one server for each line of options that the files name.
 *
 * After each case the server must still answer, and at its end each server must exit with 0 and
 * have kept secrets and prompts out of its log. */
#include "case.h"
#include "scripted.h"
#include "tokens/tokens.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

enum { CASES_MAX = 1000, SERVERS_MAX = 40 };

static const char folder[] = "tests/api/cases";
static char *home;
static struct { char options[512]; struct served s; bool failed; } server[SERVERS_MAX];
static int n_servers;

/* The options after "serve" of a case; greedy and in F32, so that answers are exact. The model is
 * the built-in one unless they name another, such as @H/scripted. */
static void options_of(const char *text, char *to, size_t size) {
    const char *at = strncmp(text, "serve ", 6) ? strstr(text, "\nserve ") : text;
    if (at) at += 5 + (*at == '\n');
    int n = at ? (int)strcspn(at, "\n") : 0;
    bool own = at && memmem(at, (size_t)n, " -m ", 4);
    snprintf(to, size, "%s --compute f32 --temp 0 %.*s", own ? "" : "-m models/demo", n,
             at ? at : "");
}

static struct served *server_for(const char *options) {
    for (int i = 0; i < n_servers; i++)
        if (!strcmp(server[i].options, options)) return server[i].failed ? NULL : &server[i].s;
    if (n_servers == SERVERS_MAX) fail_msg("more than %d lines of options", SERVERS_MAX);
    snprintf(server[n_servers].options, sizeof server->options, "%s", options);
    struct served *s = &server[n_servers].s;
    *s = served_start(options, home, NULL);
    server[n_servers].failed = !served_ready(s, SERVER_SECONDS);
    return server[n_servers++].failed ? NULL : s;
}

/* @id(TEXT) is the id of the one token that TEXT is to the built-in model, @id() the size of its
 * vocabulary, so that another vocabulary changes no case. */
static void case_ids(struct buf *to, struct str text) {
    static struct tokenizer *tok;
    struct err err = { 0 };
    while (text.len) {
        const char *at = memmem(text.at, text.len, "@id(", 4), *end = at ? strchr(at, ')') : NULL;
        size_t n = end ? (size_t)(at - text.at) : text.len;
        buf_put(to, text.at, n);
        text = str_from(text, n);
        if (!end) continue;
        struct str word = { at + 4, (size_t)(end - at) - 4 };
        struct ids ids = { 0 };
        if (!tok) tok = tok_open("models/demo", &err);
        if (!tok) fail_msg("%s", err.text);
        tok_encode(tok, word, TOK_SPECIALS, NULL, 0, &ids);
        if (word.len && ids.len != 1)
            fail_msg("'%.*s' is %d tokens, a case needs another word", STR_ARG(word), ids.len);
        buf_format(to, "%d", word.len ? ids.at[0] : tok_vocab(tok));
        ids_free(&ids);
        text = str_from(text, word.len + 5);
    }
}

static void print_log(const struct served *s) {
    struct buf log = { 0 };
    served_log(s, &log);
    buf_c(&log);
    print_error("the server's log ends with\n%s\n", log.at + (log.len > 3000 ? log.len - 3000 : 0));
    buf_free(&log);
}

static void test_case(void **state) {
    char path[512], options[512];
    struct buf file = { 0 }, text = { 0 };
    struct err err = { 0 };
    snprintf(path, sizeof path, "%s/%s", folder, (const char *)*state);
    if (!buf_read_file(&file, path, (size_t)16 << 20, &err)) fail_msg("%s", err.text);
    buf_c(&file);
    case_ids(&text, buf_view(&file));
    buf_free(&file);
    options_of(buf_c(&text), options, sizeof options);
    struct served *s = server_for(options);
    if (!s) {
        print_log(&server[n_servers - 1].s);
        fail_msg("no server with %s", options);
    }
    struct case_run k = { .name = *state, .port = s->port, .seconds = CASE_SECONDS };
    case_lines(&k, text.at);
    bool ok = case_run(&k);
    if (!ok) print_error("%s\n", buf_c(&k.why));
    case_free(&k);
    buf_free(&text);
    struct reply r = { 0 };
    client_ask(s->port, S("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"), &r, 10);
    int health = r.status;
    reply_free(&r);
    if (health != 200) {
        print_log(s);
        fail_msg("%s: after it /health says %d", (const char *)*state, health);
    }
    if (!ok) fail();
}

static int begin(void **state) {
    (void)state;
    home = temp_dir();
    scripted_write(home);
    return 0;
}

/* Words that cases use as keys and in prompts. */
static bool log_is_clean(const struct served *s) {
    static const char *const secret[] = { "sk-right", "sk-wrong", "promptmark", "ERROR: ",
                                          "runtime error", "WARNING: ThreadSanitizer" };
    struct buf log = { 0 };
    bool clean = true;
    served_log(s, &log);
    for (size_t i = 0; i < COUNT(secret); i++)
        if (strstr(buf_c(&log), secret[i])) {
            print_error("the log has \"%s\"\n", secret[i]);
            clean = false;
        }
    buf_free(&log);
    return clean;
}

static int end(void **state) {
    (void)state;
    int bad = 0;
    for (int i = 0; i < n_servers; i++) {
        int code = served_stop(&server[i].s, SIGTERM, 30);
        bool clean = log_is_clean(&server[i].s);
        if (!code && clean) continue;
        print_error("serve %s: exit %d\n", server[i].options, code);
        print_log(&server[i].s);
        bad++;
    }
    temp_free(home);
    return bad;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name);
}

/* CASE=word: only files with the word in their name. */
int main(void) {
    static struct CMUnitTest test[CASES_MAX];
    size_t n = 0;
    const char *only = getenv("CASE");
    DIR *d = opendir(folder);
    for (struct dirent *e; d && n < CASES_MAX && (e = readdir(d));) {
        if (!str_ends(str_of(e->d_name), ".test") || (only && !strstr(e->d_name, only))) continue;
        char *name = mem_str(str_of(e->d_name));
        test[n++] = (struct CMUnitTest){ .name = name, .test_func = test_case,
                                         .initial_state = name };
    }
    if (d) closedir(d);
    if (!n) {
        print_error("no case in %s\n", folder);
        return 1;
    }
    qsort(test, n, sizeof *test, by_name);
    int failed = _cmocka_run_group_tests("exchanges", test, n, begin, end);
    for (size_t i = 0; i < n; i++) free(test[i].initial_state);
    return failed;
}

/* docs_tables.c - keeps the tables of docs/server.md: routes, options and metrics, as the program's
 * own tables have them, between lines "<!-- begin NAME -->" and "<!-- end NAME -->".
 *
 *     docs_tables FILE            writes them
 *     docs_tables --check FILE    ends with 1 when the file does not say what the sources say */
#include "api/metrics.h"
#include "cli/options.h"

#include <stdio.h>
#include <string.h>

enum { DOC_MAX = 4 << 20 };

/* A bar would end the cell. */
static void put_cell(struct buf *to, const char *text) {
    for (; *text; text++) {
        if (*text == '|') buf_char(to, '\\');
        buf_char(to, *text);
    }
}

static void put_routes(struct buf *to) {
    buf_str(to, S("| method | path | key | while loading | what |\n|---|---|---|---|---|\n"));
    for (int i = 0; i < n_routes; i++) {
        const struct route *r = &routes[i];
        bool get = r->methods & METHOD_GET, post = r->methods & METHOD_POST;
        buf_format(to, "| %s%s%s | `%s` | %s | %s | ", get ? "GET" : "", get && post ? ", " : "",
                   post ? "POST" : "", r->path, r->flags & ROUTE_OPEN ? "no" : "yes",
                   r->flags & ROUTE_LOADING ? "yes" : "503");
        put_cell(to, r->help);
        buf_str(to, S(" |\n"));
    }
}

/* What holds when nobody says anything, if that is a value and not a decision of the engine's. */
static void put_default(struct buf *to, const struct args *a, const struct option *o) {
    const char *at = (const char *)a + o->offset;
    double real = 0;
    int whole = 0;
    const char *text = NULL;
    if (!strcmp(o->group, "Sampling")) return;
    if (o->kind == V_SECONDS) memcpy(&real, at, sizeof real);
    if (o->kind == V_INT) memcpy(&whole, at, sizeof whole);
    if (o->kind == V_TEXT || o->kind == V_CHOICE) memcpy(&text, at, sizeof text);
    if (real > 0 || real < 0) buf_format(to, "`%g`", real);
    if (whole) buf_format(to, "`%d`", whole);
    if (text) buf_format(to, "`%s`", text);
}

static void put_option(struct buf *to, const struct args *a, const struct option *o) {
    buf_str(to, S("| "));
    for (int i = 0; name_at(o->names, i).len; i++)
        buf_format(to, "%s`%.*s`", i ? " " : "", STR_ARG(name_at(o->names, i)));
    if (o->value) {
        buf_char(to, ' ');
        put_cell(to, o->value);
    }
    buf_str(to, S(" | "));
    struct buf own = { 0 };
    option_variable(&own, o);
    if (own.len) buf_format(to, "`%s`", buf_c(&own));
    for (int i = 0; own.len && o->variable && name_at(o->variable, i).len; i++)
        buf_format(to, " `%.*s`", STR_ARG(name_at(o->variable, i)));
    buf_free(&own);
    buf_str(to, S(" | "));
    put_default(to, a, o);
    buf_str(to, S(" | "));
    put_cell(to, o->help);
    buf_str(to, S(" |\n"));
}

static void put_options(struct buf *to) {
    static struct args a;
    const char *group = "";
    args_init(&a);
    for (int i = 0; i < n_options; i++) {
        const struct option *o = &options[i];
        if (!(o->commands & CMD_SERVE)) continue;
        if (strcmp(group, o->group) != 0)
            buf_format(to, "%s### %s\n\n| option | variables | default | what |\n"
                       "|---|---|---|---|\n", *group ? "\n" : "", o->group);
        group = o->group;
        put_option(to, &a, o);
    }
}

static void put_metrics(struct buf *to) {
    static const char *const kind[] = { "counter", "gauge", "histogram" };
    buf_str(to, S("| name | type | what |\n|---|---|---|\n"));
    for (int i = 0; i < n_metrics; i++) {
        const struct metric *m = &metric_table[i];
        buf_format(to, "| `%s` | %s | ", m->name, kind[m->kind]);
        put_cell(to, m->help);
        buf_str(to, S(" |\n"));
    }
}

static const struct { const char *name; void (*put)(struct buf *); } part[] = {
    { "routes", put_routes }, { "options", put_options }, { "metrics", put_metrics },
};

/* Replaces what is between the lines of this part. */
static bool replace(struct buf *doc, const char *name, struct str text, struct err *err) {
    char begin[64], end[64];
    snprintf(begin, sizeof begin, "<!-- begin %s -->\n", name);
    snprintf(end, sizeof end, "<!-- end %s -->\n", name);
    const char *from = strstr(buf_c(doc), begin), *to = from ? strstr(from, end) : NULL;
    if (!to) return err_set(err, "no lines \"%.*s\" and \"%.*s\"", (int)strcspn(begin, "\n"), begin,
                            (int)strcspn(end, "\n"), end);
    struct buf all = { 0 };
    from += strlen(begin);
    buf_put(&all, doc->at, (size_t)(from - doc->at));
    buf_char(&all, '\n');
    buf_str(&all, text);
    buf_char(&all, '\n');
    buf_str(&all, str_of(to));
    buf_free(doc);
    *doc = all;
    return true;
}

static bool write_file(const char *path, const struct buf *text, struct err *err) {
    FILE *f = fopen(path, "w");
    bool ok = f && fwrite(text->at, 1, text->len, f) == text->len;
    if (f && fclose(f)) ok = false;
    return ok || err_set(err, "%s cannot be written", path);
}

static bool run(const char *path, bool check, struct err *err) {
    struct buf doc = { 0 }, before = { 0 };
    bool ok = buf_read_file(&doc, path, DOC_MAX, err);
    if (ok) buf_str(&before, buf_view(&doc));
    for (size_t i = 0; i < COUNT(part) && ok; i++) {
        struct buf text = { 0 };
        part[i].put(&text);
        ok = replace(&doc, part[i].name, buf_view(&text), err);
        buf_free(&text);
    }
    bool same = ok && str_eq(buf_view(&doc), buf_view(&before));
    if (ok && check && !same)
        ok = err_set(err, "%s is older than the sources: run make docs", path);
    else if (ok && !check && !same)
        ok = write_file(path, &doc, err);
    buf_free(&doc);
    buf_free(&before);
    return ok;
}

int main(int argc, char **argv) {
    struct err err = { 0 };
    bool check = argc == 3 && !strcmp(argv[1], "--check");
    if (argc != 2 && !check) {
        fprintf(stderr, "usage: docs_tables [--check] FILE\n");
        return 2;
    }
    if (run(argv[argc - 1], check, &err)) return 0;
    fprintf(stderr, "docs_tables: %s\n", err.text);
    return 1;
}

/* test_metrics.c - /metrics read as strictly as its format is written, and its counts after a
 * session of which everything is known. The model's name needs every escape there is. */
#include "server_process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

enum { SAMPLES_MAX = 8192, FAMILIES_MAX = 512 };

struct sample { struct str series; double value; };     /* name{labels}, as it stands there */
struct page { struct buf text; struct sample at[SAMPLES_MAX]; struct str family[FAMILIES_MAX];
              int n, n_families; };

static struct served server;
static struct client wire;
static char *home;
static struct page page;

/* ---- a strict reader ---- */

static bool is_name(struct str s, bool colon) {
    for (size_t i = 0; i < s.len; i++) {
        char c = s.at[i];
        bool letter = isalpha((unsigned char)c) || c == '_' || (colon && c == ':');
        if (!letter && !(i && isdigit((unsigned char)c))) return false;
    }
    return s.len > 0;
}

static struct str word(struct str *rest, char end) {
    const char *at = rest->len ? memchr(rest->at, end, rest->len) : NULL;
    if (!at) fail_msg("no '%c' in \"%.*s\"", end, STR_ARG(*rest));
    struct str found = { rest->at, (size_t)(at - rest->at) };
    *rest = str_from(*rest, found.len + 1);
    return found;
}

/* Digits with at most one point: no sign, no NaN, no exponent. */
static double number(struct str s) {
    double value = 0, place = 0;
    if (!s.len) fail_msg("a value is missing");
    for (size_t i = 0; i < s.len; i++) {
        bool point = s.at[i] == '.' && i && i + 1 < s.len && place == 0;
        if (!point && !isdigit((unsigned char)s.at[i])) fail_msg("value %.*s", STR_ARG(s));
        if (point) place = 1;
        else if (place > 0) value += (place /= 10) * (s.at[i] - '0');
        else value = value * 10 + (s.at[i] - '0');
    }
    return value;
}

/* Cuts the labels off; `le` is set when there is one, `others` to the labels before it. */
static void labels(struct str *rest, struct str *le, struct str *others) {
    const char *begin = rest->at;
    *le = *others = (struct str){ 0 };
    for (bool more = true; more;) {
        const char *from = rest->at;
        struct str name = word(rest, '='), value;
        if (!is_name(name, false)) fail_msg("label %.*s", STR_ARG(name));
        if (!str_starts(*rest, "\"")) fail_msg("a label without quotes");
        size_t n = 1;
        for (; n < rest->len && rest->at[n] != '"'; n++) {
            if (rest->at[n] != '\\') continue;
            n++;
            if (n == rest->len || !strchr("\\\"n", rest->at[n])) fail_msg("an escape");
        }
        value = str_cut(*rest, 1, n);
        *rest = str_from(*rest, n + 1);
        if (str_is(name, "le")) {
            *le = value;
            *others = (struct str){ begin, (size_t)(from - begin) };
        }
        more = str_starts(*rest, ",");
        if (!more && !str_starts(*rest, "}")) fail_msg("labels do not end");
        *rest = str_from(*rest, 1);
    }
}

struct histogram { struct str others; bool open, summed; double last, le; };

static void bucket(struct histogram *h, struct str le, struct str others, double value) {
    double bound = str_is(le, "+Inf") ? 1e300 : number(le);
    if (!h->open) *h = (struct histogram){ .others = others, .open = true, .le = -1 };
    if (!str_eq(h->others, others)) fail_msg("buckets of two series are mixed");
    if (bound <= h->le || value < h->last) fail_msg("le=\"%.*s\" does not grow", STR_ARG(le));
    h->le = bound;
    h->last = value;
}

/* One sample of the family; `kind` as its TYPE says. */
static void sample(struct str line, struct str family, struct str kind, struct histogram *h) {
    struct str rest = line, le = { 0 }, others = { 0 };
    size_t n = 0;
    while (n < rest.len && rest.at[n] != '{' && rest.at[n] != ' ') n++;
    struct str name = str_cut(line, 0, n), suffix = str_from(name, family.len);
    bool labelled = n < rest.len && rest.at[n] == '{';
    rest = str_from(rest, n + 1);
    if (labelled) {
        labels(&rest, &le, &others);
        if (!str_starts(rest, " ")) fail_msg("%.*s", STR_ARG(line));
        rest = str_from(rest, 1);
    }
    if (!str_eq(str_cut(name, 0, family.len), family)) fail_msg("%.*s is of no TYPE",
                                                                STR_ARG(name));
    double value = number(rest);
    bool histogram = str_is(kind, "histogram");
    if (histogram != (suffix.len > 0)) fail_msg("%.*s in a %.*s", STR_ARG(name), STR_ARG(kind));
    if (str_is(suffix, "_bucket")) {
        bucket(h, le, others, value);
    } else if (str_is(suffix, "_sum")) {
        if (!h->open || h->le < 1e300) fail_msg("%.*s before +Inf", STR_ARG(name));
        h->summed = true;
    } else if (str_is(suffix, "_count")) {
        if (!h->summed || value != h->last) fail_msg("%.*s is not its +Inf", STR_ARG(name));
        *h = (struct histogram){ 0 };
    } else if (suffix.len) {
        fail_msg("%.*s", STR_ARG(name));
    }
    struct str series = str_cut(line, 0, line.len - rest.len - 1);
    for (int i = 0; i < page.n; i++)
        if (str_eq(page.at[i].series, series)) fail_msg("%.*s twice", STR_ARG(series));
    if (page.n == SAMPLES_MAX) fail_msg("too many samples");
    page.at[page.n++] = (struct sample){ series, value };
}

static void read_page(void) {
    struct str rest = buf_view(&page.text), family = { 0 }, kind = { 0 };
    struct histogram h = { 0 };
    page.n = page.n_families = 0;
    while (rest.len) {
        struct str line = word(&rest, '\n');
        if (!str_starts(line, "#")) {
            sample(line, family, kind, &h);
            continue;
        }
        if (h.open) fail_msg("a histogram without an end before %.*s", STR_ARG(line));
        if (!str_starts(line, "# HELP ")) fail_msg("%.*s", STR_ARG(line));
        line = str_from(line, 7);
        family = word(&line, ' ');
        if (!is_name(family, true) || !line.len) fail_msg("HELP %.*s", STR_ARG(family));
        for (int i = 0; i < page.n_families; i++)
            if (str_eq(page.family[i], family)) fail_msg("%.*s twice", STR_ARG(family));
        page.family[page.n_families++] = family;
        struct str type = word(&rest, '\n');
        if (!str_starts(type, "# TYPE ")) fail_msg("no TYPE of %.*s", STR_ARG(family));
        type = str_from(type, 7);
        if (!str_eq(word(&type, ' '), family)) fail_msg("TYPE of another family");
        kind = type;
        if (!str_is(kind, "counter") && !str_is(kind, "gauge") && !str_is(kind, "histogram"))
            fail_msg("TYPE %.*s", STR_ARG(kind));
        bool total = str_ends(family, "_total");
        if (!str_starts(family, "llamacpp:") && total != str_is(kind, "counter"))
            fail_msg("%.*s is a %.*s", STR_ARG(family), STR_ARG(kind));
    }
}

/* ---- a session ---- */

static void ask(const char *head, const char *body, struct reply *r) {
    struct buf text = { 0 };
    *r = (struct reply){ .to_head = !strncmp(head, "HEAD", 4) };
    client_request(&text, head, "", str_of(body));
    client_send(&wire, buf_view(&text), 10);
    if (!client_reply(&wire, r, 20)) fail_msg("%s: %s", head, r->bad);
    buf_free(&text);
}

static void scrape(void) {
    struct reply r;
    ask("GET /metrics", "", &r);
    assert_int_equal(r.status, 200);
    buf_clear(&page.text);
    buf_str(&page.text, buf_view(&r.body));
    read_page();
    reply_free(&r);
}

/* -1: no such series. */
static double value(const char *series) {
    for (int i = 0; i < page.n; i++)
        if (str_is(page.at[i].series, series)) return page.at[i].value;
    return -1;
}

/* `vllm` names have these labels first. */
#define NAME "model_name=\"we\\\"ird\\\\na\\nme\",engine=\"0\""

static void check(const char *series, double want) {
    if (value(series) != want) fail_msg("%s: %.9g, not %.9g", series, value(series), want);
}

/* Until the series has this value, or ten seconds long. */
static void await(const char *series, double want) {
    for (double until = clock_s() + 10; clock_s() < until; usleep(5000)) {
        scrape();
        if (value(series) == want) return;
    }
    check(series, want);
}

static int field(struct reply *r, const char *key) {
    const char *at = strstr(buf_c(&r->body), key);
    int n = 0;
    if (!at) fail_msg("no %s in %s", key, r->body.at);
    for (at += strlen(key); isdigit((unsigned char)*at); at++) n = n * 10 + *at - '0';
    return n;
}

static void test_counts(void **state) {
    static const struct { const char *head, *body; int status, sequences; } row[] = {
        { "POST /v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}",
          200, 1 },
        { "POST /v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],"
          "\"max_tokens\":3,\"n\":2}", 200, 2 },
        { "POST /v1/completions", "{\"prompt\":\"A day\",\"max_tokens\":4,\"ignore_eos\":true}",
          200, 1 },
        { "POST /v1/completions", "{\"prompt\":\"A day\",\"max_tokens\":0,\"echo\":true}", 200, 1 },
        { "POST /v1/completions", "{\"prompt\":", 400, 0 },
        { "GET /v1/completions", "", 405, 0 },
        { "GET /nothing/here", "", 404, 0 },
        { "HEAD /health", "", 200, 0 },
    };
    int prompt = 0, generated = 0;     /* every sequence reads its own prompt */
    (void)state;
    scrape();
    check("mlxcel_prompt_tokens_total", 0);            /* the warm-up does not count */
    check("mlxcel_generation_tokens_total", 0);
    check("mlxcel_request_seconds_count", 0);
    for (size_t i = 0; i < COUNT(row); i++) {
        struct reply r;
        ask(row[i].head, row[i].body, &r);
        if (r.status != row[i].status) fail_msg("%s: %d", row[i].head, r.status);
        if (row[i].sequences) {
            prompt += field(&r, "\"prompt_tokens\":") * row[i].sequences;
            generated += field(&r, "\"completion_tokens\":");
        }
        reply_free(&r);
    }
    /* What the engine says is as of its last step's end, which comes after the last reply. */
    await("mlxcel_prompt_tokens_total", prompt);
    await("mlxcel_requests_running", 0);
    check("mlxcel_requests_finished_total{reason=\"stop\"}", 1);
    check("mlxcel_requests_finished_total{reason=\"length\"}", 4);
    check("mlxcel_requests_finished_total{reason=\"error\"}", 0);
    check("vllm:request_success_total{" NAME ",finished_reason=\"length\"}", 4);
    check("mlxcel_request_prompt_tokens_sum", prompt);
    check("mlxcel_generation_tokens_total", generated);
    check("vllm:generation_tokens_total{" NAME "}", generated);
    check("llamacpp:tokens_predicted_total", generated);
    check("vllm:request_generation_tokens_sum{" NAME "}", generated);
    check("mlxcel_request_seconds_count", 5);
    check("mlxcel_time_to_first_token_seconds_count", 4);
    check("mlxcel_inter_token_seconds_count", generated - 4);
    check("vllm:inter_token_latency_seconds_bucket{" NAME ",le=\"+Inf\"}", generated - 4);
    check("mlxcel_request_generation_tokens_bucket{le=\"1.0\"}", 1);
    check("mlxcel_request_generation_tokens_bucket{le=\"2.0\"}", 1);
    check("mlxcel_request_generation_tokens_bucket{le=\"5.0\"}", 4);
    check("llamacpp:prompt_tokens_total", prompt - value("mlxcel_prompt_tokens_cached_total"));
    check("vllm:prefix_cache_hits_total{" NAME "}", value("mlxcel_prompt_tokens_cached_total"));
    check("mlxcel_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"}", 2);
    check("mlxcel_http_requests_total{route=\"/v1/completions\",status=\"200\"}", 2);
    check("mlxcel_http_requests_total{route=\"/v1/completions\",status=\"400\"}", 1);
    check("mlxcel_http_requests_total{route=\"/v1/completions\",status=\"405\"}", 1);
    check("mlxcel_http_requests_total{route=\"other\",status=\"404\"}", 1);
    assert_true(value("mlxcel_http_requests_total{route=\"/metrics\",status=\"200\"}") >= 1);
    check("mlxcel_http_request_seconds_count{route=\"/v1/completions\"}", 4);
    check("mlxcel_ready", 1);
    assert_true(value("process_resident_memory_bytes") > 1e6);
    assert_true(value("mlxcel_kv_cache_pages") > 0);
    assert_true(value("mlxcel_steps_total") >= 4);
}

static void test_running_and_cancelled(void **state) {
    static const char body[] = "{\"prompt\":\"A\",\"max_tokens\":1900,\"ignore_eos\":true,"
                               "\"stream\":true}";
    struct client other = { .fd = client_connect(server.port, NULL) };
    struct buf text = { 0 };
    struct reply r = { 0 };
    struct str event;
    (void)state;
    client_request(&text, "POST /v1/completions", "", S(body));
    client_send(&other, buf_view(&text), 10);
    while (!reply_event(&r, &event)) {
        if (client_more(&other, clock_s() + 20) != CLIENT_DATA) fail_msg("no event");
        client_feed(&other, &r);
    }
    await("mlxcel_requests_running", 1);       /* published when the first step is over */
    check("vllm:num_requests_running{" NAME "}", 1);
    check("llamacpp:requests_processing", 1);
    check("mlxcel_http_requests_active", 2);           /* this one and the scrape */
    assert_true(value("mlxcel_kv_cache_pages_used") > 0);
    client_reset(&other);
    await("mlxcel_http_requests_total{route=\"/v1/completions\",status=\"499\"}", 1);
    await("mlxcel_requests_cancelled_total{stage=\"decode\"}", 1);
    await("mlxcel_requests_finished_total{reason=\"cancelled\"}", 1);
    await("vllm:request_success_total{" NAME ",finished_reason=\"abort\"}", 1);
    await("mlxcel_requests_running", 0);
    buf_free(&text);
    reply_free(&r);
}

static int begin(void **state) {
    (void)state;
    home = temp_dir();
    server = served_start("-m models/demo --compute f32 --temp 0 --alias 'we\"ird\\na\nme'", home,
                          "LC_ALL=de_DE.UTF-8");
    if (!served_ready(&server, SERVER_SECONDS)) return -1;
    wire.fd = client_connect(server.port, NULL);
    return wire.fd < 0;
}

static int end(void **state) {
    (void)state;
    client_close(&wire);
    buf_free(&page.text);
    int code = served_stop(&server, SIGTERM, 30);
    temp_free(home);
    return code;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts), cmocka_unit_test(test_running_and_cancelled),
    };
    return cmocka_run_group_tests(tests, begin, end);
}

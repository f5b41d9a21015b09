/* test_options.c - the option table and its parser: what a command line becomes, and
 * the sentence for what means nothing. */
#include "cli/options.h"
#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { WORDS_MAX = 16 };

static bool parse(struct args *a, unsigned command, const char *line, char *copy,
                  struct err *err) {
    char *word[WORDS_MAX];
    int n = 0;
    memcpy(copy, line, strlen(line) + 1);
    for (char *save = NULL, *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
        word[n++] = w;
    *err = (struct err){ 0 };
    args_init(a);
    a->command = "command";
    return options_parse(a, command, n, word, err);
}

static void test_values(void **state) {
    (void)state;
    struct args a;
    struct err err;
    char copy[512];
    assert_true(parse(&a, CMD_RUN, "-m dir --temp=.25 -n -1 --top-k 5 -v -v --stop a --stop=b x y",
                      copy, &err));
    assert_string_equal(a.model, "dir");
    assert_true(a.sample.temperature == 0.25F);
    assert_int_equal(a.n_max, -1);
    assert_int_equal(a.verbose, 2);
    assert_int_equal(a.stop.n, 2);
    assert_string_equal(a.stop.at[1], "b");
    assert_int_equal(a.n_positionals, 2);
    assert_string_equal(a.positional[1], "y");

    assert_true(parse(&a, CMD_RUN, "--cache-bytes 3G -s 18446744073709551615 -- -x --y", copy,
                      &err));
    assert_true(a.cache_bytes == (size_t)3 << 30);
    assert_true(a.sample.seed == UINT64_MAX);
    assert_string_equal(a.positional[0], "-x");
    assert_string_equal(a.positional[1], "--y");

    assert_true(parse(&a, CMD_RUN, "--cache-ram 2", copy, &err));
    assert_true(a.cache_bytes == 2u << 20);
    /* The same letters mean other things to bench. */
    assert_true(parse(&a, CMD_BENCH, "-p 16 -n 4 -b 1,2 -r 2", copy, &err));
    assert_int_equal(a.bench_prompt, 16);
    assert_int_equal(a.repeats, 2);
    assert_null(a.prompt);
    /* An option's text may begin with a dash, as long as it is no option. */
    assert_true(parse(&a, CMD_RUN, "-p -hello", copy, &err));
    assert_string_equal(a.prompt, "-hello");
    assert_true(parse(&a, CMD_RUN, "--prompt=--json", copy, &err));
    assert_string_equal(a.prompt, "--json");
    assert_false(a.json);
}

static const struct { unsigned command; const char *line, *says; } refused[] = {
    { CMD_RUN, "--temperatur 1", "unknown option --temperatur; did you mean --temperature?" },
    { CMD_RUN, "--tpo-k 1", "did you mean --top-k?" },
    { CMD_RUN, "--qqqqqqqqqqqq", "unknown option --qqqqqqqqqqqq ('mlxcel command --help'" },
    { CMD_RUN, "--temp hot", "option --temp takes a number, not 'hot'" },
    { CMD_RUN, "--temp", "option --temp needs a value" },
    { CMD_RUN, "-m --json", "option -m needs a value" },
    { CMD_RUN, "--json=1", "option --json takes no value" },
    { CMD_RUN, "--top-k -3", "option --top-k takes a whole number from 0 to" },
    { CMD_RUN, "--top-k 99999999999999999999", "option --top-k takes a whole number" },
    { CMD_RUN, "--compute f64", "option --compute takes auto|f32, not 'f64'" },
    { CMD_RUN, "--compute f3", "option --compute takes auto|f32, not 'f3'" },
    { CMD_RUN, "--seed x", "option --seed takes a whole number" },
    { CMD_RUN, "--cache-bytes 9999999999999999999G", "option --cache-bytes takes bytes" },
    { CMD_RUN, "--print-ids", "option --print-ids is not one of 'command'" },
    { CMD_RUN, "-ngl 99", "option -ngl is not supported: " },
    { CMD_RUN, "--mmproj x", "option --mmproj is not supported: " },
    { CMD_RUN, "--grammar-file x", "option --grammar-file is not supported: " },
    { CMD_RUN, "--lora x", "option --lora is not supported: " },
    { CMD_RUN, "--image=x", "option --image is not supported: " },
    { CMD_RUN, "-b 512", "option -b is not supported: " },
    { CMD_ARCH, "-m x", "option -m is not one of 'command'" },
};

static void test_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(refused); i++) {
        struct args a;
        struct err err;
        char copy[512];
        assert_false(parse(&a, refused[i].command, refused[i].line, copy, &err));
        assert_int_equal(err.code, ERR_USAGE);
        if (!strstr(err.text, refused[i].says))
            fail_msg("'%s' says '%s', not '%s'", refused[i].line, err.text, refused[i].says);
        assert_null(strchr(err.text, '\n'));
    }
}

static void test_numbers(void **state) {
    (void)state;
    static const struct { const char *text; bool ok; double value; } row[] = {
        { "0", true, 0 }, { "1.5", true, 1.5 }, { ".5", true, 0.5 }, { "-.5", true, -0.5 },
        { "+2", true, 2 }, { "1e-3", true, 1e-3 }, { "", false, 0 }, { "-", false, 0 },
        { "--1", false, 0 }, { "+-1", false, 0 }, { "1x", false, 0 }, { "nan", false, 0 },
        { "0x10", false, 0 }, { "1,5", false, 0 }, { " 1", false, 0 },
    };
    for (size_t i = 0; i < COUNT(row); i++) {
        double value = 0;
        bool ok = parse_float(str_of(row[i].text), &value);
        if (ok != row[i].ok || (ok && value != row[i].value))
            fail_msg("parse_float('%s')", row[i].text);
    }
    double inf;
    assert_true(parse_float(S("-inf"), &inf) && inf < -1e300);
    int64_t n;
    assert_true(parse_int(S("-7"), -7, 7, &n) && n == -7);
    assert_false(parse_int(S("-8"), -7, 7, &n));
    assert_false(parse_int(S("- 7"), -7, 7, &n));
    assert_false(parse_int(S("--7"), -7, 7, &n));
}

static void test_set_sample(void **state) {
    (void)state;
    struct err err = { 0 };
    struct sample_params p = sample_defaults();
    assert_true(options_set_sample(&p, S("top_p"), S("0.5"), &err));
    assert_true(p.top_p == 0.5F);
    assert_true(options_set_sample(&p, S("--temperature"), S("2"), &err));
    assert_true(p.temperature == 2);
    assert_true(options_set_sample(&p, S("seed"), S("9"), &err));
    assert_true(p.seed == 9);
    assert_false(options_set_sample(&p, S("temprature"), S("2"), &err));
    assert_string_equal(err.text, "no parameter 'temprature'; did you mean temperature?");

    /* Only what was given covers what the checkpoint says. */
    struct args a;
    char copy[512];
    struct sample_params q = sample_defaults();
    q.top_k = 7;
    q.temperature = 0.125F;
    assert_true(parse(&a, CMD_RUN, "--temp 0 --min-p .1", copy, &err));
    options_sample(&a, &q);
    assert_true(q.temperature == 0 && q.min_p == 0.1F && q.top_k == 7);
}

/* The rules that help, manual and completion rely on. */
static void test_table(void **state) {
    (void)state;
    assert_in_range(n_options, 1, OPTIONS_MAX);
    for (int i = 0; i < n_options; i++) {
        const struct option *o = &options[i];
        assert_true(o->commands && o->help[0] && o->group[0]);
        assert_true(!o->value == (o->kind <= V_COUNT));
        assert_true(!o->choices == (o->kind != V_CHOICE));
        for (int k = 0;; k++) {
            struct str name = name_at(o->names, k);
            if (!name.len) break;
            assert_true(name.len > 1 && name.at[0] == '-');
            /* No command may know a name twice. */
            for (int j = i + 1; j < n_options; j++)
                for (int m = 0; options[j].commands & o->commands; m++) {
                    struct str other = name_at(options[j].names, m);
                    if (!other.len) break;
                    if (str_eq(other, name)) fail_msg("%.*s is there twice", STR_ARG(name));
                }
        }
    }
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const word[] = { "run", "generate", "inspect" };
    assert_string_equal(nearest(S("rnu"), word, 3), "run");
    assert_string_equal(nearest(S("genrate"), word, 3), "generate");
    assert_null(nearest(S("zzz"), word, 3));
    char *many = mem_new(5000);
    memset(many, 'a', 4999);
    assert_null(nearest((struct str){ many, 4999 }, word, 3));
    free(many);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_set_sample),
        cmocka_unit_test(test_table), cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

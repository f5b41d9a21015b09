/* test_families.c - every folder here against Transformers: weights drawn from the recipe,
 * loaded the ordinary way, all prompts run in F32; logits, layers and greedy tokens
 * compared at the tolerances of the reference vectors. Also with the rope keys of older
 * configs, and the exactness contract on each. */
#include "recipe.h"

#include "engine.h"
#include "families/family.h"
#include "weights/weights.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

enum { GREEDY = 24, LAYERS_MAX = 16, LAST = 8, TOP = 5 };

struct oracle {
    struct weights *vectors;
    struct json_object *notes;       /* goldens.json */
    double tolerance;
    const char *family;
    int prompt;
};

static const float *vector(const struct oracle *o, const char *what, int64_t *n) {
    char name[64];
    snprintf(name, sizeof name, "prompt%d.%s", o->prompt, what);
    const struct weights_entry *e = weights_find(o->vectors, str_of(name));
    if (!e) return NULL;
    *n = tensor_count(&e->t);
    return e->t.at;
}

struct seen {                        /* what our engine gave for one prompt */
    struct oracle *o;
    int n_ids, vocab, tokens[GREEDY], n_tokens, n_layers;
    double stat[LAYERS_MAX][3];      /* l2, mean, absmax */
    float hidden[LAYERS_MAX][8];
    int64_t n_logits;
    bool done;
};

static void fail_near(const struct oracle *o, const char *what, int i, double ours, double theirs) {
    fail_msg("%s prompt %d: %s %d is %.9g, expected %.9g", o->family, o->prompt, what, i, ours,
             theirs);
}

static void compare_logits(struct seen *s, const float *ours, int position) {
    int64_t n = 0;
    const float *theirs = vector(s->o, "logits", &n);
    int rows = (int)(n / s->vocab), row = position - (s->n_ids - rows);
    if (row < 0 || row >= rows) return;
    s->n_logits++;
    for (int i = 0; i < s->vocab; i++) {
        float want = theirs[(int64_t)row * s->vocab + i];
        if (!(fabs((double)ours[i] - (double)want) <= s->o->tolerance))
            fail_near(s->o, "logit", i, (double)ours[i], (double)want);
    }
}

/* The five best of each greedy step; ids where neighbours are apart. */
static void compare_top(struct seen *s, const float *ours, int step) {
    int64_t n = 0;
    const float *best = vector(s->o, "top_logits", &n);
    const int32_t *ids = (const int32_t *)(const void *)vector(s->o, "top_ids", &n);
    if (step < 0 || step >= GREEDY) return;
    for (int k = 0; k < TOP; k++) {
        float want = best[step * TOP + k], got = ours[ids[step * TOP + k]];
        if (!(fabs((double)want - (double)got) <= s->o->tolerance))
            fail_near(s->o, "top logit of step", step, (double)got, (double)want);
    }
}

static void on_event(void *to, const struct engine_event *ev) {
    struct seen *s = to;
    if (ev->kind == EVENT_LOGITS) {
        s->vocab = ev->vocab;
        compare_logits(s, ev->logits, ev->position);
        compare_top(s, ev->logits, ev->position - (s->n_ids - 1));
    }
    if (ev->kind == EVENT_TOKEN && s->n_tokens < GREEDY) s->tokens[s->n_tokens++] = ev->token;
    if (ev->kind == EVENT_DONE) s->done = ev->finish == FINISH_LENGTH;
}

static void on_layer(void *to, int layer, const struct tensor *x) {
    struct seen *s = *(struct seen **)to;
    if (!s || s->n_tokens || x->shape[0] != s->n_ids || layer + 1 >= LAYERS_MAX) return;
    double square = 0, sum = 0, largest = 0;
    const float *v = x->at;
    int64_t n = x->shape[0] * x->shape[1];
    for (int64_t i = 0; i < n; i++) {
        square += (double)v[i] * (double)v[i];
        sum += (double)v[i];
        largest = fmax(largest, fabs((double)v[i]));
    }
    s->stat[layer + 1][0] = sqrt(square);
    s->stat[layer + 1][1] = sum / (double)n;
    s->stat[layer + 1][2] = largest;
    memcpy(s->hidden[layer + 1], v + (x->shape[0] - 1) * x->stride[0], sizeof s->hidden[0]);
    s->n_layers = MAX(s->n_layers, layer + 2);
}

/* The reference takes "embed" before multipliers that stand outside of the module and before
 * learned positions: the first layer's output is what shows whether those are right. */
static void compare_layers(const struct seen *s) {
    int64_t n = 0, m = 0;
    const float *stat = vector(s->o, "layers", &n), *hidden = vector(s->o, "hidden", &m);
    assert_non_null(stat);
    assert_int_equal(n / 3, s->n_layers);
    for (int i = 1; i < s->n_layers; i++) {
        double l2 = (double)stat[3 * i], mean = (double)stat[3 * i + 1],
               top = (double)stat[3 * i + 2];
        if (!(fabs(s->stat[i][0] - l2) <= 1e-4 * l2))
            fail_near(s->o, "l2 of layer", i, s->stat[i][0], l2);
        if (!(fabs(s->stat[i][1] - mean) <= 1e-4 * top))
            fail_near(s->o, "mean of layer", i, s->stat[i][1], mean);
        if (!(fabs(s->stat[i][2] - top) <= 1e-4 * top))
            fail_near(s->o, "absmax of layer", i, s->stat[i][2], top);
        double row = 0;
        for (int k = 0; k < 8; k++) row = MAX(row, fabs((double)hidden[8 * i + k]));
        for (int k = 0; k < 8; k++)
            if (!(fabs((double)s->hidden[i][k] - (double)hidden[8 * i + k]) <=
                  1e-4 * fmax(row, top)))
                fail_near(s->o, "hidden of layer", i, (double)s->hidden[i][k],
                          (double)hidden[8 * i + k]);
    }
}

static void run_prompt(struct engine *e, struct oracle *o, struct seen **probe) {
    int64_t n = 0, n_greedy = 0;
    const int *ids = (const int *)(const void *)vector(o, "ids", &n);
    const int *greedy = (const int *)(const void *)vector(o, "greedy", &n_greedy);
    struct generate_options g = { .sample = sample_defaults(), .n_max = GREEDY, .ignore_eos = true,
                                  .logits_last = LAST };
    struct seen s = { .o = o, .n_ids = (int)n };
    struct err err = { 0 };
    g.sample.temperature = 0;
    *probe = &s;
    uint64_t id = engine_submit(e, ids, (int)n, &g, on_event, &s, &err);
    if (!id || !engine_finish(e, id, &err)) fail_msg("%s: %s", o->family, err.text);
    *probe = NULL;
    assert_true(s.done);
    assert_int_equal(s.n_logits, MIN(n, LAST));
    assert_int_equal(s.n_tokens, GREEDY);
    assert_int_equal(n_greedy, GREEDY);
    compare_layers(&s);
    for (int i = 0; i < GREEDY; i++)
        if (s.tokens[i] != greedy[i])
            fail_near(o, "greedy token", i, s.tokens[i], greedy[i]);
}

static void path_of(char to[256], const char *family, const char *file) {
    snprintf(to, 256, "tests/families/%s/%s", family, file);
}

static void copy_file(const char *from, const char *dir, const char *name) {
    struct buf b = { 0 };
    struct err err = { 0 };
    if (!buf_read_file(&b, from, 64u << 20, &err)) fail_msg("%s", err.text);
    temp_write(dir, name, buf_view(&b));
    buf_free(&b);
}

/* The config, today's or with the rope keys it had before; false: it has no older form. */
static bool write_config(const char *family, const char *dir, struct json_object *notes,
                         bool legacy) {
    char path[256];
    path_of(path, family, "config.json");
    struct json_object *older = json_object_object_get(notes, "legacy_rope");
    if (!legacy) {
        copy_file(path, dir, "config.json");
        return true;
    }
    if (!older) return false;
    struct json_object *config = json_object_from_file(path);
    json_object_object_del(config, "rope_parameters");
    json_object_object_foreach(older, key, value)
        json_object_object_add(config, key, json_object_get(value));
    temp_write(dir, "config.json", str_of(json_object_to_json_string(config)));
    json_object_put(config);
    return true;
}

static char *checkpoint(const char *family, struct json_object *notes, bool legacy) {
    char path[256], *dir = temp_dir();
    struct buf model = { 0 };
    path_of(path, family, "tensors.json");
    recipe_model(&model, path, NULL);
    temp_write(dir, "model.safetensors", buf_view(&model));
    buf_free(&model);
    if (write_config(family, dir, notes, legacy)) return dir;
    temp_free(dir);
    return NULL;
}

static void line(void *to, const char *name, bool ok, const char *detail) {
    if (!ok) print_error("%s: %s: %s\n", (const char *)to, name, detail);
}

static void compare(const char *family, bool legacy, const char *isa) {
    char path[256], *vectors = temp_dir();
    struct err err = { 0 };
    struct seen *probe = NULL;
    path_of(path, family, "goldens.json");
    struct oracle o = { .family = family, .notes = json_object_from_file(path) };
    double noise = recipe_number(o.notes, "float64_difference");
    o.tolerance = fmax(2e-4, 20 * noise);
    char *dir = checkpoint(family, o.notes, legacy);
    path_of(path, family, "goldens.safetensors");
    copy_file(path, vectors, "model.safetensors");
    o.vectors = weights_open(vectors, &err);
    assert_non_null(o.vectors);
    if (dir) {
        struct engine_options options = { .dir = dir, .f32 = true, .no_tokenizer = true, .isa = isa,
                                          .no_reuse = true, .layer = on_layer, .to = &probe };
        struct engine *e = engine_open(&options, &err);
        if (!e) fail_msg("%s: %s", family, err.text);
        for (int64_t n; vector(&o, "ids", &n); o.prompt++) run_prompt(e, &o, &probe);
        assert_true(o.prompt >= 4);
        engine_close(e);
        temp_free(dir);
    }
    weights_close(o.vectors);
    json_object_put(o.notes);
    temp_free(vectors);
}

/* TEST_ISA=NAME has everything but "generic" run on that set instead of the best one. */
static const char *isa_wanted(void) {
    return getenv("TEST_ISA");
}

static void exactness(const char *family) {
    char path[256];
    path_of(path, family, "goldens.json");
    struct json_object *notes = json_object_from_file(path);
    char *dir = checkpoint(family, notes, false);
    for (int f32 = 0; f32 < 2; f32++) {
        struct engine_options o = { .dir = dir, .f32 = f32, .threads = 2, .isa = isa_wanted() };
        struct err err = { 0 };
        if (!engine_selftest(&o, line, (void *)(uintptr_t)family, &err))
            fail_msg("%s: not exact (%s)", family, err.text);
    }
    json_object_put(notes);
    temp_free(dir);
}

static void test_vectors(void **state) { compare(*state, false, isa_wanted()); }
static void test_generic(void **state) { compare(*state, false, "generic"); }
static void test_legacy(void **state) { compare(*state, true, isa_wanted()); }
static void test_exact(void **state) { exactness(*state); }

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct CMUnitTest *)a)->name, ((const struct CMUnitTest *)b)->name);
}

/* Four tests a folder; `only` picks one family. */
static size_t list(struct CMUnitTest *to, size_t max, const char *only) {
    static const struct { const char *what; CMUnitTestFunction run; } kind[] = {
        { "vectors", test_vectors }, { "generic", test_generic }, { "legacy rope", test_legacy },
        { "exactness", test_exact },
    };
    size_t n = 0;
    DIR *d = opendir("tests/families");
    for (struct dirent *f; d && (f = readdir(d));) {
        char path[300];
        snprintf(path, sizeof path, "tests/families/%s/tensors.json", f->d_name);
        struct stat st;
        if (stat(path, &st) || (only && strcmp(only, f->d_name))) continue;
        static char names[500][64];        /* as long as the program: cmocka keeps pointers */
        char *family = names[n / COUNT(kind)];
        snprintf(family, sizeof names[0], "%.63s", f->d_name);
        for (size_t k = 0; k < COUNT(kind) && n < max; k++) {
            static char titles[2000][96];
            char *name = titles[n];
            snprintf(name, sizeof titles[0], "%s: %s", family, kind[k].what);
            to[n++] = (struct CMUnitTest){ name, kind[k].run, NULL, NULL, family };
        }
    }
    if (d) closedir(d);
    qsort(to, n, sizeof *to, by_name);
    return n;
}

/* A family is not done before it has a folder of vectors. */
static void test_every_family_has_vectors(void **state) {
    (void)state;
    for (const struct family *f = family_next(NULL); f; f = family_next(f)) {
        char path[256];
        struct stat st;
        path_of(path, f->name, "goldens.safetensors");
        if (stat(path, &st)) fail_msg("no vectors for family %s", f->name);
    }
}

int main(int argc, char **argv) {
    static struct CMUnitTest tests[2000];
    tests[0] = (struct CMUnitTest)cmocka_unit_test(test_every_family_has_vectors);
    size_t n = 1 + list(tests + 1, COUNT(tests) - 1, argc > 1 ? argv[1] : NULL);
    if (n < 2) return 1;
    return _cmocka_run_group_tests("families", tests, n, NULL, NULL);
}

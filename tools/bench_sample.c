/* bench_sample.c - what picking a token costs: microseconds, with the usual settings and others.
 *
 *     bench_sample [vocabulary [step]]     one object of JSON; 128,256 without a number
 *
 * The least of several rounds: what a pick costs when nobody else takes the processor. step: what
 * a step of the model takes, in microseconds; then each pick is also given as a share of it, in %.
 * Each chain picks from logits like a bell, and from nearly flat ones, of which it keeps many. */
#include "sample/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 41, VOCAB = 128256, VOCAB_MAX = 1 << 24 };

/* About normal, as logits are: the sum of some uniform numbers. */
static void draw(float *logits, int n, float scale) {
    uint64_t state = 7;
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 8; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) / (float)(1 << 24) - 0.5f;
        }
        logits[i] = scale * sum;
    }
}

/* Nothing but what is said, in the default order of the stages. */
static const struct chain {
    const char *name;
    float temperature, top_p, min_p, typical_p, top_n_sigma, xtc_probability;
    int top_k;
} chains[] = {
    { "greedy",       0,    1,     0,     1,    0, 0, 0 },
    { "usual",        0.8f, 0.95f, 0.05f, 1,    0, 0, 40 },
    { "temperature",  1,    1,     0,     1,    0, 0, 0 },
    { "temperature_0.8", 0.8f, 1,  0,     1,    0, 0, 0 },
    { "top_p",        1,    0.9f,  0,     1,    0, 0, 0 },
    { "top_p_0.8",    0.8f, 0.9f,  0,     1,    0, 0, 0 },
    { "min_p",        1,    1,     0.05f, 1,    0, 0, 0 },
    { "top_p_min_p",  0.8f, 0.95f, 0.05f, 1,    0, 0, 0 },
    { "typical",      1,    1,     0,     0.9f, 0, 0, 0 },
    { "top_n_sigma",  1,    1,     0,     1,    1, 0, 0 },
    { "xtc",          1,    1,     0,     1,    0, 1, 0 },
};

static struct sample_params params_of(const struct chain *c) {
    struct sample_params p = sample_defaults();
    p.temperature = c->temperature;
    p.top_k = c->top_k;
    p.top_p = c->top_p;
    p.min_p = c->min_p;
    p.typical_p = c->typical_p;
    p.top_n_sigma = c->top_n_sigma;
    p.xtc_probability = c->xtc_probability;
    return p;
}

/* A pick may change the logits, so each gets a copy; copying is not counted. */
static double pick_us(int vocab, const float *logits, const struct sample_params *p) {
    struct sampler *s = sampler_open(vocab);
    float *copy = mem_array((size_t)vocab, sizeof *copy);
    double least = 1e9;
    for (int i = 0; i < ROUNDS; i++) {
        memcpy(copy, logits, (size_t)vocab * sizeof *copy);
        double begin = clock_s();
        int token = sampler_pick(s, p, copy, NULL, 0, (uint64_t)i);
        double took = clock_s() - begin;
        if (token < 0) abort();
        least = MIN(least, took);
    }
    free(copy);
    sampler_close(s);
    return least * 1e6;
}

int main(int argc, char **argv) {
    uint64_t vocab = VOCAB, step = 0;
    if ((argc > 1 && (!str_u64(str_of(argv[1]), VOCAB_MAX, &vocab) || vocab < 2)) ||
        (argc > 2 && (!str_u64(str_of(argv[2]), UINT32_MAX, &step) || step < 1))) {
        fprintf(stderr, "usage: bench_sample [vocabulary [step in microseconds]]\n");
        return ERR_USAGE;
    }
    float *bell = mem_array((size_t)vocab, sizeof *bell);
    float *flat = mem_array((size_t)vocab, sizeof *flat);
    draw(bell, (int)vocab, 4);
    draw(flat, (int)vocab, 0.5f);
    printf("{\"vocabulary\":%d", (int)vocab);
    for (size_t i = 0; i < COUNT(chains); i++) {
        struct sample_params p = params_of(&chains[i]);
        for (int kind = 0; kind < 2; kind++) {
            const char *of = kind ? "_flat" : "";
            double us = pick_us((int)vocab, kind ? flat : bell, &p);
            printf(",\n \"%s%s_us\":%.1f", chains[i].name, of, us);
            if (step) printf(",\"%s%s_share\":%.2f", chains[i].name, of, 100 * us / (double)step);
        }
    }
    printf("}\n");
    free(flat);
    free(bell);
    return 0;
}

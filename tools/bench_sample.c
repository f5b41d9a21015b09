/* bench_sample.c - what picking a token costs: microseconds, with the usual settings and others.
 *
 *     bench_sample [vocabulary]        one line of JSON; 128,256 without a number
 *
 * The least of several rounds: what a pick costs when nobody else takes the processor. */
#include "sample/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 41, VOCAB = 128256, VOCAB_MAX = 1 << 24 };

/* About normal, as logits are: the sum of some uniform numbers. */
static void draw(float *logits, int n) {
    uint64_t state = 7;
    for (int i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 8; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) / (float)(1 << 24) - 0.5f;
        }
        logits[i] = 4 * sum;
    }
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
    uint64_t vocab = VOCAB;
    if (argc > 1 && (!str_u64(str_of(argv[1]), VOCAB_MAX, &vocab) || vocab < 2)) {
        fprintf(stderr, "usage: bench_sample [vocabulary]\n");
        return ERR_USAGE;
    }
    float *logits = mem_array((size_t)vocab, sizeof *logits);
    draw(logits, (int)vocab);
    struct sample_params greedy = sample_defaults(), usual = greedy, plain = greedy, nucleus;
    greedy.temperature = 0;
    plain.temperature = 1;
    plain.top_k = 0, plain.top_p = 1, plain.min_p = 0;
    nucleus = plain;
    nucleus.top_p = 0.9f;
    printf("{\"vocabulary\":%d,\"greedy_us\":%.1f,\"usual_us\":%.1f,\"temperature_us\":%.1f,"
           "\"top_p_us\":%.1f}\n", (int)vocab, pick_us((int)vocab, logits, &greedy),
           pick_us((int)vocab, logits, &usual), pick_us((int)vocab, logits, &plain),
           pick_us((int)vocab, logits, &nucleus));
    free(logits);
    return 0;
}

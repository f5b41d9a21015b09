/* engine_generation.h - what generation_config.json says: how this model likes to be sampled,
 * and which ids end its texts. */
#pragma once
#include "sample/sample.h"

enum { EOS_MAX = 64 };

struct generation {
    struct sample_params sample;     /* the file's values over sample_defaults() */
    int eos[EOS_MAX], n_eos;         /* generation_config.json's, else config.json's, else none */
};

/* Values out of range are ignored with a warning; ids out of the vocabulary are an error.
 * The file may be missing. */
bool generation_read(struct generation *, const char *dir, int vocab, struct err *);

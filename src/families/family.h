/* family.h - a model family is one file here and one line in families.def. */
#pragma once
#include "layers/layers.h"
#include "spec/spec.h"
#include "weights/names.h"

struct family {
    const char *name;
    const char *evidence;                    /* what it was checked against, for `arch` */
    const char *const *model_types;          /* values of config.json model_type */
    void (*describe)(struct decoder_spec *, struct config *);
    const struct name_rule *names;           /* tried before names_hf; NULL: none */
};

const struct family *family_find(struct str model_type);             /* NULL: unsupported */
const struct family *family_next(const struct family *after);        /* NULL, first, next, ... */

#define ALIASES(...) ((const char *const[]){ __VA_ARGS__, NULL })

#define FAMILY(id) extern const struct family family_##id;
#include "families/families.def"
#undef FAMILY

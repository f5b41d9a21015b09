/* The table of families. Add a line to families.def, not here. */
#include "families/family.h"

static const struct family *const families[] = {
#define FAMILY(id) &family_##id,
#include "families/families.def"
#undef FAMILY
};

const struct family *family_find(struct str model_type) {
    for (size_t i = 0; i < COUNT(families); i++)
        for (const char *const *t = families[i]->model_types; *t; t++)
            if (str_is(model_type, *t)) return families[i];
    return NULL;
}

const struct family *family_next(const struct family *after) {
    size_t i = 0;
    if (after) while (families[i++] != after);
    return i < COUNT(families) ? families[i] : NULL;
}

/* packed.c - where packed weights are kept: what --packed says, or the user's cache folder. */
#include "cli/session.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_MIN = 64 << 20 };        /* packing less takes no time worth a file */

/* As the XDG specification says; an environment without a home has no such folder. */
static bool usual_place(struct buf *dir) {
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && cache[0] == '/') buf_format(dir, "%s/mlxcel/packed", cache);
    else if (home && home[0] == '/') buf_format(dir, "%s/.cache/mlxcel/packed", home);
    return dir->len > 0;
}

void session_packed(const char *packed, struct buf *dir, struct engine_options *o) {
    buf_clear(dir);
    if (packed && !strcmp(packed, "off")) {
        o->unpacked = true;
    } else if (!packed || !strcmp(packed, "auto")) {
        o->packed_min = FILE_MIN;
        if (usual_place(dir)) o->packed_dir = buf_c(dir);
    } else if (strcmp(packed, "memory")) {
        buf_str(dir, str_of(packed));
        o->packed_dir = buf_c(dir);
    }
}

/* maker.h - for tests: a temporary directory, and safetensors files made in memory. */
#pragma once
#include "base/buf.h"
#include <assert.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline char *temp_dir(void) {
    char *dir = mem_str(S("/tmp/mlxcel-test-XXXXXX"));
    if (!mkdtemp(dir)) abort();
    return dir;
}

static inline int temp_remove(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* Deletes the directory with all in it and frees its name. */
static inline void temp_free(char *dir) {
    nftw(dir, temp_remove, 8, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

/* Writes dir/name. */
static inline void temp_write(const char *dir, const char *name, struct str bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes.at ? bytes.at : "", 1, bytes.len, f) != bytes.len || fclose(f)) abort();
}

struct maker { struct buf header, data; };   /* zeroed: a file without tensors */

static inline void maker_metadata(struct maker *m, const char *format) {
    if (m->header.len) buf_char(&m->header, ',');
    buf_format(&m->header, "\"__metadata__\":{\"format\":\"%s\"}", format);
}

/* One tensor; shape as JSON ("[2,3]"), its bytes as they are. */
static inline void maker_add(struct maker *m, const char *name, const char *dtype,
                             const char *shape, const void *bytes, size_t n) {
    size_t begin = m->data.len;
    if (m->header.len) buf_char(&m->header, ',');
    buf_json(&m->header, str_of(name));
    buf_format(&m->header, ":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", dtype,
               shape, begin, begin + n);
    buf_put(&m->data, bytes, n);
}

/* A file of any header text and data: length, header, data. */
static inline void maker_file(struct buf *out, struct str header, struct str data) {
    uint64_t n = header.len;
    for (int i = 0; i < 8; i++) buf_char(out, (char)(n >> 8 * i & 255));
    buf_str(out, header);
    buf_str(out, data);
}

/* The whole file; spaces pad the header to a multiple of 8, or of 8 plus `odd`. */
static inline void maker_bytes(struct maker *m, size_t odd, struct buf *out) {
    struct buf header = { 0 };
    buf_char(&header, '{');
    buf_str(&header, buf_view(&m->header));
    buf_char(&header, '}');
    while (header.len % 8 != odd) buf_char(&header, ' ');
    maker_file(out, buf_view(&header), buf_view(&m->data));
    buf_free(&header);
}

static inline void maker_free(struct maker *m) {
    buf_free(&m->header);
    buf_free(&m->data);
}

/* Writes dir/name and empties the maker. */
static inline void maker_write(struct maker *m, const char *dir, const char *name) {
    struct buf file = { 0 };
    maker_bytes(m, 0, &file);
    temp_write(dir, name, buf_view(&file));
    buf_free(&file);
    maker_free(m);
}

/* safetensors.c - reads a safetensors header: 8 bytes of length, JSON, then the data.
 *
 * Every number is checked before it is used, and the tensors must tile the data
 * from its first to its last byte: then two names cannot share bytes, nothing can
 * hide in a hole, and a truncated file cannot pass. */
#include "weights/safetensors.h"
#include "base/pull.h"

#include <stdlib.h>
#include <string.h>

/* All dtypes of the format. Those no kernel reads are measured, so that a file that
 * holds one somewhere (a position buffer in I64) still loads. */
static const struct {
    const char *name;
    unsigned bits;
    bool readable;
    enum dtype dtype;
} dtypes[] = {
    { "BF16", 16, true, BF16 },   { "F32", 32, true, F32 },        { "F16", 16, true, F16 },
    { "U32", 32, true, U32 },     { "I32", 32, true, I32 },        { "U8", 8, true, U8 },
    { "F8_E4M3", 8, true, FP8 },  { "BOOL", 8, false, U8 },        { "I8", 8, false, U8 },
    { "F8_E5M2", 8, false, U8 },  { "F8_E8M0", 8, true, U8 },      { "F4", 4, false, U8 },
    { "F6_E2M3", 6, false, U8 },  { "F6_E3M2", 6, false, U8 },     { "I16", 16, false, U8 },
    { "U16", 16, false, U8 },     { "I64", 64, false, U8 },        { "U64", 64, false, U8 },
    { "F64", 64, false, U8 },     { "C64", 64, false, U8 },
};

struct span { uint64_t begin, end; size_t entry; };

struct reader {                          /* one file on its way in */
    struct pull j;
    struct str file, data;
    const char *path;
    struct tensor_list *list;
    struct span *span;
    size_t n_spans, spans_cap;
    struct err *err;
};

/* What one tensor's object says. */
struct info {
    size_t dtype;
    bool has_dtype, has_shape, has_offsets;
    int rank;
    uint64_t shape[SAFETENSORS_RANK_MAX], begin, end;
};

/* The readers of one tensor's members: false with the error in the pull reader. Each sets its has_
 * flag at the end, so a second member of that name is seen. */
static bool read_dtype(struct reader *r, struct info *info) {
    struct str word;
    if (!pull_string(&r->j, &word)) return false;
    for (info->dtype = 0; info->dtype < COUNT(dtypes); info->dtype++)
        if (str_is(word, dtypes[info->dtype].name)) return info->has_dtype = true;
    return pull_fail(&r->j, "unknown dtype");
}

static bool read_shape(struct reader *r, struct info *info) {
    if (!pull_array(&r->j)) return false;
    while (pull_next(&r->j)) {
        if (info->rank == SAFETENSORS_RANK_MAX) return pull_fail(&r->j, "more than 8 dimensions");
        /* Digits only: no sign, fraction or exponent, nothing that could wrap. */
        if (!pull_u64(&r->j, INT64_MAX, &info->shape[info->rank++])) return false;
    }
    return info->has_shape = !r->j.error;
}

static bool read_offsets(struct reader *r, struct info *info) {
    uint64_t *to[] = { &info->begin, &info->end };
    size_t n = 0;
    if (!pull_array(&r->j)) return false;
    while (pull_next(&r->j)) {
        if (n == COUNT(to)) return pull_fail(&r->j, "more than two data_offsets");
        if (!pull_u64(&r->j, UINT64_MAX, to[n++])) return false;
    }
    if (!r->j.error && n < COUNT(to)) return pull_fail(&r->j, "fewer than two data_offsets");
    return info->has_offsets = !r->j.error;
}

static bool read_info(struct reader *r, struct info *info) {
    struct str key;
    if (!pull_object(&r->j)) return false;
    while (pull_key(&r->j, &key)) {
        if (str_is(key, "dtype") && !info->has_dtype) read_dtype(r, info);
        else if (str_is(key, "shape") && !info->has_shape) read_shape(r, info);
        else if (str_is(key, "data_offsets") && !info->has_offsets) read_offsets(r, info);
        else pull_fail(&r->j, "unexpected or repeated key in a tensor");
    }
    if (r->j.error) return false;
    return (info->has_dtype && info->has_shape && info->has_offsets) ||
           pull_fail(&r->j, "tensor without dtype, shape or data_offsets");
}

/* False: not a whole number of bytes, or more than a size_t holds. */
static bool info_bytes(const struct info *info, size_t *bytes) {
    size_t n = 1;
    for (int i = 0; i < info->rank; i++)
        if (!mul_size(n, info->shape[i], &n)) return false;
    if (!mul_size(n, dtypes[info->dtype].bits, &n) || n % 8) return false;
    *bytes = n / 8;
    return true;
}

/* False, with a sentence about this tensor. */
static bool bad_tensor(struct reader *r, struct str name, const char *what) {
    return err_set(r->err, "%s: tensor %.*s: %s", r->path, STR_ARG(name), what);
}

/* The view; without an address where no kernel reads the dtype or the rank. */
static struct tensor view(struct reader *r, const struct info *info) {
    struct tensor t = { .dtype = dtypes[info->dtype].dtype, .rank = info->rank };
    if (info->rank > 4) return (struct tensor){ .dtype = t.dtype };
    int64_t stride = 1;
    for (int i = info->rank - 1; i >= 0; i--) {
        t.shape[i] = (int64_t)info->shape[i];
        t.stride[i] = stride;
        stride *= t.shape[i];
    }
    if (!t.rank) t = tensor_1d(NULL, t.dtype, 1);
    if (dtypes[info->dtype].readable) t.at = (void *)(uintptr_t)(r->data.at + info->begin);
    return t;
}

/* Strides are products of a tail of the shape. With a zero in front such a tail may be too
 * large for int64 although the whole is nothing. */
static bool strides_fit(const struct info *info) {
    size_t n = 1;
    for (int i = info->rank - 1; i >= 0; i--)
        if (!mul_size(n, info->shape[i], &n) || n > INT64_MAX) return false;
    return true;
}

/* Checks what the object says against the file and appends it. Overlaps are found later, when all
 * tensors are known. */
static bool add_tensor(struct reader *r, struct str name, const struct info *info) {
    struct tensor_list *list = r->list;
    size_t bytes;
    if (!strides_fit(info) || !info_bytes(info, &bytes))
        return bad_tensor(r, name, "its shape is too large or not whole bytes");
    if (info->begin > info->end || info->end > r->data.len)
        return err_set(r->err, "%s: tensor %.*s: data_offsets %llu to %llu, but there are %zu "
                       "bytes of data", r->path, STR_ARG(name), (unsigned long long)info->begin,
                       (unsigned long long)info->end, r->data.len);
    if (info->end - info->begin != bytes)
        return err_set(r->err, "%s: tensor %.*s: its shape takes %zu bytes, its data_offsets %llu",
                       r->path, STR_ARG(name), bytes,
                       (unsigned long long)(info->end - info->begin));
    if (list->n == SAFETENSORS_TENSORS_MAX) return bad_tensor(r, name, "too many tensors");
    if (list->n == list->cap) {
        list->cap = MAX(list->cap * 2, (size_t)256);
        list->at = mem_grow(list->at, list->cap, sizeof *list->at);
    }
    if (r->n_spans == r->spans_cap) {
        r->spans_cap = MAX(r->spans_cap * 2, (size_t)256);
        r->span = mem_grow(r->span, r->spans_cap, sizeof *r->span);
    }
    /* Two shards may not hold one tensor either: the list is the whole checkpoint's. */
    if (!map_put(&list->names, name, (uint32_t)list->n))
        return bad_tensor(r, name, "a second tensor of that name");
    r->span[r->n_spans++] = (struct span){ info->begin, info->end, list->n };
    struct weights_entry *e = &list->at[list->n++];
    *e = (struct weights_entry){ .name = name, .file = r->path, .bytes = bytes,
                                 .t = view(r, info) };
    memcpy(e->dtype, dtypes[info->dtype].name, strlen(dtypes[info->dtype].name));
    return true;
}

/* __metadata__: a map of strings, of which we need one. */
static bool read_metadata(struct reader *r) {
    struct str key, value;
    if (!pull_object(&r->j)) return false;
    while (pull_key(&r->j, &key)) {
        bool format = str_is(key, "format");
        if (pull_string(&r->j, &value) && format && str_is(value, "mlx")) r->list->mlx = true;
    }
    return !r->j.error;
}

static bool read_header(struct reader *r) {
    struct str key;
    bool has_metadata = false;
    if (!pull_object(&r->j)) return false;
    while (pull_key(&r->j, &key)) {
        if (str_is(key, "__metadata__")) {
            if (has_metadata) return pull_fail(&r->j, "a second __metadata__");
            has_metadata = true;
            read_metadata(r);
            continue;
        }
        if (!key.len || key.len > SAFETENSORS_NAME_MAX || memchr(key.at, 0, key.len))
            return pull_fail(&r->j, "tensor name empty, longer than 1024 bytes, or with a NUL");
        /* Copied: the key may lie in the reader's scratch, and maps keep it. */
        struct str name = { arena_str(&r->list->arena, key), key.len };
        struct info info = { 0 };
        if (!read_info(r, &info))
            return err_set(r->err, "%s: tensor %.*s: %s at byte %zu of the header", r->path,
                           STR_ARG(name), r->j.error, r->j.offset);
        if (!add_tensor(r, name, &info)) return false;
    }
    return pull_end(&r->j);
}

/* Empty tensors sort before the one that begins at the same byte, so they leave no hole. */
static int by_begin(const void *a, const void *b) {
    const struct span *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static bool tiles_the_data(struct reader *r) {
    uint64_t at = 0;
    if (r->n_spans) qsort(r->span, r->n_spans, sizeof *r->span, by_begin);
    for (size_t i = 0; i < r->n_spans; i++) {
        const struct span *s = &r->span[i];
        if (s->begin != at)
            return bad_tensor(r, r->list->at[s->entry].name,
                              s->begin < at ? "overlaps the tensor before it"
                                            : "a hole in the data before it");
        at = s->end;
    }
    return at == r->data.len || err_set(r->err, "%s: %zu bytes after the last tensor", r->path,
                                        (size_t)(r->data.len - at));
}

/* What a file that is none looks like. */
static const char *hint(struct str file) {
    static const struct { const char *begin, *what; } known[] = {
        { "\x1f\x8b", "; it looks like gzip" },
        { "PK\x03\x04", "; it looks like a zip archive (a PyTorch checkpoint?)" },
        { "\x80\x02", "; it looks like a Python pickle" },
        { "\x80\x03", "; it looks like a Python pickle" },
        { "\x80\x04", "; it looks like a Python pickle" },
        { "GGUF", "; it looks like GGUF" },
        { "<!", "; it looks like a web page" },
        { "<html", "; it looks like a web page" },
        { "version https://git-lfs", "; it is a Git LFS pointer: the file itself was not fetched" },
    };
    for (size_t i = 0; i < COUNT(known); i++)
        if (str_starts(file, known[i].begin)) return known[i].what;
    return file.len > 8 && file.at[8] == '{' && !file.at[0] ? "; its length may be big-endian" : "";
}

bool safetensors_read(struct str file, const char *path, struct tensor_list *list,
                      struct err *err) {
    uint64_t length = 0;
    for (size_t i = 8; i-- > 0 && file.len >= 8;)
        length = length << 8 | (unsigned char)file.at[i];
    if (file.len < 8)
        return err_set(err, "%s: %zu bytes are no safetensors file", path, file.len);
    if (length > SAFETENSORS_HEADER_MAX || length > file.len - 8 || length < 2 ||
        file.at[8] != '{')
        return err_set(err, "%s: not a safetensors file (header of %llu bytes, file of %zu)%s",
                       path, (unsigned long long)length, file.len, hint(file));
    /* length <= file.len - 8, so neither cut can pass the end. */
    struct reader r = { .file = file, .data = str_from(file, 8 + (size_t)length), .path = path,
                        .list = list, .err = err };
    r.j = pull_open(str_cut(file, 8, 8 + (size_t)length));
    bool ok = read_header(&r) && tiles_the_data(&r);
    if (!ok && r.j.error)
        err_set(err, "%s: bad header: %s at byte %zu", path, r.j.error, r.j.offset);
    pull_close(&r.j);
    free(r.span);
    return ok;
}

void tensor_list_free(struct tensor_list *list) {
    free(list->at);
    map_free(&list->names);
    arena_free(&list->arena);
    *list = (struct tensor_list){ 0 };
}

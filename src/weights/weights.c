/* weights.c - finds a checkpoint's files, maps them and indexes their tensors.
 *
 * File names come from an untrusted index and links from an untrusted repository, so
 * a name is one component of DIR and a link is followed only inside of DIR or into
 * the blob store of a download cache. */
#include "weights/weights.h"
#include "base/log.h"
#include "base/pull.h"
#include "weights/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { SHARDS_MAX = 4096, INDEX_BYTES_MAX = 256 << 20, FILE_NAME_MAX = 255 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

struct shard { char *name, *path; struct str file; struct timespec modified, changed; };
struct mapped { struct str tensor; uint32_t shard; };    /* a line of the index */

struct weights {
    struct tensor_list list;             /* sorted by name once all is read */
    struct shard *shard;
    uint32_t n_shards, shards_cap;
    size_t bytes;
    char *dir;
};

/* ---- one file ---- */

/* Whether a link of DIR may be followed: to a name beside it, or to a cache's blob. */
static bool link_is_safe(const char *target) {
    struct str name = str_of(target);
    if (str_starts(name, "../../blobs/")) name = str_from(name, strlen("../../blobs/"));
    return name.len && !memchr(name.at, '/', name.len) && !str_is(name, ".") && !str_is(name, "..");
}

/* A descriptor of the shard, or -1. */
static int open_file(int dir, const struct shard *s, struct err *err) {
    const int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    char target[4096];
    /* O_NOFOLLOW makes a link an ELOOP; O_NONBLOCK keeps a FIFO from waiting for its writer. */
    int fd = openat(dir, s->name, flags);
    if (fd >= 0) return fd;
    if (errno != ELOOP) {
        err_set(err, "%s: %s", s->path, strerror(errno));
        return -1;
    }
    ssize_t n = readlinkat(dir, s->name, target, sizeof target - 1);
    if (n < 0) {
        err_set(err, "%s: %s", s->path, strerror(errno));
        return -1;
    }
    target[n] = 0;
    if (!link_is_safe(target)) {
        err_set(err, "%s: a link out of its directory, to %s", s->path, target);
        return -1;
    }
    /* Links are followed once: what is behind this one must be a file. */
    fd = openat(dir, target, flags);
    if (fd < 0) err_set(err, "%s: a link to %s: %s", s->path, target, strerror(errno));
    return fd;
}

/* The whole file, read-only. It stays open as a mapping alone. */
static bool map_file(int dir, struct shard *s, struct err *err) {
    struct stat st;
    int fd = open_file(dir, s, err);
    if (fd < 0) return false;
    bool ok = false;
    if (fstat(fd, &st) < 0) err_set(err, "%s: %s", s->path, strerror(errno));
    else if (!S_ISREG(st.st_mode)) err_set(err, "%s: not a regular file", s->path);
    else if (!st.st_size) err_set(err, "%s: the file is empty", s->path);
    else {
        void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (at == MAP_FAILED) err_set(err, "%s: %s", s->path, strerror(errno));
        else {
            *s = (struct shard){ s->name, s->path, { at, (size_t)st.st_size }, st.st_mtim,
                                 st.st_ctim };
            ok = true;
        }
    }
    close(fd);
    return ok;
}

/* Index of the shard of that name, made if new; -1: too many. */
static int shard_of(struct weights *w, struct map *names, const char *dir, struct str name) {
    uint32_t i = w->n_shards;
    if (map_get(names, name, &i)) return (int)i;
    if (i == SHARDS_MAX) return -1;
    if (i == w->shards_cap) {
        w->shards_cap = MAX(w->shards_cap * 2, 16u);
        w->shard = mem_grow(w->shard, w->shards_cap, sizeof *w->shard);
    }
    struct buf path = { 0 };
    buf_format(&path, "%s/%.*s", dir, (int)name.len, name.at);
    w->shard[i] = (struct shard){ .name = mem_str(name), .path = mem_str(buf_view(&path)) };
    buf_free(&path);
    map_put(names, (struct str){ w->shard[i].name, name.len }, i);
    w->n_shards++;
    return (int)i;
}

/* ---- the index ---- */

/* One component, not hidden, of the right kind. Backslash and colon are refused for the sake of
 * file systems where they separate. */
static bool name_is_safe(struct str name) {
    if (name.len > FILE_NAME_MAX || !str_ends(name, ".safetensors") || name.at[0] == '.')
        return false;
    for (size_t i = 0; i < name.len; i++)
        if (!name.at[i] || strchr("/\\:", name.at[i])) return false;
    return true;
}

struct index_reader {
    struct weights *w;
    const char *dir, *path;
    struct map shards, tensors;
    struct arena arena;
    struct mapped *line;
    size_t n, cap;
    struct err *err;
};

/* One line of the weight_map. The shard is only noted here and opened later. */
static bool index_line(struct index_reader *r, struct str tensor, struct str file) {
    if (!name_is_safe(file))
        return err_set(r->err, "%s: tensor %.*s: \"%.*s\" is not the name of a shard in this "
                       "directory", r->path, STR_ARG(tensor), STR_ARG(file));
    if (r->n == SAFETENSORS_TENSORS_MAX) return err_set(r->err, "%s: too many tensors", r->path);
    if (r->n == r->cap) {
        r->cap = MAX(r->cap * 2, (size_t)256);
        r->line = mem_grow(r->line, r->cap, sizeof *r->line);
    }
    if (!map_put(&r->tensors, tensor, 1))
        return err_set(r->err, "%s: tensor %.*s is listed twice", r->path, STR_ARG(tensor));
    int shard = shard_of(r->w, &r->shards, r->dir, file);
    if (shard < 0) return err_set(r->err, "%s: more than %d shards", r->path, SHARDS_MAX);
    r->line[r->n++] = (struct mapped){ tensor, (uint32_t)shard };
    return true;
}

/* The weight_map itself. A tensor's name is copied, because the next call of the reader may move
 * it. */
static bool index_map(struct index_reader *r, struct pull *j) {
    struct str key, file;
    if (!pull_object(j)) return false;
    while (pull_key(j, &key)) {
        if (key.len > SAFETENSORS_NAME_MAX) return pull_fail(j, "tensor name over 1024 bytes");
        struct str tensor = { arena_str(&r->arena, key), key.len };
        if (!pull_string(j, &file)) return false;
        if (!index_line(r, tensor, file)) return false;
    }
    return !j->error;
}

static bool read_index(struct index_reader *r, struct str text) {
    struct pull j = pull_open(text);
    struct str key;
    bool found = false, ok = pull_object(&j);
    while (ok && pull_key(&j, &key)) {
        if (!str_is(key, "weight_map")) ok = pull_skip(&j);
        else if (found) ok = pull_fail(&j, "a second weight_map");
        else ok = found = index_map(r, &j);
    }
    ok = ok && pull_end(&j);
    if (j.error) err_set(r->err, "%s: %s at byte %zu", r->path, j.error, j.offset);
    else if (ok && !r->n) ok = err_set(r->err, "%s: no weight_map, or an empty one", r->path);
    pull_close(&j);
    return ok && !j.error;
}

/* ---- shards without an index ---- */

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* model-00001-of-00003.safetensors names how many there are: a missing one must not become a
 * list of missing tensors. */
static bool count_fits(struct weights *w, const char *dir, struct err *err) {
    for (uint32_t i = 0; i < w->n_shards; i++) {
        struct str name = str_of(w->shard[i].name);
        const char *of = strstr(name.at, "-of-");
        uint64_t n;
        if (!of) continue;
        struct str digits = str_from(name, (size_t)(of - name.at) + 4);
        digits = str_cut(digits, 0, digits.len - strlen(".safetensors"));
        if (str_u64(digits, SHARDS_MAX, &n) && n != w->n_shards)
            return err_set(err, "%s: %u of %llu shards are there", dir, w->n_shards,
                           (unsigned long long)n);
    }
    return true;
}

static bool list_shards(struct index_reader *r, const char *dir, struct err *err) {
    DIR *d = opendir(dir);
    char *name[SHARDS_MAX];
    size_t n = 0;
    bool ok = true;
    if (!d) return err_set(err, "%s: %s", dir, strerror(errno));
    for (struct dirent *e; ok && (e = readdir(d));) {
        struct str s = str_of(e->d_name);
        if (!str_starts(s, "model-") || !str_ends(s, ".safetensors")) continue;
        ok = n < SHARDS_MAX || err_set(err, "%s: more than %d shards", dir, SHARDS_MAX);
        if (ok) name[n++] = mem_str(s);
    }
    closedir(d);
    /* The order of a directory is not that of anything: errors should not change with it. */
    qsort(name, n, sizeof *name, by_text);
    for (size_t i = 0; i < n; i++) {
        shard_of(r->w, &r->shards, dir, str_of(name[i]));
        free(name[i]);
    }
    if (ok && !n) ok = err_code(err, ERR_NOT_FOUND, "%s: no %s, no %s and no model-*.safetensors",
                                dir, single_name, index_name);
    return ok && count_fits(r->w, dir, err);
}

/* ---- all of it ---- */

/* Whether there is anything of that name, a dangling link included. */
static bool exists(int dir, const char *name) {
    struct stat st;
    return !fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW);
}

/* Which files there are; r->line says which tensors the index promises where. */
static bool find_files(struct index_reader *r, int fd, const char *dir, struct err *err) {
    bool single = exists(fd, single_name), index = exists(fd, index_name);
    if (single) {
        if (index) log_line(LOG_DEBUG, "%s: %s is used, the index beside it is not", dir,
                            single_name);
        shard_of(r->w, &r->shards, dir, str_of(single_name));
        return true;
    }
    if (!index) return list_shards(r, dir, err);
    struct buf text = { 0 };
    bool ok = buf_read_file(&text, r->path, INDEX_BYTES_MAX, err) && read_index(r, buf_view(&text));
    buf_free(&text);
    return ok;
}

/* Every line of the index must be true; tensors that it does not list are no error here, but the
 * binder will ask what they are for. */
static bool index_holds(struct index_reader *r) {
    for (size_t i = 0; i < r->n; i++) {
        const struct mapped *m = &r->line[i];
        const struct weights_entry *e = weights_find(r->w, m->tensor);
        if (!e || e->file != r->w->shard[m->shard].path)
            return err_set(r->err, "%s: tensor %.*s is not in %s", r->path, STR_ARG(m->tensor),
                           r->w->shard[m->shard].name);
    }
    return true;
}

static int by_name(const void *a, const void *b) {
    struct str x = ((const struct weights_entry *)a)->name;
    struct str y = ((const struct weights_entry *)b)->name;
    int order = memcmp(x.at, y.at, MIN(x.len, y.len));
    return order ? order : x.len < y.len ? -1 : x.len > y.len;
}

/* By name, for listings that do not depend on shards; the map follows. */
static void sort(struct tensor_list *list) {
    if (list->n) qsort(list->at, list->n, sizeof *list->at, by_name);
    map_free(&list->names);
    map_reserve(&list->names, list->n);
    for (size_t i = 0; i < list->n; i++) map_put(&list->names, list->at[i].name, (uint32_t)i);
}

static bool read_all(struct index_reader *r, const char *dir) {
    struct weights *w = r->w;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_code(r->err, errno == ENOENT ? ERR_NOT_FOUND : ERR_FAILED, "%s: %s", dir,
                        strerror(errno));
    bool ok = find_files(r, fd, dir, r->err);
    for (uint32_t i = 0; ok && i < w->n_shards; i++) {
        struct shard *s = &w->shard[i];
        ok = map_file(fd, s, r->err) && safetensors_read(s->file, s->path, &w->list, r->err);
        w->bytes += s->file.len;
    }
    close(fd);
    if (!ok) return false;
    sort(&w->list);
    return index_holds(r);
}

/* r owns what is needed only until all is read; w what lives on. */
struct weights *weights_open(const char *dir, struct err *err) {
    struct weights *w = mem_new(sizeof *w);
    w->dir = mem_str(str_of(dir));
    struct buf path = { 0 };
    buf_format(&path, "%s/%s", dir, index_name);
    struct index_reader r = { .w = w, .dir = dir, .path = buf_c(&path), .err = err };
    bool ok = read_all(&r, dir);
    map_free(&r.shards);
    map_free(&r.tensors);
    arena_free(&r.arena);
    free(r.line);
    buf_free(&path);
    if (ok) return w;
    weights_close(w);
    return NULL;
}

void weights_close(struct weights *w) {
    if (!w) return;
    for (uint32_t i = 0; i < w->n_shards; i++) {
        struct shard *s = &w->shard[i];
        if (s->file.at) munmap((void *)(uintptr_t)s->file.at, s->file.len);
        free(s->name);
        free(s->path);
    }
    free(w->shard);
    free(w->dir);
    tensor_list_free(&w->list);
    free(w);
}

const char *weights_dir(const struct weights *w) {
    return w->dir;
}

bool weights_is_mlx(const struct weights *w) {
    return w->list.mlx;
}

size_t weights_count(const struct weights *w) {
    return w->list.n;
}

size_t weights_bytes(const struct weights *w) {
    return w->bytes;
}

const struct weights_entry *weights_entry(const struct weights *w, size_t i) {
    return i < w->list.n ? &w->list.at[i] : NULL;
}

const struct weights_entry *weights_find(const struct weights *w, struct str name) {
    uint32_t i;
    return map_get(&w->list.names, name, &i) ? &w->list.at[i] : NULL;
}

/* ---- what something made from them, and kept, needs ---- */

enum { SAMPLES = 16, SAMPLE_BYTES = 4096 };

/* The header, and blocks spread over the rest. The time of change (ctime) is the system's own, so
 * even who puts back size and mtime after a change is noticed; the samples are for copies on file
 * systems that have no such times. */
static void hash_shard(XXH3_state_t *hash, const struct shard *s) {
    uint64_t header;
    memcpy(&header, s->file.at, sizeof header);      /* its length, which was checked at load */
    const uint64_t word[] = { s->file.len, (uint64_t)s->modified.tv_sec,
                              (uint64_t)s->modified.tv_nsec, (uint64_t)s->changed.tv_sec,
                              (uint64_t)s->changed.tv_nsec };
    XXH3_128bits_update(hash, s->name, strlen(s->name) + 1);
    XXH3_128bits_update(hash, word, sizeof word);
    XXH3_128bits_update(hash, s->file.at, sizeof header + header);
    for (size_t i = 0; i < SAMPLES; i++) {
        struct str sample = str_from(s->file, s->file.len / SAMPLES * i);
        XXH3_128bits_update(hash, sample.at, MIN(sample.len, (size_t)SAMPLE_BYTES));
    }
}

void weights_identity(const struct weights *w, unsigned char id[16]) {
    XXH128_canonical_t canonical;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash) abort();
    XXH3_128bits_reset(hash);
    for (uint32_t i = 0; i < w->n_shards; i++) hash_shard(hash, &w->shard[i]);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
    memcpy(id, canonical.digest, sizeof canonical.digest);
    XXH3_freeState(hash);
}

static const struct shard *holder(const struct weights *w, const void *at, uint64_t *before) {
    *before = 0;
    for (uint32_t i = 0; i < w->n_shards; i++) {
        const struct shard *s = &w->shard[i];
        if ((uintptr_t)at - (uintptr_t)s->file.at < s->file.len) return s;
        *before += s->file.len;
    }
    return NULL;
}

bool weights_place(const struct weights *w, const void *at, uint64_t *place) {
    const struct shard *s = holder(w, at, place);
    if (s) *place += (uint64_t)((const char *)at - s->file.at);
    return s != NULL;
}

/* Whole pages inside only: others belong to neighbours as well. */
void weights_let_go(const struct weights *w, const void *at, size_t bytes) {
    uint64_t place;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)at + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)at + bytes) / page * page;
    if (begin < end && holder(w, at, &place)) madvise((void *)begin, end - begin, MADV_DONTNEED);
}

void weights_let_go_all(const struct weights *w) {
    for (uint32_t i = 0; i < w->n_shards; i++)
        madvise((void *)(uintptr_t)w->shard[i].file.at, w->shard[i].file.len, MADV_DONTNEED);
}

/* packed_place.c - opens the folder, locks, and cleans up.
 *
 * Everything is relative to the folder's descriptor, and links are not followed: only plain files
 * of ours are ever read or removed. */
#include "device/cpu/packed_place.h"
#include "base/buf.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { WORD_MAX = 64, WAIT_US = 50000 };

#define WAIT_MAX_S 600.0

/* Every folder on the way, for this user alone, as the XDG specification wants it. */
static bool make_folders(const char *dir) {
    char *path = mem_str(str_of(dir));
    for (char *at = path + 1; *at; at++) {
        if (*at != '/') continue;
        *at = 0;
        mkdir(path, 0700);           /* what is missing shows when the folder is opened */
        *at = '/';
    }
    bool ok = !mkdir(path, 0700) || errno == EEXIST;
    free(path);
    return ok;
}

/* The last word of the model's path, as far as it is harmless in a file's name. */
static void put_word(struct buf *name, const char *model) {
    const char *word = strrchr(model, '/');
    word = word ? word + 1 : model;
    for (int i = 0; word[i] && i < WORD_MAX; i++) {
        char c = word[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     strchr("-_", c) || (c == '.' && i);
        buf_char(name, plain ? c : '_');
    }
}

bool packed_place_open(struct packed_place *p, const char *dir, const char *model,
                       struct err *err) {
    *p = (struct packed_place){ .dir = -1 };
    p->model = realpath(model, NULL);
    if (!p->model || strlen(p->model) >= PACKED_PATH_MAX)
        return err_set(err, "%s: %s", model, p->model ? "its path is too long" : strerror(errno));
    if (!make_folders(dir) ||
        (p->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        return err_set(err, "packed weights: %s: %s", dir, strerror(errno));
    struct buf name = { 0 }, path = { 0 };
    put_word(&name, p->model);
    buf_format(&name, "-%016llx", (unsigned long long)XXH3_64bits(p->model, strlen(p->model)));
    buf_format(&path, "%s/%s.packed", dir, buf_c(&name));
    snprintf(p->name, sizeof p->name, "%s.packed", buf_c(&name));
    snprintf(p->part, sizeof p->part, "%s.part", buf_c(&name));
    p->path = mem_str(buf_view(&path));
    buf_free(&name);
    buf_free(&path);
    return true;
}

void packed_place_close(struct packed_place *p) {
    if (p->dir >= 0) close(p->dir);
    free(p->path);
    free(p->model);
    *p = (struct packed_place){ .dir = -1 };
}

/* The part may have been renamed, or removed and made anew, between open and lock. */
static bool still_named(int dir, const char *name, int fd) {
    struct stat a, b;
    return !fstat(fd, &a) && !fstatat(dir, name, &b, AT_SYMLINK_NOFOLLOW) &&
           a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Locks the part as it is named now. -1: errno, EWOULDBLOCK while another program holds it. */
static int try_lock(const struct packed_place *p) {
    for (;;) {
        int fd = openat(p->dir, p->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0) return -1;
        bool locked = !flock(fd, LOCK_EX | LOCK_NB);
        int error = errno;
        if (locked && still_named(p->dir, p->part, fd)) return fd;
        close(fd);
        errno = error;
        if (!locked && error != EINTR) return -1;
    }
}

int packed_place_lock(const struct packed_place *p, bool (*ready)(void *), void *to,
                      struct err *err) {
    const double begin = clock_s();
    for (bool told = false;; told = true) {
        int fd = try_lock(p);
        if (fd >= 0) return fd;
        if (errno != EWOULDBLOCK || clock_s() - begin > WAIT_MAX_S) {
            err_set(err, "packed weights: %s: %s", p->path, strerror(errno));
            return -1;
        }
        if (!told)
            log_line(LOG_INFO, "another program packs the weights of %s, waiting for it", p->model);
        usleep(WAIT_US);
        if (ready(to)) return -1;
    }
}

/* ---- what is of no more use ---- */

/* A part whose writer is gone. */
static void clean_part(int dir, const char *name) {
    int fd = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return;
    if (!flock(fd, LOCK_EX | LOCK_NB) && still_named(dir, name, fd)) unlinkat(dir, name, 0);
    close(fd);
}

/* A model whose folder cannot be looked at now may be back tomorrow; one that is not there is
 * gone. A file that does not begin as ours is not ours to remove. */
static bool is_stale(int fd, const struct packed_head *mine) {
    struct packed_head h;
    struct stat st;
    if (pread(fd, &h, sizeof h, 0) != (ssize_t)sizeof h ||
        memcmp(h.magic, mine->magic, sizeof h.magic))
        return false;
    if (h.format != mine->format || h.layout != mine->layout) return true;
    if (h.path_bytes >= PACKED_PATH_MAX || h.path[h.path_bytes]) return true;
    return stat(h.path, &st) && (errno == ENOENT || errno == ENOTDIR);
}

static void clean_file(int dir, const char *name, const struct packed_head *mine) {
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    if (fd < 0) return;
    if (!fstat(fd, &st) && S_ISREG(st.st_mode) && is_stale(fd, mine) && !unlinkat(dir, name, 0))
        log_line(LOG_INFO, "removed %s, packed weights of a model that is gone", name);
    close(fd);
}

void packed_place_clean(const struct packed_place *p, const struct packed_head *head) {
    int fd = openat(p->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0) close(fd);
    for (struct dirent *e; d && (e = readdir(d));) {
        struct str name = str_of(e->d_name);
        if (str_ends(name, ".part")) clean_part(p->dir, e->d_name);
        else if (str_ends(name, ".packed") && !str_is(name, p->name))
            clean_file(p->dir, e->d_name, head);
    }
    if (d) closedir(d);
}

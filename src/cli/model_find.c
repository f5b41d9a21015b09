/* model_find.c - from what a person calls a model to a folder on this machine.
 *
 * Order: an existing path; owner/name in the Hugging Face cache; with no name at
 * all the built-in model. Nothing is ever downloaded. */
#include "cli/cli.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool exists(const char *path) {
    struct stat s;
    return !stat(path, &s);
}

static bool is_folder(const char *path) {
    struct stat s;
    return !stat(path, &s) && S_ISDIR(s.st_mode);
}

/* owner/name, each of the letters the hub allows and neither starting with a dot. */
static bool is_repo(struct str s) {
    const char *slash = memchr(s.at, '/', s.len);
    if (!slash) return false;
    struct str part[2] = { str_cut(s, 0, (size_t)(slash - s.at)),
                           str_from(s, (size_t)(slash - s.at) + 1) };
    for (int i = 0; i < 2; i++) {
        if (!part[i].len || part[i].len > 96 || part[i].at[0] == '.' || part[i].at[0] == '-')
            return false;
        for (size_t k = 0; k < part[i].len; k++) {
            char c = part[i].at[k];
            bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
            if (!letter && !(c >= '0' && c <= '9') && c != '.' && c != '-' && c != '_')
                return false;
        }
    }
    return true;
}

/* Where huggingface_hub would look. False: not even HOME is set. */
static bool cache_root(struct buf *root) {
    static const struct { const char *name, *below; } place[] = {
        { "HF_HUB_CACHE", "" }, { "HUGGINGFACE_HUB_CACHE", "" }, { "HF_HOME", "/hub" },
        { "XDG_CACHE_HOME", "/huggingface/hub" }, { "HOME", "/.cache/huggingface/hub" },
    };
    for (size_t i = 0; i < COUNT(place); i++) {
        const char *value = getenv(place[i].name);
        if (!value || !*value) continue;
        buf_format(root, "%s%s", value, place[i].below);
        return true;
    }
    return false;
}

/* A commit is what refs/REVISION holds, or the revision itself. It becomes part of a path, so
 * it must be a plain word. */
static bool read_commit(struct buf *commit, const char *repo, struct str revision) {
    struct buf path = { 0 };
    struct err ignored = { 0 };
    buf_format(&path, "%s/refs/%.*s", repo, STR_ARG(revision));
    if (!buf_read_file(commit, buf_c(&path), 256, &ignored)) {
        buf_clear(commit);
        buf_str(commit, revision);
    }
    buf_free(&path);
    while (commit->len && memchr(" \t\r\n", commit->at[commit->len - 1], 4)) commit->len--;
    for (size_t i = 0; i < commit->len; i++)
        if (commit->at[i] == '/' || (unsigned char)commit->at[i] <= ' ') return false;
    return commit->len && commit->at[0] != '.';
}

static bool find_in_cache(struct str repo, struct str revision, struct buf *dir, struct err *err) {
    struct buf root = { 0 }, folder = { 0 }, commit = { 0 };
    bool ok = false;
    if (!cache_root(&root)) {
        err_code(err, ERR_NOT_FOUND, "no folder %.*s here, and HOME is not set, so there is no "
                 "Hugging Face cache", STR_ARG(repo));
        goto out;
    }
    size_t slash = (size_t)((const char *)memchr(repo.at, '/', repo.len) - repo.at);
    struct str owner = str_cut(repo, 0, slash), name = str_from(repo, slash + 1);
    buf_format(&folder, "%s/models--%.*s--%.*s", buf_c(&root), STR_ARG(owner), STR_ARG(name));
    if (!is_folder(buf_c(&folder))) {
        err_code(err, ERR_NOT_FOUND, "no model %.*s: neither a folder of that name nor %s in the "
                 "Hugging Face cache (nothing is downloaded)", STR_ARG(repo), buf_c(&folder));
        goto out;
    }
    if (read_commit(&commit, buf_c(&folder), revision)) {
        buf_clear(dir);
        buf_format(dir, "%s/snapshots/%s", buf_c(&folder), buf_c(&commit));
        ok = is_folder(buf_c(dir));
    }
    if (!ok)
        err_code(err, ERR_NOT_FOUND, "%s has no snapshot of revision %.*s", buf_c(&folder),
                 STR_ARG(revision));
out:
    buf_free(&root);
    buf_free(&folder);
    buf_free(&commit);
    return ok;
}

static bool find_built_in(struct buf *dir, struct err *err) {
    const char *given = getenv("MLXCEL_MODEL_DIR");
    if (given && *given) {
        buf_str(dir, str_of(given));
        return is_folder(given) || err_code(err, ERR_NOT_FOUND, "MLXCEL_MODEL_DIR names %s, which "
                                            "is not a folder", given);
    }
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    struct str here = { self, n > 0 ? (size_t)n : 0 };
    while (here.len && here.at[here.len - 1] != '/') here.len--;
    /* A build tree, one with sanitizers a level down, and an installed program. */
    static const char *const place[] = { "../models/demo", "../../models/demo",
                                         "../share/mlxcel/demo" };
    for (size_t i = 0; i < COUNT(place); i++) {
        buf_clear(dir);
        buf_str(dir, here);
        buf_str(dir, str_of(place[i]));
        if (is_folder(buf_c(dir))) return true;
    }
    return err_code(err, ERR_NOT_FOUND, "no -m, and the built-in model is not there: looked for "
                    "../models/demo and ../share/mlxcel/demo beside %.*s, and MLXCEL_MODEL_DIR is "
                    "not set", STR_ARG(here));
}

bool model_find(const char *ref, struct buf *dir, struct err *err) {
    buf_clear(dir);
    if (!ref) return find_built_in(dir, err);
    if (exists(ref)) {
        buf_str(dir, str_of(ref));
        return true;
    }
    struct str repo = str_of(ref), revision = S("main");
    if (str_starts(repo, "hf.co/")) repo = str_from(repo, sizeof "hf.co/" - 1);
    const char *at = memchr(repo.at, '@', repo.len);
    if (at) {
        revision = str_from(repo, (size_t)(at - repo.at) + 1);
        repo = str_cut(repo, 0, (size_t)(at - repo.at));
    }
    if (is_repo(repo)) return find_in_cache(repo, revision, dir, err);
    return err_code(err, ERR_NOT_FOUND, "no folder %s", ref);
}

void model_from_words(struct args *a, bool only_model) {
    if (a->model || !a->n_positionals) return;
    if (only_model) {
        a->model = a->positional[0];
        return;
    }
    struct str word = str_of(a->positional[0]);
    const char *at = word.len ? memchr(word.at, '@', word.len) : NULL;
    bool repo = is_repo(at ? str_cut(word, 0, (size_t)(at - word.at)) : word);
    bool path = word.len && memchr(word.at, '/', word.len) && is_folder(word.at);
    if (!repo && !path) return;
    a->model = a->positional[0];
    a->n_positionals--;
    memmove(a->positional, a->positional + 1, (size_t)a->n_positionals * sizeof *a->positional);
}

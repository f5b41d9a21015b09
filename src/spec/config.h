/* config.h - typed reads of config.json, which is untrusted input.
 *
 * A path may name alternatives: "rope_parameters.rope_theta|rope_theta"; the first
 * that is there and not null wins. The empty path is the value itself. The first failure
 * sticks in the config, so describe() reads straight through and the loader checks once.
 * Keys nobody read are listed by `inspect`.
 *
 * Numbers are bounded here: an int is 0 .. 2^31-1 unless read with cfg_int_in, a
 * float is finite. 4096.0 is the int 4096; "4096" and true are refused. The JSON object
 * {"__float__": "Infinity"} is Transformers' spelling of an infinite float and reads as one
 * where cfg_inf allows it. */
#pragma once
#include "base/buf.h"
#include <limits.h>

struct config;
#define REQUIRED INT_MIN               /* as `otherwise`: the key must be there */

struct config *cfg_open(const char *path, struct err *);         /* the file; cfg_close */
struct config *cfg_parse(struct str json, const char *name, struct err *);
void cfg_close(struct config *);                                 /* the root; subs go with it */
bool cfg_ok(const struct config *, struct err *);                /* false: err gets the sentence */
bool cfg_fail(struct config *, const char *format, ...) __attribute__((format(printf, 2, 3)));

struct config *cfg_sub(struct config *, const char *path);       /* itself when absent */
struct config *cfg_root(struct config *);                        /* of the whole file */
bool       cfg_has (struct config *, const char *path);          /* there and not null */
int        cfg_int (struct config *, const char *path, int otherwise);
int        cfg_int_in(struct config *, const char *path, int otherwise, int min, int max);
float      cfg_num (struct config *, const char *path, float otherwise);     /* REQUIRED works */
float      cfg_inf (struct config *, const char *path, float otherwise);     /* may be infinite */
bool       cfg_bool(struct config *, const char *path, bool otherwise);
struct str cfg_str (struct config *, const char *path, const char *otherwise);
int        cfg_len (struct config *, const char *path);          /* of a list; -1: no list there */
int        cfg_int_at(struct config *, const char *path, int index);
float      cfg_num_at(struct config *, const char *path, int index);
float      cfg_inf_at(struct config *, const char *path, int index);         /* may be infinite */
struct str cfg_str_at(struct config *, const char *path, int index);
void       cfg_only(struct config *, const char *path, const char *value);   /* refuse others */

/* Calls with every member of the object at path, for maps whose keys are data and may hold
 * dots. `value` reads like any config; a scalar one by the empty path. */
void cfg_each(struct config *, const char *path,
              void (*found)(void *to, struct str key, struct config *value), void *to);

/* Calls with every key, dotted, that no read has touched and that is not known to
 * be irrelevant to inference. */
void cfg_unread(struct config *, void (*found)(void *to, struct str path), void *to);

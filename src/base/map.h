/* map.h - byte strings to 32-bit values, open addressing, keyed hash.
 *
 * Keys are views the caller keeps alive (a mapped file, an arena). The hash is
 * seeded per process, so a hostile file cannot choose collisions. */
#pragma once
#include "base/base.h"

struct map_entry { struct str key; uint32_t value, hash; };
struct map { struct map_entry *at; size_t n, cap; };

void map_reserve(struct map *, size_t n);
bool map_put(struct map *, struct str key, uint32_t value);  /* false: key was there, kept */
bool map_get(const struct map *, struct str key, uint32_t *value);
void map_free(struct map *);

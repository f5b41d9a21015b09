/* body.h - the JSON of a request: strict, bounded, and read field by field.
 *
 * Unknown fields are ignored, null means absent, and a known field of the wrong type is a
 * fault that names it. Readers stick: after a fault they give their defaults, so a caller
 * reads everything and checks once. */
#pragma once
#include "api/exchange.h"

enum { JSON_DEPTH_MAX = 64, JSON_VALUES_MAX = 1000000 };

/* The body as an object; the owner calls json_object_put. NULL: empty, not JSON (the fault gives
 * the byte), no object, too deep, too many values, a key twice, invalid UTF-8, or a number out of
 * range. */
struct json_object *body_json(struct exchange *, struct fault *);
struct json_object *body_parse(struct str text, struct fault *);

struct fields { struct json_object *object; struct fault *fault; };

bool field_has(const struct fields *, const char *name);          /* there, and not null */
/* NULL when absent. */
struct json_object *field_any(const struct fields *, const char *name);
struct json_object *field_list(struct fields *, const char *name);
struct json_object *field_object(struct fields *, const char *name);
bool    field_bool(struct fields *, const char *name, bool absent);
int64_t field_int(struct fields *, const char *name, int64_t min, int64_t max, int64_t absent);
double  field_real(struct fields *, const char *name, double min, double max, double absent);
/* Valid as long as the object. The empty view with at == NULL: absent. */
struct str field_str(struct fields *, const char *name);

struct str json_str(struct json_object *);                /* of a string value */

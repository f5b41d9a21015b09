/* schema.h - what a request's tools say of a parameter, and text between tags as a
 * JSON value of that type. */
#pragma once
#include "base/buf.h"
#include <json-c/json_object.h>

struct types { bool known, string, number, boolean, array, object, null; };

/* The tool's "function" member, or the tool itself where it is flat; NULL: there is none. */
struct json_object *schema_tool(struct json_object *tools, struct str name);
/* The name of the only tool; empty: there is none, or there are several. */
struct str schema_only(struct json_object *tools);
/* Of one parameter; not `known` where tool, parameter or type are not found. */
struct types schema_types(struct json_object *tools, struct str tool, struct str parameter);
/* Whether the text is a string whatever it looks like. */
bool types_string_only(const struct types *);
/* Text as JSON: of one of the types where it is one, else a string. Without a known type it is
 * JSON where it is that, but a text in quotes is a text. */
void schema_put(struct buf *, const struct types *, struct str text);

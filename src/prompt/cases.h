/* cases.h - upper, lower and title case of a code point: one to three code
 * points, as Python's str methods map them (without the rule for a final sigma). */
#pragma once
#include "base/base.h"

/* Each gives how many. */
int case_upper(uint32_t cp, uint32_t to[3]);
int case_lower(uint32_t cp, uint32_t to[3]);
int case_title(uint32_t cp, uint32_t to[3]);

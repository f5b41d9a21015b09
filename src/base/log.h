/* log.h - the only place besides cli/ that writes to a terminal. */
#pragma once
#include "base/base.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
extern enum log_level log_level;     /* LOG_WARN at start */

/* One line to standard error, "mlxcel: warning: ..."; control characters escaped. */
void log_line(enum log_level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* routes.h - the handlers that rows of routes.c name. */
#pragma once
#include "api/exchange.h"

void chat_completions(struct exchange *);                 /* chat.c */
void completions(struct exchange *);                      /* completions.c */
void health(struct exchange *);                           /* health.c */

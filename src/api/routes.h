/* routes.h - the handlers that rows of routes.c name. */
#pragma once
#include "api/exchange.h"

void chat_completions(struct exchange *);                 /* chat.c */
void completions(struct exchange *);                      /* completions.c */
void native_completion(struct exchange *);                /* native.c */
void text_tokenize(struct exchange *);                    /* text.c */
void text_detokenize(struct exchange *);
void text_template(struct exchange *);
void models_list(struct exchange *);                      /* models.c */
void models_one(struct exchange *);
void props(struct exchange *);                            /* props.c */
void slots(struct exchange *);
void health(struct exchange *);                           /* health.c */
void livez(struct exchange *);
void readyz(struct exchange *);
void front_page(struct exchange *);
void metrics_page(struct exchange *);                     /* metrics_write.c */

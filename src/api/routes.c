/* routes.c - which path is answered by whom. A wire format is a file, a route is a row. */
#include "api/routes.h"

#define WORK (ROUTE_WORK | ROUTE_QUEUE)
#define OPEN (ROUTE_OPEN | ROUTE_LOADING)

const struct route routes[] = {
    { METHOD_GET, "/health", OPEN, fault_openai, health,
      "200 when it serves, 503 while it loads or ends" },
    { METHOD_GET, "/v1/health", OPEN, fault_openai, health, "the same" },
    { METHOD_POST, "/v1/chat/completions", WORK, fault_openai, chat_completions,
      "an answer to messages, OpenAI's format" },
    { METHOD_POST, "/chat/completions", WORK, fault_openai, chat_completions,
      "the same" },
    { METHOD_POST, "/v1/completions", WORK, fault_openai, completions,
      "a text goes on, OpenAI's format" },
    { METHOD_POST, "/completions", WORK, fault_openai, completions, "the same" },
};
const int n_routes = sizeof routes / sizeof *routes;

/* routes.c - which path is answered by whom. A wire format is a file, a route is a row. */
#include "api/routes.h"

#define WORK (ROUTE_WORK | ROUTE_QUEUE)
#define OPEN (ROUTE_OPEN | ROUTE_LOADING)

const struct route routes[] = {
    { METHOD_GET, "/", OPEN, fault_openai, front_page, "what this is, and the list of routes" },
    { METHOD_GET, "/health", OPEN, fault_openai, health,
      "200 when it serves, 503 while it loads or ends" },
    { METHOD_GET, "/v1/health", OPEN, fault_openai, health, "the same" },
    { METHOD_GET, "/readyz", OPEN, fault_openai, readyz,
      "200 when one more request would be taken" },
    { METHOD_GET, "/livez", OPEN, fault_openai, livez,
      "200 unless the engine is stuck or its device failed" },
    { METHOD_GET, "/metrics", ROUTE_LOADING | ROUTE_METRICS, fault_openai, metrics_page,
      "counters, gauges and histograms for Prometheus" },
    { METHOD_POST, "/v1/chat/completions", WORK, fault_openai, chat_completions,
      "an answer to messages, OpenAI's format" },
    { METHOD_POST, "/chat/completions", WORK, fault_openai, chat_completions,
      "the same" },
    { METHOD_POST, "/v1/completions", WORK, fault_openai, completions,
      "a text goes on, OpenAI's format" },
    { METHOD_POST, "/completions", WORK, fault_openai, completions, "the same" },
    { METHOD_POST, "/completion", WORK, fault_native, native_completion,
      "a text goes on, the native format" },
    { METHOD_POST, "/tokenize", ROUTE_WORK, fault_native, text_tokenize,
      "the tokens of a text" },
    { METHOD_POST, "/detokenize", ROUTE_WORK, fault_native, text_detokenize,
      "the text of tokens" },
    { METHOD_POST, "/apply-template", ROUTE_WORK, fault_native, text_template,
      "the prompt that messages become" },
    { METHOD_GET, "/v1/models", ROUTE_LOADING, fault_openai, models_list,
      "the model: its names, context and size" },
    { METHOD_GET, "/models", ROUTE_LOADING, fault_openai, models_list, "the same" },
    { METHOD_GET, "/v1/models/*", ROUTE_LOADING, fault_openai, models_one,
      "the model of this name" },
    { METHOD_GET, "/models/*", ROUTE_LOADING, fault_openai, models_one, "the same" },
    { METHOD_GET, "/props", ROUTE_WORK | ROUTE_PROPS, fault_native, props,
      "the settings that requests start from, and the chat template" },
    { METHOD_GET, "/slots", ROUTE_WORK | ROUTE_SLOTS, fault_native, slots,
      "what runs now" },
};
const int n_routes = sizeof routes / sizeof *routes;

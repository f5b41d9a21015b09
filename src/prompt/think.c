/* think.c - the ways in which models mark their reasoning. A template that has the sign (or,
 * without one, the closing mark) is of that kind; the first row is tried for all, as many models
 * think though their template does not say so. */
#include "prompt/stream.h"

const struct think think_kinds[] = {
    { .open = "<think>", .close = "</think>" },
    { .sign = "<answer>", .open = "<think>", .close = "</think>",
      .drop = { "<answer>", "</answer>" } },             /* Hunyuan */
    { .sign = "</response>", .open = "<think>", .close = "</think>",
      .drop = { "<response>", "</response>" } },         /* Granite 3.3, Ernie */
    { .open = "[THINK]", .close = "[/THINK]" },          /* Magistral */
    { .open = "<seed:think>", .close = "</seed:think>" },
    { .open = "<|START_THINKING|>", .close = "<|END_THINKING|>" },       /* Command R7B and A */
    { .open = "<|inner_prefix|>", .close = "<|inner_suffix|>" },         /* Apertus */
    { .open = "<|channel>thought", .close = "<channel|>" },              /* Gemma 4 */
    { .open = "<longcat_think>", .close = "</longcat_think>" },
    { .open = "<thought>", .close = "</thought>" },                      /* EXAONE Deep */
    { .open = "◁think▷", .close = "◁/think▷" },                          /* Kimi-VL */
    /* Prose: Granite 3.2, Apriel */
    { .open = "Here is my thought process:", .close = "Here is my response:" },
    { .open = "Here's my thought process:", .close = "Here's my response:" },
    { .open = "Here are my reasoning steps:", .close = "[BEGIN FINAL RESPONSE]",
      .drop = { NULL, "[END FINAL RESPONSE]" } },
    { 0 },
};

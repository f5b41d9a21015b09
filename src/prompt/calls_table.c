/* calls_table.c - the formats of tool calls. A new one is a row here, and a reader only
 * where no other reads it. The order matters for nothing but equal marks. */
#include "prompt/calls.h"

static const struct call_tags coder = {
    .call = "<function=", .name_end = ">", .key = "<parameter=", .key_end = ">",
    .value_end = "</parameter>", .call_end = "</function>", .lines = true,
};
static const struct call_tags invoke = {
    .call = "<invoke name=\"", .name_end = "\">", .key = "<parameter name=\"", .key_end = "\">",
    .value_end = "</parameter>", .call_end = "</invoke>", .lines = true,
};
static const struct call_tags dsml = {
    .call = "<｜DSML｜invoke name=\"", .name_end = "\">",
    .key = "<｜DSML｜parameter name=\"", .key_end = "\"", .attributes_end = ">",
    .value_end = "</｜DSML｜parameter>", .call_end = "</｜DSML｜invoke>",
};
static const struct call_tags steptml = {
    .call = "<steptml:invoke name=\"", .name_end = "\">", .key = "<steptml:parameter name=\"",
    .key_end = "\">", .value_end = "</steptml:parameter>", .call_end = "</steptml:invoke>",
    .lines = true,
};
static const struct call_tags longcat = {
    .key = "<longcat_arg_key>", .key_end = "</longcat_arg_key>", .value = "<longcat_arg_value>",
    .value_end = "</longcat_arg_value>",
};
static const struct call_tags kimi_k3 = {
    .call = "<|open|>call tool=\"", .name_end = "\"", .call_attributes_end = "<|sep|>",
    .key = "<|open|>argument key=\"", .key_end = "\"", .attributes_end = "<|sep|>",
    .value_end = "<|close|>argument<|sep|>", .call_end = "<|close|>call<|sep|>",
};

const struct call_format call_formats[] = {
    /* Hermes, Qwen (JSON), Qwen3-Coder (<function=...>), GLM (<arg_key>...) */
    { .sign = "<tool_call>", .open = "<tool_call>", .close = "</tool_call>", .read = read_auto },
    { .sign = "<seed:tool_call>", .open = "<seed:tool_call>", .close = "</seed:tool_call>",
      .read = read_auto },
    { .sign = "<longcat_tool_call>", .open = "<longcat_tool_call>",
      .close = "</longcat_tool_call>", .read = read_auto, .tags = &longcat },
    /* Qwen3-Coder at times leaves out the outer tag; functionary has none. */
    { .sign = "<function=example_function_name>", .open = "<function=", .read = read_named,
      .name_end = ">", .tags = &coder, .drop = { "</tool_call>" } },
    { .sign = "[TOOL_CALLS]", .open = "[TOOL_CALLS]", .read = read_mistral },
    /* Kimi K2 */
    { .sign = "<|tool_call_argument_begin|>", .open = "<|tool_call_begin|>",
      .close = "<|tool_call_end|>", .read = read_named,
      .name_end = "<|tool_call_argument_begin|>", .ids = true,
      .drop = { "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
                "<|tool_call_section_begin|>", "<|tool_call_section_end|>" } },
    { .sign = "<|open|>tools<|sep|>", .open = "<|open|>tools<|sep|>",
      .close = "<|close|>tools<|sep|>", .read = read_tags, .tags = &kimi_k3 },
    /* DeepSeek R1, V3, V3.1 */
    { .sign = "<｜tool▁sep｜>", .open = "<｜tool▁call▁begin｜>",
      .close = "<｜tool▁call▁end｜>", .read = read_named, .name_end = "<｜tool▁sep｜>",
      .drop = { "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>" } },
    /* DeepSeek V3.2 and V4 */
    { .sign = "｜DSML｜", .open = "<｜DSML｜function_calls>",
      .close = "</｜DSML｜function_calls>", .read = read_tags, .tags = &dsml },
    { .sign = "｜DSML｜", .open = "<｜DSML｜tool_calls>", .close = "</｜DSML｜tool_calls>",
      .read = read_tags, .tags = &dsml },
    /* Step 3: the letters are not DeepSeek's. */
    { .sign = "<｜tool_call_begin｜>", .open = "<｜tool_call_begin｜>",
      .close = "<｜tool_call_end｜>", .read = read_typed, .name_end = "<｜tool_sep｜>",
      .tags = &steptml, .drop = { "<｜tool_calls_begin｜>", "<｜tool_calls_end｜>" } },
    { .sign = "<minimax:tool_call>", .open = "<minimax:tool_call>",
      .close = "</minimax:tool_call>", .read = read_tags, .tags = &invoke },
    /* Granite 3, Phi-4-mini */
    { .sign = "<|tool_call|>", .open = "<|tool_call|>", .read = read_json,
      .drop = { "<|/tool_call|>" } },
    { .sign = "<|tool|>", .open = "<|tool_call|>", .read = read_json,
      .drop = { "<|/tool_call|>" } },
    { .sign = "<|tool|>", .open = "functools", .read = read_json },
    { .sign = "<function_call>", .open = "<function_call>", .read = read_json,
      .drop = { "</function_call>" } },
    /* Command R7B and A, then the first ones */
    { .sign = "<|START_ACTION|>", .open = "<|START_ACTION|>", .close = "<|END_ACTION|>",
      .read = read_auto, .drop = { "<|START_RESPONSE|>", "<|END_RESPONSE|>" },
      .aloud = true },
    { .sign = "Write 'Action:'", .open = "Action:", .close = "```", .read = read_json },
    /* LFM2 says nothing of it in its template but the list of tools. */
    { .sign = "<|tool_list_start|>", .open = "<|tool_call_start|>", .close = "<|tool_call_end|>",
      .read = read_python },
    { .sign = "<function_calls>", .open = "<function_calls>", .close = "</function_calls>",
      .read = read_python },                             /* Olmo 3 */
    { .sign = "<tool_calls>", .open = "<tool_calls>", .close = "</tool_calls>",
      .read = read_auto },                               /* Apriel, MiniMax M1, Hunyuan */
    { .sign = "<TOOLCALL>", .open = "<TOOLCALL>", .close = "</TOOLCALL>", .read = read_json },
    { .sign = "functools[", .open = "functools", .read = read_json },            /* FireFunction */
    { .sign = "<|tools_prefix|>", .open = "<|tools_prefix|>", .close = "<|tools_suffix|>",
      .read = read_keyed },                              /* Apertus */
    /* GigaChat 3.1, then 3 */
    { .sign = "<|function_call|>", .open = "<|function_call|>", .read = read_json },
    { .sign = "'role': 'function call'", .open = "function call<|role_sep|>", .read = read_json,
      .drop = { "<|message_sep|>" } },
    /* Functionary 2 and 3.2: "all" is the user. */
    { .sign = "<|recipient|>", .open = "<|recipient|>", .read = read_named,
      .name_end = "<|content|>", .drop = { "<|recipient|>all\n<|content|>", "<|from|>assistant\n" },
      .aloud = true },
    { .sign = ">>>all", .open = ">>>", .read = read_named, .name_end = "\n",
      .drop = { ">>>all\n" }, .aloud = true, .known_only = true },
    /* Gemma as trained for functions */
    { .sign = "<start_function_call>", .open = "<start_function_call>",
      .close = "<end_function_call>", .read = read_gemma, .quote = "<escape>" },
    { .sign = "<|tool_call>call:", .open = "<|tool_call>", .close = "<tool_call|>",
      .read = read_gemma },
    /* Llama 3: a built-in tool is called as in Python, and any as bare JSON. */
    { .sign = "<|python_tag|>", .open = "<|python_tag|>", .read = read_ipython },
    { .sign = "\"parameters\": dictionary of argument name", .begins = '{', .read = read_json },
    /* Llama 4 and others that are told to write Python */
    { .sign = "<|python_start|>", .open = "<|python_start|>", .close = "<|python_end|>",
      .read = read_python },
    { .sign = "[func_name1(params_name1=", .begins = '[', .read = read_python },
    { 0 },
};

#!/usr/bin/env python3
"""Expected outputs for the tests of the chat templates, from Jinja2 as the
package transformers sets it up.

    make_template_vectors.py                 refresh tests/prompt/*.json (in place)
    make_template_vectors.py --over DIR      render all of DIR/*.jinja with the dialogs of
                                             tests/prompt/dialogs.json; JSON on standard output

Needs: pip install jinja2 'transformers>=5.23' (older ones do not know reasoning by its other
names). Never needed to build, run or test.
"""
import copy
import datetime
import glob
import json
import os
import re
import sys
import tempfile

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
try:
    import jinja2.defaults
    import jinja2.parser
    import jinja2.runtime
    import transformers.utils.chat_template_utils as hf
    from transformers import __version__ as hf_version
except ImportError as e:
    sys.exit(f"{e}: this needs pip install jinja2 'transformers>=5.23'")

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "prompt")
NOW = datetime.datetime(2024, 7, 4, 15, 6, 9)  # the tests pass this time, as UTC
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


if not hasattr(hf, "_alias_reasoning_fields"):
    sys.exit("transformers 5.23 or newer is needed")


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


hf.datetime = FixedClock
# Some templates use it and other runners have it.
jinja2.defaults.DEFAULT_FILTERS["from_json"] = json.loads


def flat(content):
    """A list of text parts as one text, for templates that know no parts."""
    if isinstance(content, list) and all(
        isinstance(p.get("text"), str) and p.get("type", "text") == "text" for p in content
    ):
        return "\n".join(p["text"] for p in content)
    return content


def with_objects(messages):
    """Arguments of tool calls that are JSON text, as objects."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for call in message.get("tool_calls") or []:
            function = call.get("function", call)
            if isinstance(function.get("arguments"), str):
                try:
                    parsed = json.loads(function["arguments"])
                except ValueError:
                    continue
                if isinstance(parsed, dict):
                    function["arguments"] = parsed
    return messages


READS_PARTS = re.compile(
    r"""\{%[-+]?\s*for\s+[\w\s,()]+?\s+in\s+(?:[^%]*?(?:\.|\[['"]))?content(?:['"]\])?"""
    r"""\s*(?:if\b[^%]*|recursive\s*)?[-+]?%\}""")


def adapted(template, messages):
    """What chat_render does to messages before a template sees them, unless told not to."""
    if not READS_PARTS.search(template):
        messages = [dict(m, content=flat(m["content"])) if "content" in m else m for m in messages]
    return with_objects(messages), messages


def render(template, dialog, given=False):
    """The text, or None where the oracle raises. `given`: with the messages as they are."""
    messages = dialog["messages"]
    last = messages[-1] if messages else {}
    generation = not dialog.get("no_generation_prompt", False)
    proceed = (generation and last.get("role") == "assistant" and last.get("content") is not None
               and not last.get("tool_calls"))
    lists = {k: dialog.get(k) if given else dialog.get(k) or None for k in ("tools", "documents")}
    for attempt in (messages,) if given else adapted(template, messages):
        try:
            out, _ = hf.render_jinja_template(
                [attempt], **lists, chat_template=template,
                continue_final_message=proceed, add_generation_prompt=generation and not proceed,
                **{**TOKENS, **dialog.get("vars", {})})
            return out[0]
        except Exception:
            pass
    return None


def read(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return json.load(f)


def over(folder, dialogs):
    results = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.jinja"))):
        with open(path, encoding="utf-8", newline="") as f:
            template = f.read()
        results[os.path.basename(path)] = {
            "adapted": [render(template, d) for d in dialogs],
            "given": [render(template, d, given=True) for d in dialogs]}
    return results


def write_rows(name, cases):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        rows = (json.dumps(case, ensure_ascii=False) for case in cases)
        f.write("[\n" + ",\n".join(rows) + "\n]\n")


def refresh(name, variables):
    """[{"t": template, "v": variables}], "want" is filled in, or "fails"."""
    cases = read(name)
    for case in cases:
        case.pop("want", None)
        case.pop("fails", None)
        if case.get("refused"):
            continue
        try:
            case["want"] = hf._compile_jinja_template(case["t"]).render(
                **{**TOKENS, **variables, **case.get("v", {}), "messages": [], "tools": None,
                   "documents": None, "add_generation_prompt": True})
        except Exception as e:
            case["fails"] = type(e).__name__
    write_rows(name, cases)
    return cases


def names_of_jinja():
    """Everything that Jinja2, as transformers sets it up, and Python's data give to a template."""
    environment = hf._compile_jinja_template("").environment
    tags = jinja2.parser._statement_keywords | {"call", "filter", "raw"}
    for extension in environment.extensions.values():
        tags |= extension.tags
    names = {("filter", n) for n in environment.filters if n != "from_json"}
    names |= {("test", n) for n in environment.tests} | {("statement", n) for n in tags}
    names |= {("global", n) for n in environment.globals}
    names |= {("loop", n) for n in dir(jinja2.runtime.LoopContext) if n[0] != "_"}
    for kind in (str, list, tuple, dict, int, float):
        names |= {(kind.__name__, n) for n in dir(kind) if n[0] != "_"}
    return names


def refresh_builtins():
    """builtins.json: an example of each; "refused": ours has it not, and says so."""
    cases = refresh("builtins.json", {"l": [3, 1, 2], "d": {"b": 1, "a": "x"}, "n": 6, "f": 2.5,
                                      "ld": [{"k": "x", "v": 3}, {"k": "y", "v": 1}, {"k": "x", "v": 2}]})
    missing = names_of_jinja() - {(c["kind"], c["name"]) for c in cases}
    if missing:
        sys.exit(f"builtins.json lacks {sorted(missing)}")


WORDS = {"<s>": 0, "</s>": 1, "<unk>": 2}
TOKENIZER = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": None, "post_processor": None, "decoder": None,
             "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "<unk>"}}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def refresh_folders():
    """folders.json: files of a checkpoint, and what is rendered from them. Cases with a file that
    only processors read and what only we refuse are written by hand."""
    from transformers import PreTrainedTokenizerFast
    cases = read("folders.json")
    for case in cases:
        if "chat_template.json" in case["files"]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**case["files"], "tokenizer.json": TOKENIZER}.items():
                path = os.path.join(folder, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text if isinstance(text, str) else json.dumps(text))
            for ask in case["asks"]:
                if "refuses" in ask:
                    continue
                ask.pop("want", None)
                try:
                    ask["want"] = PreTrainedTokenizerFast.from_pretrained(folder).apply_chat_template(
                        [{"role": "user", "content": "hi"}], tools=TOOLS if ask.get("tools") else None,
                        documents=[{"title": "d"}] if ask.get("documents") else None,
                        chat_template=ask.get("template"), tokenize=False, **ask.get("vars", {}))
                except Exception as e:
                    print(f"refused: {case['files']} {ask}: {e}")
    write_rows("folders.json", cases)


def main():
    dialogs = read("dialogs.json")
    if len(sys.argv) == 3 and sys.argv[1] == "--over":
        json.dump(over(sys.argv[2], dialogs), sys.stdout)
        return
    refresh("features.json", {})
    refresh_builtins()
    refresh_folders()
    with open(os.path.join(HERE, "expected.json"), "w", encoding="utf-8") as f:
        json.dump(over(HERE, dialogs), f, ensure_ascii=False, indent=0)


if __name__ == "__main__":
    main()

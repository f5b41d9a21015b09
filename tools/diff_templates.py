#!/usr/bin/env python3
"""Random chat templates, rendered by mlxcel and by Jinja2 as transformers sets it up, and compared:
the same text, or both refuse. Then every template of ../shared/data/templates with every dialog of
tests/prompt/dialogs.json, when that folder is there.

    diff_templates.py [-n 20000] [--seed 1] [--show 10] [--write] [DIR]

--write: puts the figures between the marks of docs/chat-templates.md.
Needs build/tools/templates_pipe and what make_template_vectors.py needs.
"""
import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys

import make_template_vectors as oracle

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
VARS = {
    "n": 7, "z": 0, "neg": -3, "f": 2.5, "t": True, "no": False, "nil": None,
    "s": "Hello World", "e": "", "u": "Ünï ßtraße 😀 ﬁ", "w": "  two  words\n\tx ", "q": "it's \"q\" <b>&",
    "num": "42", "csv": "a,b,,c", "ml": "l1\nl2\n\nl4\n",
    "l": [3, 1, 2, 3], "ls": ["b", "A", "c", "a"], "mix": [1, "a", None, True, 2.5], "el": [],
    "d": {"b": 1, "a": "x", "C": [1, 2]}, "ed": {},
    "ld": [{"k": "x", "v": 3, "o": {"p": 1}}, {"k": "Y", "v": 1}, {"k": "x", "v": 2, "o": {"p": 2}}],
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo", "tool_calls": [
        {"function": {"name": "f", "arguments": {"a": 1}}}]}],
}


class Draw(random.Random):
    """A template at random. Kinds of expressions are drawn so that most templates make sense."""

    def pick(self, *options):
        return self.choice(options)

    def text(self, deep):
        if deep <= 0 or self.random() < .3:
            return self.pick("s", "e", "u", "w", "q", "num", "csv", "ml", "'a'", "'x y'", '"it\'s"', "'é\\n'", "''",
                             "'%s|%5d' % (s, n)", "'<' ~ n ~ f ~ nil ~ t ~ '>'",
                             "missing" if self.random() < .2 else "s")
        x = self.text(deep - 1)
        y = self.text(0)
        return self.pick(
            f"({x} + {y})", f"{x} ~ {self.any(0)}", f"{self.atom(x)} * {self.pick(0, 1, 2, 3)}",
            *(f"{self.atom(x)}.{m}" for m in (
                "strip()", "lstrip()", "rstrip()", "upper()", "lower()", "title()", "capitalize()", "swapcase()",
                "casefold()", "strip('l ')", "replace('l', 'LL')", "replace('l', 'L', 1)", "rstrip('\\n')",
                "split()[0]", "split(',')[-1]", "split(' ', 1)[0]", "rsplit(' ', 1)[-1]", "center(15, '*')", "ljust(12)",
                "rjust(12)", "zfill(9)", "join(ls)", "join(['x', 'y'])", "format(1, a=2)", "removeprefix('Hel')",
                "removesuffix('d')", "partition('o')[2]", "rpartition('o')[0]", "expandtabs(4)", "encode('utf-8')",
                "translate({97: 'b'})", "format_map({})")),
            *(f"{self.atom(x)}|{m}" for m in (
                "trim", "upper", "lower", "title", "capitalize", "string", "replace('l', 'R')", "replace('l', 'R', 1)",
                "center(13)", "indent", "indent(2, true)", "indent('> ', blank=true)", "truncate(6)",
                "truncate(7, true, '')", "truncate(8, false, '..', 0)", "e", "escape", "forceescape", "safe", "striptags",
                "urlencode", "default('D')", "default('D', true)", "first", "last", "reverse", "join('-')", "wordwrap(5)",
                "wordwrap(4, false)", "wordwrap(6, true, '|')", "format(1, 2)", "tojson", "trim('H ')", "urlize",
                "pprint", "list|join", "select('in', 'aeiou')|join")),
            f"{self.atom(x)}[{self.slice()}]", f"{self.atom(x)}[{self.pick(0, 1, -1, 99)}]",
            f"({x} if {self.test(deep - 1)} else {y})", f"({x} if {self.test(deep - 1)})", f"({x} or {y})",
            f"({x} and {y})", f"{self.any(deep - 1)}|tojson", f"{self.any(deep - 1)}|string",
            f"{self.any(deep - 1)}|tojson(indent={self.pick(0, 2, 4, 'none')}, sort_keys={self.pick('true', 'false')})",
            f"{self.any(deep - 1)}|tojson(separators=(',', ':'), ensure_ascii={self.pick('true', 'false')})",
            f"'{self.fields()}'.format({self.any(0)}, {self.any(0)}, a={self.any(0)})",
            f"'{self.percents()}' % ({self.any(0)}, {self.any(0)})", f"{self.seq(deep - 1)}|join({self.text(0)})",
            f"d|xmlattr", f"{self.number(deep - 1)}|filesizeformat", "strftime_now('%Y-%m-%d %H:%M')")

    def fields(self):
        return "".join(self.pick("{}", "{0}", "{1}", "{a}", "x", "{:>5}", "{:^7}", "{:05d}", "{:.2f}", "{:,}", "{!r}",
                                 "{a!s:<4}", "{0[0]}", "{{}}", "{0.x}", "{:x}", "{:e}", "{:%}", "{:+d}", "{:*<6}")
                       for _ in range(self.randint(1, 3)))

    def percents(self):
        return "".join(self.pick("%s", "%d", "%r", "%5s", "%-5s|", "%05d", "%.2f", "%x", "%%", "%+d", "%e", "%i", "%c", "%o")
                       for _ in range(2))

    def atom(self, x):
        return x if re.fullmatch(r"\w+", x) else f"({x})"

    def slice(self):
        part = lambda: self.pick("", "", "0", "1", "2", "-1", "-2", "9", "none")
        return part() + ":" + part() + self.pick("", "", "", ":", ":2", ":-1", ":-2", ":1")

    def number(self, deep):
        if deep <= 0 or self.random() < .3:
            return self.pick("n", "z", "neg", "f", "0", "1", "12", "3.5", "1e3", "-2", "t", "l|length", "0.1", "1_000")
        x, y = self.number(deep - 1), self.number(0)
        return self.pick(
            *(f"({x} {op} {y})" for op in ("+", "-", "*", "/", "//", "%")), f"({x} ** {self.pick(0, 1, 2, 3, -1, .5)})",
            f"-{self.atom(x)}", f"+{self.atom(x)}", *(f"{self.atom(x)}|{m}" for m in (
                "abs", "int", "float", "round", "round(1)", "round(0, 'floor')", "round(1, 'ceil')", "round(-1)",
                "default(5)")),
            f"{self.text(deep - 1)}|int", f"{self.text(deep - 1)}|int(7)", f"{self.text(deep - 1)}|float", "num|int(0, 16)",
            f"{self.any(deep - 1)}|length", f"{self.any(deep - 1)}|count", f"{self.seq(deep - 1)}|sum",
            f"{self.seq(deep - 1)}|max", f"{self.seq(deep - 1)}|min", f"{self.atom(self.text(deep - 1))}.find('l')",
            f"{self.atom(self.text(deep - 1))}.count('l')", f"{self.text(deep - 1)}|wordcount", "ld|sum('v')",
            "ld|sum(attribute='v', start=10)", f"{self.atom(self.seq(deep - 1))}.index(1)",
            f"{self.atom(self.seq(deep - 1))}.count(3)", f"({x} if {self.test(deep - 1)} else {y})",
            "f.is_integer()", "n.bit_length()", "n.real", f"({x} or {y})")

    def seq(self, deep):
        if deep <= 0 or self.random() < .3:
            return self.pick("l", "ls", "mix", "el", "ld", "messages", "[1, 2]", "(1, 'b')", "range(3)", "range(1, 7, 2)",
                             "range(5, 0, -2)", "[]", "d.values()", "d.keys()", "['x', s]", "missing" if self.random() < .3 else "l")
        x = self.seq(deep - 1)
        return self.pick(
            f"({x} + {self.seq(0)})", f"{self.atom(x)} * 2", f"{self.atom(x)}[{self.slice()}]", f"[{self.any(deep - 1)}, {self.any(0)}]",
            f"({self.any(deep - 1)},)", *(f"{self.atom(x)}|{m}" for m in (
                "list", "sort", "sort(true)", "sort(reverse=true, case_sensitive=true)", "unique|list", "reverse|list",
                "map('string')|list", "map('upper')|list", "map('length')|list", "select|list", "reject|list",
                "select('defined')|list", "select('string')|list", "reject('none')|list", "select('number')|list",
                "select('odd')|list", "select('gt', 1)|list", "reject('in', [1, 'a'])|list", "batch(2)|list",
                "batch(3, 'f')|list", "slice(2)|list", "slice(3, 'f')|list", "select('equalto', 3)|list", "default([])",
                "map('default', 'X')|list", "map('tojson')|list", "map('int')|list", "random|list", "reverse", "map('upper')",
                "select", "batch(2)", "items|list")),
            *(f"ld|{m}" for m in (
                "map(attribute='k')|list", "map(attribute='o.p')|list", "map(attribute='o', default='N')|list", "selectattr('o')|list",
                "selectattr('v', 'gt', 1)|list", "rejectattr('k', 'equalto', 'x')|list", "sort(attribute='v')|list",
                "sort(attribute='k,v')|list", "groupby('k')|list", "groupby('k', case_sensitive=true)|list",
                "groupby('o', default=1)|list", "unique(attribute='k')|list", "max(attribute='v')|items|list",
                "min(attribute='k')|list", "map('items')|map('list')|list", "selectattr('o', 'defined')|map(attribute='v')|list",
                "rejectattr('o')|list", "map(attribute='zz')|list", "first|list", "last|list", "join(',', attribute='k')|list")),
            "d.items()", "d|items|list", "d|dictsort", "d|dictsort(true)", "d|dictsort(false, 'value')",
            "d|dictsort(reverse=true)", "d.items()|list", "d|list", f"{self.text(deep - 1)}|list",
            f"{self.atom(self.text(deep - 1))}.split()", f"{self.atom(self.text(deep - 1))}.split(',')",
            f"{self.atom(self.text(deep - 1))}.splitlines()", f"{self.atom(self.text(deep - 1))}.splitlines(true)",
            f"{self.atom(self.text(deep - 1))}.split('l', 1)", f"{self.atom(self.text(deep - 1))}.partition('l')",
            f"({x} if {self.test(deep - 1)} else {self.seq(0)})", f"({x} or {self.seq(0)})", f"{self.atom(x)}.copy()")

    def dict(self, deep):
        if deep <= 0 or self.random() < .5:
            return self.pick("d", "ed", "ld[0]", "messages[1]", "{}", "{'a': 1}", "dict(x=1)", "ns", "messages[0]", "dict(d, a=2)")
        return self.pick(f"{{{self.text(0)}: {self.any(deep - 1)}, 'k': {self.any(0)}}}", f"{{{self.number(0)}: {self.any(0)}}}",
                         "dict([('p', 1), ('q', 2)])", "dict(d, **{'z': 9})", "dict(d.items()|list)", "ld|first", "d.copy()",
                         f"({self.dict(0)} if {self.test(deep - 1)} else {self.dict(0)})", "dict.fromkeys(ls, 1)")

    def test(self, deep):
        if deep <= 0 or self.random() < .2:
            return self.pick("t", "no", "n", "z", "missing", "nil", "s", "e", "true", "false")
        x, y = self.any(deep - 1), self.any(0)
        same = self.pick(self.text, self.number, self.number)
        return self.pick(
            *(f"{self.atom(same(deep - 1))} {op} {self.atom(same(0))}" for op in ("==", "!=", "<", ">", "<=", ">=")),
            *(f"{self.atom(x)} is {self.pick('', 'not ')}{m}" for m in (
                "defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence",
                "iterable", "callable", "true", "false", "lower", "upper", "in ls", "eq n", "equalto 3", "ne 'a'",
                "sameas none", "sameas(true)", "escaped")),
            *(f"{self.atom(self.number(deep - 1))} is {m}" for m in ("odd", "even", "divisibleby 3", "divisibleby(2)", "lt 3",
                                                                  "ge(n)", "gt 1", "le 2")),
            f"({x} and {y})", f"({x} or {y})", f"not {self.atom(x)}", f"{self.atom(self.text(0))} in {self.atom(self.text(deep - 1))}",
            f"{self.atom(self.any(0))} in {self.atom(self.seq(deep - 1))}", f"'a' not in {self.atom(self.dict(deep - 1))}",
            f"'{self.pick('upper', 'nope')}' is filter", f"'{self.pick('odd', 'nope')}' is test", f"1 < {self.number(0)} < 5",
            *(f"{self.atom(self.text(deep - 1))}.{m}" for m in (
                "startswith('H')", "endswith('d')", "isdigit()", "isalpha()", "isupper()", "isspace()", "isalnum()", "istitle()",
                "islower()", "isidentifier()", "isprintable()", "startswith(('a', 'H'))", "isnumeric()", "isdecimal()", "isascii()")))

    def any(self, deep):
        if deep <= 0 and self.random() < .3:
            return self.pick("none", "true", self.pick("missing", "s", "n", "d"), "d.zz", "ld[0].o", "ld[1].o", "messages[-1]['content']", "ns.x")
        kind = self.pick(self.text, self.text, self.number, self.seq, self.dict, self.test)
        x = kind(deep)
        if self.random() < .15:
            d = self.atom(self.dict(deep - 1))
            x = self.pick(f"{d}.a", f"{d}['a']", f"{d}.get('a')", f"{d}.get('zz', 5)", f"{d}|attr('a')", f"{d}.zz.y", f"{d}|items|list",
                          f"{d}.items()|list", f"{d}|length", f"{self.atom(self.seq(0))}|first", f"{self.atom(self.seq(0))}|last",
                          f"{self.atom(self.seq(0))}[0]", f"{self.atom(self.seq(0))}[{self.any(0)}]", "namespace(a=1).a", "loop.index",
                          "m('x')", "m(s, b=2)", "lipsum", "range", "cycler('a', 'b').next()", "joiner('-')()")
        return f"({x})" if kind == self.test else x

    def ends(self):
        return self.pick("", "", "", "-"), self.pick("", "", "", "-")

    def tag(self, inside):
        a, b = self.ends()
        if self.random() < .04:
            a = "+"
        if self.random() < .04:
            b = "+"
        return f"{{%{a} {inside} {b}%}}"

    def show(self, x):
        a, b = self.ends()
        return f"{{{{{a} {x} {b}}}}}"

    def white(self):
        return self.pick("", "", "", "\n", " ", "  \n", "\n\n", "\n    ", "\t", "x", " y ", "\nz\n", "{# c #}", "{#- c -#}", "\r\n",
                         "{# c #}\n", "{% raw %}{{ r }}{% endraw %}", "{%- raw -%} {% r %} {%- endraw %}\n")

    def body(self, deep):
        return "".join(self.statement(deep) + self.white() for _ in range(self.randint(1, 3)))

    def target(self):
        return self.pick("a", "b", "s", "x", "ns.x", "ns.y", "l")

    def statement(self, deep):
        w, tag = self.white(), self.tag
        if deep <= 0 or self.random() < .45:
            return w + self.show(self.any(self.randint(0, 3)))
        body = lambda: self.white() + self.body(deep - 1)
        return w + self.pick(
            lambda: tag(f"set {self.target()} = {self.any(2)}"), lambda: tag(f"set a, b = {self.any(1)}, {self.any(1)}"),
            lambda: tag(f"set {self.target()}{self.pick('', '', ' | upper', ' | trim | length')}") + body() + tag("endset"),
            lambda: tag(f"if {self.test(2)}") + body() + tag("endif"),
            lambda: tag(f"if {self.test(2)}") + body() + tag(f"elif {self.test(2)}") + body() + tag("else") + body() + tag("endif"),
            lambda: self.loop(deep), lambda: self.loop(deep), lambda: self.loop(deep),
            lambda: tag(f"for i in {self.seq(2)} if {self.test(1)}") + body() + tag("else") + body() + tag("endfor"),
            lambda: tag("for k, v in d.items()") + self.show("k ~ '=' ~ v") + body() + tag("endfor"),
            lambda: tag("for x in [1, [2, [3]]] recursive") + self.show("loop(x) if x is sequence else x ~ '@' ~ loop.depth") + tag("endfor"),
            lambda: tag("macro m(a, b=1)") + body() + self.show("a ~ b") + self.pick("", "{{ varargs }}{{ kwargs }}", "{{ caller() if caller is defined }}")
            + tag("endmacro") + self.show(f"m({self.any(1)})"),
            lambda: tag("macro mm()") + self.show("caller(1)") + tag("endmacro") + tag("call(x) mm()") + self.show("x") + body() + tag("endcall"),
            lambda: tag(f"filter {self.pick('upper', 'trim', 'indent(2)', 'replace(%s, 1)' % self.text(0), 'title|lower')}") + body() + tag("endfilter"),
            lambda: tag(f"with a = {self.any(1)}, b = {self.any(1)}") + body() + tag("endwith"),
            lambda: tag("generation") + body() + tag("endgeneration"), lambda: tag("with") + body() + tag("endwith"),
            lambda: tag(f"block b{self.randint(1, 999)}") + body() + tag("endblock"), lambda: tag(f"print {self.any(1)}"),
            lambda: tag("set ns = namespace(x=0, y='q')"), lambda: tag("set c = cycler('r', 's')") + self.show("c.next() ~ c.current ~ c.next()"),
            lambda: tag("set j = joiner()") + self.show("j() ~ 'a' ~ j() ~ 'b' ~ j()"))()

    def loop(self, deep):
        inner = self.show(self.pick("i", "loop.index", "loop.index0", "loop.first", "loop.last", "loop.length", "loop.revindex", "loop.cycle('p', 'q')",
                                    "loop.changed(i)", "loop.previtem", "loop.nextitem", "loop.depth", "i ~ loop.revindex0", "loop.nextitem is defined",
                                    "loop.previtem.k if not loop.first"))
        jump = self.pick("", "", "", "{% if loop.index > 1 %}{% break %}{% endif %}", "{% if i is none %}{%- continue %}{% endif %}")
        change = self.pick("", "", "{% set ns.x = i %}", "{% set s = i %}", "{% set ns.x = ns.x + 1 %}")
        return self.tag(f"for i in {self.seq(2)}") + inner + jump + change + self.body(deep - 1) + self.tag("endfor")

    def template(self):
        begin = self.pick("", *["{% set ns = namespace(x=0, y='q') %}", "{%- set ns = namespace(x=0) -%}\n"] * 9)
        begin += self.pick("", *["{% macro m(a, b=1) %}<{{ a }}{{ b }}>{% endmacro %}"] * 9)
        return begin + "".join(self.statement(3) for _ in range(self.randint(1, 4))) + self.pick("", "\n", "\n\n")


def mutated(draw, text):
    """A template with a piece lost or moved, to see that both refuse the same."""
    i, j = sorted(draw.randrange(len(text) + 1) for _ in range(2))
    j = min(j, i + draw.randint(0, 6))
    return text[:i] + draw.pick("", "", "-", "%}", "}}", "{{", "(", ")", " ", "'", "|", "if", "end") + text[j:]


class TooSlow(Exception):
    pass


def too_slow(*_):
    raise TooSlow


def expect(text):
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        compiled = oracle.hf._compile_jinja_template.__wrapped__(text)
        return compiled.render(**{**oracle.TOKENS, **VARS, "tools": None, "documents": None, "add_generation_prompt": True}), None
    except TooSlow:
        return None, None
    except RecursionError:
        return None, None
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# What differs on purpose: texts that tell of Python's insides, and integers beyond 64 bits.
INSIDES = re.compile(r" at 0x|generate_lorem|<built-in|<function|<bound method|<class '|<LoopContext|<Macro|<generator|<jinja2|&lt;|<Cycler|b'|b\"|TemplateReference", re.I)
OURS_ONLY = ("beyond 64 bits", "is not supported", "not a real number", "pprint of more", "a power beyond", "has no 64-bit", "float has no")


def tells_insides(text):
    """Also where replace('', 1) has put a 1 between all letters."""
    return INSIDES.search(text) or INSIDES.search(text.replace("1", ""))


class Ours:
    def __init__(self):
        self.p = subprocess.Popen([os.path.join(ROOT, "build", "tools", "templates_pipe")], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def ask(self, request):
        self.p.stdin.write(json.dumps(request) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            raise SystemExit(f"templates_pipe died of {request!r}")
        answer = json.loads(line)
        return answer.get("out"), answer.get("error")


def random_templates(n, seed, show):
    draw, ours = Draw(seed), Ours()
    signal.signal(signal.SIGALRM, too_slow)
    wrong = refused = skipped = 0
    for i in range(n):
        text = draw.template()
        if i % 10 == 9:
            text = mutated(draw, text)
        want, why = expect(text)
        if want is None and why is None or want is not None and tells_insides(want) or not text:
            skipped += 1
            continue
        have, error = ours.ask({"t": text, "vars": VARS, "messages": VARS["messages"]})
        refused += want is None
        if want == have or (want is not None and error and any(o in error for o in OURS_ONLY)):
            skipped += want != have
            continue
        wrong += 1
        if wrong <= show:
            print(f"{text!r}\n  want {want!r} {why}\n  have {have!r} {error}")
    said = f"{n:,} random templates (seed {seed}), {refused:,} that both must refuse, {skipped:,} left out, {wrong} differences"
    print(said)
    return wrong, said


def real_templates(folder):
    if not os.path.isdir(folder):
        said = "templates of real models were not there to be compared"
        print(f"{folder}: {said}")
        return 0, said
    ours, dialogs, wrong, cases, refused = Ours(), oracle.read("dialogs.json"), 0, 0, 0
    names = sorted(f for f in os.listdir(folder) if f.endswith(".jinja"))
    for name in names:
        with open(os.path.join(folder, name), encoding="utf-8", newline="") as f:
            text = f.read()
        for d in dialogs:
            for given in (True, False):
                want = oracle.render(text, d, given)
                have, error = ours.ask({**d, "t": text, "as_given": given, "vars": {**oracle.TOKENS, **d.get("vars", {})}})
                cases += 1
                refused += want is None
                if want != have:
                    wrong += 1
                    print(f"{name}, {d['name']}: {error or 'another text'}")
    said = (f"{len(names)} templates of real models x {len(dialogs)} dialogs x 2 ways = {cases:,} renderings, "
            f"{refused:,} that both must refuse, {wrong} differences")
    print(said)
    return wrong, said


def write(said):
    """What was compared with what, and how it went, for whoever reads the documentation."""
    begin, end = "<!-- figures: make diff-templates -->\n", "<!-- end of figures -->\n"
    path = os.path.join(ROOT, "docs", "chat-templates.md")
    with open(path, encoding="utf-8") as f:
        before, rest = f.read().split(begin)
    with open(path, "w", encoding="utf-8") as f:
        lines = [f"Against Jinja2 {oracle.jinja2.__version__} as transformers {oracle.hf_version} sets it up:\n", "\n"]
        lines += [f"* {s}\n" for s in said]
        f.write(before + begin + "".join(lines) + end + rest.split(end)[1])


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-n", type=int, default=20000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--show", type=int, default=10)
    args.add_argument("dir", nargs="?", default=os.path.join(ROOT, "..", "shared", "data", "templates"))
    args.add_argument("--write", action="store_true")
    a = args.parse_args()
    runs = random_templates(a.n, a.seed, a.show), real_templates(a.dir)
    if a.write:
        write([said for _, said in runs])
    sys.exit(any(wrong for wrong, _ in runs))


if __name__ == "__main__":
    main()

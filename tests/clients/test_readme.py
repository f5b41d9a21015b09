"""The examples of the README, as they stand there but for the port."""

import os
import re
import subprocess
import sys

from server import ROOT, Case


def example(first_line):
    """The indented block of README.md that has this line, unindented."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as f:
        blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", f.read(), re.M)
    found = [b for b in blocks if re.search("^    " + re.escape(first_line), b, re.M)]
    assert len(found) == 1, first_line
    return re.sub("^    ", "", found[0], flags=re.M)


class Readme(Case):
    def local(self, text):
        self.assertIn("127.0.0.1:8080", text)
        return text.replace("127.0.0.1:8080", f"127.0.0.1:{self.server.port}")

    def test_python(self):
        code = self.local(example("from openai import OpenAI"))
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        self.assertEqual(ran.stderr, "")
        self.assertIn("--temp", ran.stdout)

    def test_curl(self):
        text = example("curl http://")
        command = self.local(text[text.index("curl http") :])
        ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        self.assertIn('"chat.completion"', ran.stdout)
        self.assertIn("--temp", ran.stdout)

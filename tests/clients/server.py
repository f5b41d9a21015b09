"""A server for a suite: started with what it asks for, on a free port, ended by SIGTERM."""

import os
import re
import signal
import subprocess
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.path.join(ROOT, "build")

# What a message "call" makes the scripted model say is in tests/api/scripted.h.
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


class Server:
    def __init__(self, *options):
        self.dir = tempfile.TemporaryDirectory()
        self.log_path = os.path.join(self.dir.name, "log")
        if "@scripted" in options:
            tool = os.path.join(BUILD, "tools", "scripted")
            subprocess.run([tool, self.dir.name], check=True)
        model = os.path.join(self.dir.name, "scripted")
        options = [model if o == "@scripted" else o for o in options]
        program = os.path.join(BUILD, "mlxcel")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [program, "serve", "--port", "0", *options], stderr=log, stdin=subprocess.DEVNULL
            )
        self.port = self.wait_port()
        self.base = f"http://127.0.0.1:{self.port}"

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def wait_port(self):
        import time

        for _ in range(600):
            found = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log())
            if found:
                return int(found.group(1))
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError("the server did not start: " + self.log())

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        log = self.log()
        self.dir.cleanup()
        if code != 0:
            raise RuntimeError(f"the server ended with {code}: {log}")


class Case(unittest.TestCase):
    """A suite with one server; `options` are its command line."""

    options = ("--temp", "0")

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.options)
        cls.addClassCleanup(cls.server.stop)

"""hfxfer in a process of its own beside the test Hub: the client reads HF_ENDPOINT and HF_HOME once, when it is imported.

One process serves a whole test file, so that torch and transformers are imported once; `forget` empties its cache as a new machine has it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

TESTS = Path(__file__).parent
SCRIPT = """
import contextlib, io, json, os, sys
from hfxfer import cli, network
network.FIRST_WAIT, network.LONGEST_WAIT = 0.01, 2.0

def call(order):
    os.environ |= order["env"]
    for name in [name for name in order["env"] if not order["env"][name]]:
        del os.environ[name]
    out, talk = io.StringIO(), io.StringIO()
    told, code = {}, 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(talk):
        if "argv" in order:
            code = cli.main(order["argv"])
        else:
            exec(order["code"], {"said": told})
    return {"code": code, "out": out.getvalue(), "talk": talk.getvalue(), "said": told}

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    print(json.dumps(call(json.loads(line))), file=answers, flush=True)
"""


class Worker:
    """Runs commands and snippets, with a token of `me` unless another, or None, is given."""

    def __init__(self, hub, folder, home=None, **more):
        self.hub, self.folder, self.home, self.token = hub, folder, Path(home or folder / "home"), hub.token("me")
        paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        environment = hub.environment(self.home, None, OMP_NUM_THREADS="1", PYTHONPATH=paths, HOME=str(folder), **more)
        with open(folder / "worker.log", "w") as log:
            self.process = subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, cwd=folder, text=True, bufsize=1,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.process.stdin.close()
        self.process.wait()

    def _order(self, token, **order):
        self.process.stdin.write(json.dumps({**order, "env": {"HF_TOKEN": self.token if token == "" else token or ""}}) + "\n")
        line = self.process.stdout.readline()
        assert line, (self.folder / "worker.log").read_text()
        return SimpleNamespace(**json.loads(line))

    def __call__(self, *argv, token=""):
        """code, out and talk of `hfxfer ARGV`."""
        return self._order(token, argv=[str(each) for each in argv])

    def run(self, code, token=""):
        """What a snippet put into the dict `said`."""
        return self._order(token, code=code).said

    def forget(self):
        """Empties the caches of the client, as on a new machine."""
        for name in ("hub", "xet"):
            shutil.rmtree(self.home / name, ignore_errors=True)


def error_of(done):
    return done.talk[done.talk.index("error: ") + 7:].rstrip("\n")

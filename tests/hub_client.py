"""The test Hub's fixtures, and the real huggingface_hub client in a process of its own: it reads the environment once, on import."""

import json
import subprocess
import sys
import textwrap

import pytest
from hub_server import HubServer

PRELUDE = """
import json, os, warnings
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete
from huggingface_hub import HfApi, hf_hub_download, metadata_update, snapshot_download

api, said = HfApi(), {}

def refusal(function, *arguments, **keywords):
    try:
        function(*arguments, **keywords)
    except Exception as error:
        answer = getattr(error, "response", None)
        return [type(error).__name__, getattr(answer, "status_code", None), getattr(error, "server_message", None) or str(error)]
    return None

def text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()

"""

@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        hub.add_user("me", orgs={"acme": "write", "bigco": "read"})
        hub.add_user("she")
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    """client(snippet) runs it with a write token of `me` and an empty cache of its own, and returns what it put into `said`."""

    def run(snippet, token="", **more):
        return finished(start(hub, tmp_path, snippet, token, **more))

    return run


def start(hub, tmp_path, snippet, token="", **more):
    """The process that runs PRELUDE and a snippet with an empty cache; token: a new one of `me`, or None for none."""
    homes = len(list(tmp_path.glob("home*")))
    home = tmp_path / f"home{homes}"
    home.mkdir()
    script = PRELUDE + textwrap.dedent(snippet) + "\nprint(json.dumps(said))\n"
    return subprocess.Popen([sys.executable, "-c", script], env=hub.environment(home, hub.token("me") if token == "" else token, **more),
                            cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    """What the snippet put into `said`, and under "talk" what came on stderr."""
    out, talk = process.communicate(timeout=60)
    assert process.returncode == 0, talk
    return {**json.loads(out.splitlines()[-1]), "talk": talk}

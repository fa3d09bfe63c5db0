"""README.md does what it says: its commands and scripts run here, in its order, on tiny things; its tables are fresh.

    python tests/test_readme.py

writes the generated tables anew. The blocks are one session, as a reader would have it: later ones use what earlier ones made.
Hub ids are replaced by tiny checkpoints, and the reader's files by small ones of the same names.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
README = CHECKOUT / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SET_UP = ("pip install -e . && hfxfer quickstart", 'pip install -e ".[test]" && pytest')
LANGUAGES = {"bash", "python", "text", "toml"}
ANSWERS = {"check": ["--license", "apache-2.0"], "push": ["--yes"], "space": ["--yes"]}
"""Commands that ask the Hub, and what a person would answer: nobody sits here, and the tiny checkpoint has no licence."""

TIMM_ID, BERT_ID = "timm/resnet50.a1_in1k", "sentence-transformers/all-MiniLM-L6-v2"


# --- generated tables ------------------------------------------------------------------------------------------------

def tasks_table() -> str:
    """The tasks as a Markdown table."""
    from hfxfer import tasks

    lines = ["| task | what it does | columns | names that are recognised | loads in transformers as |", "| --- | --- | --- | --- | --- |"]
    for name in tasks.BUILT_IN:
        task = tasks.get(name)
        columns = ", ".join(f"`{role}`" if column.required else f"[`{role}`]" for role, column in task.columns.items())
        names = "; ".join(f"{role}: {', '.join(other for other in column.names if other != role)}" for role, column in task.columns.items())
        lines.append(f"| `{name}` | {task.summary} | {columns} | {names} | `{task.auto_model}` |")
    return "\n".join(lines)


def with_fresh_tables(text: str) -> str:
    """README's text with both tables as they should be."""
    from hfxfer.recipe import settings_table

    for name, table in (("tasks", tasks_table()), ("settings", settings_table())):
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, marker, rest = text.partition(begin)
        assert marker and end in rest, f"README.md has lost its markers {begin.strip()} and {end}"
        text = before + begin + table + "\n" + end + rest.partition(end)[2]
    return text


def test_the_generated_tables_are_fresh():
    text = README.read_text(encoding="utf-8")
    assert text == with_fresh_tables(text), "the tables in README.md are stale. Write them anew: python tests/test_readme.py"


# --- the text --------------------------------------------------------------------------------------------------------

def blocks() -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return [(match[1], match[2]) for match in FENCE.finditer(README.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("command", SET_UP)
def test_set_up_is_one_line_that_stands_by_itself(command):
    assert ("bash", command + "\n") in blocks()


def test_every_block_has_a_language_that_is_checked_here():
    assert {language for language, _ in blocks()} <= LANGUAGES
    assert README.read_text(encoding="utf-8").count("\n```") == 2 * len(blocks())


def test_no_path_of_one_machine_is_named():
    assert not re.search(r"/(work|root|home|tmp|Users)/", README.read_text(encoding="utf-8"))


def test_the_package_shows_the_readme():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    assert tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["readme"] == "README.md"


def test_links_within_the_checkout_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (CHECKOUT / target).exists(), target
    for path in re.findall(r"`(hfxfer/[\w/]+\.py)`", README.read_text(encoding="utf-8")):
        assert (CHECKOUT / path).is_file(), path


# --- the session -----------------------------------------------------------------------------------------------------

STEPS = [(language, line) for language, content in blocks() if language in ("bash", "python")
         for line in (content.splitlines() if language == "bash" else [content]) if line not in SET_UP]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A reader's folder, and what stands for the two Hub ids."""
    import torch
    from tiny_models import bert_checkpoint, digits, tag_rows, text_rows, timm_checkpoint, write_jsonl

    folder = tmp_path_factory.mktemp("reader")
    pictures = {label: iter([picture for picture, found in digits((0, 1), 60) if found == digit]) for digit, label in enumerate(("cat", "dog"))}
    for place, number in (("pets", 24), ("more_pets", 7)):
        for label, own in pictures.items():
            (folder / place / label).mkdir(parents=True)
            for index in range(number):
                next(own).save(folder / place / label / f"{index:03d}.jpg")
    (folder / "holiday").mkdir()
    for name, label in (("cat.jpg", "cat"), ("dog.jpg", "dog"), ("holiday/1.jpg", "cat"), ("holiday/2.jpg", "dog")):
        next(pictures[label]).save(folder / name)
    for name, rows in (("reviews.csv", text_rows(60)), ("new_reviews.csv", text_rows(5, seed=1)), ("tickets.csv", text_rows(60))):
        heads = "ticket,team" if name == "tickets.csv" else "review,opinion"
        (folder / name).write_text("\n".join([heads, *(f"{row['text']},{row['label']}" for row in rows)]) + "\n")
    write_jsonl(folder / "entities.jsonl", tag_rows(40))
    (folder / "accelerate_config.yaml").write_bytes((CHECKOUT / "accelerate_config.yaml").read_bytes())
    timm_checkpoint(folder / "tiny-timm")
    bert_checkpoint(folder / "tiny-bert")
    threads = torch.get_num_threads()
    # Networks this small gain nothing from more, and lose much where other work runs beside the tests.
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def hub(reader):
    """A Hub of the test's own, with the reader as its user."""
    from hub_server import HubServer

    with HubServer(reader / "hub") as server:
        server.add_user("me")
        yield server


@pytest.fixture(scope="module")
def app(reader):
    """Starts the command that serves an app, at a free port in place of the usual one, and ends it at last."""
    started = []

    def start(words: list[str] = ()) -> str:
        if words:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            with open(reader / "app.log", "w") as log:
                process = subprocess.Popen([sys.executable, "-m", *words, "--port", str(port)], cwd=reader, stdout=log, stderr=log,
                                           env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"})
            started.append((process, f"http://127.0.0.1:{port}"))
            while f"{started[-1][1]}/\n" not in (reader / "app.log").read_text():
                assert process.poll() is None, (reader / "app.log").read_text()
                time.sleep(0.2)
        return started[-1][1] if started else ""

    yield start
    for process, _ in started:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.parametrize("language, text", STEPS, ids=[re.sub(r"\W+", "-", text)[:60] for _, text in STEPS])
def test_runs(language, text, reader, hub, app, monkeypatch, capsys):
    monkeypatch.chdir(reader)
    text = text.replace(TIMM_ID, str(reader / "tiny-timm")).replace(BERT_ID, str(reader / "tiny-bert"))
    if language == "bash":
        words = shlex.split(text)
        app(words) if words[:2] == ["hfxfer", "demo"] else run_command(words, reader, hub, capsys)
    elif text.startswith("# file: "):
        add_task(text, reader, monkeypatch, capsys)
    else:
        exec(compile(text.replace("http://127.0.0.1:7860", app()), str(README), "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out.strip()


def run_command(words: list[str], reader: Path, hub, capsys) -> None:
    """One command line: hfxfer's in this process, launchers in their own."""
    if words[0] == "accelerate":
        import torch

        if torch.cuda.device_count() < 2:
            pytest.skip("needs two GPUs")
        launched(["accelerate.commands.accelerate_cli", *words[1:]], reader)
        return
    if words[0] == "torchrun":
        out = launched(["torch.distributed.run", *words[1:]], reader)
    elif words[0] == "hfxfer" and words[1] in ANSWERS:
        out = launched([*words, *(ANSWERS[words[1]] if "--hub_model_id" in words or "--hub_space_id" in words else [])], reader, hub.environment(reader / "home", hub.token("me", "write")))
    else:
        assert words[0] == "hfxfer", f"README.md has a command that this test does not know: {words[0]}"
        from hfxfer import cli, console

        if "--on_bad_rows" in words:
            (reader / "pets" / "cat" / "broken.jpg").write_bytes(b"no picture")
        code = cli.main(words[1:])
        console.set_format("human")
        captured = capsys.readouterr()
        assert code == 0, captured.err
        out = captured.out
    if words[-2:] == ["--format", "json"]:
        json.loads(out)
    if "--on_bad_rows" in words:
        bad = json.loads((reader / words[words.index("--output_dir") + 1] / "data.json").read_text())["bad_rows"]
        assert [row["place"] for row in bad] == ["cat/broken.jpg"]


def launched(words: list[str], reader: Path, environment: dict[str, str] | None = None) -> str:
    env = {**(environment or os.environ), "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-m", *words], cwd=reader, env=env, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def add_task(text: str, reader: Path, monkeypatch, capsys) -> None:
    """The README's own task, in a package that announces it with the README's lines."""
    from hfxfer import cli

    path = reader / text.splitlines()[0].removeprefix("# file: ")
    path.parent.mkdir()
    path.write_text(text)
    announced = next(content for language, content in blocks() if language == "toml")
    group, entry = re.fullmatch(r'\[project\.entry-points\."([^"]+)"\]\n(.+)\n', announced).groups()
    installed = reader / "tickets-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tickets\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(str(reader))
    assert cli.main(["tasks"]) == 0
    assert "ticket-routing         a ticket in, the team that answers it out  (columns: text, label)" in capsys.readouterr().out
    for command in (f"train --task ticket-routing --model {reader / 'tiny-bert'} --data tickets.csv --output_dir runs/tickets",
                    "evaluate runs/tickets --data tickets.csv", "predict runs/tickets tickets.csv"):
        assert cli.main(command.split()) == 0, capsys.readouterr().err


def test_every_name_in_the_run_folder_is_there(reader):
    """Runs after the session: what README.md says of a Run folder is what is in one."""
    text = next(content for language, content in blocks() if content.startswith("runs/pets/\n"))
    named = re.findall(r"(?<=  )[\w.]+(?:/|\.\w+)(?=  )", text.partition("\n")[2])
    run = reader / "runs" / "pets"
    assert {name.rstrip("/") for name in named} == {path.name for path in run.iterdir()}
    assert {"config.json", "model.safetensors", "scores.json", "figures", "recipe.yaml"} <= {path.name for path in (run / "model").iterdir()}
    assert str(reader) not in (run / "model" / "recipe.yaml").read_text()


if __name__ == "__main__":
    sys.path.insert(0, str(CHECKOUT))
    README.write_text(with_fresh_tables(README.read_text(encoding="utf-8")), encoding="utf-8")

"""The model card: of tiny real runs of every kind, with labels that try to break it, edited by hand, and the golden cards.

    python tests/test_card.py             writes model_cards/*.md anew from tests/golden/runs/
    python tests/test_card.py RUN NAME    makes tests/golden/runs/NAME from a Run: without weights, inputs and local paths
"""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hfxfer import cli
from hfxfer.card import Card, faults, render, write
from hfxfer.card._facts import is_hub_id, number
from hfxfer.card._merge import RECORD, SECTION, dumped
from hfxfer.card._text import escaped, fenced, table
from hfxfer.card.rules import PIPELINE_TAGS
from hfxfer.errors import RecipeError, RunError
from hfxfer.licences import LICENCES, declared, inherited
from hfxfer.run import Run

CHECKOUT = Path(__file__).resolve().parent.parent
GOLDEN_RUNS, CARDS = CHECKOUT / "tests" / "golden" / "runs", CHECKOUT / "model_cards"
MEND = "Mend it in the metadata of model/README.md"
NO_LICENCE = ("license is missing: the base checkpoint says none; allowed: an identifier of https://huggingface.co/docs/hub/repositories-licenses, "
              "such as apache-2.0, mit, bsd-3-clause, cc-by-4.0, cc-by-nc-4.0, other. Say which: --license LICENCE")
HOSTILE = ("a|b *c* `d`", "<script>alert(1)</script>", "---", "key: [value, {", "\u202eevil", "<!-- /hfxfer:results -->", "1. one", "$x$ #1 @me",
           "![x](http://x.y)", "line\nbreak")


# --- golden cards -----------------------------------------------------------------------------------------------------

def golden_cards():
    """name → text, rendered now."""
    return {folder.name: render(Run(folder), model_id=f"NAME/{folder.name}").text for folder in sorted(GOLDEN_RUNS.iterdir())}


def test_golden_cards_are_fresh():
    there = {path.stem: path.read_text(encoding="utf-8") for path in CARDS.glob("*.md") if path.stem not in ("README", "template")}
    assert there == golden_cards(), "model_cards/ is stale. Where the new text is right: python tests/test_card.py"


def test_a_card_says_how_the_training_ended_and_what_stood_still(tmp_path):
    run = Run(shutil.copytree(GOLDEN_RUNS / "emotion", tmp_path / "emotion"))
    *events, end = run.history()

    def told(**changes):
        (run.folder / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [*events, {**end, **changes}]))
        return render(run, model_id="me/emotion").text

    assert "- 918 steps in 9 epochs, ended early because validation no longer improved; the best checkpoint" in told()
    assert "- 918 steps in 9 epochs, ended early.\n" in told(stopped_early=False, ended_early=True, best_step=None)
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("method: head", "method: full"))
    assert "- Method `full`: all weights were trained from the start.\n" in told(frozen_parameters=0)
    assert "- Method `full`: all weights that are not frozen were trained from the start.\n" in told(frozen_parameters=7)


def test_a_card_names_the_split_that_was_scored_as_it_is_and_counts_no_rows_that_nobody_counted(tmp_path):
    run = Run(shutil.copytree(GOLDEN_RUNS / "emotion", tmp_path / "emotion"))
    (run.folder / "examples").mkdir()
    (run.folder / "examples" / "examples.jsonl").write_text(json.dumps({"text": "fine", "label": "joy"}) + "\n")
    asked = "How do the inputs that it will meet differ from the {} rows that it was scored on?"
    assert render(run, card_examples=True).questions[-1] == asked.format("test")

    def hold_out(scores):
        for score in scores["scores"]:
            score["split"] = "*held*"

    edit(run, "model/scores.json", hold_out)
    edit(run, "data.json", lambda data: (data["splits"].pop("validation"), data.update(missing_classes={"*held*": ["fear"]})))
    card = render(run, card_examples=True)
    held = escaped("*held*")
    assert card.metadata["widget"] == [{"text": "fine", "example_title": "*held* row 1"}] and card.questions[-1] == asked.format(held)
    body = RECORD.sub("", card.text).split("\n---\n", 1)[1]
    assert "*held*" not in body and f"Nothing is known of fear: without an example in the {held} split." in body
    assert "\nOn the validation rows:\n" in body and " 0 validation rows:" not in body
    edit(run, "model/scores.json", lambda scores: scores["scores"].clear())
    assert not [question for question in render(run).questions if "scored on" in question]


def test_fixtures_and_golden_cards_name_no_local_path():
    for path in [*GOLDEN_RUNS.rglob("*"), *CARDS.glob("*.md")]:
        if path.suffix in (".json", ".jsonl", ".yaml", ".md"):
            assert not re.search(r"/(work|root|home|tmp|Users)/", path.read_text(encoding="utf-8")), path


def cut_down(run, folder):
    """A Run without weights, inputs and probabilities: what a card is rendered from."""
    import pyarrow
    import pyarrow.parquet

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model" / "figures").mkdir(parents=True)
    for name in ("data.json", "base.json", "environment.json", "history.jsonl", "recipe.yaml", "model/config.json", "model/scores.json"):
        text = (run.folder / name).read_text(encoding="utf-8")
        (folder / name).write_text(re.sub(r"(?m)(?<![\w.:/])/(?:[\w.-]+/)+([\w.-]+)", r"/somewhere/\1", text), encoding="utf-8")
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**environment, "platform": "Linux"}, indent=1))
    for path in run.figures_dir.glob("*.png"):
        (folder / "model" / "figures" / path.name).touch()
    kept = run.predictions().select(["reference", "prediction"])
    pyarrow.parquet.write_table(pyarrow.table(kept), folder / "predictions.parquet", compression="zstd")


# --- tiny real runs ---------------------------------------------------------------------------------------------------

SETTINGS = {"num_train_epochs": 1, "plan": "none", "method": "full", "per_device_train_batch_size": 16}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """kind → Run, trained when it is first asked for, then kept."""
    from tiny_models import bert_checkpoint, digits_folder, tag_rows, text_rows, timm_checkpoint, write_jsonl

    from hfxfer.training import train

    folder = tmp_path_factory.mktemp("cards")
    bert_checkpoint(folder / "bert")
    timm_checkpoint(folder / "timm")
    digits_folder(folder / "digits", train=10, validation=3, test=5)
    texts = text_rows(60)
    values = {"hostile": [{"text": row["text"], "label": HOSTILE[index % len(HOSTILE)]} for index, row in enumerate(texts)],
              "numbers": [{"text": row["text"], "text_pair": "a", "label": index / 2} for index, row in enumerate(texts)],
              "several": [{"text": row["text"], "label": ["x|y", "z"][:index % 3]} for index, row in enumerate(texts)], "tags": tag_rows(40)}
    for name, rows in values.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    runs = {}

    def get(kind):
        if kind not in runs:
            model, data = ("timm", "digits") if kind == "pictures" else ("bert", f"{kind}.jsonl")
            with contextlib.redirect_stderr(io.StringIO()):
                runs[kind] = train(model=str(folder / model), data=str(folder / data), output_dir=str(folder / "runs" / kind), **SETTINGS)
        return runs[kind]

    return get


@pytest.fixture
def copied(made, tmp_path):
    """kind → a Run of the same content that a test may change, without weights."""
    def get(kind):
        folder = tmp_path / kind
        shutil.copytree(made(kind).folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "checkpoints"))
        return Run(folder)
    return get


def parsed(text):
    """The body as tokens of a Markdown parser."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    return markdown.parse(text.split("\n---\n", 1)[1])


def tables(text):
    """Each table as rows of rendered cells."""
    found, tokens = [], parsed(text)
    for index, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and tokens[index - 1].type in ("td_open", "th_open"):
            found[-1][-1].append("".join(child.content for child in token.children))
    return found


def edit(run, name, change):
    path = run.folder / name
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def section(card, name):
    return next(found[2] for found in SECTION.finditer(card.text) if found[1] == name)


KINDS = ("pictures", "hostile", "numbers", "several", "tags")


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_has_every_section_and_the_hub_client_reads_it(kind, made):
    import hub_metadata
    from huggingface_hub import ModelCard

    card = render(made(kind), model_id=f"me/{kind}", license="mit")
    assert [found[1] for found in SECTION.finditer(card.text)] == [
        "summary", "usage", "results", "limits", "data", "training", "reproduce", "questions"]
    assert faults(card.metadata, card.text) == []
    assert hub_metadata.check(card.text, "model") == ([], [])
    read = ModelCard(card.text)
    assert read.data.to_dict() == card.metadata
    assert ModelCard(read.content).data.to_dict() == card.metadata and read.data.model_name == kind
    assert yaml.safe_load(card.text.split("---\n")[1]) == card.metadata
    assert not re.search(r"(?<!=)None", card.text) and "nan" not in card.text and str(made(kind).folder.parent) not in card.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_snippets_of_the_card_run(kind, made, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "red").save("picture.jpg")
    run = made(kind)
    snippets = [found[1] for found in re.finditer(r"^```python\n(.*?)^```$", render(run, model_id="me/x").text, re.MULTILINE | re.DOTALL)]
    assert [re.search(r"import (\w+)|from (\w+)", code)[0].split()[-1] for code in snippets] == (
        ["transformers", "timm", "hfxfer"] if kind == "pictures" else ["transformers", "hfxfer"])
    for code in snippets:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            exec(code.replace("hf-hub:me/x", f"local-dir:{run.model_dir}").replace("me/x", str(run.model_dir)), {})  # noqa: S102
        labels = run.scores()["labels"] if kind in ("pictures", "several") else []
        assert out.getvalue().strip() and all(label in out.getvalue() for label in labels), code


def test_labels_cannot_break_out_of_a_table_or_a_sentence(made):
    card = render(made("hostile"), model_id="me/x")
    shown = {label.replace("\u202e", "U+202E").replace("\n", " ") for label in HOSTILE}
    for rows in tables(card.text):
        assert len({len(row) for row in rows}) == 1
    by_class = next(rows for rows in tables(card.text) if rows[0][0] == "class")
    assert {row[0] for row in by_class[1:]} == shown
    kinds = {child.type for token in parsed(card.text) for child in token.children or []}
    assert kinds <= {"text", "softbreak", "code_inline", "link_open", "link_close", "image", "text_special"}
    assert "<script" not in card.text and "\u202e" not in card.text
    assert len(re.findall(r"hfxfer:results -->$", card.text, re.MULTILINE)) == 2
    html = "".join(token.content for token in parsed(card.text) if token.type == "html_block")
    assert html.split() == " ".join(line for line in card.text.split("\n") if line.startswith("<!--")).split()


@pytest.mark.parametrize(("text", "shown"), [
    ("golden_retriever", "golden_retriever"), ("_x_", "&#95;x&#95;"), ("a\nb", "a b"), ("-", "&#45;"), ("- x", "&#45; x"), ("-1.5", "-1.5"),
    ("1. x", "1&#46; x"), ("1.5", "1.5"), ("", "&nbsp;"), ("a\u200fb\x07", "aU+200FbU+0007"), ("www.x.y https://x", "www&#46;x.y https&#58;//x"),
    ("\\|", "&#92;&#124;"), ("é عربي 👩\u200d💻", "é عربي 👩\u200d💻"), ("x" * 200, "x" * 119 + "…")])
def test_text_is_escaped(text, shown):
    assert escaped(text) == shown


def test_numbers_have_four_decimals_where_they_are_bounded():
    assert [number({"metric": metric, "value": value}) for metric, value in (
        ("accuracy", 1), ("r2", -0.00001), ("rmse", 12.3456), ("recall", 0.5), ("rmse", None))] == [
            "1.0000", "0.0000", "12.35", "0.5000", "undefined"]


def test_a_fence_is_longer_than_those_in_its_code():
    assert fenced("a ```` b", "bash") == "`````bash\na ```` b\n`````"


def test_a_long_table_is_cut_and_says_so():
    assert table(["a", "b"], [[str(row), ""] for row in range(4)], most=2, rest=" (all in x)").split("\n") == [
        "| a | b |", "| --- | ---: |", "| 0 |  |", "| 1 |  |", "", "2 more rows (all in x)."]


# --- what it says -----------------------------------------------------------------------------------------------------

def test_scores_stand_with_interval_split_and_rows(made):
    run = made("pictures")
    card, accuracy = render(run, model_id="me/x"), run.score("accuracy")
    low, value, high = f"{accuracy.low:.4f}", f"{accuracy.value:.4f}", f"{accuracy.high:.4f}"
    assert ["accuracy", value, f"{low} to {high}"] in tables(card.text)[0]
    assert section(card, "summary").endswith(f"On 15 rows of the test split its accuracy is {value} (95 % interval {low} to {high}).\n")
    (result,) = card.metadata["model-index"][0]["results"]
    assert result["metrics"][0] == {"type": "accuracy", "value": round(accuracy.value, 6),
                                    "name": f"accuracy (95 % interval {low} to {high}, 15 test rows)"}
    assert (result["dataset"], result["task"]["type"]) == ({"name": "digits", "type": "local", "split": "test"}, "image-classification")


def test_counts_limits_and_command_are_those_of_the_run(made):
    card = render(made("pictures"), model_id="me/x")
    rows = next(rows for rows in tables(card.text) if rows[0][1:] == ["train", "validation", "test"])
    assert rows[1:3] == [["all rows", "30", "9", "15"], ["digit 0", "10", "3", "5"]]
    assert "- Splits: train (given), validation (given), test (given).\n- Found in the data: no input" in section(card, "data")
    assert "hfxfer train recipe.yaml --model BASE --data DATA --output_dir RUN\n" in section(card, "reproduce")
    assert "`BASE` is the checkpoint timm, `DATA` is the data set digits and `RUN` is a new folder.\n" in section(card, "reproduce")
    settings = next(rows for rows in tables(card.text) if rows[0] == ["setting", "value"])
    assert ["method", "full"] in settings and ["num_train_epochs", "1"] in settings and "seed" not in [row[0] for row in settings]


def test_confusions_are_counted_from_the_predictions(copied):
    import pyarrow
    import pyarrow.parquet

    run = copied("pictures")
    pairs = [("digit 0", "digit 1")] * 3 + [("digit 1", "digit 0")] + [("digit 2", "digit 2")] * 4
    references, predictions = zip(*pairs)
    pyarrow.parquet.write_table(pyarrow.table({"reference": references, "prediction": predictions}), run.predictions_path)
    assert ("- Most frequent confusions: digit 0 taken for digit 1: 3 of 3 rows; digit 1 taken for digit 0: 1 of 1 row.\n"
            in section(render(run), "limits"))


def test_wrong_labels_of_several_are_counted_by_label(copied):
    import pyarrow
    import pyarrow.parquet

    run = copied("several")
    answers = {"reference": [["z"], ["x|y", "z"], []], "prediction": [["x|y"], ["z"], ["x|y"]]}
    pyarrow.parquet.write_table(pyarrow.table(answers), run.predictions_path)
    limits = section(render(run), "limits")
    assert "- Most often missed: x&#124;y, 1 of 1 row that have it; z, 1 of 2 rows that have it.\n" in limits
    assert "- Most often wrongly given: x&#124;y, 2 of 2 rows that got it.\n" in limits


def test_errors_of_numbers_are_told_by_size_direction_and_range(copied):
    import pyarrow
    import pyarrow.parquet

    run = copied("numbers")
    pyarrow.parquet.write_table(pyarrow.table({"reference": [0.0, 1.0, 2.0], "prediction": [1.0, 3.0, 2.0]}), run.predictions_path)
    assert section(render(run), "limits").split("\n")[2:5] == [
        "- Half of the 3 rows are off by less than 1, one in ten by more than 1.8, the worst by 2; on average predictions are 1 too high.",
        "- Mean absolute error by true value: 1 up to 0.6667 (1 row); 2 from 0.6667 to 1.333 (1 row); 0 above 1.333 (1 row).",
        "- True values of the test split are from 0 to 2; beyond them nothing was measured."]


def test_leaks_duplicates_and_small_classes_are_told(copied):
    run = copied("pictures")
    edit(run, "data.json", lambda data: data.update(leaks=[{}, {}], duplicates=[{}], small_classes={"digit 1": 2}, missing_classes={"test": ["a*"]}))
    card = render(run)
    assert "1 input that stands more than once in a split; 2 inputs that stand in more than one split; no input with" in section(card, "data")
    assert ("- Nothing is known of a\\*: without an example in the test split.\n- Fewer than 5 training examples: digit 1 (2).\n"
            "- 2 inputs stand in more than one split, so the scores look better than they are.\n") in section(card, "limits")


def test_pictures_that_are_missing_are_not_mentioned(copied):
    run = copied("pictures")
    assert re.findall(r"\]\((figures/[^)]*)\)", render(run).text) == ["figures/confusion_matrix.png", "figures/learning_curve.png"]
    shutil.rmtree(run.figures_dir)
    assert "figures" not in render(run).text and "![" not in render(run).text


def test_calibration_is_told_where_it_was_measured(copied, made):
    for kind, changed, said in (
            ("numbers", {"hfxfer_half_width": 1.25}, "The true value lies within ± 1.25 of the prediction for 90 % of rows like the 9 validation "
             "rows that this was measured on (split-conformal).\n"),
            ("several", {"hfxfer_threshold": 0.3}, " A label counts as given where its probability is 0.3 or more.\n"),
            ("pictures", {"hfxfer_temperature": 1.5}, " The logits were divided by a temperature of 1.5, fitted on 9 validation rows; it is in the "
             "weights, for every library.\n")):
        run = copied(kind)
        edit(run, "model/config.json", lambda config: [config.pop(name) for name in list(config) if name.startswith("hfxfer_")])
        assert said not in render(run).text
        edit(run, "model/config.json", lambda config: config.update(changed))
        assert said in section(render(run), "results")
    assert "### Calibration" not in render(made("tags")).text
    path = run.model_dir / "scores.json"
    found = json.loads(path.read_text())
    ece = next(score for score in found["scores"] if score["metric"] == "ece")
    ece.update(value=0.0123, low=0.01, high=0.02)
    found["scores"].append({**ece, "metric": "ece_uncalibrated", "value": 0.2})
    path.write_text(json.dumps(found))
    assert ("A stated probability is off by 0.0123 on average (95 % interval 0.0100 to 0.0200): the expected calibration error, on 15 rows of the "
            "test split. Before calibration it was 0.2000.") in section(render(run), "results")
    assert "ece_uncalibrated" not in render(run).text


def test_ids_of_the_hub_are_linked_and_local_names_are_not(copied):
    run = copied("pictures")
    local = render(run).metadata
    assert not {"base_model", "base_model_relation", "datasets"} & set(local)
    edit(run, "base.json", lambda base: base.update(id="timm/test_resnet.r160_in1k", revision="abc", license="Apache-2.0"))
    edit(run, "data.json", lambda data: data.update(source="me/digits", revision="f" * 40, config="plain"))
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text()) | {"data": "me/digits", "model": "timm/test_resnet.r160_in1k"}
    (run.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    card = render(run, model_id="me/x")
    assert {name: card.metadata[name] for name in ("license", "base_model", "base_model_relation", "datasets")} == {
        "license": "apache-2.0", "base_model": "timm/test_resnet.r160_in1k", "base_model_relation": "finetune", "datasets": ["me/digits"]}
    assert card.metadata["model-index"][0]["results"][0]["dataset"] == {
        "name": "me/digits", "type": "me/digits", "split": "test", "config": "plain", "revision": "f" * 40}
    assert "- From [timm/test_resnet.r160_in1k](https://huggingface.co/timm/test_resnet.r160_in1k) (test_resnet), revision abc.\n" in card.text
    assert "hfxfer train recipe.yaml --output_dir RUN\n" in card.text and faults(card.metadata, card.text) == []
    assert not [question for question in card.questions if "licence" in question or "checkpoint" in question or "come from" in question]


def test_names_of_libraries_and_tags(made):
    timm, bert = (render(made(kind)).metadata for kind in ("pictures", "tags"))
    assert (timm["library_name"], timm["tags"]) == ("timm", ["hfxfer", "timm", "transformers", "image-classification", "generated_from_trainer"])
    assert (bert["library_name"], bert["tags"]) == ("transformers", ["hfxfer", "token-classification", "generated_from_trainer"])
    assert render(made("tags"), language=["en", "fr"]).metadata["language"] == ["en", "fr"]


def test_without_a_hub_id_the_snippets_say_what_to_put_there(made):
    text = render(made("pictures")).text
    assert 'model="MODEL"' in text and "Put the Hub id of this model, or the folder that it lies in, in the place of `MODEL`." in text
    assert "MODEL" not in render(made("pictures"), model_id="me/x").text


def test_a_model_id_that_is_none_is_refused(made):
    with pytest.raises(RecipeError) as refused:
        render(made("pictures"), model_id='x", __import__("os")')
    assert str(refused.value) == ("model_id is 'x\", __import__(\"os\")'; allowed: NAME or NAME/REPO of letters, digits, '-', '_' and '.'. "
                                  "Give another --hub_model_id")


def test_wrong_answers_are_refused_together(made):
    with pytest.raises(RecipeError) as refused:
        render(made("pictures"), license="apache", language=["English"])
    assert str(refused.value) == (
        "language is 'English'; allowed: ISO 639 codes of two or three small letters such as en, or code, multilingual. Say which: --language CODE\n"
        + NO_LICENCE.replace("missing: the base checkpoint says none", "'apache'"))


def test_a_ladder_and_a_perfect_score_are_told(copied):
    run = copied("pictures")
    (run.folder / "ladder.json").write_text(json.dumps({"rungs": [{"method": "head"}, {"method": "full"}], "reason": "full | is chosen"}))
    path = run.model_dir / "scores.json"
    found = json.loads(path.read_text())
    for score in found["scores"]:
        score.update({"value": 1.0} if score["metric"] == "f1" else {})
    path.write_text(json.dumps(found))
    text = render(run).text
    assert "- Chosen by `hfxfer ladder` among head, full: full &#124; is chosen.\n" in text
    assert "- Every class scored 1 in f1: 15 rows of the test split of digits are too few to show where it fails.\n" in text


def test_rendering_imports_no_torch(made):
    code = f"from hfxfer.card import render; from hfxfer.run import Run; render(Run({str(made('tags').folder)!r})); import sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "datasets", "sklearn", "huggingface_hub"} & set(found)


def test_an_unfinished_run_has_no_card(copied):
    run = copied("pictures")
    (run.model_dir / "scores.json").unlink()
    with pytest.raises(RunError, match="is not finished. Continue it: hfxfer train"):
        render(run)


def test_test_rows_are_shown_only_when_asked_for(copied):
    run = copied("pictures")
    assert "widget" not in write(run).metadata and not (run.model_dir / "examples").exists()
    card = write(run, card_examples=True, license="mit")
    assert card.metadata["widget"][0] == {"src": "examples/00.png", "example_title": "Test row 1"} and len(card.metadata["widget"]) == 5
    assert (run.model_dir / "examples" / "00.png").read_bytes() == (run.folder / "examples" / "00.png").read_bytes()
    assert faults(card.metadata, card.text) == []
    assert "widget" not in write(run).metadata and not (run.model_dir / "examples").exists()
    words = render(copied("tags"), card_examples=True).metadata["widget"][0]["text"]
    assert words.startswith("ada smith lives in ")


def test_hostile_examples_round_trip(copied):
    from huggingface_hub import ModelCard

    run, lines = copied("hostile"), [{"text": text, "label": "x"} for text in ("a\n---\nb: c", "yes", "\u202e\u2028 'q' \"d\" # no", "2024-01-01")]
    (run.folder / "examples" / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = render(run, card_examples=True)
    assert [each["text"] for each in ModelCard(card.text).data.widget] == [line["text"] for line in lines]


def test_a_long_example_is_cut(copied):
    run = copied("hostile")
    (run.folder / "examples" / "examples.jsonl").write_text(json.dumps({"text": "word " * 20_000, "label": "x"}) + "\n")
    (shown,) = render(run, card_examples=True).metadata["widget"]
    assert shown["text"] == "word " * 199 + "word…" and len(shown["text"]) == 1000


def test_a_thousand_labels_make_no_endless_card(copied):
    """Each of them as long as a label is shown, under the longest name that the Hub takes."""
    import hub_metadata

    run, names = copied("pictures"), [f"{index} | <b>, a cat of a rather long name, {'x' * 200}" for index in range(1000)]
    found = json.loads((run.model_dir / "scores.json").read_text())
    by_label = [score for score in found["scores"] if score["label"] == found["labels"][0]]
    whole = [score for score in found["scores"] if not score["label"]]
    scores = [*whole, *({**score, "label": name, "value": 0.5} for name in names for score in by_label)]
    (run.model_dir / "scores.json").write_text(json.dumps({**found, "labels": names, "scores": scores}))
    edit(run, "data.json", lambda data: data.update(labels=names, small_classes=dict.fromkeys(names, 2), missing_classes={"test": names}))
    edit(run, "data.json", lambda data: [split.update(classes=dict.fromkeys(names, 5)) for split in data["splits"].values()])
    card = render(run, model_id=f"{'m' * 42}/{'x' * 96}", license="mit")
    assert len(card.text) < 40_000 and max(map(len, card.text.split("\n"))) < 2_500 and "<b>" not in card.text
    assert faults(card.metadata, card.text) == [] and hub_metadata.check(card.text, "model") == ([], [])
    assert "This model gives a picture one of 1,000 classes (0 &#124; &lt;b&gt;, a cat" in card.text
    assert card.text.count("\n950 more rows (all are in [scores.json](scores.json)).\n") == 1


def test_text_that_the_hub_would_read_as_something_else_is_quoted():
    metadata = {"a": ["1e3", "0o7", "no", "2024-01-01", "1.5", "null", "12e4567", "x", "3 words"], "b": 1.5, "c": "~"}
    assert dumped(metadata) == ("a:\n- '1e3'\n- '0o7'\n- 'no'\n- '2024-01-01'\n- '1.5'\n- 'null'\n- '12e4567'\n- x\n- 3 words\nb: 1.5\n"
                                "c: '~'\n")


# --- edited by hand ---------------------------------------------------------------------------------------------------

def test_rendering_again_changes_nothing(made):
    first = render(made("pictures"), model_id="me/x", license="mit")
    again = render(made("pictures"), model_id="me/x", existing=first.text)
    assert (again.text, again.changes) == (first.text, [])


def test_the_authors_text_stays_and_own_sections_are_replaced(copied):
    run = copied("pictures")
    text = render(run, license="mit").text
    edited = text.replace("<!-- hfxfer:usage -->", "## About me\n\nMy --- text | with `signs`.\n\n<!-- hfxfer:usage -->")
    edited = edited.replace("| accuracy |", "| luck |", 1)
    edited = re.sub(r"(?s)<!-- hfxfer:questions -->.*<!-- /hfxfer:questions -->", "## Meant for\n\nDigits.", edited)
    edit(run, "environment.json", lambda environment: environment.update(threads=7))
    card = render(run, existing=edited)
    assert card.changes == ["section results was replaced, with what was edited by hand between its markers", "section training was replaced",
                            "section questions stays out, as removed by hand"]
    assert "## About me\n\nMy --- text | with `signs`.\n\n<!-- hfxfer:usage -->" in card.text and "## Meant for\n\nDigits.\n" in card.text
    assert "with 7 threads" in card.text and "| accuracy |" in card.text and "hfxfer:questions" not in RECORD.sub("", card.text)
    again = render(run, existing=card.text)
    assert (again.text, again.changes) == (card.text, ["section questions stays out, as removed by hand"])
    assert card.questions == again.questions != []


def test_a_licence_of_ones_own_has_a_name_and_a_link(copied):
    run = copied("pictures")
    said = {"license": "other", "license_name": "x-1", "license_link": "LICENSE"}
    assert {name: render(run, **said).metadata[name] for name in said} == said
    given = render(run, license="other")
    assert [fault for fault in faults(given.metadata, given.text) if "license" in fault] == [
        "license is other and license_name is missing; allowed: a name such as my-licence-1.0. Say which: --license_name NAME, "
        "or write it into the metadata of the card",
        "license is other and license_link is missing; allowed: LICENSE, or the address of its text. Say which: --license_link LINK, "
        "or write it into the metadata of the card"]
    run.write_recipe(dataclasses.replace(run.recipe(), **said))
    found = render(run)
    assert {name: found.metadata[name] for name in said} == said and faults(found.metadata, found.text) == []
    assert {name: render(run, license="mit").metadata.get(name) for name in said} == {"license": "mit", "license_name": None, "license_link": None}
    kept = render(run, existing=found.text.replace("license_name: x-1", "license_name: x-2"))
    assert kept.metadata["license_name"] == "x-2" and render(run, existing=kept.text, license_name="x-3").metadata["license_name"] == "x-3"


def test_metadata_changed_by_hand_stay_and_are_told(copied):
    run = copied("pictures")
    text = render(run).text
    edited = (text.replace("library_name: timm", "library_name: keras # mine\nthumbnail: x.png").replace("pipeline_tag: image-classification\n", "")
              .replace("---\nlib", "---\nlicense: cc0-1.0\nlib"))
    card = render(run, existing=edited)
    assert {name: card.metadata.get(name) for name in ("license", "library_name", "thumbnail", "pipeline_tag")} == {
        "license": "cc0-1.0", "library_name": "keras", "thumbnail": "x.png", "pipeline_tag": None}
    assert card.changes == ["metadata: library_name was kept as edited by hand", "metadata: pipeline_tag stays out, as removed by hand",
                            "section questions was replaced"]
    assert "library_name: keras # mine" in card.text
    assert not [question for question in card.questions if "licence" in question]
    assert render(run, existing=card.text).changes == card.changes[:2]


def test_a_licence_once_given_stays(made):
    first = render(made("pictures"), license="mit")
    assert render(made("pictures"), existing=first.text).metadata["license"] == "mit"
    assert render(made("pictures"), existing=first.text).text == first.text
    second = render(made("pictures"), existing=first.text, license="apache-2.0")
    assert second.metadata["license"] == "apache-2.0" and second.changes == ["metadata: license was replaced"]


def test_a_licence_that_was_said_stays_where_the_checkpoint_says_another_later(copied):
    run = copied("pictures")
    edit(run, "base.json", lambda base: base.update(license="mit"))
    first = render(run, license="mit")
    again = render(run, existing=first.text)
    assert (again.text, again.changes) == (first.text, [])
    edit(run, "base.json", lambda base: base.update(license="apache-2.0"))
    card = render(run, existing=again.text)
    assert (card.metadata["license"], card.changes) == ("mit", ["metadata: license was kept as edited by hand"])


def test_a_card_of_another_hand_keeps_its_text_and_gets_the_sections(made):
    card = render(made("pictures"), existing="---\nlicense: mit\ntags:\n- mine\n---\n# My model\n\nText.")
    assert card.metadata["tags"] == ["mine"] and card.text.startswith("---\nlicense: mit\ntags:\n- mine\nlibrary_name: timm\n")
    assert card.text.index("# My model\n\nText.\n\n<!-- hfxfer:summary -->") and card.changes[-1] == "section questions was added"
    assert "metadata: tags was kept as edited by hand" in card.changes and faults(card.metadata, card.text) == []


def test_sections_of_somebody_else_and_line_ends_stay(made):
    first = render(made("pictures"), license="mit").text
    mine = first.replace("<!-- hfxfer:usage -->", "<!-- hfxfer:mine -->\nx\n<!-- /hfxfer:mine -->\n\n<!-- hfxfer:usage -->").replace("\n", "\r\n")
    card = render(made("pictures"), existing=mine)
    assert (card.text, card.changes) == (mine, [])


@pytest.mark.parametrize(("block", "message"), [
    ("a: [", "the metadata at the top of model/README.md are no YAML (line 2). Mend them between the lines of ---, or delete the file"),
    ("- a", "the metadata at the top of model/README.md are no mapping of names to values. Mend them between the lines of ---, or delete the file")])
def test_broken_metadata_are_refused(block, message, made):
    with pytest.raises(RunError) as refused:
        render(made("pictures"), existing=f"---\n{block}\n---\ntext")
    assert str(refused.value) == message


# --- what the Hub would refuse ----------------------------------------------------------------------------------------

RESULT = {"task": {"type": "x"}, "dataset": {"type": "local", "name": "x"}, "metrics": [{"type": "accuracy", "value": 0.5}]}
PLACE = "model-index[0].results[0]"


def index(**changes):
    return {"model-index": [{"name": "x", "results": [{**RESULT, **changes}]}]}


@pytest.mark.parametrize(("metadata", "fault"), [
    ({"license": None}, NO_LICENCE),
    ({"license": "apache"}, NO_LICENCE.replace("missing: the base checkpoint says none", "'apache'")),
    ({"license": "other", "license_name": "x"}, "license is other and license_link is missing; allowed: LICENSE, or the address of its text. "
     "Say which: --license_link LINK, or write it into the metadata of the card"),
    ({"language": ["english"]}, "language is 'english'; allowed: ISO 639 codes of two or three small letters such as en, or code, multilingual. "
     "Say which: --language CODE"),
    ({"language": [False]}, f"language is [False]; allowed: a list of texts. {MEND} (numbers, dates, yes and no in quotes)"),
    ({"tags": "x"}, f"tags is 'x'; allowed: a list of texts. {MEND} (numbers, dates, yes and no in quotes)"),
    ({"library_name": 1}, f"library_name is 1; allowed: text. {MEND}"),
    ({"pipeline_tag": "pictures"}, "pipeline_tag is 'pictures'; allowed: a task of https://huggingface.co/tasks, such as image-classification. "
     f"{MEND}"),
    ({"datasets": ["/data/pets"]}, "datasets is '/data/pets'; allowed: the id of a data set on the Hub, such as NAME/REPO. "
     f"{MEND}, or leave datasets out"),
    ({"datasets": ["imagefolder"]}, "datasets is 'imagefolder'; allowed: the id of a data set on the Hub, such as NAME/REPO. "
     f"{MEND}, or leave datasets out"),
    ({"base_model": "./x"}, f"base_model is './x'; allowed: the id of a model on the Hub, such as NAME/REPO. {MEND}, or leave base_model out"),
    ({"base_model_relation": "child"}, f"base_model_relation is 'child'; allowed: finetune, adapter, merge, quantized. {MEND}"),
    ({"model-index": "x"}, f"model-index is 'x'; allowed: a list of models, each with name and results. {MEND}"),
    ({"model-index": [{"name": "x", "results": []}]}, f"model-index[0].results is empty; allowed: a list of one result or more. {MEND}"),
    (index(task={}), f"{PLACE}.task.type is missing; allowed: text. {MEND}"),
    (index(dataset={"type": "local"}), f"{PLACE}.dataset.name is missing; allowed: text. {MEND}"),
    (index(dataset={"type": "local", "name": "x", "revision": 1}), f"{PLACE}.dataset.revision is 1; allowed: text. {MEND}"),
    (index(dataset={"type": "/data/pets", "name": "x"}), f"{PLACE}.dataset.type is '/data/pets'; allowed: the id of a data set on the Hub, or a word "
     f"such as local; no path. {MEND}"),
    (index(metrics=[]), f"{PLACE}.metrics is empty; allowed: a list of type and value. {MEND}"),
    (index(metrics=[{"type": "accuracy"}]), f"{PLACE}.metrics[0].value is missing; allowed: a number. {MEND}"),
    ({"widget": [{"example_title": "x"}]}, f"widget is [{{'example_title': 'x'}}]; allowed: a list of examples, each with text or src. {MEND}, "
     "or leave out --card_examples")])
def test_what_the_hub_would_refuse_is_a_fault(metadata, fault):
    metadata = {name: value for name, value in ({"license": "mit"} | metadata).items() if value is not None}
    assert faults(metadata, f"---\n{yaml.safe_dump(metadata)}---\n") == [fault]


def test_a_card_that_is_not_its_metadata_and_markers_without_a_pair_are_faults():
    assert faults({"license": "mit"}, "---\nlicense: apache-2.0\ntags: []\n---\n<!-- hfxfer:data -->\n") == [
        "the card's metadata block differs from its metadata in license, tags. Write the card again: hfxfer card RUN",
        "the markers of data in the card are not one pair of <!-- hfxfer:NAME --> and <!-- /hfxfer:NAME -->. Mend or delete them in model/README.md"]


def test_the_lists_hold_what_hfxfer_and_transformers_write():
    from hfxfer import tasks

    assert set(tasks.BUILT_IN) <= PIPELINE_TAGS and {"apache-2.0", "mit", "other", "unknown"} <= LICENCES
    assert all(name == name.lower() for name in LICENCES | PIPELINE_TAGS)


def test_a_licence_is_inherited_and_never_invented():
    assert declared({"license": "Other", "license_name": "x-1", "license_link": "LICENSE", "tags": ["y"]}) == {
        "license": "other", "license_name": "x-1", "license_link": "LICENSE"}
    assert declared({"license": ["MIT"]}) == {"license": "mit"}
    assert declared({"license": ["mit", "apache-2.0"]}) == {"license": "other", "license_name": "mit-or-apache-2.0"}
    assert inherited({"source": "timm"}, {"pretrained_cfg": {"license": "apache-2.0"}}) == {"license": "apache-2.0"}
    assert inherited({"source": "timm", "license": "mit"}, {"pretrained_cfg": {"license": "apache-2.0"}}) == {"license": "mit"}
    assert inherited({"source": "state dict"}, {"pretrained_cfg": {"license": "apache-2.0"}}) == {}
    assert inherited({"license": "unknown"}, {}) == inherited({}, {"pretrained_cfg": None}) == {}


def test_ids_and_paths_are_told_apart():
    assert all(map(is_hub_id, ("imdb", "timm/resnet50.a1_in1k", "me/x-y_z.1")))
    assert not any(map(is_hub_id, ("/a/b", "./a", "a/b/c", "C:\\x", "given in Python", "example", "imagefolder", "", "a b", "~/x")))


# --- the command ------------------------------------------------------------------------------------------------------

def call(*argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(word) for word in argv])
    return code, out.getvalue(), err.getvalue()


def test_the_command_writes_the_card_and_says_what_changed(copied):
    run = copied("tags")
    path = run.model_dir / "README.md"
    code, out, err = call("card", run.folder, "--hub_model_id", "me/tags")
    assert (code, out) == (0, f"{path}\n") and f"warning: {NO_LICENCE}\n" in err and "to answer: Which language are the texts in?" in err
    path.write_text(path.read_text() + "\nMine.\n")
    code, out, err = call("card", run.folder, "--hub_model_id", "me/tags", "--license", "mit", "--language", "en,de", "--format", "json")
    found = json.loads(out)
    assert code == 0 and found["faults"] == [] and len(found["questions"]) == 4 and found["card"] == str(path)
    assert found["changes"] == ["metadata: language was added", "metadata: license was added", "section questions was replaced"]
    assert "\nMine.\n" in path.read_text() and not [line for line in err.splitlines() if line.startswith("warning")]
    assert call("card", run.folder / "model")[0] == 2 and isinstance(render(run), Card)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        cut_down(Run(sys.argv[1]), GOLDEN_RUNS / sys.argv[2])
    for name, text in golden_cards().items():
        (CARDS / f"{name}.md").write_text(text, encoding="utf-8")

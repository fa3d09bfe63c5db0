"""Measure hfxfer against what people write by hand, side by side; write a results file, and tables from it.

    python tests/benchmarks/run.py --data FOLDER --weights FOLDER --text_model FOLDER --output results.json
    python tests/benchmarks/run.py --table results.json
    python tests/benchmarks/run.py --write_readme results.json

README.md beside this file says what each figure means.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cases
from cases import BY_NAME, CASES, PICTURES, Case

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
PACKAGES = ("torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "numpy")
CLEARED = ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE", "HFXFER_DEBUG")
"""Of the caller's environment: nothing of it may slow down or help one side."""

PROBE = """
import json, torch
gpu = torch.cuda.is_available()
print(json.dumps({"threads": torch.get_num_threads(), "accelerator": torch.cuda.get_device_name() if gpu else None,
                  "bf16": bool(gpu or torch.ops.mkldnn._is_mkldnn_bf16_supported())}))
"""
WARM_UP = "import torch, torchvision, timm, datasets, sklearn.metrics, scipy.sparse, matplotlib; from transformers import Trainer, pipeline"


class Bench:
    """One call of this script: where things lie, and the results so far, written after every run."""

    def __init__(self, options: argparse.Namespace, work: Path):
        self.options, self.work = options, work
        self.data = options.data.resolve()
        self.results: dict[str, Any] = {"version": 1, "machine": machine(self.environment(work / "cache")), "left_out": {}, "runs": []}
        if options.extend and options.output.is_file():
            before = json.loads(options.output.read_text(encoding="utf-8"))
            if before["machine"] != self.results["machine"]:
                raise SystemExit(f"{options.output} was measured on another machine or with other libraries. Choose another --output")
            self.results = before
        self.labels: dict[str, list[str]] = {}

    def environment(self, cache: Path) -> dict[str, str]:
        """For one process: no network, caches of its own, this checkout, all cores unless --threads."""
        kept = {name: value for name, value in os.environ.items() if name not in CLEARED}
        threads = {"OMP_NUM_THREADS": str(self.options.threads)} if self.options.threads else {}
        return {**kept, **threads, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache / "hf"), "HFXFER_CACHE": str(cache / "hfxfer"),
                "PYTHONPATH": str(CHECKOUT), "MPLBACKEND": "Agg"}

    def model(self, case: Case) -> str:
        return str((self.options.image_model or self.options.weights / "mobilenetv2_100") if case.data == PICTURES else self.options.text_model)

    def measure(self, command: list[str], cache: Path | None = None) -> tuple[dict[str, Any], str]:
        """Run a whole process: its seconds, those of its cores, its peak memory in MB, the load average before; and its stdout."""
        own = cache or Path(tempfile.mkdtemp(prefix="cache-", dir=self.work))
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        with open(self.work / "stdout", "w+", encoding="utf-8") as out, open(self.work / "stderr", "w+", encoding="utf-8") as err:
            start = time.monotonic()
            process = subprocess.Popen([sys.executable, *command], cwd=self.work, env=self.environment(own), stdout=out, stderr=err,
                                       stdin=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0), err.seek(0)
            text, said = out.read(), err.read()
        if not cache:
            shutil.rmtree(own, ignore_errors=True)
        if process.returncode:
            raise SystemExit(f"exit code {process.returncode} of: {' '.join(command)}\n{said[-4000:]}")
        bytes_each = 1 if sys.platform == "darwin" else 1024
        return {"seconds": round(seconds, 2), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
                "peak_mb": round(usage.ru_maxrss * bytes_each / 1e6), "load": load and round(load, 2)}, text

    def add(self, case: Case, side: str, found: dict[str, Any]) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.results["runs"].append({"case": case.name, "side": side, "time": now, "revision": revision(), **found})
        self.write()
        shown = {name: value for name, value in found.items() if value is not None}
        print(f"{case.name:<20} {side:<7} " + "  ".join(f"{name} {value}" for name, value in shown.items()), flush=True)

    def write(self) -> None:
        temporary = self.options.output.with_suffix(".part")
        temporary.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.options.output)

    def run(self, case: Case) -> None:
        """All repeats of a case, the two sides in turn, the first side changing."""
        if case.precision == "bf16" and not self.results["machine"]["bf16"]:
            self.results["left_out"][case.name] = "not measured: this machine does not compute in bf16"
            self.write()
            print(f"{case.name:<20} {self.results['left_out'][case.name]}", flush=True)
            return
        sides = {"train": (plain_train, own_train), "predict": (plain_predict, own_predict), "overhead": (bare_loop, own_loop)}[case.kind]
        for repeat in range(1 if case.once else self.options.repeats):
            # The bare loop takes the plan of hfxfer's run, and labels are compared with the pipeline's: these two keep their order.
            order = [("plain", sides[0]), ("hfxfer", sides[1])]
            if (case.kind == "train" and repeat % 2) or case.kind == "overhead":
                order.reverse()
            for side, measure in order:
                if side in self.options.sides:
                    self.add(case, side, measure(self, case))


def plain_train(bench: Bench, case: Case) -> dict[str, Any]:
    data, output = cases.training_data(case, bench.data, bench.work), _empty(bench.work / "plain")
    command = [str(HERE / ("plain_image.py" if case.data == PICTURES else "plain_text.py")), "--model", bench.model(case), "--data", str(data),
               "--output_dir", str(output), "--num_train_epochs", str(case.epochs), "--learning_rate", str(case.learning_rate)]
    if case.data == PICTURES:
        # The page's 4 is for thousands of pictures; on 300, one update in 64 pictures learns next to nothing.
        command += ["--gradient_accumulation_steps", "1"]
    found, text = bench.measure(command + (["--freeze"] if case.method == "head" else []))
    said = json.loads(text.strip().splitlines()[-1])
    return {**found, "work_seconds": said["seconds"], **_interval(said)}


def own_train(bench: Bench, case: Case) -> dict[str, Any]:
    output = _empty(bench.work / "own")
    found, _ = bench.measure(own_command(bench, case, output, case.epochs, method=case.method))
    score = next(score for score in json.loads((output / "model" / "scores.json").read_text(encoding="utf-8"))["scores"]
                 if score["metric"] == "accuracy" and score["label"] is None)
    taken = {name: score[key] for name, key in (("accuracy", "value"), ("low", "low"), ("high", "high"), ("num_rows", "num_rows"))}
    return {**found, "work_seconds": _end(output).get("read_to_saved_seconds"), **taken}


def own_command(bench: Bench, case: Case, output: Path, epochs: int, **settings: str) -> list[str]:
    """hfxfer train, with what the person of the benchmark says and nothing more."""
    data = cases.training_data(case, bench.data, bench.work)
    given = {"model": bench.model(case), "data": str(data), "output_dir": str(output), "num_train_epochs": str(epochs), **settings}
    return ["-m", "hfxfer", "train", *(part for name, value in given.items() for part in (f"--{name}", value))]


def plain_predict(bench: Bench, case: Case) -> dict[str, Any]:
    inputs = cases.inputs_to_predict(case, bench.data, bench.work)
    found, text = bench.measure([str(HERE / "predict_pipeline.py"), "--model", str(predicting_model(bench, case)), "--inputs", str(inputs)])
    said = json.loads(text.strip().splitlines()[-1])
    bench.labels[case.name] = said["labels"]
    return {**found, "work_seconds": said["seconds"]}


def own_predict(bench: Bench, case: Case) -> dict[str, Any]:
    inputs, output = cases.inputs_to_predict(case, bench.data, bench.work), bench.work / "predictions.csv"
    found, _ = bench.measure(["-m", "hfxfer", "predict", str(predicting_model(bench, case)), str(inputs), "--precision", case.precision,
                              "--output", str(output), "--overwrite"])
    with open(output, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if case.data == PICTURES:
        rows.sort(key=lambda row: Path(row["input"]).name)
    labels, expected = [row["label"] for row in rows], bench.labels.get(case.name)
    same = sum(map(str.__eq__, labels, expected)) / len(expected) if expected and len(labels) == len(expected) else None
    return {**found, "same_labels": same}


def predicting_model(bench: Bench, case: Case) -> Path:
    """The model that both sides predict with: made once, by hfxfer, outside the clock."""
    output = bench.work / "models" / case.data
    if not (output / "model" / "scores.json").is_file():
        # Without the benchmark's own part of the rows: the whole data set, a quick method.
        bench.measure(own_command(bench, BY_NAME["pets3-head" if case.data == PICTURES else "tweets-head"], output, 3, method="head"))
    return output / "model"


def own_loop(bench: Bench, case: Case) -> dict[str, Any]:
    """Samples a second of full fine-tuning: rows of the further epochs ÷ seconds that they added, which cancels what is done once."""
    settings = {"method": "full", "augment": "none", "eval_strategy": "no", "save_strategy": "no"}
    if case.data != PICTURES:
        del settings["augment"]
    cache = bench.work / "cache" / case.name                 # the plan is made once, by the first run of all
    first, last = _empty(bench.work / "own-first"), _empty(bench.work / "own-last")
    if not cache.exists():
        bench.measure(own_command(bench, case, first, 1, **settings), cache)
        _empty(first)
    bench.measure(own_command(bench, case, first, 1, **settings), cache)
    found, _ = bench.measure(own_command(bench, case, last, case.epochs, **settings), cache)
    num_rows = json.loads((last / "data.json").read_text(encoding="utf-8"))["splits"]["train"]["num_rows"]
    seconds = _end(last)["seconds"] - _end(first)["seconds"]
    return {**found, "samples_per_second": round(num_rows * (case.epochs - 1) / seconds, 2)}


def bare_loop(bench: Bench, case: Case) -> dict[str, Any]:
    """The same number of rows, batch and precision as hfxfer's last run."""
    import yaml

    data, run = cases.training_data(case, bench.data, bench.work), bench.work / "own-last"
    batch_size, precision, num_rows = 16, "fp32", 0
    if (run / "recipe.yaml").is_file():
        recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
        batch_size = recipe["per_device_train_batch_size"] * recipe.get("gradient_accumulation_steps", 1)
        precision = "bf16" if recipe["precision"] == "bf16" else "fp32"
        num_rows = json.loads((run / "data.json").read_text(encoding="utf-8"))["splits"]["train"]["num_rows"]
    found, text = bench.measure([str(HERE / "bare_loop.py"), "--model", bench.model(case), "--data", str(data), "--rows", str(num_rows),
                                 "--batch_size", str(batch_size), "--precision", precision, "--num_train_epochs", str(case.epochs),
                                 "--learning_rate", str(case.learning_rate)])
    said = json.loads(text.strip().splitlines()[-1])
    return {**found, "samples_per_second": said["samples_per_second"], "batch_size": batch_size, "precision": precision}


def _interval(said: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of a plain script with hfxfer's own 95 % interval."""
    import numpy as np

    sys.path.insert(0, str(CHECKOUT))
    from hfxfer.intervals import SingleLabel, score_single_label

    references, predictions = np.array(said["references"]), np.array(said["predictions"])
    scores = score_single_label(SingleLabel(references, predictions, len(said["labels"])), said["labels"], num_resamples=2)
    score = next(score for score in scores if score.metric == "accuracy" and score.label is None)
    return {"accuracy": score.value, "low": score.low, "high": score.high, "num_rows": score.num_rows}


def _end(run: Path) -> dict[str, Any]:
    """The last event of a Run's history."""
    return json.loads((run / "history.jsonl").read_text(encoding="utf-8").strip().splitlines()[-1])


def _empty(folder: Path) -> Path:
    """The path, with nothing there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def revision() -> str | None:
    """Commit of the checkout, with + where files differ from it."""
    if not (CHECKOUT / ".git").exists() or not shutil.which("git"):
        return None
    said = subprocess.run(["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty=+", "--exclude=*"], capture_output=True, text=True)
    return said.stdout.strip() or None


def machine(environment: dict[str, str]) -> dict[str, Any]:
    from importlib.metadata import version

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    flags = fields.get("flags", "").split()
    probed = json.loads(subprocess.run([sys.executable, "-c", PROBE], env=environment, check=True, capture_output=True, text=True).stdout)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": fields.get("model name", "unknown"), "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "flags": {"avx512_bf16": "avx512_bf16" in flags, "amx": any(flag.startswith("amx") for flag in flags)},
            "memory_gb": round(memory / 1e9), **probed, "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}}}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", type=Path, help=f"folder that holds {PICTURES}, {cases.TEXTS} and trashnet")
    parser.add_argument("--weights", type=Path, help="folder that holds mobilenetv2_100")
    parser.add_argument("--image_model", type=Path, help="another image classifier in timm's format")
    parser.add_argument("--text_model", type=Path, help="folder of all-MiniLM-L6-v2, or another text encoder")
    parser.add_argument("--output", type=Path, help="the results file to write")
    parser.add_argument("--extend", action="store_true", help="add to the runs that are in --output")
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), metavar="NAME", help=f"some of: {', '.join(BY_NAME)}")
    parser.add_argument("--sides", nargs="+", choices=("plain", "hfxfer"), default=("plain", "hfxfer"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="of every process; 0 leaves them alone")
    parser.add_argument("--work", type=Path, help="folder for copies, models and runs; a temporary one by default")
    parser.add_argument("--table", type=Path, metavar="RESULTS", help="print the tables of a results file")
    parser.add_argument("--write_readme", type=Path, metavar="RESULTS", help="write the tables of a results file into README.md")
    options = parser.parse_args()
    if not (options.table or options.write_readme):
        missing = [f"--{name}" for name in ("data", "weights", "text_model", "output") if getattr(options, name) is None]
        missing = [name for name in missing if not (name == "--weights" and options.image_model)]
        if missing:
            parser.error(f"missing: {', '.join(missing)}")
        if options.output.exists() and not options.extend:
            parser.error(f"{options.output} exists. Choose another --output, or add to it with --extend")
        for name in ("data", "weights", "image_model", "text_model", "output"):
            setattr(options, name, getattr(options, name) and getattr(options, name).resolve())
    return options


def main() -> None:
    options = arguments()
    if options.table or options.write_readme:
        from table import table, with_table

        results = json.loads((options.table or options.write_readme).read_text(encoding="utf-8"))
        if options.table:
            print(table(results))
        else:
            readme = CHECKOUT / "README.md"
            readme.write_text(with_table(readme.read_text(encoding="utf-8"), results), encoding="utf-8")
        return
    work = (options.work or Path(tempfile.mkdtemp(prefix="hfxfer-benchmarks-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    try:
        bench = Bench(options, work)
        chosen = [case for case in CASES if not options.only or case.name in options.only]
        bench.measure(["-c", WARM_UP])                       # the disk's cache, and compiled Python files
        for case in chosen:
            bench.run(case)
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()

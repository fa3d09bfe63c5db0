"""Measure `hfxfer demo` under load: many clients at once against the app, and against the same app with an empty function.

    python tests/benchmarks/serve.py RUN INPUT [--clients 32] [--seconds 60] [--repeats 3] [--requests 2000] [--output results.json]

INPUT is a picture, or a text file for a text model. The clients speak the app's public HTTP interface (upload, call, stream of events)
and share the machine with it, on both sides alike. The empty function gives the model's first answer again, without the model. A
single client's requests come after that, with the resident memory of the server before and after them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

CHECKOUT = Path(__file__).resolve().parent.parent.parent
EMPTY = """
import sys, threading
from hfxfer import cli, evaluation
encode, predict, answers, asked = evaluation.encode_rows, evaluation.predict_items, [], []
def nothing(predictor, rows):
    if threading.current_thread().name.startswith("loading") or not asked:
        asked.extend(rows if not threading.current_thread().name.startswith("loading") else [])
        return encode(predictor, rows)
    return [{"_row": row} for row in range(len(rows))]
def first_answer_again(predictor, rows, items):
    if len(items[0]) > 1:
        answers[:] = predict(predictor, rows, items)[:1]
    return answers * len(rows)
evaluation.encode_rows, evaluation.predict_items = nothing, first_answer_again
sys.exit(cli.main(sys.argv[1:]))
"""
SIDES = {"model": ["-m", "hfxfer"], "empty": ["-c", EMPTY]}
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
START_SECONDS = 120


@contextlib.contextmanager
def server(side: str, model: str) -> Iterator[tuple[str, int]]:
    """(address, process id) of a running app."""
    with started(lambda port: [sys.executable, *SIDES[side], "demo", model, "--port", str(port)], {"PYTHONPATH": str(CHECKOUT)}) as found:
        yield found


@contextlib.contextmanager
def started(command: Callable[[int], list[str]], environment: dict[str, str], folder: Path | None = None) -> Iterator[tuple[str, int]]:
    """(address, process id) of an app that listens on the port that `command` is made for; ended when the block is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen(command(port), env={**os.environ, **settings, **environment}, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{' '.join(process.args)} did not start: exit code {process.returncode}")
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{address}/config").is_success:
                    break
            time.sleep(0.2)
        yield address, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


async def ask(client: httpx.AsyncClient, source: Path) -> str:
    """One prediction as anybody's client asks for it, as JSON. Raises RuntimeError where the app answers with an error."""
    given: Any = source.read_text(encoding="utf-8")[:500] if source.suffix.lower() not in PICTURES else await uploaded(client, source)
    answer = await client.post("/gradio_api/call/predict", json={"data": [given]})
    answer.raise_for_status()
    async for event, data in events(client, answer.json()["event_id"]):
        if event == "error":
            raise RuntimeError(f"the app answers with an error: {data}")
        if event == "complete":
            return data
    raise RuntimeError("the stream of events ended without an answer")


async def uploaded(client: httpx.AsyncClient, source: Path) -> dict[str, Any]:
    answer = await client.post("/gradio_api/upload", files={"files": (source.name, source.read_bytes())})
    answer.raise_for_status()
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


async def events(client: httpx.AsyncClient, event_id: str) -> AsyncIterator[tuple[str, str]]:
    async with client.stream("GET", f"/gradio_api/call/predict/{event_id}") as stream:
        event = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield event, line.removeprefix("data: ")


async def load(address: str, source: Path, clients: int, seconds: float) -> dict[str, Any]:
    """So many clients, each asking again when it has its answer."""
    latencies, errors = [], []
    deadline = time.monotonic() + seconds

    async def person() -> None:
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            while time.monotonic() < deadline:
                start = time.monotonic()
                try:
                    await ask(client, source)
                    latencies.append(time.monotonic() - start)
                except (httpx.HTTPError, RuntimeError) as error:
                    errors.append(f"{type(error).__name__}: {error}")

    begin = time.monotonic()
    await asyncio.gather(*(person() for _ in range(clients)))
    return {"answers": len(latencies), "errors": errors[:5], "num_errors": len(errors), "per_second": round(len(latencies) / (time.monotonic() - begin), 2),
            "p50_seconds": percentile(latencies, 50), "p95_seconds": percentile(latencies, 95)}


async def one_by_one(address: str, source: Path, requests: int) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        for _ in range(requests):
            await ask(client, source)


def percentile(values: list[float], share: int) -> float | None:
    return round(statistics.quantiles(values, n=100, method="inclusive")[share - 1], 3) if len(values) > 1 else None


def processes(pid: int) -> list[int]:
    """The server's own and those that it has begun, from the kernel (Linux)."""
    begun = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text(encoding="ascii").split()]
    return [pid, *begun]


def cpu_seconds(pid: int) -> float:
    """That the server's processes have used."""
    fields = [Path(f"/proc/{each}/stat").read_text(encoding="ascii").rpartition(")")[2].split() for each in processes(pid)]
    return sum(int(own[11]) + int(own[12]) for own in fields) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Of the server's processes; what they share counts by its parts (PSS)."""
    lines = [line for each in processes(pid) for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii").splitlines()]
    return round(sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000, 1)


def measured(side: str, options: argparse.Namespace) -> dict[str, Any]:
    with server(side, options.model) as (address, pid):
        asyncio.run(one_by_one(address, options.input, 5))
        before, own = cpu_seconds(pid), time.process_time()
        found = asyncio.run(load(address, options.input, options.clients, options.seconds))
        found["server_cpu_ms_an_answer"] = round(1000 * (cpu_seconds(pid) - before) / max(1, found["answers"]), 1)
        found["clients_cpu_ms_an_answer"] = round(1000 * (time.process_time() - own) / max(1, found["answers"]), 1)
        if side == "model" and options.requests:
            memory = [resident_mb(pid)]
            for _ in range(4):
                asyncio.run(one_by_one(address, options.input, options.requests // 4))
                memory.append(resident_mb(pid))
            found["resident_mb"] = memory
    return {"side": side, "load_before": round(os.getloadavg()[0], 2), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("model", help="a Run, a model folder or a Hub id")
    parser.add_argument("input", type=Path, help="a picture, or a text file")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2000, help="one after another, for the memory; 0 for none")
    parser.add_argument("--output", type=Path, help="also write the results to this JSON file")
    options = parser.parse_args()
    runs = []
    for repeat in range(options.repeats):
        for side in ("empty", "model") if repeat % 2 else ("model", "empty"):
            runs.append(measured(side, options))
            print(json.dumps(runs[-1]), flush=True)
    speed = {side: statistics.median(run["per_second"] for run in runs if run["side"] == side) for side in SIDES}
    result = {"clients": options.clients, "seconds": options.seconds, "runs": runs, "errors": sum(run["num_errors"] for run in runs),
              "share_of_empty": round(speed["model"] / speed["empty"], 3)}
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

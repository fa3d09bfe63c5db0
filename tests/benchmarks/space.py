"""Install a Space's folder into a fresh virtual environment from its own requirements.txt, start its app there, and ask it.

    python tests/benchmarks/space.py RUN INPUT

INPUT is a picture, or a text file for a text model. The app loads the Run's model/ from the disk in place of the Hub; all else is as a
Space's build does it. Needs the package index, some minutes and about 8 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import httpx
from serve import CHECKOUT, ask, started


async def asked(address: str, source: Path) -> str:
    async with httpx.AsyncClient(base_url=address, timeout=120) as client:
        return await ask(client, source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("input", type=Path, help="a picture, or a text file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        space, home = Path(place, "space"), Path(place, "venv")
        subprocess.run([sys.executable, "-m", "hfxfer", "space", str(options.run), "--hub_model_id", "someone/model", "--output_dir", str(space)],
                       check=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
        begin = time.monotonic()
        venv.create(home, with_pip=True)
        python = str(home / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", str(space / "requirements.txt")], check=True)
        installed = time.monotonic()
        # Nothing of this checkout: what the Space imports is its own.
        environment = {"HFXFER_MODEL": str((options.run / "model").resolve()), "PYTHONPATH": ""}
        with started(lambda port: [python, "app.py"], environment, space) as (address, _):
            listening = time.monotonic()
            answer = json.loads(asyncio.run(asked(address, options.input.resolve())))
            answered = time.monotonic()
        versions = subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], check=True, capture_output=True, text=True).stdout
    print(json.dumps({"install_seconds": round(installed - begin, 1), "listens_after_seconds": round(listening - installed, 1),
                      "first_answer_after_seconds": round(answered - listening, 1), "answer": answer[0],
                      "versions": [line for line in versions.splitlines() if line.split("==")[0] in ("gradio", "torch", "transformers", "timm")]}, indent=1))


if __name__ == "__main__":
    main()

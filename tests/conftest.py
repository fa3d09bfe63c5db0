"""No test touches the network or the user's caches, token and settings.

Set here, before anything imports huggingface_hub, datasets or transformers: they read the environment once.
"""

import os
import shutil
import tempfile

_HOME = tempfile.mkdtemp(prefix="hfxfer-tests-")

for _name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ASSETS_CACHE", "HF_XET_CACHE", "HF_DATASETS_CACHE",
              "HF_MODULES_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_OIDC_RESOURCE"):
    os.environ.pop(_name, None)
os.environ |= {
    "HF_HOME": _HOME,
    "HFXFER_CACHE": os.path.join(_HOME, "hfxfer"),
    "HF_HUB_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
    # The networks here are tiny: a second thread gains nothing, and costs tenfold where another process has the core.
    "OMP_NUM_THREADS": "1",
}


def pytest_unconfigure():
    shutil.rmtree(_HOME, ignore_errors=True)

"""Checkpoints as they lie on the disk or the Hub: reading their config, their state dict, and what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfxfer import fetching
from hfxfer.console import hint
from hfxfer.errors import DependencyError, HfxferError, ModelError
from hfxfer.fetching import Pinned
from hfxfer.optional import require

FEWEST_WORDS = 3
"""Beside special tokens, in any tokenizer's vocabulary; those that transformers makes up have 2 at most (DeBERTa v2)."""


def checkpoint_config(source: str, revision: str | Pinned | None) -> dict[str, Any]:
    """The parsed config.json of a local folder or Hub id. Raises ModelError."""
    folder = Path(source)
    if folder.is_file():
        raise ModelError(f"{source} is a weights file: say which network it belongs to with timm's full name, "
                         "such as --architecture resnet50.tv_in1k")
    if folder.is_dir():
        path = folder / "config.json"
        if not path.is_file():
            raise ModelError(f"{source} has no config.json. A model folder holds config.json and model.safetensors")
    else:
        path = fetching.config_file(source, fetching.pin(source, revision))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"the config.json of {source} is broken ({error}). {_again(source)}") from error
    if not isinstance(config, dict):
        raise ModelError(f"the config.json of {source} is broken (expected an object). {_again(source)}")
    return config


def _again(source: str) -> str:
    """What to do about a broken file."""
    if Path(source).exists():
        return "Fetch the checkpoint again"
    return f"Take it out of the cache, and run the same again: hf cache rm model/{source}. Where that does not help, it is broken on the Hub"


def card_metadata(source: str, revision: str | Pinned | None) -> dict[str, Any]:
    """What the checkpoint's card says at its top; empty where there is no card, or where it cannot be had or read, which is told."""
    import yaml
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.repocard import metadata_load

    path = Path(source) / "README.md"
    try:
        if not Path(source).is_dir():
            path = Path(hf_hub_download(source, "README.md", **fetching.pin(source, revision).settings))
        return (metadata_load(path) or {}) if path.is_file() else {}
    except EntryNotFoundError:  # Also what a cache without it raises when there is no network.
        return {}
    except (ValueError, yaml.YAMLError) as error:
        hint(f"the metadata of {source}'s card are broken ({type(error).__name__}), so its licence is not known here")
    except Exception as error:  # the client raises raw network errors of several libraries
        hint(f"the card of {source} could not be fetched ({type(error).__name__}), so its licence is not known here")
    return {}


def is_timm_config(config: dict[str, Any]) -> bool:
    """timm's layout, or transformers' wrapper around it."""
    return config.get("model_type") == "timm_wrapper" or ("architecture" in config and "model_type" not in config)


def trained_task(config: dict[str, Any], source: str) -> str:
    """The task that a fine-tuned checkpoint is for, by its config."""
    if is_timm_config(config):
        return "image-classification"
    architecture = (config.get("architectures") or [""])[0]
    for suffix, name in (("ForImageClassification", "image-classification"), ("ForSequenceClassification", "text-classification"),
                         ("ForTokenClassification", "token-classification")):
        if architecture.endswith(suffix):
            return name
    raise ModelError(f"{source} holds {architecture or 'no architecture'}, which hfxfer has no task for. Say which: --task TASK")


def strictly_loaded(weights_file: str, architecture: str) -> Any:
    """timm's network with every weight of the file in it; ModelError with the number of unmatched keys otherwise."""
    import pickle

    import timm
    from timm.models import load_state_dict

    try:
        weights = load_state_dict(weights_file, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        raise ModelError(f"cannot read {weights_file} as a state dict of tensors ({str(error).splitlines()[0]}). "
                         "Save model.state_dict() with torch.save or safetensors") from error
    names = (timm.models.get_pretrained_cfg(architecture).classifier, "fc", "classifier", "classifier.6", "head", "head.fc")
    heads = [weights[f"{name}.weight"] for name in names if isinstance(name, str) and f"{name}.weight" in weights]
    num_classes = heads[0].shape[0] if heads else 1000
    for classes in (num_classes, 0):
        try:
            return timm.create_model(architecture, pretrained=True, num_classes=classes,
                                     pretrained_cfg_overlay={"file": weights_file, "num_classes": classes})
        except (RuntimeError, KeyError) as error:
            failure = str(error)
            if classes and set(re.findall(r'"([^"]+)"', failure)) - {"classifier.weight", "classifier.bias", "fc.weight", "fc.bias",
                                                                     "head.weight", "head.bias", "head.fc.weight", "head.fc.bias"}:
                break
    unmatched = len(re.findall(r'"[^"]+"', failure)) + len(re.findall(r"size mismatch", failure))
    raise ModelError(f"{weights_file} does not fit {architecture}: {unmatched} keys do not match. torchvision's ResNet, VGG, "
                     "DenseNet and Inception load through timm's converters (resnet50.tv_in1k, vgg16.tv_in1k, …); others do not")


def check_words(tokenizer: Any, source: str, at: Pinned) -> None:
    """Raise ModelError for a tokenizer that was made up: without its files transformers gives one that knows no word (5.23)."""
    if not hasattr(tokenizer, "all_special_tokens") or len(tokenizer) - len(set(tokenizer.all_special_tokens)) >= FEWEST_WORDS:
        return
    where = f"not in the cache, and {at.away}" if at.away else "not there"
    raise ModelError(f"the tokenizer of {source} knows no words: its vocabulary (tokenizer.json, vocab.txt or the like) is {where}. "
                     "It belongs beside the model: tokenizer.save_pretrained")


def check_torch_pair() -> None:
    """Raise DependencyError, with the pip line that mends it, where torch and torchvision do not belong together."""
    try:
        require("torchvision")
    except DependencyError:
        raise
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        from hfxfer.doctor import explain_import_error

        raise explain_import_error(error) or error from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers' load reports and progress bars off the screen: hfxfer says what matters itself."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class explained:
    """Turn what transformers raises while loading into a ModelError."""

    def __init__(self, source: str, task_name: str, at: Pinned):
        self.source, self.task_name, self.at = source, task_name, at

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, (HfxferError, KeyboardInterrupt, MemoryError)):
            return
        if not Path(self.source).exists() and (told := fetching.reason(error, self.source, self.at.commit, self.at.away)):
            raise told from error
        text = str(error).strip() or type(error).__name__
        if type(error).__name__ == "SafetensorError":
            raise ModelError(f"the weights of {self.source} are broken ({text}). {_again(self.source)}") from error
        if "Unrecognized configuration class" in text or "Unrecognized processing class" in text:
            raise ModelError(f"{self.source} does not fit the task {self.task_name}: transformers has no such head for it. "
                             "Choose another checkpoint, or another --task") from error
        if "trust_remote_code" in text:
            raise ModelError(f"{self.source} brings its own code, which hfxfer does not run by itself. "
                             "Read it, then allow it with --trust_remote_code") from error
        raise ModelError(f"cannot load {self.source} for {self.task_name}: {text.splitlines()[0][:300]}") from error

"""The body's blocks, from the embeddings up: what is frozen, unfrozen and given a rate of its own.

timm networks are grouped by timm's own `group_matcher`, as its layer-wise learning rates group them. In transformers
a body's repeated modules stand in `ModuleList`s; each element is a block, what stands before is the stem.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hfxfer.errors import RecipeError
from hfxfer.models import head_names


@dataclass(frozen=True, slots=True)
class Block:
    """One block: the full names of its parameters. `is_stem`: the embeddings or first convolution, below the first block."""

    parameters: tuple[str, ...]
    is_stem: bool = False


def blocks(model: Any) -> list[Block]:
    """The body from bottom to top: the stem first where there is one. With the head, every parameter once.

    Parameters between body and head (timm's fc_norm, a final norm) belong to the last block.
    """
    layers, has_stem, top = _layers(model)
    heads = head_names(model)
    found: list[list[str]] = [[] for _ in range(max(1, top))]
    for name, layer in layers.items():
        if name not in heads:
            found[min(layer, len(found) - 1)].append(name)
    return [Block(tuple(names), has_stem and index == 0) for index, names in enumerate(found) if names]


def distances(model: Any) -> dict[str, int]:
    """Blocks from the top for each parameter: 0 is the head, 1 the top block; for timm networks exactly timm's layers."""
    layers, _, top = _layers(model)
    return {name: top - layer for name, layer in layers.items()}


def frozen_names(model: Any, freeze: int | Sequence[str]) -> set[str]:
    """Names of the parameters of the lowest `freeze` blocks and the stem, or those that glob patterns name.

    A pattern is tried on the whole name and, for timm, on timm's own. Raises RecipeError where nothing is left to
    train or a pattern fits nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    if isinstance(freeze, int):
        body = blocks(model)
        real = [block for block in body if not block.is_stem]
        if freeze >= len(real):
            most = f"Give at most {len(real) - 1}, or --method head" if len(real) > 1 else "Give --method head"
            raise RecipeError(f"freeze is {freeze}, but the body of {type(model).__name__} has {len(real)} "
                              f"block{'' if len(real) == 1 else 's'}: none would be trained. {most}")
        return {name for block in [*(each for each in body if each.is_stem), *real[:freeze]] for name in block.parameters}
    fitting = {pattern: {name for name in names if any(fnmatch.fnmatchcase(form, pattern) for form in (name, name.removeprefix("timm_model.")))}
               for pattern in freeze}
    for pattern, fits in fitting.items():
        if not fits:
            near = [name for name in names if pattern.strip("*.") in name] or [names[0], names[len(names) // 2], names[-1]]
            raise RecipeError(f"freeze has the pattern {pattern!r}, which fits no parameter. Patterns fit whole names, such as "
                              f"{', '.join(near[:3])}: try '{near[0].rpartition('.')[0]}.*'")
    frozen = set().union(*fitting.values())
    if frozen >= set(names):
        raise RecipeError(f"freeze is {' '.join(freeze)}, which fits every parameter: nothing would be trained. Leave the head out")
    return frozen


def _layers(model: Any) -> tuple[dict[str, int], bool, int]:
    """Layer of each parameter, from 0; whether layer 0 is the stem; the top layer, which is the head's."""
    return _timm_layers(model) if hasattr(model, "timm_model") else _listed_layers(model)


def _timm_layers(model: Any) -> tuple[dict[str, int], bool, int]:
    """As timm.optim.param_groups_layer_decay counts them (1.0.31)."""
    from timm.models import group_parameters
    from timm.optim import auto_group_layers

    network = model.timm_model
    prefix = next(name for name, module in model.named_modules() if module is network)
    known = hasattr(network, "group_matcher")
    matcher = network.group_matcher(coarse=False) if known else None
    layers = group_parameters(network, matcher, reverse=True) if known else auto_group_layers(network)
    top = max(layers.values(), default=0)
    return {name: layers.get(name.removeprefix(f"{prefix}."), top) for name, _ in model.named_parameters()}, known, top


def _listed_layers(model: Any) -> tuple[dict[str, int], bool, int]:
    """The stem is layer 0, the elements of the lists follow in order, then the head."""
    heads = head_names(model)
    elements = _elements(model, heads)
    place = {path: number for number, paths in enumerate(elements, 1) for path in paths}
    top = max(1, len(elements) + 1)
    layers, last = {}, 0
    for name, _ in model.named_parameters():
        own = next((place[path] for path in _parents(name) if path in place), None)
        if name in heads:
            layers[name] = top
        elif own is not None:
            layers[name] = last = own
        else:
            # A norm after the last block goes with it; embeddings are the stem wherever they are registered (BART).
            layers[name] = 0 if "embed" in name else last
    return layers, bool(elements) and 0 in layers.values(), top


def _elements(model: Any, heads: set[str]) -> list[tuple[str, ...]]:
    """Paths of the modules that make up each block, in order.

    The outermost ModuleLists of the body; lists of one length side by side (PVT's patch_embeddings and block) make
    one sequence of blocks. Lists inside embeddings (parametrisations) are part of the stem.
    """
    import torch

    body = {parent for name, _ in model.named_parameters() if name not in heads for parent in _parents(name)}
    lists = [path for path, module in model.named_modules() if isinstance(module, torch.nn.ModuleList) and path in body
             and "embed" not in path.rpartition(".")[0]]
    groups: dict[tuple[str, int], list[str]] = {}
    for path in lists:
        if not any(outer in _parents(path)[1:] for outer in lists):
            groups.setdefault((path.rpartition(".")[0], len(model.get_submodule(path))), []).append(path)
    return [tuple(f"{path}.{index}" for path in paths) for (_, length), paths in groups.items() for index in range(length)]


def _parents(name: str) -> list[str]:
    """The name itself and the modules around it, the innermost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]

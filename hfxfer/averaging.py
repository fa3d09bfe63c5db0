"""An exponential moving average of the weights (Polyak averaging): what is evaluated, saved, chosen as best and handed over.

A checkpoint's model.safetensors is the average, so that it is the model whose score was measured, wherever it is loaded;
the weights that training goes on with stand beside it in raw.safetensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from hfxfer import console
from hfxfer.errors import RecipeError

RAW_FILE = "raw.safetensors"


def decay_at(step: int, decay: float) -> float:
    """Share of the old average that stays at `step`, from 1; the first step's weights replace those before the training.

    It rises as timm's ModelEmaV3 with use_warmup does, 1 - step ** (-2/3), so that the average spans about the last
    step ** (2/3) steps until `decay` is reached: 100 steps already give a useful average, whatever the decay.
    """
    return min(decay, 1 - step ** (-2 / 3))


class Average(TrainerCallback):
    """The average of all trained parameters and of floating buffers (batch-norm statistics), after each update.

    It begins anew with each stage of a method. Raises RecipeError where weights are split or of half precision.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.decay = trainer, trainer.recipe.ema_decay
        self.values: dict[str, torch.Tensor] = {}
        self.is_applied = False
        self.resumed_from: Path | None = None
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise RecipeError(f"ema_decay is {self.decay:g}, and FSDP or DeepSpeed split the weights that it averages. Leave out one of them")
        half = next((name for name, parameter in trainer.model.named_parameters() if parameter.dtype in (torch.float16, torch.bfloat16)), None)
        if half:
            raise RecipeError(f"ema_decay is {self.decay:g}, and {half} is of half precision, in which an average stands still. "
                              "Load the model with dtype=torch.float32; computing in bf16 or fp16 may stay")

    def on_train_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Start from the weights, which after resuming are the checkpoint's average, and go on with its raw weights."""
        self.is_applied = False
        self.values = {name: value.detach().clone() for name, value in self._averaged()}
        folder, self.resumed_from = self.resumed_from, None
        if state.global_step == 0 or folder is None:
            return
        if not (folder / RAW_FILE).is_file():
            console.hint(f"{folder} was written without an average of the weights: it starts here")
            return
        from safetensors.torch import load_file

        raw = load_file(folder / RAW_FILE)
        with torch.no_grad():
            for name, value in self._averaged():
                value.copy_(raw[name])

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        decay = decay_at(state.global_step, self.decay)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.values.values()), [value for _, value in self._averaged()], 1 - decay)

    def on_train_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """The model becomes its average, unless the best checkpoint, an average too, has been loaded."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._share_buffers()
            self._swap()
        self.values = {}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, where it is evaluated or saved."""
        control = self.trainer.control
        if self.is_applied or not self.values or not (control.should_evaluate or control.should_save):
            yield
            return
        self._share_buffers()
        self._swap()
        self.is_applied = True
        try:
            yield
        finally:
            self._swap()
            self.is_applied = False

    def save_raw(self, folder: Path) -> None:
        """Write the weights that training goes on with, while the averaged ones are in the model."""
        from safetensors.torch import save_file

        save_file({name: value.cpu().contiguous() for name, value in self.values.items()}, folder / RAW_FILE)

    def _averaged(self) -> list[tuple[str, torch.Tensor]]:
        model = self.trainer.model
        return [*((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad),
                *((name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point())]

    def _swap(self) -> None:
        with torch.no_grad():
            for name, value in self._averaged():
                other = value.clone()
                value.copy_(self.values[name])
                self.values[name].copy_(other)

    def _share_buffers(self) -> None:
        """The main process's: each has seen statistics of its own share of the rows."""
        if self.trainer.args.world_size > 1:
            for name, _ in self.trainer.model.named_buffers():
                if name in self.values:
                    torch.distributed.broadcast(self.values[name], src=0)

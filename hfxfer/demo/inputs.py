"""Where a person puts the input, and the row that it becomes: a picture, a text or two, or words."""

from __future__ import annotations

import inspect
import json
from abc import ABCMeta
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

from hfxfer.demo import facts, limits, words
from hfxfer.demo.refusals import refusal
from hfxfer.demo.answers import WORD
from hfxfer.demo.events import AT_ONCE
from hfxfer.demo.served import Served

MOST_EXAMPLES = 12


def as_it_came(component: type, preprocess: Callable[[Any], Any]) -> Any:
    """A subclass that hands on what `preprocess` makes of an upload instead of what gradio would, and fetches no address.

    gradio (6.31, image_utils.preprocess_image) decodes a picture before its size is known. A subclass, because gradio makes components
    anew in the middle of a session; made past gradio's metaclass, which would write a file beside this one.
    """
    async def only_files(self: Any, path: Any) -> Any:
        if str(path or "").lower().startswith(("http:", "https:")):
            raise refusal(words.NO_ADDRESS)
        return await component.async_move_resource_to_block_cache(self, path)  # type: ignore

    own = {"preprocess": lambda self, payload: preprocess(payload), "async_move_resource_to_block_cache": only_files, "is_template": True,
           "__module__": __name__}
    return ABCMeta.__new__(type(component), component.__name__, (component,), own)


def uploaded(payload: Any) -> str | None:
    """The path of an upload. Raises gr.Error for anything else.

    gradio (6.31) looks where a file lies only if the request marks it as one by `meta`, which a picture's may lack (data_classes.ImageData).
    """
    if payload is None:
        return None
    if not payload.path or (payload.url or "").startswith("data:") or not is_in_or_equal(payload.path, get_upload_folder()):
        raise refusal(words.NO_ADDRESS)
    return payload.path


Picture = as_it_came(gr.Image, uploaded)


class InputBox:
    """The components of one input. `components` and `names` (in the API) stand in the order of `row`'s arguments."""

    def __init__(self, served: Served, elem_id: str = "input"):
        self.served, self.elem_id = served, elem_id
        if served.is_image:
            self.components: list[Any] = [Picture(label=words.PICTURE, sources=["upload", "clipboard", "webcam"], height=320,
                                                  alt_text=words.PICTURE_TEXT, buttons=["fullscreen"], elem_id=elem_id)]
        else:
            hint = words.WORDS_HINT if served.is_tokens else words.TEXT_HINT
            self.components = [gr.Textbox(label=words.TEXT, placeholder=hint, lines=4, max_lines=16, elem_id=elem_id)]
            if served.takes_pairs:
                self.components.append(gr.Textbox(label=words.TEXT_PAIR, value="", lines=2, max_lines=16))

        self.names = ["image"] if served.is_image else ["text", "text_pair"][:len(self.components)]

    def row(self, *values: Any) -> dict[str, Any]:
        """Roles → values, checked. Raises gr.Error."""
        if self.served.is_image:
            return {"image": limits.picture(values[0])}
        text = limits.text(values[0])
        if self.served.is_tokens:
            return {"tokens": WORD.findall(text)}
        pair = limits.text(values[1], required=False) if len(values) > 1 else ""
        return {"text": text, **({"text_pair": pair} if pair.strip() else {})}

    def follow(self, tab: gr.Tab, other: InputBox) -> None:
        """Who comes to `tab` finds the input that stands in `other`, unless it was brought here before, or something else was put here first."""
        number = len(other.components)

        def brought(*given: Any) -> Any:
            values, own, before = given[:number], given[number:-1], given[-1]
            return gr.skip() if not values[0] or values == before or (own[0] and before is None) else (*values, values)

        taken = gr.State()
        tab.select(brought, [*other.components, *self.components, taken], [*self.components, taken], **AT_ONCE)

    def clears(self, *shown: Any) -> None:
        """No answer stays beside an input that it is not of: a change empties these components in the browser."""
        for box in self.components:
            box.change(None, None, list(shown), js=f"() => {{ {self._changed} = true; return {_empty(shown)}; }}", **AT_ONCE)

    def asks(self, button: gr.Button, function: Callable[..., Any], inputs: Sequence[Any], *, shown: Sequence[Any],
             kept: Sequence[Any] = (), **how: Any) -> None:
        """A press of `button` answers in `shown` and `kept`, and a change of the input empties `shown`; so does an answer that comes after the change.

        The browser decides: gradio's `cancels` (6.31) leaves "Error" beside what still ran, when its two replies come in one order and not the other.
        Who presses again meanwhile is answered after it.
        """
        asked = button.click(function, list(inputs), [*shown, *kept], js=f"(...given) => {{ {self._changed} = false; return given; }}",
                             trigger_mode="always_last", **how)
        asked.then(None, None, list(shown), js=f"() => {self._changed} ? {_empty(shown)} : []", **AT_ONCE)
        self.clears(*shown)

    @property
    def _changed(self) -> str:
        """In the browser: whether the input is another than the one that was asked about."""
        return f"window[{json.dumps(f'hfxfer-{self.elem_id}-changed')}]"

    def text(self, *values: Any) -> str:
        """The text as it was written; of a picture nothing."""
        return "" if self.served.is_image else str(values[0] or "")

    def examples(self) -> list[list[Any]]:
        """Test rows that the Run keeps, else those that the model's card shows, as values of the components."""
        rows = kept_examples(self.served) if self.served.run else facts.card_examples(self.served, MOST_EXAMPLES)
        roles = ("image", "text", "text_pair")
        return [[example[role] for role in roles if role in example][:len(self.components)] for example in rows[:MOST_EXAMPLES]]


def _empty(components: Sequence[Any]) -> str:
    """JavaScript: their values when they show nothing."""
    return json.dumps([_nothing(each) for each in components])


def _nothing(component: Any) -> Any:
    """What the browser shows as an empty component."""
    if isinstance(component, gr.Dataframe):
        return {"headers": component.headers, "data": [], "metadata": None}
    return {gr.Markdown: "", gr.Textbox: "", gr.HighlightedText: []}.get(type(component))


def named(function: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """`function` under parameters of these names, which is what gradio calls them in the API."""
    def call(*values: Any) -> Any:
        return function(*values)

    def calls(*values: Any) -> Iterator[Any]:
        yield from function(*values)

    shown = calls if inspect.isgeneratorfunction(function) else call
    shown.__signature__ = inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names])  # type: ignore
    return shown


def kept_examples(served: Served) -> list[dict[str, Any]]:
    """Rows of the Run's examples/: an image as its path, words as a text, and the label under its own role. Empty where there are none."""
    folder = served.run.folder / "examples" if served.run else None
    if folder is None or not (folder / "examples.jsonl").is_file():
        return []
    found = []
    for line in filter(None, (folder / "examples.jsonl").read_text(encoding="utf-8").split("\n")):
        row = json.loads(line)
        if "image" in row:
            path = folder / Path(row["image"]).name
            if not path.is_file():
                continue
            row["image"] = str(path)
        if "tokens" in row:
            row["text"] = " ".join(row["tokens"])
        found.append(row)
    return found

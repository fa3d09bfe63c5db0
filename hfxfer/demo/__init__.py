"""The Gradio app: `build` makes it, `launch` serves it.

    words.py      every word that is shown        limits.py   what is taken from strangers      door.py    what is turned away unread
    served.py     a model, loaded in a thread     inputs.py   the box for an input, and the row it becomes
    answers.py    a record → answer and text      trust.py    what a threshold is worth, measured
    facts.py      the files beside a model        flags.py    reported inputs as training data  why.py     what an answer rests on
    *_tab.py      one tab each, with its end point                                              events.py  which of them wait for which
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes.utils.fonts import LocalFont
from starlette.middleware import Middleware

from hfxfer import console, machine
from hfxfer.card._text import escaped
from hfxfer.demo import limits, words
from hfxfer.demo.batch_tab import BatchTab
from hfxfer.demo.compare_tab import CompareTab
from hfxfer.demo.door import Door
from hfxfer.demo.events import AT_ONCE
from hfxfer.demo.flag_tab import flag_box
from hfxfer.demo.flags import Flags
from hfxfer.demo.model_tab import model_tab
from hfxfer.demo.predict_tab import PredictTab
from hfxfer.demo.refusals import reason, refusal
from hfxfer.demo.served import Served
from hfxfer.demo.why_tab import WhyTab
from hfxfer.errors import RecipeError
from hfxfer.tasks._task import REGRESSION

AUTH = "HFXFER_DEMO_AUTH"
FLAGS = "HFXFER_FLAGS"

CSS = """
#verdict strong { font-weight: 600; }
#verdict { font-size: 1.25rem; overflow-wrap: anywhere; }
#note { opacity: .85; }
th .header.text { word-break: normal !important; overflow-wrap: normal !important; }
"""

LOOK = gr.themes.Default(font=[LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"],
                         font_mono=[LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace"])
"""gradio's own, bold for semi-bold: of the Latin letters its semi-bold files (6.31) hold A and B only, and a word came in two fonts."""

SESSIONS = 512
"""Pages whose last answer is kept, and requests of clients, which gradio (6.31) counts as pages: some 0.1 MB each, and 10,000 by default."""

WAITING = 256
"""Requests that may wait; who comes after is told that the queue is full."""

QUEUE_SETTINGS = {"GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9), "GRADIO_ANALYTICS_MAX_EVENTS": "100"}
"""gradio (6.31) else makes a table of the last 10,000 requests after each request, for a page of its own that is off here."""


class App(gr.Blocks):
    """Of what goes wrong only a sentence goes out, also where it goes wrong in gradio: it sends `null` for its own exceptions (6.31)."""

    async def process_api(self, *args: Any, **settings: Any) -> Any:
        try:
            return await super().process_api(*args, **settings)
        except gr.Error:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            console.error(f"a request failed: {reason(error)} ({frames[-1].filename}:{frames[-1].lineno})")
            raise refusal(words.UNUSABLE) from error


def build(sources: Sequence[str], *, revision: str | None = None, flag_folder: str | Path | None = None) -> gr.Blocks:
    """The app for one or more Runs, model folders or Hub ids of the same task, whose models begin to load.

    flag_folder: where reported inputs go with their right label; None lets nobody report.
    Raises RunError or ModelError for a source that cannot be served, RecipeError where they do not belong together.
    """
    for name, value in QUEUE_SETTINGS.items():
        os.environ.setdefault(name, value)
    machine.share_memory()  # Before threads begin: one of them computes.
    models = served(sources, revision)
    first = next(iter(models.values()))
    flags = Flags(flag_folder, first) if flag_folder else None
    with App(title=words.TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gr.Markdown(f"# {', '.join(map(escaped, models))}")
        _notice(app, models)
        which = gr.Dropdown(list(models), value=first.name, label=words.WHICH_MODEL) if len(models) > 1 else None
        with gr.Tab(words.PREDICT):
            predict = PredictTab(models, which)
            if flags:
                flag_box(predict.box, first, flags, predict.answered)
        with gr.Tab(words.WHY) as tab:
            WhyTab(models, which, tab, predict.box)
        with gr.Tab(words.BATCH):
            BatchTab(models, which, predict.threshold)
        if len(models) > 1:
            with gr.Tab(words.COMPARE) as tab:
                CompareTab(models, predict.threshold, tab, predict.box)
        with gr.Tab(words.MODEL):
            _model_tabs(models)
    app.queue(max_size=WAITING)
    for each in models.values():
        each.start()
    return app


def launch(sources: Sequence[str], *, revision: str | None = None, host: str = "127.0.0.1", port: int | None = None, share: bool = False,
           theme: Any = None, wait: bool = True, flag_folder: str | Path | None = None) -> tuple[gr.Blocks, str]:
    """Build and serve. The app, and its address. port: None takes the first free one from 7860. wait: until it is interrupted.

    The login comes from the environment: HFXFER_DEMO_AUTH=USER:PASSWORD; so does, where none is given, the folder of reports:
    HFXFER_FLAGS=FOLDER, which switches them on in a Space. Raises RecipeError where nothing can listen there.
    """
    auth = login()
    _own_folder()
    app = build(sources, revision=revision, flag_folder=flag_folder or os.environ.get(FLAGS))
    try:
        _, local, shared = app.launch(
            server_name=host, server_port=port, share=share, theme=theme or LOOK, css=CSS, auth=auth,
            max_file_size=limits.UPLOAD_MB * 10**6, allowed_paths=[], show_error=False, quiet=True, ssr_mode=False, run_history=False,
            enable_monitoring=False, pwa=False, mcp_server=False,
            state_session_capacity=SESSIONS, footer_links=["api", "settings"], prevent_thread_lock=True, app_kwargs={"middleware": [Middleware(Door)]})
    except OSError as error:
        raise RecipeError(f"nothing can listen on {host}, port {port or 'from 7860'} ({error}). Choose another --port or --host") from error
    if wait:
        app.block_thread()
    return app, shared or local


def _own_folder() -> None:
    """A folder for uploads that ends with this process: gradio serves whatever lies in it, and by default all apps of a machine share one."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="hfxfer-demo-")
        atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)


def served(sources: Sequence[str], revision: str | None) -> dict[str, Served]:
    """Name → model, in the order given. Raises RecipeError where they cannot stand in one app."""
    if not sources:
        raise RecipeError("demo needs a model: a Run, a model folder or a Hub id")
    found = [Served(str(source), revision) for source in sources]
    kinds = {(each.task.name, each.problem_type) for each in found}
    if len(kinds) > 1:
        said = "; ".join(f"{each.source}: {each.task.name}, {each.problem_type}" for each in found)
        raise RecipeError(f"demo compares models of one task, got {said}. Start one demo for each task")
    for each in found[1:]:
        _same_labels(found[0], each)
    names = [each.name for each in found]
    for each in found:
        each.name = each.name if names.count(each.name) == 1 else each.source
    return {each.name: each for each in found}


def _same_labels(one: Served, other: Served) -> None:
    """Raises RecipeError: a label is chosen for all models at once, and a probability of one that another lacks compares with nothing."""
    if one.problem_type == REGRESSION or set(one.labels) == set(other.labels):
        return
    said = "; ".join(f"only {first.source} has {_listed(set(first.labels) - set(second.labels))}"
                     for first, second in ((one, other), (other, one)) if set(first.labels) - set(second.labels))
    raise RecipeError(f"demo compares models with the same labels, but {said}. Start one demo for each")


def _listed(labels: set[str], most: int = 5) -> str:
    return ", ".join(sorted(labels)[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def login() -> tuple[str, str] | None:
    """User and password from the environment. Raises RecipeError for a value without both."""
    value = os.environ.get(AUTH)
    if not value:
        return None
    user, colon, password = value.partition(":")
    if not (user and colon and password):
        raise RecipeError(f"{AUTH} is set but is not USER:PASSWORD (it is not shown here). Set both, or unset it")
    return user, password


def _model_tabs(models: dict[str, Served]) -> None:
    if len(models) == 1:
        model_tab(*models.values())
        return
    for name, each in models.items():
        with gr.Tab(name):
            model_tab(each)


def _notice(app: gr.Blocks, models: dict[str, Served]) -> None:
    """Says that the models load, until they are there."""
    notice = gr.Markdown(words.LOADING, elem_id="notice")
    timer = gr.Timer(1)

    def look() -> tuple[Any, Any]:
        if not all(each.is_settled for each in models.values()):
            return gr.skip(), gr.skip()
        failed = any(each.has_failed for each in models.values())
        return gr.Markdown(words.NOT_LOADED if failed else "", visible=failed), gr.Timer(active=False)

    timer.tick(look, None, [notice, timer], **AT_ONCE)
    app.load(look, None, [notice, timer], **AT_ONCE)

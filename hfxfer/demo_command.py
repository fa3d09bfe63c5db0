"""`hfxfer demo`: serves the app until it is interrupted."""

from __future__ import annotations

from typing import Any

from hfxfer import console
from hfxfer.errors import RecipeError
from hfxfer.flags import Command, Flag

THEMES = ("default", "base", "citrus", "glass", "monochrome", "ocean", "origin", "soft")
"""gradio's own. Others would be fetched from the Hub."""

AT_HOME = ("127.0.0.1", "localhost", "::1")


def demo(positional: list[str], flags: dict[str, Any]) -> None:
    if not positional:
        raise RecipeError("demo takes a Run, a model folder or a Hub id, or several of them, got nothing: hfxfer demo runs/x")
    port = flags.get("port")
    if port is not None and not (port.isdigit() and 1 <= int(port) <= 65535):
        raise RecipeError(f"--port is {port!r}; allowed: a whole number from 1 to 65535")
    host, share = flags.get("host", "127.0.0.1"), flags.get("share", False)
    from hfxfer import demo as pages

    login = pages.login()
    app, address = pages.launch(positional, revision=flags.get("revision"), host=host, port=int(port) if port else None, share=share,
                                theme=flags.get("theme"), wait=False, flag_folder=flags.get("output_dir"))
    console.fact(address)
    if login is None and (share or host not in AT_HOME):
        console.hint("everybody who reaches this address can use the app; HFXFER_DEMO_AUTH=USER:PASSWORD in the environment asks for a login")
    console.talk("Ctrl-C ends it")
    app.block_thread()


DEMO = Command("MODEL… [--port N] [--output_dir FLAGS]", "try a model in the browser, or several side by side", demo, {
    "port": Flag("value", "port to listen on (the first free one from 7860)"),
    "host": Flag("value", "address to listen on (127.0.0.1: this machine only); 0.0.0.0 lets others in"),
    "share": Flag("switch", "also make a public address for up to a week, by gradio's servers"),
    "theme": Flag("value", "how it looks", THEMES),
    "output_dir": Flag("value", "let people report wrong answers, and keep these inputs with the right label in this folder"),
    "revision": Flag("value", "branch, tag or commit of a Hub model")})

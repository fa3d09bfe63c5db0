"""What the app accepts from strangers: pictures and texts, checked before anything else looks at them.

Raises `gr.Error` with one sentence, which gradio shows to the person and sends to an API client; nothing else about the server goes out.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from hfxfer import images
from hfxfer.demo import words
from hfxfer.demo.refusals import refusal

UPLOAD_MB = 20
PIXELS = 40_000_000
"""More than any phone's camera but those of 48 megapixels and up gives; decoded, 120 MB."""

CHARACTERS = 20_000
BATCH_ROWS = 1_000
BATCH_COLUMNS = 1_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Pillow's names. Its other formats (EPS runs Ghostscript) are for nobody who uploads a photograph."""


def picture(path: str | None) -> Any:
    """The file as an upright 8-bit RGB image, as training and `predict` see it. Size and pixels are looked at before it is decoded."""
    from PIL import Image, UnidentifiedImageError

    if not path:
        raise refusal(words.NO_PICTURE)
    if size(path) > UPLOAD_MB * 10**6:
        raise refusal(words.PICTURE_TOO_BIG, most=UPLOAD_MB)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=FORMATS)
        if opened.width * opened.height > PIXELS:
            raise Image.DecompressionBombError
        with opened:
            return images.open_image(opened)
    except Image.DecompressionBombError as error:
        raise refusal(words.TOO_MANY_PIXELS, most=PIXELS // 10**6) from error
    except UnidentifiedImageError as error:
        raise refusal(words.NOT_A_PICTURE, allowed=", ".join(FORMATS)) from error
    except Exception as error:  # Pillow's decoders raise nearly anything for a broken file; of AVIF, already opening does.
        raise refusal(words.BROKEN_PICTURE) from error


def size(path: str) -> int:
    """Bytes of an upload. Raises gr.Error for one that the app has cleared away meanwhile."""
    try:
        return os.path.getsize(path)
    except OSError as error:
        raise refusal(words.UPLOAD_GONE) from error


def text(value: Any, *, required: bool = True) -> str:
    """The text as it is, unless it is empty or longer than CHARACTERS: nothing is cut."""
    value = "" if value is None else str(value)
    if required and not value.strip():
        raise refusal(words.NO_TEXT)
    if len(value) > CHARACTERS:
        raise refusal(words.TEXT_TOO_LONG, length=len(value), most=CHARACTERS)
    return value

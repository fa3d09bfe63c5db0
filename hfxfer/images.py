"""Open any picture the same way in training, prediction and evaluation: `open_image(value)` → 8-bit RGB.

What is done, in this order: first frame of an animation; EXIF rotation applied; 16-bit, integer and float
grey scaled to 8 bit; transparency (alpha, palette, `tRNS`) composited on white; everything else converted.
"""

from __future__ import annotations

import io
import os
from typing import Any

from hfxfer.errors import DataError

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .tga .ico "
    ".heic .heif".split()
)
"""File endings, lower case, that make a file a picture. HEIC is here so that it is named when it cannot be read."""

DEEP_GREY = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def is_image_name(name: Any) -> bool:
    """True for a string that ends like a picture file, in any letter case."""
    return isinstance(name, str | os.PathLike) and os.path.splitext(os.fspath(name))[1].lower() in SUFFIXES


def is_image(value: Any) -> bool:
    """True for what `open_image` takes besides paths: bytes, {"bytes", "path"}, a PIL image, a pixel array."""
    if isinstance(value, bytes | bytearray):
        return True
    if isinstance(value, dict):
        return bool({"bytes", "path"} & value.keys()) and value.keys() <= {"bytes", "path"}
    return _is_pil(value) or (type(value).__module__ == "numpy" and getattr(value, "ndim", 0) in (2, 3))


def open_image(value: Any) -> Any:
    """A loaded `PIL.Image.Image` in mode RGB.

    value: a path, bytes, {"bytes", "path"} as `datasets` stores pictures, a PIL image, or a numpy array
    (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels; floats in [0, 1] or [0, 255].
    Raises DataError, which names the picture, for one that is missing, empty, corrupt, cut short or absurdly large.
    """
    name = describe_image(value)
    with _refusing(name):
        return _to_rgb(_opened(value, name))


def check_image(content: Any, name: str) -> None:
    """Decode `content` (bytes or a PIL image) to its last byte and forget it; raises DataError.

    JPEGs are decoded at an eighth of their size, which still reads the whole stream and costs a fraction.
    """
    with _refusing(name):
        image = _opened(content, name)
        if image.format == "JPEG" and image is not content:  # A caller's own image must not shrink.
            image.draft("RGB", (1, 1))
        image.load()


def image_content(value: Any) -> Any:
    """The bytes of a file or of {"bytes", "path"}; a PIL image or an array comes back as a PIL image.

    Raises DataError where there is no such file or it is empty.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or b""
    if isinstance(value, str | os.PathLike):
        return _file_bytes(os.fspath(value))
    if isinstance(value, bytes | bytearray):
        if not value:
            raise DataError("the image has no bytes")
        return bytes(value)
    return value if _is_pil(value) else _from_array(value)


def describe_image(value: Any) -> str:
    """What a message calls the picture: its path where it has one."""
    if isinstance(value, dict):
        value = value.get("path") or "image"
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return getattr(value, "filename", "") or "image"


class _refusing:
    """Turns whatever a broken picture raises into one DataError that names it.

    Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, zlib.error, …
    for broken files: any Exception inside this block means that the picture cannot be used.
    """

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> None:
        if not isinstance(error, Exception) or isinstance(error, DataError | ImportError):
            return
        raise DataError(f"{self.name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    name = type(error).__name__
    if name == "UnidentifiedImageError":
        return "not an image, or in a format that Pillow cannot read. Convert it to PNG or JPEG, or remove it"
    if name == "DecompressionBombError":
        return f"too many pixels to be a photograph ({error}). Make it smaller, or remove it"
    if isinstance(error, MemoryError):
        return "too large for the memory. Make it smaller, or remove it"
    text = str(error).splitlines()[0] if str(error) else name
    return f"corrupt or cut short ({text}). Replace it, or remove it"


def _file_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        reason = "file not found" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
        raise DataError(f"{path}: {reason}") from error
    if not content:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    return content


def _opened(value: Any, name: str) -> Any:
    from PIL import Image

    try:
        content = image_content(value)
    except DataError as error:
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from error
    return Image.open(io.BytesIO(content)) if isinstance(content, bytes) else content


def _to_rgb(image: Any) -> Any:
    from PIL import Image

    if getattr(image, "is_animated", False) and image.tell() != 0:
        image.seek(0)
    image.load()
    image = _upright(image)
    if image.mode in DEEP_GREY:
        image = _to_8_bit(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA") if image.mode != "La" else image.convert("LA").convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Broken EXIF raises nearly anything; the pixels are sound, so it counts as "not rotated".
        return image


def _to_8_bit(image: Any) -> Any:
    """16-bit grey: 65535 → 255. Integer and float grey hold no range of their own: [0, 1], [0, 255] or 16 bit."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(_scaled(np.asarray(image), sixteen_bit=image.mode.startswith("I;16")))


def _scaled(pixels: Any, sixteen_bit: bool) -> Any:
    import numpy as np

    pixels = np.nan_to_num(pixels.astype(np.float64))
    top = pixels.max(initial=0.0)
    if sixteen_bit or top > 255:
        pixels = pixels / 257.0
    elif top <= 1.0:
        pixels = pixels * 255.0
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _from_array(array: Any) -> Any:
    import numpy as np
    from PIL import Image

    array = np.asarray(array)
    if array.ndim not in (2, 3):
        raise DataError(f"an image array has shape {array.shape}; allowed: (H, W), (H, W, C), (C, H, W)")
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4):
        raise DataError(f"an image array has shape {array.shape}; allowed are 1, 3 or 4 channels")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8:
        array = _scaled(array, sixteen_bit=array.dtype == np.uint16)
    return Image.fromarray(np.ascontiguousarray(array))


def _is_pil(value: Any) -> bool:
    return hasattr(value, "getexif") and hasattr(value, "convert")

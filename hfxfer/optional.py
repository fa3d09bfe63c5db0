"""Late imports: `require("captum", extra="explain")` imports a package or says how to install it."""

from __future__ import annotations

import importlib
from types import ModuleType

from hfxfer.errors import DependencyError


def require(module: str, extra: str | None = None) -> ModuleType:
    """Import `module` now.

    Raises DependencyError, with the pip line that mends it, where the package is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise
        wanted = f'"hfxfer[{extra}]"' if extra else module
        raise DependencyError(f"{module} is not installed. Install it with: pip install {wanted}") from error

"""Reports as HTML pages that need no other file and no network, from Resources/Templates.

Everything that a template inserts is escaped, and a name that it does not know is an error. The
templates extend report.html, which holds the head, the style and the facts at the top. A comment at
the beginning of each says what it is given.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from DiffuGTSLib.files import resource, write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment

DASH = "\N{EN DASH}"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Renders a template and writes the page atomically.

    Args:
        path: of the page.
        template: name of a file in Resources/Templates.
        values: by the names that the template uses.

    Raises:
        OutputNotWritten: it cannot be written; the page that was there stays.
    """
    page = _environment().get_template(template).render(values)
    # File names on Linux need not be valid text.
    write_atomically(path, page.encode(errors="backslashreplace"))


def data_uri(picture: bytes, kind: str) -> str:
    """The source of an <img> that holds the picture itself; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def number(value: float | None, digits: int, scale: float = 1.0) -> str:
    """`scale` x `value` with so many decimals; a dash for None."""
    return DASH if value is None else f"{scale * value:.{digits}f}"


@cache
def _environment() -> Environment:
    # Imported late: Slicer's process imports the batch package without rendering anything.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(resource("Templates")), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["DASH"] = DASH
    return environment

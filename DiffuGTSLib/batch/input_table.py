"""Tables of scans: CSV or JSON with image, prompt, name, MR sequence and mask to search in."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.prompt import several
from DiffuGTSLib.scan.modality import SEQUENCES

_SEPARATOR = re.compile(r"\s*\"?sep=([,;\t|])\"?\s*", re.IGNORECASE)
SUFFIXES = (".csv", ".tsv", ".json")
_EXAMPLE = 'A table has a line "image,prompt,name" and then one line a scan.'


class BadTable(DiffuGTSError):
    """A table of scans cannot be read or understood."""

    code = "bad-table"


@dataclass(frozen=True)
class TableRow:
    """One scan of a table.

    Attributes:
        image: path; relative ones start at the table's folder.
        prompts: empty where the table has none.
        name: may be empty.
        sequence: one of modality.SEQUENCES; empty where the table has none.
        within: path of a mask to search in, relative ones as `image`; None where there is none.
        segment: name or number of one of its segments or labels; empty for all.
    """

    image: Path
    prompts: tuple[str, ...] = ()
    name: str = ""
    sequence: str = ""
    within: Path | None = None
    segment: str = ""


def is_table(path: Path | str) -> bool:
    """Whether a path is that of a table, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def read_table(path: Path) -> list[TableRow]:
    """The rows of a table, in their order.

    CSV: separated by commas, semicolons or tabs; the first line names the columns: "image" is
    required, "prompt", "name", "sequence", "within" and "segment" are optional, others are ignored.
    Several prompts in one cell are separated by semicolons or line breaks. JSON: a list of objects
    with the same fields; "prompt" may be a list.

    Raises:
        BadTable: it cannot be read, has no rows, lacks images, or names no known sequence.
    """
    try:
        text = _text(path.read_bytes())
        entries = _json(text) if path.suffix.lower() == ".json" else _csv(text)
    except OSError:
        raise BadTable(f"The table {path.name} cannot be opened.", "Check its name.") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise BadTable(f"The table {path.name} cannot be parsed: {error}.", _EXAMPLE) from None
    if not entries:
        raise BadTable(f"The table {path.name} has no rows.", _EXAMPLE)
    return [_row(entry, number, path) for number, entry in enumerate(entries, start=1)]


def _text(content: bytes) -> str:
    """Spreadsheets save in UTF-8, with or without byte-order mark, in UTF-16 ("Unicode text"), or
    in a Windows code page."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _csv(text: str) -> list[dict[str, Any]]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    stated = _SEPARATOR.fullmatch(first)
    if stated:  # Excel's own line, before the names of the columns
        text = text[text.index(first) + len(first):]
    delimiter = stated[1] if stated else max(",;\t", key=first.count)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    names = [name.strip().lower() for name in rows[0]] if rows else []
    if "image" not in names:
        raise ValueError('no column is called "image"')
    return [dict(zip(names, row, strict=False)) for row in rows[1:]]


def _json(text: str) -> list[dict[str, Any]]:
    entries = json.loads(text)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("it is not a list of objects")
    return [{str(key).lower(): value for key, value in entry.items()} for entry in entries]


def _row(entry: dict[str, Any], number: int, table: Path) -> TableRow:
    image, name, sequence, within, segment, prompt = (
        entry.get(column) or ""
        for column in ("image", "name", "sequence", "within", "segment", "prompt"))
    texts = prompt if isinstance(prompt, list) else [prompt]
    segment = str(segment) if isinstance(segment, int) else segment  # a label, in JSON
    if not all(isinstance(text, str) for text in (image, name, sequence, within, segment, *texts)):
        raise BadTable(f"Row {number} of {table.name} holds a value that is not text.", _EXAMPLE)
    if not all(_is_name(text) for text in (image, name, within)):
        raise BadTable(f"Row {number} of {table.name} holds a character that no name can have.",
                       _EXAMPLE)
    if not image.strip():
        raise BadTable(f"Row {number} of {table.name} names no image.", _EXAMPLE)
    if segment.strip() and not within.strip():
        raise BadTable(f"Row {number} of {table.name} names a segment, but no mask that has it.",
                       'Name the mask in the column "within".')
    sequence = sequence.strip().lower()
    if sequence and sequence not in SEQUENCES:
        raise BadTable(f"Row {number} of {table.name} names an unknown MR sequence.",
                       f"Use one of {', '.join(SEQUENCES)}, or leave the cell empty.")
    prompts = tuple(part for text in texts for part in several(text))
    folder = table.absolute().parent
    return TableRow(folder / image.strip(), prompts, name.strip(), sequence,
                    folder / within.strip() if within.strip() else None, segment.strip())


def _is_name(text: str) -> bool:
    """Whether the system could have a file of that name."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False

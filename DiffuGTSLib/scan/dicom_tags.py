"""The few tags of a DICOM file that a search for scans needs, read without ITK.

A damaged file can end the process in native code; here it cannot, and a pipe is never opened.
DICOM PS3.5 chapter 7 describes the elements. Files without preamble (PS3.10 7.1), as old archives
hold them, are recognised by their first element.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from DiffuGTSLib.scan.file_checks import is_regular

_IMPLICIT, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SYNTAX, _PIXELS = 0x00020010, (0x7FE00008, 0x7FE00009, 0x7FE00010)
_KIND, _MODALITY, _DESCRIPTION = 0x00080016, 0x00080060, 0x0008103E
_SERIES, _NUMBER, _INSTANCE = 0x0020000E, 0x00200011, 0x00200013
_POSITION, _ORIENTATION = 0x00200032, 0x00200037
_FRAMES, _ROWS, _COLUMNS = 0x00280008, 0x00280010, 0x00280011
_WANTED = {_SYNTAX, _KIND, _MODALITY, _DESCRIPTION, _SERIES, _NUMBER, _INSTANCE, _POSITION,
           _ORIENTATION, _FRAMES, _ROWS, _COLUMNS}
_MAX_VALUE_BYTES = 1024
_MAX_ELEMENTS = 20_000
_MAX_DEPTH = 16
_MAX_INFLATED = 1 << 26


@dataclass(frozen=True)
class DicomTags:
    """What a file says of its place in a study; texts are empty and numbers 0 where it is silent.

    Attributes:
        series, number, description, modality: of its series.
        frames: 1 where it does not say.
        rows, columns: of each frame.
        instance: its number in the series.
        position: of the first voxel along the normal of the slices, in mm; None where the file
            does not say.
        has_pixels: it holds an image.
    """

    series: str
    number: str
    description: str
    modality: str
    frames: int
    rows: int
    columns: int
    instance: int
    position: float | None
    has_pixels: bool


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM, with or without preamble; False if it cannot be opened."""
    if not is_regular(path):
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    if start[128:] == b"DICM":
        return True
    return _without_preamble(start) and bool((tags := read_tags(path)) and tags.series)


def read_tags(path: Path) -> DicomTags | None:
    """The tags of a file; None where it is no DICOM file or cannot be opened."""
    if not is_regular(path):
        return None
    try:
        with path.open("rb") as stream:
            found = _read(stream)
    except (OSError, struct.error, zlib.error, EOFError, ValueError):
        return None
    return found if found is None or found.series or found.has_pixels else None


def _without_preamble(start: bytes) -> bool:
    """Whether a file begins with an element of the first groups, in little endian."""
    group, element = struct.unpack_from("<HH", start.ljust(4, b"\0"))
    return (group == 2 and element <= 0x16) or (group == 8 and element <= 0x1140)


class _Elements:
    """Reads elements, one after the other, from a stream that can seek."""

    def __init__(self, stream: IO[bytes], implicit: bool, order: str) -> None:
        self._stream, self._implicit, self._order = stream, implicit, order
        self._read = 0

    def next(self) -> tuple[int, int]:
        """Tag and length of the next element; its value follows in the stream.

        Raises:
            EOFError, ValueError: there is none, or too many.
        """
        self._read += 1
        if self._read > _MAX_ELEMENTS:
            raise ValueError("too many elements")
        head = self._stream.read(8)
        if len(head) < 8:
            raise EOFError
        group, element = struct.unpack_from(f"{self._order}HH", head)
        tag = group << 16 | element
        if self._implicit or group == 0xFFFE:
            return tag, struct.unpack_from(f"{self._order}I", head, 4)[0]
        if head[4:6] in _LONG:
            return tag, struct.unpack(f"{self._order}I", self._stream.read(4))[0]
        return tag, struct.unpack_from(f"{self._order}H", head, 6)[0]

    def skip(self, length: int, depth: int = 0) -> None:
        """Passes over a value; of undefined length, item by item."""
        if length != _UNDEFINED:
            self._stream.seek(length, io.SEEK_CUR)
            return
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        while True:
            tag, length = self.next()
            if tag in (_SEQUENCE_END, _ITEM_END):
                return
            self.skip(length, depth + 1)

    def value(self, length: int) -> bytes:
        """The value, up to a length that no wanted one exceeds."""
        content = self._stream.read(min(length, _MAX_VALUE_BYTES))
        if length > len(content):
            self._stream.seek(length - len(content), io.SEEK_CUR)
        return content


def _read(stream: IO[bytes]) -> DicomTags | None:
    start = stream.read(132)
    if start[128:] == b"DICM":
        stream.seek(132)
    elif _without_preamble(start):
        stream.seek(0)
    else:
        return None
    values, pixels = _values(*_encoding(stream))
    return _tags(values, pixels)


def _encoding(stream: IO[bytes]) -> tuple[IO[bytes], bool, str]:
    """Reads the file meta information; the stream that follows, implicit or not, byte order."""
    syntax = ""
    while True:
        place = stream.tell()
        head = stream.read(8)
        stream.seek(place)
        if len(head) < 8 or head[:2] != b"\x02\x00":
            break
        meta = _Elements(stream, not head[4:6].isalpha(), "<")
        tag, length = meta.next()
        value = meta.value(length)
        if tag == _SYNTAX:
            syntax = _text(value)
    if syntax == _DEFLATED:
        inflated = zlib.decompressobj(-15).decompress(stream.read(), _MAX_INFLATED)
        return io.BytesIO(inflated), False, "<"
    if syntax == _BIG_ENDIAN:
        return stream, False, ">"
    # Some files state one encoding and are written in another.
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return stream, not explicit if syntax in ("", _IMPLICIT) else False, "<"


def _values(stream: IO[bytes], implicit: bool, order: str) -> tuple[dict[int, str], bool]:
    """The wanted values, and whether pixels follow them."""
    elements = _Elements(stream, implicit, order)
    values: dict[int, str] = {}
    try:
        while True:
            tag, length = elements.next()
            if tag in _PIXELS:
                return values, True
            if tag in _WANTED and length != _UNDEFINED:
                content = elements.value(length)
                number = tag in (_ROWS, _COLUMNS) and len(content) >= 2
                values[tag] = (str(struct.unpack_from(f"{order}H", content)[0]) if number
                               else _text(content))
            else:
                elements.skip(length)
    except (EOFError, ValueError, struct.error):
        return values, False


def _text(content: bytes) -> str:
    return content.decode("latin-1").strip("\0 ")


def _tags(values: dict[int, str], pixels: bool) -> DicomTags:
    rows, columns = (_whole(values.get(tag, "")) for tag in (_ROWS, _COLUMNS))
    return DicomTags(
        values.get(_SERIES, ""), values.get(_NUMBER, ""), values.get(_DESCRIPTION, ""),
        values.get(_MODALITY, "").upper(), _whole(values.get(_FRAMES, "")) or 1, rows, columns,
        _whole(values.get(_INSTANCE, "")), _along_normal(values), pixels and rows > 0 < columns,
    )


def _whole(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _along_normal(values: dict[int, str]) -> float | None:
    try:
        position = [float(part) for part in values[_POSITION].split("\\")]
        a, b, c, d, e, f = (float(part) for part in values[_ORIENTATION].split("\\"))
        x, y, z = position
    except (KeyError, ValueError):
        return None
    return (b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z

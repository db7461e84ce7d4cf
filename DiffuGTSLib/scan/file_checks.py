"""What is refused before ITK opens it: names, pipes, other kinds of file, headers that point away.

ITK ends the process at some of these, waits for ever at others, and reads any file that a header
names. Here only Python reads, and only a little.
"""

from __future__ import annotations

import math
import os
import re
import stat
import zlib
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from DiffuGTSLib.errors import NotAScalarVolume, UnreadableImage

GZIP = b"\x1f\x8b"
_START_BYTES = 1024
_MARK_BYTES = 1 << 16
_PIECE = 1 << 22
_MAX_HEADER_BYTES = 1 << 20
_MAX_HEADER_LINES = 20_000
_MAX_FILES = 20_000  # of one detached header
_MAX_AXIS = 1 << 20
_MAX_VOXELS = 1 << 40
_MAX_DIMENSIONS = 10
_MIN_VOLUME = 1e-6  # of three axes, as a share of that at right angles
_META = (".mhd", ".mha")
_DETACHED = (".mhd", ".nhdr")  # headers whose voxels lie in other files
_DATA = ("data file", "datafile", "elementdatafile")
_PAIRS = (".hdr", ".img", ".img.gz")
_AGAIN = "Copy or download the file again."
_NIFTI_1 = ("Convert it to NIfTI-1: python -c \"import nibabel as n; "
            "n.Nifti1Image.from_image(n.load('scan.nii')).to_filename('scan1.nii.gz')\"")
_NUMBER = re.compile(r"[^\s,()]+")
# Of an NRRD file; ITK takes any for mm.
_OTHER_LENGTHS = ("m", "cm", "dm", "um", "\u00b5m", "\u03bcm", "micron", "nm", "in", "inch")
# How files of other kinds begin, what they are, and what to do.
_OTHERS = (
    ((b"PK\x03\x04", b"PK\x05\x06"), "a zip archive", "Unpack it and pass what is in it."),
    ((b"Rar!", b"7z\xbc\xaf\x27\x1c", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"),
     "a compressed archive", "Unpack it and pass what is in it."),
    ((b"%PDF",), "a PDF document", "Pass the scan itself."),
    ((b"\x89HDF",), "an HDF5 file (MINC, perhaps)",
     "Convert it to NIfTI first: mnc2nii scan.mnc scan.nii"),
    ((b"version https://git-lfs", b"/annex/objects", b"../.git/annex"),
     "a pointer to a file that was not fetched", "Fetch the file itself: git lfs pull"),
)
_WEB_PAGE = re.compile(rb"\s*<(!doctype\s+html|html|head|\?xml)", re.IGNORECASE)


def check_name(path: Path) -> None:
    """Refuses a name that SimpleITK ends the process at.

    Raises:
        UnreadableImage: it holds bytes that are not UTF-8.
    """
    if not is_unicode(path):
        raise UnreadableImage(
            f"The name {path.name} or that of its folder holds bytes that are not UTF-8.",
            "Rename it: it comes from a system with another encoding.",
        )


def is_unicode(path: Path) -> bool:
    """Whether a path can be written in UTF-8."""
    try:
        os.path.abspath(path).encode()
    except (UnicodeEncodeError, ValueError):
        return False
    return True


def is_regular(path: Path) -> bool:
    """Whether it is a file, links followed: no pipe, socket or device, which may never end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_file(path: Path) -> None:
    """Refuses a file that is no image, or whose header asks for what no scan needs.

    Raises:
        UnreadableImage: the name is not UTF-8; it is missing, no regular file, empty, or of
            another kind, which the message names; its header is absurd, or names files that are
            missing, no regular files or outside its folder.
        NotAScalarVolume: its header states more dimensions than any format has.
    """
    check_name(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        raise UnreadableImage(f"{path.name} does not exist or cannot be opened.",
                              "Check the name, the folder and its access rights.") from None
    if stat.S_ISDIR(mode):
        raise UnreadableImage(f"{path.name} is a folder, not a file.",
                              "Pass one of the image files in it.")
    if not stat.S_ISREG(mode):
        raise UnreadableImage(f"{path.name} is a pipe, a socket or a device, not a file.",
                              "Save the scan to a file first.")
    try:
        start = read_start(path, _START_BYTES)
    except PermissionError:
        raise UnreadableImage(
            f"There is no permission to read {path.name}.", "Check its access rights."
        ) from None
    except OSError:
        raise UnreadableImage(f"{path.name} cannot be opened.", "Check the disk.") from None
    _check_kind(path, start)
    _check_header(path, start)


def read_start(path: Path, count: int) -> bytes:
    """The first bytes of a file, unzipped where it is a gzip file, whatever its name.

    Raises:
        OSError: it cannot be opened or read.
    """
    with path.open("rb") as stream:
        start = stream.read(count)
        if not start.startswith(GZIP):
            return start
        stream.seek(0)
        return b"".join(_unzipped(stream, count))[:count]


def unzipped_bytes(path: Path) -> int | None:
    """Bytes in a gzip file, or of one that is none; None where it breaks off or is damaged.

    What follows the end of the compressed data, as proxies append, does not count.
    """
    with path.open("rb") as stream:
        if not stream.read(2).startswith(GZIP):
            return path.stat().st_size
        stream.seek(0)
        try:
            return sum(map(len, _unzipped(stream, None, strict=True)))
        except (EOFError, zlib.error):
            return None


def pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, unzipped where it is a gzip file, piece by piece.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read, breaks off or is damaged.
    """
    with path.open("rb") as stream:
        zipped = stream.read(2).startswith(GZIP)
        stream.seek(0)
        yield from _unzipped(stream, None) if zipped else iter(lambda: stream.read(_PIECE), b"")


def _unzipped(stream: IO[bytes], count: int | None, strict: bool = False) -> Iterator[bytes]:
    """The content of a gzip file in pieces; zlib verifies the checksum of each part of it."""
    piece = 1 << 22 if count is None else 1 << 12
    rest, total = stream.read(piece), 0
    while rest.startswith(GZIP):
        part = zlib.decompressobj(wbits=31)
        while not part.eof:
            try:
                content = part.decompress(rest, piece)
            except zlib.error:
                if strict:
                    raise
                return
            total += len(content)
            yield content
            if count is not None and total >= count:
                return
            rest = part.unconsumed_tail or (b"" if part.eof else stream.read(piece))
            if not rest and not part.eof:
                if strict:
                    raise EOFError
                return
        rest = part.unused_data or stream.read(piece)
        if len(rest) == 1:
            rest += stream.read(piece)


def _check_kind(path: Path, start: bytes) -> None:
    """Names the kind of a file that is none of the images that are read."""
    what, hint = "", ""
    if not start:
        what, hint = "empty", _AGAIN
    elif start[:4] in ((540).to_bytes(4, "little"), (540).to_bytes(4, "big")):
        what, hint = "a NIfTI-2 file", _NIFTI_1
    elif path.name.lower().endswith((".mgz", ".mgh")):
        what, hint = ("a volume of FreeSurfer",
                      "Convert it first: mri_convert scan.mgz scan.nii.gz")
    elif _WEB_PAGE.match(start) and path.suffix.lower() != ".vti":
        what, hint = ("a web page, not an image",
                      "The download failed or needs a login: fetch the file again.")
    else:
        for begins, name, advice in _OTHERS:
            if start.startswith(begins):
                what, hint = name, advice
    if what:
        raise UnreadableImage(f"{path.name} is {what}.", hint)


def _check_header(path: Path, start: bytes) -> None:
    """Text headers within limits, and voxel files that lie beside them."""
    name = path.name.lower()
    if start.startswith(b"NRRD"):
        fields = _fields(path, ":")
        sizes, dimension = fields.get("sizes", ""), fields.get("dimension", "")
        _check_units(path, fields.get("space units", ""))
        axes = re.findall(r"\([^)]*\)", fields.get("space directions", ""))
    elif name.endswith(_META):
        fields = _fields(path, "=")
        sizes, dimension = fields.get("dimsize", ""), fields.get("ndims", "")
        axes = _rows(next((fields[key] for key in ("transformmatrix", "rotation", "orientation")
                           if key in fields), ""), dimension)
    else:
        if name.endswith(_PAIRS):
            _check_pair(path)
        return
    _check_sizes(path, sizes, dimension)
    _check_axes(path, axes)
    for other in _detached(path, fields):
        _check_part(path, other)


def _detached(path: Path, fields: Mapping[str, str]) -> list[str]:
    """The files with the voxels that a header names; none where they follow in its own file."""
    data = next((fields[key] for key in _DATA if key in fields), "")
    if not data or data.upper() == "LOCAL":
        return []
    listed = data.upper().startswith("LIST")
    return fields.get("listed files", "").split("\n") if listed else _named(path, data)


def _fields(path: Path, separator: str) -> dict[str, str]:
    """The fields of a text header, keys in lower case; "listed files": lines after the last."""
    with path.open("rb") as stream:
        text = stream.read(_MAX_HEADER_BYTES)
    fields: dict[str, str] = {}
    listed: list[str] | None = None
    lines = text.split(b"\n")
    for number, line in enumerate(lines):
        if number >= _MAX_HEADER_LINES:
            raise _absurd(path, "more lines than any scan needs")
        plain = line.decode("latin-1").strip()
        if listed is not None:
            listed.append(plain)
            continue
        if not plain and separator == ":":
            break  # the voxels of an NRRD file follow
        key, found, value = plain.partition(separator)
        key = key.strip().lower()
        if not found or (separator == ":" and value.startswith("=")):
            continue
        fields[key] = value.strip()
        if key in _DATA:
            if value.strip().upper().startswith("LIST"):
                listed = []
            elif key == "elementdatafile":
                break
    else:
        if len(text) >= _MAX_HEADER_BYTES:
            raise _absurd(path, "a header without an end")
    if listed is not None:
        if len(listed) > _MAX_FILES:
            raise _absurd(path, "more files than any scan has")
        fields["listed files"] = "\n".join(name for name in listed if name)
    return fields


def _rows(text: str, dimension: str) -> list[str]:
    """The axes in a matrix of MetaImage; none where it is not one of so many dimensions."""
    numbers = text.split()
    count = int(dimension) if dimension.isascii() and dimension.isdigit() else 0
    if not count or len(numbers) != count * count:
        return []
    return [" ".join(numbers[start : start + count]) for start in range(0, len(numbers), count)]


def _check_axes(path: Path, stated: list[str]) -> None:
    """Refuses axes that are no numbers, of no length, or in one plane or line."""
    axes = []
    for axis in stated:
        try:
            axes.append([float(number) for number in _NUMBER.findall(axis)])
        except ValueError:
            axes.append([math.nan])
    if any(not math.isfinite(number) for axis in axes for number in axis):
        raise _absurd(path, "axes that are not all numbers")
    if any(not any(axis) for axis in axes):
        raise _absurd(path, "an axis of no length")
    if len(axes) == 3 and all(len(axis) == 3 for axis in axes):
        (a, b, c), (d, e, f), (g, h, i) = axes
        volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
        if abs(volume) < _MIN_VOLUME * math.prod(math.hypot(*axis) for axis in axes):
            raise _absurd(path, "axes that lie in one plane or line")


def _check_units(path: Path, stated: str) -> None:
    units = [unit.lower() for unit in re.findall(r'"([^"]*)"', stated)]
    other = next((unit for unit in units if unit in _OTHER_LENGTHS), "")
    if other:
        raise UnreadableImage(
            f"The header of {path.name} states its lengths in {other} (space units), not in mm.",
            "Write the file again with lengths in mm, or correct the unit if they are in mm.")


def _check_sizes(path: Path, sizes: str, dimension: str) -> None:
    numbers = sizes.split()
    if dimension and (not re.fullmatch(r"\d{1,9}", dimension) or int(dimension) < 1):
        raise _absurd(path, f"“{dimension[:20]}” as its number of dimensions")
    if dimension and int(dimension) > _MAX_DIMENSIONS:
        raise NotAScalarVolume(f"The image has {dimension} dimensions; a scan has 3.",
                               "Pass one volume.")
    if not all(re.fullmatch(r"\d{1,9}", number) for number in numbers):
        raise _absurd(path, "a size that is no number of voxels")
    if dimension and len(numbers) != int(dimension):
        raise _absurd(path, f"{len(numbers)} sizes for {dimension} dimensions")
    axes = [int(number) for number in numbers]
    if any(n > _MAX_AXIS for n in axes) or math.prod(axes) > _MAX_VOXELS:
        raise _absurd(path, "more voxels than any scan has")


def files_of(path: Path) -> tuple[Path, Path]:
    """The file with the header and that with the voxels: two of a pair .hdr and .img, else one."""
    name = path.name.lower().removesuffix(".gz")
    if not name.endswith((".hdr", ".img")):
        return path, path
    stem = path.name[: len(name) - len(".hdr")]

    def either(suffix: str) -> Path:
        named = [path.with_name(stem + case(suffix + zipped))
                 for zipped in ("", ".gz") for case in (str.lower, str.upper)]
        return next((file for file in named if os.path.lexists(file)), named[0])

    return either(".hdr"), either(".img")


def all_files(path: Path) -> list[Path]:
    """Every file that a scan lies in: those in a folder and below it, a header and its voxels.

    Only headers whose names say that their voxels lie elsewhere are opened.

    Raises:
        OSError: the file or folder cannot be read.
    """
    if path.is_dir():  # the slices of a series may lie in folders below
        return sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    if path.name.lower().endswith(_DETACHED) and is_regular(path):
        try:
            separator = "=" if path.name.lower().endswith(_META) else ":"
            return [path, *(path.parent / name for name in _detached(path, _fields(path, separator))
                            if os.path.lexists(path.parent / name))]
        except UnreadableImage:  # who reads the scan will say so
            return [path]
    return sorted({file for file in (path, *files_of(path)) if os.path.lexists(file)}) or [path]


def file_states(path: Path) -> list[tuple[str, int, int]]:
    """Path, bytes and time of the last change (ns) of every file that a scan lies in.

    Raises:
        OSError: one cannot be read.
    """
    files = [(file, file.stat()) for file in all_files(path)]
    return [(str(file.absolute()), state.st_size, state.st_mtime_ns) for file, state in files]


def scan_mark(path: Path) -> str:
    """16 hexadecimal digits that tell a scan from others, wherever it lies and whatever its name.

    Made of the size, the first and the last 64 kB of its files, so that no scan is read whole: of
    zipped voxels the last bytes hold the checksum of all. A scan that was written anew, or zipped
    in another way, has another mark.

    Raises:
        OSError: a file cannot be read.
    """
    marks = []
    for file in all_files(path):
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            start = stream.read(_MARK_BYTES)
            stream.seek(max(0, size - _MARK_BYTES))
            marks.append(sha256(b"%d " % size + start + stream.read()).digest())
    return sha256(b"".join(sorted(marks))).hexdigest()[:16]


def _check_pair(path: Path) -> None:
    """The .img of a .hdr, or the other way round, is a file, too."""
    header, voxels = files_of(path)
    other = voxels if path.name.lower().removesuffix(".gz").endswith(".hdr") else header
    if not os.path.lexists(other):
        raise UnreadableImage(f"{other.name}, which belongs to {path.name}, is missing.",
                              "Put both files into one folder.")
    _check_part(path, other.name)


def _named(path: Path, data: str) -> list[str]:
    """The files that a header names: one, or a pattern with its first and last number and step."""
    if "%" not in data:
        return [data]
    parts = data.split()
    if (not re.fullmatch(r"[^%]*%0?\d{0,2}d[^%]*", parts[0]) or len(parts) < 4
            or not all(re.fullmatch(r"-?\d{1,7}", part) for part in parts[1:4])):
        raise _absurd(path, "a pattern of file names that cannot be read")
    first, last, step = (int(part) for part in parts[1:4])
    count = (last - first) // step + 1 if step else 0
    if not 0 < count <= _MAX_FILES:
        raise _absurd(path, "a pattern of too many or no files")
    return [parts[0] % number for number in range(first, last + (1 if step > 0 else -1), step)]


def _check_part(path: Path, name: str) -> None:
    """A voxel file that the header `path` names."""
    pure = [PurePosixPath(name), PureWindowsPath(name)]
    if (not name or "\0" in name or any(p.is_absolute() or ".." in p.parts for p in pure)
            or pure[1].drive):
        raise UnreadableImage(
            f"The header {path.name} names a file outside of its folder.",
            "Put the voxels beside the header, and correct the name in it.")
    part = path.parent / name
    if not os.path.lexists(part):
        raise UnreadableImage(
            f"The file {part.name}, which holds the voxels of {path.name}, is missing.",
            "Put it beside the header.")
    if not is_regular(part):
        raise UnreadableImage(
            f"The file {part.name}, which the header {path.name} names, is no regular file.",
            "Put the voxels themselves beside the header.")


def _absurd(path: Path, what: str) -> UnreadableImage:
    return UnreadableImage(f"The header of {path.name} states {what}.",
                           f"The file is damaged or not what it seems. {_AGAIN}")

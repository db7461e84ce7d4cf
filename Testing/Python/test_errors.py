"""What an exception means to the user."""

from __future__ import annotations

import errno
import re
import runpy
from pathlib import Path

import pytest
import torch

from DiffuGTSLib.errors import Cancelled, NoContent, explain, plain_text

PAGE_MAKER = Path(__file__).resolve().parents[1] / "errors_page.py"


def test_an_own_error_stays_itself() -> None:
    error = NoContent("The scan is empty.")
    assert explain(error) is error


@pytest.mark.parametrize(("error", "code"), [
    (OSError(errno.ENOSPC, "x"), "output-not-written"), (OSError(errno.EPERM, "x"), "internal"),
    (MemoryError(), "out-of-memory"), (torch.OutOfMemoryError("CUDA"), "out-of-memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out-of-memory"),
    (RuntimeError("sizes differ"), "internal"), (ZeroDivisionError(), "internal"),
    (ModuleNotFoundError("x", name="monai.networks"), "package-missing"),
    (Cancelled(), "cancelled"),
])
def test_every_exception_has_a_code_and_a_sentence(error: Exception, code: str) -> None:
    known = explain(error)
    assert known.code == code
    assert known.message.endswith(".")


def test_a_missing_package_is_named() -> None:
    assert "monai is missing" in explain(ModuleNotFoundError("x", name="monai.networks")).message


def test_a_mistake_names_file_and_line_but_no_folder() -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        hint = explain(error).hint
    assert hint.startswith("Report this: ZeroDivisionError in test_errors.py, line ")
    assert "/" not in hint


def test_the_way_out_of_lacking_memory_is_the_callers() -> None:
    assert explain(MemoryError(), "Use fewer processes.").hint == "Use fewer processes."


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENAMETOOLONG, "too long"), (errno.EACCES, "no permission to use scan.nrrd"),
    (errno.EROFS, "no permission to use scan.nrrd"), (errno.ENOENT, "scan.nrrd does not exist"),
    (errno.EISDIR, "scan.nrrd is a folder"), (errno.EIO, "scan.nrrd cannot be used: "),
])
def test_what_the_system_says_of_a_file_names_the_file_and_no_folder(
    number: int, words: str
) -> None:
    known = explain(OSError(number, "x", "/data/Patient Name/scan.nrrd"))
    assert known.code == "file-not-accessible"
    assert words in known.message
    assert "Patient" not in known.message


@pytest.mark.parametrize(("text", "plain"), [
    ("\x1b[31mred\x1b[0m", "red"), ("\x1b]0;title\x07x", "x"), ("a\nb\tc", "a b c"),
    ("\x1b]8;;http://x\x1b\\link", "link"), ("M\udcfcller", "M?ller"), ("a\u202eb\x9b1m", "ab1m"),
    ("Müller 患者: ok", "Müller 患者: ok"),
])
def test_no_text_reaches_the_terminal_as_a_code(text: str, plain: str) -> None:
    assert plain_text(text) == plain
    assert NoContent(text, text).hint == plain


def test_docs_errors_md_names_every_code() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text("utf-8")
    codes = re.findall(r"\| `([a-z-]+)` \| ", runpy.run_path(str(PAGE_MAKER))["page"]())
    assert len(set(codes)) > 30
    assert [code for code in codes if f"| `{code}` |" not in page] == []

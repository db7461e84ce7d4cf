"""What an exception means to the user."""

from __future__ import annotations

import errno

import pytest
import torch

from DiffuGTSLib.errors import Cancelled, NoContent, explain


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

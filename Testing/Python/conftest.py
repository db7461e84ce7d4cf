"""Fixtures that every test module may use."""

from __future__ import annotations

import locale
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.host_fixtures import host, opened, running_host

__all__ = ["host", "one_thread", "opened", "running_host", "shared_data"]

REPOSITORY = Path(__file__).resolve().parents[2]
# A shell starts what it puts into the background with Ctrl+C ignored, and children inherit that:
# tests that press Ctrl+C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans; DIFFUGTS_TEST_DATA, else ../shared/data beside the checkout."""
    folder = Path(os.environ.get("DIFFUGTS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "manifest.json").exists():
        pytest.skip("the real scans (DIFFUGTS_TEST_DATA or ../shared/data) are not here")
    return folder


@pytest.fixture(scope="session")
def shared_tumors(shared_data: Path) -> Path:
    """The folder of real scans with outlined tumors, beside that of `shared_data`."""
    folder = shared_data.parent / "tumors"
    if not (folder / "manifest.json").exists():
        pytest.skip("the real tumors (../shared/tumors) are not here")
    return folder


@pytest.fixture(scope="module")
def one_encoder() -> Iterator[None]:
    """The text encoder keeps what it has encoded; each training would begin with another one."""
    from DiffuGTSLib.networks.text_encoder import TextEncoder

    encoder = TextEncoder.from_package()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextEncoder, "from_package", lambda: encoder)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """This process, and those that it starts, compute with one thread until the end of the file.

    Other numbers of threads add up in another order: whoever compares voxels needs the same one
    on both sides.
    """
    import torch

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _the_library_stays_the_one_that_was_imported() -> Iterator[None]:
    """Slicer's "reload" imports the library anew; the next file's classes are those from before."""
    before = _library()
    yield
    if any(sys.modules.get(name) is not module for name, module in before.items()):
        for name in _library():
            del sys.modules[name]
        sys.modules.update(before)


@pytest.fixture(autouse=True, scope="module")
def _the_locale_stays_as_it_was() -> Iterator[None]:
    """Libraries in C change the locale of the process, and with it how the next file's tests decode
    what child processes print."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


def _library() -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items()
            if name.partition(".")[0] == "DiffuGTSLib"}

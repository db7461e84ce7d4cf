"""What the hub's client raises, in plain sentences; real downloads are in test_cli_models.py."""

from __future__ import annotations

import errno

import httpx2
import pytest
from huggingface_hub import errors

from DiffuGTSLib.errors import DiffuGTSError, DownloadFailed, ModelMissing
from DiffuGTSLib.models.catalogue import entry
from DiffuGTSLib.models.install import _plain_failures

FILE = entry("maisi-ct").files[0]


def answer(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", FILE.url))


@pytest.mark.parametrize(
    ("failure", "offline", "kind", "words"),
    [
        (errors.LocalEntryNotFoundError("x"), True, ModelMissing, "not in the hub's cache"),
        (errors.LocalEntryNotFoundError("x"), False, DownloadFailed, "could not be fetched"),
        (httpx2.ReadTimeout("x"), False, DownloadFailed, "could not be fetched"),
        (ConnectionResetError("x"), False, DownloadFailed, "could not be fetched"),
        (OSError(errno.ENOSPC, "x"), False, DownloadFailed, "disk is full"),
        (errors.GatedRepoError("x", response=answer(403)), False, DownloadFailed, "this account"),
        (errors.HfHubHTTPError("x", response=answer(401)), False, DownloadFailed, "this account"),
        (errors.HfHubHTTPError("x", response=answer(503)), False, DownloadFailed, "(503)"),
        (errors.RemoteEntryNotFoundError("x", response=answer(404)), False, DownloadFailed,
         "has no models/autoencoder_v1.pt"),
    ],
)  # fmt: skip
def test_each_failure_has_its_sentence(
    failure: Exception, offline: bool, kind: type[DiffuGTSError], words: str
) -> None:
    with pytest.raises(kind) as caught, _plain_failures(FILE, offline):
        raise failure
    assert words in caught.value.message
    assert caught.value.hint


def test_a_mistake_of_ours_is_not_called_a_network_failure() -> None:
    with pytest.raises(ZeroDivisionError), _plain_failures(FILE, False):
        raise ZeroDivisionError

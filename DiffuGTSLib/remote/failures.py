"""What went wrong, in words: why there is no connection, and what the other machine reports."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.remote.address import SSH_VARIABLE, Address

_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
# Errors that are about the machine, its models and its disk, and not about scan or prompt.
_OF_THE_MACHINE = frozenset((
    "device-missing", "model-missing", "model-damaged", "attention-missing", "package-missing",
    "out-of-memory", "output-not-written", "too-large", "internal"))


class NoConnection(DiffuGTSError):
    """The other machine cannot be reached over SSH."""

    code = "no-connection"


class HostKeyChanged(DiffuGTSError):
    """The other machine shows another host key than before."""

    code = "host-key-changed"


class HostKeyUnknown(DiffuGTSError):
    """This computer has never been connected to the other machine."""

    code = "host-key-unknown"


class KeyRefused(DiffuGTSError):
    """The other machine does not let the user in without a question."""

    code = "key-refused"


class ProgramMissing(DiffuGTSError):
    """There is no `diffugts` on the other machine, or it does not start."""

    code = "remote-program-missing"


class OtherVersion(DiffuGTSError):
    """The other machine has another version of DiffuGTS."""

    code = "remote-version"


class ConnectionLost(DiffuGTSError):
    """The connection has ended while it was needed."""

    code = "connection-lost"

    def __init__(self, address: Address) -> None:
        super().__init__(f"The connection to {address.host} is lost.",
                         "Run again once the network is there; the other side ends by itself.")


class RemoteError(DiffuGTSError):
    """An error of the worker on the other machine, as it reported it."""

    code = "remote-error"

    def __init__(self, event: Mapping[str, Any]) -> None:
        super().__init__(event["message"], event["hint"])
        self.code = str(event["code"])
        self.suggestions = tuple(event.get("suggestions", ()))


def named(error: Mapping[str, Any], address: Address) -> dict[str, Any]:
    """An error that the other machine reported, which names it where the error is about it."""
    message = error["message"]
    if error["code"] in _OF_THE_MACHINE:
        message = f"On {address.host}: {message}"
    return {**error, "message": message}


def failure_at_start(address: Address, lines: Sequence[str], code: int | None) -> DiffuGTSError:
    """Why ssh ended, or said nothing, before `diffugts` answered.

    Args:
        lines: of ssh's stderr, and of the other side's output.
        code: ssh's exit code; None where it had to be ended.
    """
    host, said = address.host, "\n".join(lines)
    if "IDENTIFICATION HAS CHANGED" in said:
        return HostKeyChanged(
            f"The host key of {host} has changed since the last connection.",
            "Ask who runs that computer whether that is right, before you connect again.")
    if "Host key verification failed" in said or "host key is known" in said:
        return HostKeyUnknown(
            f"This computer does not know {host} yet.",
            f"Connect once in a terminal and compare the key that it shows: {_ssh(host)}")
    if "Permission denied" in said and code == 255:
        return KeyRefused(
            f"{host} did not accept a key of this computer.",
            f"Set one up (ssh-copy-id {host}) or load it (ssh-add), until this asks for nothing: "
            f"{_ssh(host)}")
    if code == 255 or code is None:
        return _unreachable(host, said, lines)
    if code == _NOT_EXECUTABLE:
        return ProgramMissing(f"{address.program or 'diffugts'} on {host} is no program.",
                              f"Name the path of diffugts there: {host}:/path/to/bin/diffugts")
    if code == _NOT_FOUND or "not found" in said:
        return ProgramMissing(
            f"There is no program {address.program or 'diffugts'} on {host}.",
            "Install it there (pip install diffugts), or name its path: "
            f"{host}:/path/to/bin/diffugts")
    if "No such command" in said:
        return OtherVersion(
            f"The DiffuGTS on {host} is too old to be used from another computer.",
            f"Install the same there: pip install diffugts=={__version__}")
    if code == 0:
        return ProgramMissing(f"{address.program or 'diffugts'} on {host} is not DiffuGTS.",
                              f"Name the path of diffugts there: {host}:/path/to/bin/diffugts")
    return ProgramMissing(f"diffugts on {host} does not start: {_last(lines) or f'code {code}'}",
                          f"Run there: {address.program or 'diffugts'} doctor")


def _unreachable(host: str, said: str, lines: Sequence[str]) -> NoConnection:
    if "resolve hostname" in said:
        return NoConnection(f"There is no computer named {host}.",
                            "Check the name, and your ~/.ssh/config.")
    reasons = {"Connection refused": "it accepts no SSH connections",
               "timed out": "it does not answer", "No route to host": "it does not answer"}
    reason = next((text for words, text in reasons.items() if words in said), "")
    last = "" if "usage: ssh" in said else _last(lines)
    return NoConnection(f"{host} cannot be reached: {reason or last or 'no answer'}.",
                        f"Try in a terminal: {_ssh(host)}")


def other_version(address: Address, there: str, here: str) -> OtherVersion:
    """The two versions do not fit together."""
    return OtherVersion(
        f"{address.host} has DiffuGTS {there}, this computer {here}.",
        f"Install the same there: pip install diffugts=={here}")


def _ssh(host: str) -> str:
    """The command that the user would type."""
    return f"{os.environ.get(SSH_VARIABLE) or 'ssh'} {host}"


def _last(lines: Sequence[str]) -> str:
    return next((line.strip().rstrip(".") for line in reversed(lines) if line.strip()), "")

"""What is on another machine, for `diffugts remote check` and for the panel's Test.

    python -m DiffuGTSLib.remote.check HOST
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.remote.address import Address
from DiffuGTSLib.remote.connection import Connection

_DEVICE = re.compile(r"cuda:\d+|mps|device")


def look_at(host: str, report: Callable[[str], None] = lambda stage: None) -> dict[str, Any]:
    """Version, findings of `diffugts doctor`, devices and models of another machine.

    Args:
        host: see Address.parse.
        report: called with what is done next, in words.

    Returns:
        Plain values: host, version, healthy, findings (see doctor.Finding), devices (names of
        findings; those that can be given as `--device` are "cuda:N"), models (name, title, ready,
        modalities).

    Raises:
        DiffuGTSError: there is no connection, and why.

    Example:
        >>> look_at("gpu")["models"]    # doctest: +SKIP
    """
    address = Address.parse(host)
    report(f"Connecting to {address.host}")
    connection = Connection(address, lambda event: None)
    try:
        report("Connected; looking for devices and models there")
        found = connection.examine()
    finally:
        connection.close()
    findings = found["findings"]
    return {"host": str(address), "version": __version__, "healthy": bool(found["healthy"]),
            "findings": findings, "models": found["models"],
            "devices": [each["name"] for each in findings if _DEVICE.fullmatch(each["name"])]}


def main(arguments: Sequence[str] | None = None) -> int:
    """One JSON document on stdout: what was found, or {"error": {code, message, hint}}."""
    parser = argparse.ArgumentParser(prog="python -m DiffuGTSLib.remote.check",
                                     description=__doc__)
    parser.add_argument("host")
    try:
        document = look_at(parser.parse_args(arguments).host)
    except DiffuGTSError as error:
        document = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
    print(json.dumps(document))
    return 0 if document.get("healthy") else 1

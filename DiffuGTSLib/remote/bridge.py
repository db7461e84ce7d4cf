"""The panel's bridge: the worker's protocol here, a connection to another machine behind it.

    python -m DiffuGTSLib.remote --host HOST [--model NAME] [--device auto]

To 3D Slicer it is the worker (worker/protocol.py): the same requests and events, with files on this
machine. It needs no package but SSH's program.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence

from DiffuGTSLib.channel import Channel, ChannelClosed
from DiffuGTSLib.errors import DiffuGTSError
from DiffuGTSLib.remote.address import Address
from DiffuGTSLib.remote.connection import Connection, Event, print_log


class Bridge:
    """Passes requests to the connection and events back.

    Args:
        channel: to the panel.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def serve(self, address: Address, model: str, device: str) -> int:
        """Works until stdin closes or `quit` comes; returns the exit code.

        Where the connection ends this process ends, too, after the error event.

        Raises:
            DiffuGTSError: there is no connection.
        """
        connection = Connection(address, self._pass, print_log)
        try:
            connection.start(model, device)
            for line in self._channel.lines():
                try:
                    request = json.loads(line)
                    kind = request["type"]
                except (ValueError, KeyError, TypeError):
                    continue  # nobody but the panel writes here
                if kind == "quit":
                    break
                connection.request(request)
        finally:
            connection.close()
        return 0

    def _pass(self, event: Event) -> None:
        fields = dict(event)
        kind, job = fields.pop("type"), fields.pop("id", None)
        try:
            self._channel.send(kind, job, **fields)
        except ChannelClosed:
            return
        if kind == "error" and job is None:
            sys.stderr.flush()
            os._exit(1)  # the main thread waits for a line


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m DiffuGTSLib.remote --host HOST`."""
    parser = argparse.ArgumentParser(prog="python -m DiffuGTSLib.remote", description=__doc__)
    parser.add_argument("--host", required=True, help="[user@]host[:PROGRAM]")
    parser.add_argument("--model", default="embedded", help="name or folder on that machine")
    parser.add_argument("--device", default="auto", help="of that machine")
    options = parser.parse_args(arguments)
    channel = Channel()
    try:
        return Bridge(channel).serve(Address.parse(options.host), options.model, options.device)
    except KeyboardInterrupt:
        return 130
    except DiffuGTSError as error:
        with contextlib.suppress(ChannelClosed):
            channel.send_error(error)
        return 1

"""Denies a process every connection but those to this machine, and notes each attempt.

A folder with this file on PYTHONPATH is enough: Python imports it when it starts. The attempts are
appended to the file that NETWORK_LOG names.
"""

import os
import socket
import sys

_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def deny(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _EVENTS:
        return
    asked = arguments[0] if not isinstance(arguments[0], socket.socket) else arguments[1]
    host = asked[0] if isinstance(asked, tuple) else asked
    if isinstance(host, bytes):
        host = host.decode()
    if isinstance(host, str) and (host.startswith(("127.", "/", "\0", "::1")) or host in (
            "localhost", "")):
        return
    with open(os.environ["NETWORK_LOG"], "a", encoding="utf-8") as log:
        log.write(f"{event} {host}\n")
    raise OSError("no network in this test")


sys.addaudithook(deny)

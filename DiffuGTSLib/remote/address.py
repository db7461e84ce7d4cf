"""Which other machine, and how OpenSSH's own `ssh` is called for it.

Nothing here answers a question of ssh's: a password or an unknown host key is the user's own
business, in a terminal.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from DiffuGTSLib.errors import DiffuGTSError

SSH_VARIABLE = "DIFFUGTS_SSH"
CONNECT_SECONDS = 10
# An application's own libraries and Python would make the system's ssh fail.
_FOREIGN = ("LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES",
            "PYTHONHOME", "PYTHONPATH")
_OPTIONS = ("-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}",
            "-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=3",
            "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "-o", "LogLevel=INFO")
_HOST = re.compile(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_.][A-Za-z0-9_.-]*")
_URI = re.compile(r"(ssh://(?:[A-Za-z0-9_.][^@/\s]*@)?"
                  r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:]+\])(?::\d+)?)(/.*)?")
_MOST_INCLUDES = 16


class BadAddress(DiffuGTSError):
    """What was given is no name of another machine."""

    code = "bad-host"


class SshMissing(DiffuGTSError):
    """There is no program ssh on this computer."""

    code = "ssh-missing"


@dataclass(frozen=True)
class Address:
    """Another machine, and the program `diffugts` on it.

    Attributes:
        host: for ssh: a name of its configuration, `user@host`, or `ssh://user@host:port`.
        program: path of `diffugts` there; "" where it is on the path or in ~/.local/bin.
    """

    host: str
    program: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """From `[user@]host[:PROGRAM]` or `ssh://[user@]host[:port][/PROGRAM]`.

        Raises:
            BadAddress: it is neither.

        Example:
            >>> Address.parse("ada@gpu:/opt/diffugts/bin/diffugts")
            Address(host='ada@gpu', program='/opt/diffugts/bin/diffugts')
        """
        text = text.strip()
        if uri := _URI.fullmatch(text):
            host, program = uri[1], uri[2] or ""
        elif text.startswith("ssh://"):
            host = program = ""
        else:
            host, _, program = text.partition(":")
            if not _HOST.fullmatch(host):
                host = ""
        if not host or not program.isprintable():
            raise BadAddress(f"“{text}” is no name of a computer for SSH.",
                             "Give a name of your ~/.ssh/config, or user@host.")
        return cls(host, program)

    def __str__(self) -> str:
        if not self.program:
            return self.host
        return self.host + ("" if self.host.startswith("ssh://") else ":") + self.program

    def command(self, *arguments: str) -> list[str]:
        """The command that runs `diffugts` with these arguments there.

        Raises:
            SshMissing: there is no ssh here.
        """
        stated = os.environ.get(SSH_VARIABLE, "").strip()
        ssh = shlex.split(stated, posix=os.name != "nt") if stated else ["ssh"]
        program = shutil.which(ssh[0])
        if program is None:
            raise SshMissing("The program ssh is not installed on this computer.",
                             "Install OpenSSH's client; Windows has it among its features.")
        called = " ".join([_quoted(self.program or "diffugts"), *map(shlex.quote, arguments)])
        script = f'PATH="$PATH:$HOME/.local/bin"; export PATH; exec {called}'
        return [program, *ssh[1:], *_OPTIONS, "--", self.host, f"sh -c {shlex.quote(script)}"]


def _quoted(program: str) -> str:
    """For a POSIX shell, with ~ at its beginning left to it."""
    if program.startswith("~/"):
        return f'"$HOME"/{shlex.quote(program[2:])}'
    return shlex.quote(program)


def environment() -> dict[str, str]:
    """The environment for ssh: this process's, without what an application has put into it."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return kept | {"LC_ALL": "C"}  # its messages are read; see failures.py


def configured_hosts(config: Path | None = None) -> list[str]:
    """The names of the user's SSH configuration that are no patterns, in its order.

    Args:
        config: the file; ~/.ssh/config if not given. Its includes are read, too.
    """
    path = config or Path.home() / ".ssh" / "config"
    return list(dict.fromkeys(_names(path, _MOST_INCLUDES)))


def _names(path: Path, depth: int) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        key, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        try:
            words = shlex.split(rest, comments=True)
        except ValueError:
            continue
        if key.lower() == "host":
            yield from (word for word in words if _HOST.fullmatch(word))
        elif key.lower() == "include" and depth:
            for word in words:
                pattern = Path(word).expanduser()
                base = pattern if pattern.is_absolute() else path.parent / pattern
                with_glob = sorted(base.parent.glob(base.name))
                for each in with_glob:
                    yield from _names(each, depth - 1)

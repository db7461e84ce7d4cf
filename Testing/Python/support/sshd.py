"""A real SSH server on this machine's loopback, with keys of its own, for tests and benchmarks."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
SECONDS = 20.0
RUN = f'exec {shlex.quote(sys.executable)} -m DiffuGTSLib.cli "$@"'
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
CLIENT = shutil.which("ssh")


class SshServer:
    """An sshd that lets this user in with a throw-away key.

    Args:
        folder: for its files.

    Attributes:
        host: the name under which `command` knows it.
        command: for DIFFUGTS_SSH: ssh with a configuration of its own.
        program: a `diffugts` for the other side; its cache is in the folder.
        cache: that the other side uses.
    """

    host = "gpu"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "far cache"
        self.port = _free_port()
        for name in ("host", "user", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name],
                           check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        self.trust("host")
        self.config = folder / "config"
        self.config.write_text(
            f"Host {self.host}\n  HostName 127.0.0.1\n  Port {self.port}\n"
            f"  User {getpass.getuser()}\n  IdentityFile {folder / 'user'}\n"
            f"  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known'}\n"
            "  GlobalKnownHostsFile /dev/null\n")
        self.command = f"{CLIENT} -F {shlex.quote(str(self.config))}"
        self.program = folder / "diffugts"
        self.install(RUN)
        self._process = self._start()

    @property
    def address(self) -> str:
        """For --host; the host alone finds the same program on its path."""
        return f"{self.host}:{self.program}"

    def install(self, script: str, name: str = "diffugts", cache: str = "far cache") -> str:
        """Puts a program on the other side and returns its address."""
        path = self.folder / name
        given = os.environ.get("OMP_NUM_THREADS")
        threads = f"export OMP_NUM_THREADS={given}\n" if given else ""
        path.write_text(
            f"#!/bin/sh\n{threads}export PYTHONPATH={shlex.quote(str(REPOSITORY))}\n"
            f"export DIFFUGTS_CACHE={shlex.quote(str(self.folder / cache))}\n{script}\n")
        path.chmod(0o755)
        return f"{self.host}:{path}"

    def trust(self, key: str) -> None:
        """The client expects this host key."""
        public = (self.folder / f"{key}.pub").read_text().split()[:2]
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {' '.join(public)}\n")

    def sessions(self) -> list[Path]:
        """The folders that relays have at the moment."""
        folder = self.cache / "remote"
        return list(folder.iterdir()) if folder.is_dir() else []

    def kill_connections(self) -> None:
        """Cuts all connections, as a network does: the server's processes for them are killed."""
        for child in _children(self._process.pid):
            os.kill(child, signal.SIGKILL)

    def stop(self) -> None:
        self.kill_connections()
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        settings = self.folder / "sshd_config"
        settings.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized'}\nStrictModes no\nUsePAM no\n"
            f"PidFile {self.folder / 'pid'}\nPasswordAuthentication no\n"
            "PermitRootLogin yes\nSubsystem sftp internal-sftp\n"
            f"SetEnv PATH={self.folder}:/usr/local/bin:/usr/bin:/bin\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        process = subprocess.Popen(
            [SSHD, "-D", "-f", settings, "-E", self.folder / "log"], stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return process
            time.sleep(0.05)
        process.kill()
        raise RuntimeError((self.folder / "log").read_text())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(process: int) -> list[int]:
    """Descendants of the server that belong to sshd."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True,
                            check=True).stdout.split("\n")
    rows = [line.split(None, 2) for line in listed if line.strip()]
    tree = [process]
    for parent in tree:
        tree += [int(pid) for pid, ppid, name in rows if int(ppid) == parent and "sshd" in name]
    return tree[1:][::-1]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """The server of a test file; skipped where there is no OpenSSH."""
    if SSHD is None or CLIENT is None:
        pytest.skip("needs OpenSSH's sshd and ssh (Debian: openssh-server, openssh-client)")
    server = SshServer(tmp_path_factory.mktemp("sshd"))
    with pytest.MonkeyPatch.context() as patch:  # for commands of this process and its children
        patch.setenv("DIFFUGTS_SSH", server.command)
        yield server
    server.stop()


@pytest.fixture
def gpu(sshd):
    """The server, trusted; nothing may be left on it at the end."""
    sshd.trust("host")
    yield sshd
    deadline = time.monotonic() + SECONDS
    while sshd.sessions() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert sshd.sessions() == []

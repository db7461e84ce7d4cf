"""What runs on the other machine: it hands requests and scans to a worker there, results back.

    diffugts remote relay

It is started over SSH by connection.py and talks on stdin and stdout as frames.py describes. No
port is opened. Its messages out: `hello` (protocol, version) at once; `event` with an event of the
worker, in which {"file": NAME} stands for a volume that was sent before; `incoming` (job, bytes)
before such files; `examined`; `failed` (code, message, hint) before it ends; `alive`. Messages in:
`start` (model, device), `request` with a request of the worker, in which {"file": NAME, "suffix":
SUFFIX} stands for a file that was received; `forget` (name); `examine`; `alive`.

All files lie in one folder of its own, which only the user may read; it goes at the end, and a
folder that a killed relay left goes when the next one starts. Whatever happens to the connection,
the relay and its worker end within ten seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.channel import lower_priority
from DiffuGTSLib.errors import DiffuGTSError, OutputNotWritten, explain
from DiffuGTSLib.files import session_folder
from DiffuGTSLib.remote.frames import (
    FrameReader,
    FrameWriter,
    Message,
    StreamDamaged,
    StreamEnded,
    is_file_name,
    widen,
)

PROTOCOL = 1
HELLO = b'{"type": "hello"'
ALIVE_SECONDS = 2.0
SILENCE_SECONDS = 8.0
VOLUMES = ("mask", "attention", "candidates", "pseudo_healthy", "residual", "uncertainty",
           "probability")
# Of volumes in one file; their name is the program's own.
SUFFIXES = (".nrrd", ".nii.gz", ".nii", ".mha")
_LIBRARY = Path(__file__).resolve().parents[2]
_EXAMINE_SECONDS = 240.0


class RelayFolder:
    """The relay's own folder: files that came, and the folders of the worker's jobs."""

    def __init__(self) -> None:
        self.path = session_folder("remote")

    def file(self, name: str) -> Path:
        """Where a file that comes is put; frames.py has checked its name."""
        return self.path / "files" / name

    def volume(self, name: str, suffix: str) -> Path:
        """The same file with the suffix that tells readers its format."""
        path = self.file(name).with_name(name + suffix)
        if suffix in SUFFIXES and self.file(name).is_file():
            self.file(name).replace(path)
        return path

    def forget(self, name: str) -> None:
        """Removes a file that came."""
        for path in (self.file(name), *(self.file(name + suffix) for suffix in SUFFIXES)):
            path.unlink(missing_ok=True)

    def job(self, number: int) -> Path:
        """The folder of a job."""
        return self.path / f"job-{number}"

    def remove(self) -> None:
        """Removes all of it."""
        shutil.rmtree(self.path, ignore_errors=True)


class Relay:
    """Between the connection and the worker.

    Args:
        source, sink: the connection's two streams, unbuffered.
    """

    def __init__(self, source: Any, sink: Any) -> None:
        self._folder = RelayFolder()
        self._reader = FrameReader(source, self._folder.file)
        self._writer = FrameWriter(sink)
        self._children: list[subprocess.Popen[bytes]] = []  # the worker first, if there is one
        self._ending = threading.Lock()
        self._ended_by = 0
        self._jobs = 0

    def serve(self) -> int:
        """Works until the connection ends; does not return before everything is removed."""
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda *_arguments: self.end())
        threading.Thread(target=self._live, daemon=True).start()
        try:
            self._writer.send({"type": "hello", "protocol": PROTOCOL, "version": __version__})
            for message in self._reader.messages():
                self._take(message)
        except (StreamEnded, StreamDamaged):
            pass
        except Exception as error:
            self._fail(explain(error))
        finally:
            self.end()
        return 0

    def end(self, code: int = 0) -> None:
        """Ends the worker, removes the folder and ends this process."""
        if not self._ending.acquire(blocking=False):
            while self._ended_by != threading.get_ident():  # another thread ends the process
                time.sleep(ALIVE_SECONDS)
            return  # a signal while this thread is at it
        self._ended_by = threading.get_ident()
        for child in self._children:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        self._folder.remove()
        os._exit(code)

    def _live(self) -> None:
        """Says that this side lives, and ends it when the other one is silent."""
        while self._reader.silence < SILENCE_SECONDS:
            threading.Thread(target=self._say_alive, daemon=True).start()  # may block: own thread
            time.sleep(ALIVE_SECONDS / 2)
        self.end()

    def _say_alive(self) -> None:
        with contextlib.suppress(StreamEnded):
            self._writer.send({"type": "alive"})

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "start":
            self._start(str(message["model"]), str(message["device"]))
        elif kind == "request":
            self._request(message["request"])
        elif kind == "forget":
            if is_file_name(message["name"]):
                self._folder.forget(message["name"])
        elif kind == "examine":
            threading.Thread(target=self._examine, daemon=True).start()
        elif kind == "received" and message["failed"]:
            raise OutputNotWritten("The scan could not be stored.",
                                   "Free some space on its disk.")

    def _examine(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-m", "DiffuGTSLib.doctor", "--json"], stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL, start_new_session=True, env=_environment())
        self._children.append(child)
        try:
            report = json.loads(child.communicate(timeout=_EXAMINE_SECONDS)[0])
        except (subprocess.TimeoutExpired, ValueError):
            finding = {"name": "doctor", "state": "missing", "found": "gave no answer",
                       "advice": "Run there: diffugts doctor"}
            report = {"healthy": False, "findings": [finding]}
        with contextlib.suppress(StreamEnded):
            self._writer.send({"type": "examined", **report, "models": _models()})

    def _start(self, model: str, device: str) -> None:
        """Starts the worker; it is this process's own group, so that all of it can be ended."""
        child = subprocess.Popen(
            [sys.executable, "-m", "DiffuGTSLib.worker", "--model", model, "--device", device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env=_environment())
        self._children.insert(0, child)
        threading.Thread(target=self._pass_events, args=(child,), daemon=True).start()

    def _request(self, request: dict[str, Any]) -> None:
        """Hands a request to the worker, with the paths that its files have here."""
        for field in ("image", "within"):
            if request.get(field) is not None:
                name, suffix = request[field]["file"], request[field]["suffix"]
                if not is_file_name(name) or suffix not in SUFFIXES:
                    raise StreamDamaged
                request[field] = str(self._folder.volume(name, suffix))
        if request.get("type") in ("segment", "threshold"):
            self._jobs += 1
            request["folder"] = str(self._folder.job(self._jobs))
        stdin = self._children[0].stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # its end is noticed at its output
            stdin.write(json.dumps(request).encode("ascii") + b"\n")
            stdin.flush()

    def _pass_events(self, child: subprocess.Popen[bytes]) -> None:
        """Sends what the worker reports, on a thread of its own; ends with it."""
        assert child.stdout is not None
        try:
            for line in child.stdout:
                self._pass(json.loads(line))
            code = child.wait()
            self._writer.send({"type": "ended", "code": code})
        except (StreamEnded, ValueError):
            pass
        self.end()

    def _pass(self, event: dict[str, Any]) -> None:
        paths = {name: Path(event[name]) for name in VOLUMES if isinstance(event.get(name), str)}
        if paths:
            total = sum(path.stat().st_size for path in paths.values())
            self._writer.send({"type": "incoming", "job": event["id"], "bytes": total,
                               "files": {path.stem: path.stem for path in paths.values()}})
        for name, path in paths.items():
            self._writer.send_file(path, path.stem)
            path.unlink(missing_ok=True)
            event[name] = {"file": path.stem}
        if event.get("code") == OutputNotWritten.code:
            event |= {"message": "The result could not be written on the other machine.",
                      "hint": "Free some space there, or set DIFFUGTS_CACHE to another folder."}
        self._writer.send({"type": "event", "event": event})

    def _fail(self, error: DiffuGTSError) -> None:
        with contextlib.suppress(StreamEnded):
            self._writer.send({"type": "failed", "code": error.code, "message": error.message,
                               "hint": error.hint})


def _environment() -> dict[str, str]:
    """Of the children: they find the library from anywhere."""
    paths = (str(_LIBRARY), os.environ.get("PYTHONPATH"))
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _models() -> list[dict[str, Any]]:
    """The models that are installed on this machine."""
    from DiffuGTSLib.models.store import describe_models

    return [{"name": each["name"], "title": each["title"], "ready": each["ready"],
             "modalities": list(each["modalities"])}
            for each in describe_models()["models"] if each["installed"]]


def run_relay() -> int:
    """Runs the relay on this process's stdin and stdout; returns the exit code."""
    source, sink = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    widen(source)
    os.dup2(2, 1)  # what anything prints goes to stderr
    lower_priority()
    try:
        relay = Relay(source, sink)
    except DiffuGTSError as error:
        print(error.message, error.hint, file=sys.stderr)
        return 1
    return relay.serve()

"""The connection to a worker on another machine: its end on this one.

It takes the worker's requests and gives its events (worker/protocol.py), with paths of files on
this machine in both. What lies between is this module's: volumes are sent before they are needed,
each once, and received before the event that names them.
"""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from DiffuGTSLib import __version__
from DiffuGTSLib.channel import Id, Throttle
from DiffuGTSLib.errors import Cancelled, DiffuGTSError, InvalidOption, OutputNotWritten
from DiffuGTSLib.remote.address import CONNECT_SECONDS, Address, environment
from DiffuGTSLib.remote.failures import (
    ConnectionLost,
    RemoteError,
    failure_at_start,
    named,
    other_version,
)
from DiffuGTSLib.remote.frames import (
    FrameReader,
    FrameWriter,
    Message,
    StreamDamaged,
    StreamEnded,
    is_file_name,
)
from DiffuGTSLib.remote.relay import ALIVE_SECONDS, HELLO, PROTOCOL, SUFFIXES, VOLUMES

SILENCE_SECONDS = 10.0
# Scans that stay on the other side: the worker keeps one encoded, and a user goes back and forth.
KEPT_SCANS = 2
# Of a job's progress: sending comes before the worker's own part, the maps' way back after it.
SENDING, RECEIVING = 0.1, 0.05
_START_SECONDS = 60.0
_EXAMINE_SECONDS = 300.0
_CLOSE_SECONDS = 5.0
_SECONDS_BETWEEN_EVENTS = 0.2
_ERROR_LINES = 40
Event = dict[str, Any]
OnEvent = Callable[[Event], None]


@dataclass
class _Job:
    """A request on its way.

    Attributes:
        folder: for its files here.
        cancelled: a cancel was requested while its scan was being sent.
        sent: it has been handed to the worker.
    """

    id: Id
    folder: Path
    prompts: list[str]
    cancelled: bool = False
    sent: bool = False
    files: dict[str, Path] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)
    expected: int = 0
    received: int = 0
    region: str = ""
    fraction: float = 0.0
    index: int = 0
    throttle: Throttle = field(default_factory=lambda: Throttle(_SECONDS_BETWEEN_EVENTS))


class Connection:
    """A connection, and the relay at its other end. `close` it.

    Args:
        address: of the other machine.
        on_event: called with each event of the worker, from a thread of this connection; last with
            an error whose id is None, where the connection ends without `close`.
        on_log: called with each line that the worker's libraries print.

    Raises:
        DiffuGTSError: there is no connection; see failures.py. None is left open then.
    """

    def __init__(
        self, address: Address, on_event: OnEvent,
        on_log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.address = address
        self._on_event, self._on_log = on_event, on_log
        self._lines: deque[str] = deque(maxlen=_ERROR_LINES)
        self._greeted, self._closed = False, threading.Event()
        self._scans: OrderedDict[tuple[Any, ...], str] = OrderedDict()
        self._jobs: dict[Id, _Job] = {}
        self._incoming: _Job | None = None
        self._numbers = 0
        self._lock = threading.Lock()
        self._outgoing: queue.Queue[Event | None] = queue.Queue()
        self._examined: queue.Queue[Message] = queue.Queue()
        self._errors = threading.Thread(target=self._read_errors, daemon=True)
        self._process = subprocess.Popen(
            address.command("remote", "relay"), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment(), bufsize=0,
            start_new_session=True,  # Ctrl+C is for this program, which ends the connection
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._writer = FrameWriter(self._process.stdin)  # type: ignore[arg-type]
            self._reader = FrameReader(self._process.stdout, self._path_of)
            self._errors.start()
            self._greet()
            for work in (self._read, self._send_all, self._live):
                threading.Thread(target=work, daemon=True).start()
        except BaseException:  # Ctrl+C may come at any time
            self._end()
            raise

    # Requests ------------------------------------------------------------------------------------

    def start(self, model: str, device: str) -> None:
        """Starts the worker there; its `ready` event, or an error without id, follows.

        Args:
            model: a name of the other machine's catalogue, or a folder there.
            device: of the other machine.
        """
        self._tell({"type": "start", "model": model, "device": device})

    def request(self, request: Event) -> None:
        """Sends a request of the worker's protocol, with paths of this machine.

        Its scan is sent before it, unless the other side has it already. A cancel goes ahead of
        everything else.
        """
        kind, job = request.get("type"), request.get("id")
        if kind == "cancel":
            self._cancel(request)
            return
        if kind in ("segment", "threshold") and job is not None:
            prompts = request.get("prompt", [])
            with self._lock:
                self._jobs[job] = _Job(job, Path(request["folder"]),
                                       [prompts] if isinstance(prompts, str) else list(prompts))
        self._outgoing.put(request)

    def examine(self) -> Message:
        """What is installed there, its devices and models.

        Raises:
            ConnectionLost: it ended meanwhile, or gave no answer.
        """
        self._tell({"type": "examine"})
        try:
            answer = self._examined.get(timeout=_EXAMINE_SECONDS)
        except queue.Empty:
            answer = {"type": "lost"}
        if answer["type"] == "lost":
            raise ConnectionLost(self.address)
        return answer

    def close(self) -> None:
        """Ends the connection; the other side ends the worker and removes its files."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._outgoing.put(None)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._end()
        self._reader.close()

    @property
    def running(self) -> bool:
        """Whether there still is a connection."""
        return not self._closed.is_set() and self._process.poll() is None

    # The beginning -------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Waits for the relay's first message."""
        timer = threading.Timer(CONNECT_SECONDS + _START_SECONDS, self._process.kill)
        timer.start()
        try:
            before = self._reader.skip_to(HELLO)
            hello = next(self._reader.messages())
        except (StreamEnded, StreamDamaged, StopIteration) as ended:
            timer.cancel()
            code = self._process.wait()
            self._errors.join(1.0)
            said = [*str(ended).splitlines(), *self._lines]
            raise failure_at_start(self.address, said, None if code < 0 else code) from None
        finally:
            timer.cancel()
        for line in before.decode("utf-8", "replace").splitlines():
            self._on_log(line)
        if hello.get("protocol") != PROTOCOL or hello.get("version") != __version__:
            raise other_version(self.address, str(hello.get("version")), __version__)
        self._greeted = True

    def _end(self) -> None:
        """Ends ssh at once."""
        self._closed.set()
        self._process.kill()
        self._process.wait()

    def _read_errors(self) -> None:
        """What ssh says before the relay answers is looked at, what comes later is the log."""
        assert self._process.stderr is not None
        rest = b""
        while data := self._process.stderr.read(1 << 14):
            *lines, rest = (rest + data).split(b"\n")
            for each in lines:
                line = each.decode("utf-8", "replace").strip()
                if self._greeted and line:
                    self._on_log(line)
                else:
                    self._lines.append(line)

    # Sending -------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        """Sends one request after the other, each after its files."""
        while (request := self._outgoing.get()) is not None:
            job = self._jobs.get(request.get("id"))  # type: ignore[arg-type]
            try:
                self._send(request, job)
            except Cancelled:
                if job is not None:
                    self._finish(job, {"type": "cancelled", "id": job.id})
            except (OSError, InvalidOption) as problem:
                error = problem if isinstance(problem, DiffuGTSError) else OutputNotWritten(
                    "The scan's file cannot be read any more.", "Run again.")
                if job is not None:
                    self._finish(job, _error(error, job.id))
            except StreamEnded:
                return  # the reading side notices, too

    def _send(self, request: Event, job: _Job | None) -> None:
        request = dict(request)
        if job is not None and request["type"] == "segment":
            within = request.get("within")
            image = Path(request["image"])
            suffix = _suffix(image)
            if within:
                job.region = self._name("region")
                request["within"] = {"file": job.region, "suffix": _suffix(Path(within))}
                self._writer.send_file(Path(within), job.region)
            request["image"] = {"file": self._scan(image, job), "suffix": suffix}
        if job is not None:
            request["folder"] = "-"  # the relay's own
        with self._lock:  # a cancel comes before it, or after it
            if job is not None and job.cancelled:
                raise Cancelled
            self._writer.send({"type": "request", "request": request})
            if job is not None:
                job.sent = True

    def _scan(self, path: Path, job: _Job) -> str:
        """The name that a scan has on the other side, where it is sent unless it lies there."""
        state = path.stat()
        key = (str(path.absolute()), state.st_size, state.st_mtime_ns)
        if key in self._scans:
            self._scans.move_to_end(key)
            return self._scans[key]
        while len(self._scans) >= KEPT_SCANS:
            self._writer.send({"type": "forget", "name": self._scans.popitem(last=False)[1]})
        name = self._name("scan")

        def on_piece(done: int, size: int) -> None:
            if job.cancelled:
                raise Cancelled
            self._report(job, "sending", done, size, SENDING * done / size)

        self._report(job, "sending", 0, state.st_size, 0.0)
        self._writer.send_file(path, name, on_piece)
        self._scans[key] = name
        return name

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}-{self._numbers}"

    def _cancel(self, request: Event) -> None:
        with self._lock:
            job = self._jobs.get(request["id"])
            if job is not None:
                job.cancelled = True
            sent = job is not None and job.sent
        if sent:
            self._tell({"type": "request", "request": request})

    def _tell(self, message: Message) -> None:
        with contextlib.suppress(StreamEnded):
            self._writer.send(message)

    # Receiving -----------------------------------------------------------------------------------

    def _read(self) -> None:
        """Reads to the end of the connection; then there is no worker any more."""
        failure: DiffuGTSError = ConnectionLost(self.address)
        try:
            for message in self._reader.messages():
                if message["type"] == "failed":
                    failure = RemoteError(named(message, self.address))
                elif message["type"] == "ended":
                    failure = _worker_ended(message["code"])
                else:
                    self._take(message)
        except StreamDamaged as damaged:
            failure = damaged
        except StreamEnded:
            pass
        except (KeyError, TypeError, ValueError, AttributeError):
            failure = StreamDamaged()
        self._examined.put({"type": "lost"})
        if not self._closed.is_set():
            self._process.kill()
            self._on_event(_error(failure, None))

    def _take(self, message: Message) -> None:
        kind = message["type"]
        if kind == "incoming":
            self._expect(message)
        elif kind == "receiving" or kind == "received":
            self._received(message)
        elif kind == "examined":
            self._examined.put(message)
        elif kind == "event":
            self._event(message["event"])

    def _expect(self, message: Message) -> None:
        """Files of a job follow; those of one that is gone are dropped."""
        job = self._incoming = self._jobs.get(message["job"])
        if not all(map(is_file_name, message["files"])):
            raise StreamDamaged
        if job is not None:
            job.files = {name: job.folder / f"{name}.nrrd" for name in message["files"]}
            job.expected, job.received = message["bytes"], 0

    def _path_of(self, name: str) -> Path | None:
        job = self._incoming
        return None if job is None or job.cancelled else job.files.get(name)

    def _received(self, message: Message) -> None:
        job = self._incoming
        if job is None:
            return
        if message["type"] == "received":
            if message["failed"]:
                self._give_up(job)
                return
            job.arrived.add(message["name"])
            job.received += _size(message["path"])
            done = job.received
        else:
            done = job.received + message["done"]
        if not job.cancelled and job.fraction >= 1 - RECEIVING - 1e-6:
            fraction = 1 - RECEIVING * (1 - done / max(1, job.expected))
            self._report(job, "receiving", done, job.expected, fraction)

    def _give_up(self, job: _Job) -> None:
        """The disk here is full: the job cannot go on."""
        job.cancelled = True
        self._tell({"type": "request", "request": {"type": "cancel", "id": job.id}})
        self._finish(job, _error(OutputNotWritten(
            "The result could not be written on this computer.",
            "Free some space on the disk for temporary files."), job.id))

    def _event(self, event: Event) -> None:
        """Passes an event of the worker on, with the paths that its files have here."""
        if event["type"] == "error":
            event = named(event, self.address)
        if event["id"] is None or event["type"] == "ready":
            self._on_event(event)
            return
        job = self._jobs.get(event["id"])
        if job is None:
            return
        if event["type"] == "progress":
            job.index, own = event["index"], event["fraction"]
            event["fraction"] = round(SENDING + (1 - SENDING - RECEIVING) * own, 4)
            event["fraction"] = job.fraction = max(job.fraction, event["fraction"])
        if event["type"] in ("result", "preview") and job.cancelled:
            if event["type"] == "result" and event["index"] == event["count"] - 1:
                self._finish(job, {"type": "cancelled", "id": job.id})
            return
        for name in VOLUMES:
            if name in event:
                event[name] = _arrived(job, event[name])
        if event["type"] in ("error", "cancelled") or (
                event["type"] == "result" and event["index"] == event["count"] - 1):
            self._finish(job, event)
        else:
            self._on_event(event)

    def _finish(self, job: _Job, event: Event) -> None:
        """The last event of a job."""
        with self._lock:
            self._jobs.pop(job.id, None)
        if self._incoming is job:
            self._incoming = None
        if job.region:
            self._tell({"type": "forget", "name": job.region})
        self._on_event(event)

    def _report(self, job: _Job, stage: str, done: int, total: int, fraction: float) -> None:
        job.fraction = max(job.fraction, round(fraction, 4))
        if job.throttle.passes(stage, done, total):
            prompt = job.prompts[job.index] if job.index < len(job.prompts) else None
            self._on_event({
                "type": "progress", "id": job.id, "index": job.index, "prompt": prompt,
                "stage": stage, "done": done, "total": total, "fraction": job.fraction,
                "seconds_left": None})

    # Life ----------------------------------------------------------------------------------------

    def _live(self) -> None:
        """Says that this side lives, and ends the connection when the other one is silent."""
        while not self._closed.wait(ALIVE_SECONDS / 2):
            threading.Thread(target=self._tell, args=({"type": "alive"},), daemon=True).start()
            if self._reader.silence > SILENCE_SECONDS:
                self._process.kill()  # at which the reading side reports it
                return


def _arrived(job: _Job, reference: object) -> str:
    """The path of a volume of a job: the other side names files, never paths.

    Raises:
        StreamDamaged: no such file has come for this job.
    """
    name = reference.get("file") if isinstance(reference, dict) else None
    if not isinstance(name, str) or name not in job.files or name not in job.arrived:
        raise StreamDamaged
    return str(job.files[name].absolute())


def _suffix(path: Path) -> str:
    """Of a volume's file, by which readers know its format.

    Raises:
        InvalidOption: it is no volume in one file.
    """
    suffix = next((each for each in SUFFIXES if path.name.lower().endswith(each)), None)
    if suffix is None or not path.is_file():
        raise InvalidOption("image", f"one file ({', '.join(SUFFIXES)}), to be sent")
    return suffix


def _size(path: Path | None) -> int:
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:
        return 0


def _error(error: DiffuGTSError, job: Id | None) -> Event:
    return {"type": "error", "id": job, "code": error.code, "message": error.message,
            "hint": error.hint, "suggestions": list(getattr(error, "suggestions", ()))}


def _worker_ended(code: int) -> DiffuGTSError:
    from DiffuGTSLib.errors import WorkerDied

    reason = f"signal {-code}" if code < 0 else f"exit code {code}"
    return WorkerDied(f"The background process on the other machine ended ({reason}).",
                      "Memory may have run out there: choose a region, or a smaller scan.")


def print_log(line: str) -> None:
    """For `on_log`: the line on stderr."""
    print(line, file=sys.stderr, flush=True)

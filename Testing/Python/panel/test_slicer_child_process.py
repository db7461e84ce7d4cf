"""Child processes, with real ones: lines, exits, process trees, other Pythons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.slicer_side import REPOSITORY, alive, slicer_side

__all__ = ["slicer_side"]

pytestmark = pytest.mark.usefixtures("slicer_side")
SECONDS = 60.0
STUBBORN = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


class Output:
    def __init__(self):
        self.out, self.err, self.exits = [], [], []

    def start(self, code, *arguments, program=sys.executable):
        from DiffuGTSPanel.process.ChildProcess import ChildProcess
        from DiffuGTSPanel.process.LibraryLauncher import Launch

        launch = Launch(program, ("-c", code, *arguments), dict(os.environ))
        child = ChildProcess(launch, onOut=self.out.append, onErr=self.err.append,
                             onEnded=self.exits.append)
        child.start()
        return child


def test_lines_arrive_whole_whatever_the_pieces(host):
    output = Output()
    output.start("""
import sys, time
for byte in "scän 患者\\n".encode():
    sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(0.01)
sys.stdout.buffer.write(b"second\\nlast without an end")
sys.stderr.write("10%\\r20%\\r"); sys.exit(3)
""")
    host.until(lambda: output.exits, SECONDS)
    assert output.out == ["scän 患者", "second", "last without an end"]
    assert output.err == ["10%", "20%"]
    assert (output.exits[0].kind, output.exits[0].code) == ("ended", 3)
    assert output.exits[0].errorLines == ("10%", "20%")


def test_a_missing_program_is_reported_once(host):
    output = Output()
    output.start("", program="/no/such/program")
    host.until(lambda: output.exits, SECONDS)
    host.process()
    assert [each.kind for each in output.exits] == ["not-started"]


def test_a_killed_process_is_distinguished_from_one_that_ends(host):
    output = Output()
    child = output.start("import time; time.sleep(600)")
    host.until(lambda: child.processId > 0, SECONDS)
    os.kill(child.processId, 9)
    host.until(lambda: output.exits, SECONDS)
    assert (output.exits[0].kind, output.exits[0].code) == ("killed", 9)
    assert output.exits[0].reason == "signal 9"


def test_slicers_launcher_hides_what_killed_python(host):
    from DiffuGTSPanel.process.ChildProcess import processTree
    from DiffuGTSPanel.process.LibraryLauncher import slicersPython

    output = Output()
    child = output.start("import time; print(1, flush=True); time.sleep(600)",
                         program=slicersPython())
    host.until(lambda: output.out, SECONDS)
    os.kill(processTree(child.processId)[1], 9)
    host.until(lambda: output.exits, SECONDS)
    assert (output.exits[0].kind, output.exits[0].code) == ("ended", 1)
    assert output.exits[0].reason == "it crashed or was killed"


def test_an_exit_code_that_the_program_chose_is_reported(host):
    output = Output()
    output.start("raise SystemExit(3)")
    host.until(lambda: output.exits, SECONDS)
    assert output.exits[0].reason == "exit code 3"


def test_the_whole_tree_is_ended(host):
    output = Output()
    child = output.start(STUBBORN)
    host.until(lambda: output.out, SECONDS)
    grandchild = int(output.out[0])
    assert alive(grandchild)
    child.killTree()
    host.until(lambda: output.exits, SECONDS)
    host.until(lambda: not alive(grandchild), SECONDS)


def worker_process(code, tmp_path):
    """A WorkerProcess on a short program, and its events, log and exits."""
    from DiffuGTSPanel.process.LibraryLauncher import Launch
    from DiffuGTSPanel.process.WorkerProcess import WorkerProcess

    events, log, exits = [], [], []
    worker = WorkerProcess(onEvent=events.append, onLog=log.append, onEnded=exits.append)
    worker.start(Launch(sys.executable, ("-c", code), dict(os.environ)))
    return worker, events, log, exits


ECHO = """
import json, sys
print("no event", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({"type": "heard", "id": request}), flush=True)
    if request["type"] == "quit":
        break
"""


def test_requests_reach_the_worker_and_its_events_come_back(host, tmp_path):
    worker, events, log, exits = worker_process(ECHO, tmp_path)
    worker.send({"type": "segment", "image": "scän 患者"})
    host.until(lambda: events, SECONDS)
    assert events[0]["id"]["image"] == "scän 患者"
    assert log == ["no event"]
    worker.stop(wait=True)
    assert not worker.running
    assert exits == []


def test_a_worker_that_does_not_listen_is_ended_by_force(host, tmp_path, monkeypatch):
    from DiffuGTSPanel.process import WorkerProcess

    monkeypatch.setattr(WorkerProcess, "STOP_TIMEOUT_SECONDS", 0.2)
    worker, events, _log, exits = worker_process(
        "import time; print('{}', flush=True); time.sleep(600)", tmp_path)
    host.until(lambda: events, SECONDS)
    pid = worker.processId
    worker.stop()
    host.until(lambda: not alive(pid), SECONDS)
    assert exits == []


def test_the_worker_cannot_outlive_slicer(host, tmp_path):
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[2]), str(Path(__file__).parents[3] / "DiffuGTS")]!r}
from Host.boot import boot
host = boot()
from DiffuGTSPanel.process.ChildProcess import ChildProcess
from DiffuGTSPanel.process.LibraryLauncher import Launch
import os
lines = []
child = ChildProcess(Launch(sys.executable, ("-c", "import sys; print(1, flush=True); "
    "sys.stdin.read()"), dict(os.environ)), onOut=lines.append, onErr=print, onEnded=print)
child.start()
host.until(lambda: lines, 60)
print(child.processId, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=False, env=os.environ | {"QT_QPA_PLATFORM": "offscreen"})
    pid = int(done.stdout.split()[0])
    end = time.monotonic() + SECONDS
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(pid)


def test_another_python_loses_slicers_variables_and_slicers_own_keeps_them(monkeypatch, tmp_path):
    from DiffuGTSPanel.process.LibraryLauncher import SLICERS_VARIABLES, launch

    for name in SLICERS_VARIABLES:
        monkeypatch.setenv(name, "of Slicer")
    own, other = launch("worker", []), launch("worker", [], "/usr/bin/env")
    assert [own.environment.get(name) for name in SLICERS_VARIABLES] == ["of Slicer"] * 3
    assert not set(SLICERS_VARIABLES) & set(other.environment)
    assert other.program == "/usr/bin/env"


def test_slicers_own_python_is_known_by_its_path_too(monkeypatch):
    from DiffuGTSPanel.process.LibraryLauncher import isSlicers, slicersPython

    assert isSlicers("")
    assert isSlicers(slicersPython())
    assert not isSlicers("/no/such/python")


def test_a_child_finds_the_library_from_anywhere(tmp_path):
    from DiffuGTSPanel.process.LibraryLauncher import launch

    start = launch("doctor", ["--help"])
    environment = {key: value for key, value in start.environment.items() if key != "PYTHONPATH"}
    done = subprocess.run([start.program, *start.arguments], capture_output=True, text=True,
                          check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "--requirements" in done.stdout


def test_the_library_beside_the_module_goes_before_one_that_pip_installed(tmp_path):
    (tmp_path / "DiffuGTSLib").mkdir()
    (tmp_path / "DiffuGTSLib" / "__init__.py").write_text("")
    code = """
import sys, types
sys.path[:0] = sys.argv[1:]
sys.modules["slicer"] = types.ModuleType("slicer")  # not needed for this
from DiffuGTSPanel.process import LibraryLauncher
LibraryLauncher.useLibrary()
import DiffuGTSLib
print(DiffuGTSLib.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), str(REPOSITORY / "DiffuGTS")],
                          capture_output=True, text=True, check=False)
    assert Path(done.stdout.strip()).parents[1] == REPOSITORY, done.stderr


def test_a_python_that_is_too_old_is_reported(tmp_path):
    from DiffuGTSPanel.process.LibraryLauncher import launch

    code = launch("doctor", []).arguments[1].replace("(3, 11)", "(99, 0)")
    done = subprocess.run([sys.executable, "-c", code, "x"], capture_output=True, text=True,
                          check=False)
    assert "Python 3.11 or newer is needed; this is 3." in done.stderr
    assert '"' not in code
    assert "\n" not in code
    assert json.dumps(code) == f'"{code}"'

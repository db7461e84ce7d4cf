"""How long Slicer's main thread is held up during a run: the longest time without an event.

    python Testing/Benchmarks/panel.py [--where] [SCAN PROMPT]

Runs the module on the stand-in host with the real worker: a run to its end, another threshold, and
all evidence overlays. A timer ticks every 2 ms on the main thread; a block is the time between two
ticks beyond that. "own" is the processor time of the main thread in it: what remains of a block
where other programs keep the processor busy. --where prints what was at work when a block grew
longer than the aim. Without arguments: a chest CT of the data folder, or a phantom.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TESTING = Path(__file__).resolve().parents[1]
REPOSITORY = TESTING.parent
sys.path[:1] = [str(TESTING), str(REPOSITORY)]

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from Host.boot import Host, boot  # noqa: E402

AIM_MS = 50.0
TICK_MS = 2
SECONDS = 900.0
SLOWEST = 5


class Watch:
    """Ticks on the main thread and keeps the longest times between ticks, by phase.

    Attributes:
        blocks: phase to its blocks: (wall ms, own processor ms, seconds since the phase began).
    """

    def __init__(self, where: bool) -> None:
        import qt

        self.blocks: dict[str, list[tuple[float, float, float]]] = {}
        self._phase, self._began, self._where = "", 0.0, where
        self._last = (0.0, 0.0)
        self._timer = qt.QTimer()
        self._timer.setTimerType(qt.Qt.PreciseTimer)
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._tick)

    def start(self, phase: str) -> None:
        """Blocks from now on belong to another phase."""
        self.blocks[phase] = []
        self._phase, self._began = phase, time.monotonic()
        self._last = time.monotonic(), time.thread_time()
        self._timer.start()

    def stop(self) -> None:
        """No more ticks."""
        self._timer.stop()
        faulthandler.cancel_dump_traceback_later()

    def _tick(self) -> None:
        now = time.monotonic(), time.thread_time()
        wall, own = (1000 * (new - old) for new, old in zip(now, self._last, strict=True))
        self._last = now
        self.blocks[self._phase].append((wall - TICK_MS, own, now[0] - self._began))
        if self._where:
            faulthandler.dump_traceback_later(AIM_MS / 1000, file=sys.stderr)


def case() -> tuple[Path, str]:
    """What to run: from the command line, the data folder, or a phantom."""
    given = [argument for argument in sys.argv[1:] if argument != "--where"]
    if given:
        return Path(given[0]), given[1]
    data = Path(os.environ.get("DIFFUGTS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if (data / "chest" / "lung1" / "image.nii.gz").exists():
        return data / "chest" / "lung1" / "image.nii.gz", "lung tumor"
    from DiffuGTSLib.scan.phantom import make_phantom

    phantom = make_phantom("chest")
    return phantom.write(Path(tempfile.mkdtemp()))[0], phantom.prompt


def wait(condition: Any, what: str) -> None:
    """Runs Qt's own event loop, as the application does, until the condition holds."""
    import qt

    loop, poll, end = qt.QEventLoop(), qt.QTimer(), time.monotonic() + SECONDS

    def check() -> None:
        if condition() or time.monotonic() > end:
            loop.quit()

    poll.setInterval(20)
    poll.connect("timeout()", check)
    poll.start()
    loop.exec_()
    poll.stop()
    if time.monotonic() > end:
        raise TimeoutError(what)


def measure(host: Host, scan: Path, prompt: str, watch: Watch) -> Any:
    """Plays the run; the volume node."""
    import slicer

    host.load_module()
    panel = host.widget().panel
    volume = slicer.util.loadVolume(str(scan))
    panel.parameters.volume = volume
    panel.prompt.setText(prompt)
    slicer.util.mainWindow().show()
    host.process()
    watch.start("run")
    panel.start()
    wait(lambda: panel.run is None, "the end of the run")
    if panel.lesions.current is None:
        raise SystemExit(f"The run failed: {panel.runSection.ui.messageLabel.text}")
    run, result = panel.lesions.current
    watch.start("threshold")
    for value in (0.45, 0.4, 0.35, 0.3):
        panel.lesions.ui.thresholdSlider.value = value
        wait(lambda v=value: abs((run.threshold or 0) - v) < 1e-6, "the threshold")
    for kind in ("attention", "residual", "uncertainty"):
        watch.start(kind)
        getattr(panel.evidence.ui, f"{kind}CheckBox").checked = True
        wait(lambda k=kind: k in result.evidence, kind)
    watch.start("pseudo-healthy")
    panel.evidence.ui.swapButton.click()
    wait(lambda: "pseudo_healthy" in result.evidence, "the pseudo-healthy scan")
    watch.stop()
    return volume


def table(watch: Watch, title: str) -> Table:
    """The longest blocks of each phase."""
    shown = Table(title=title)
    for heading in ("phase", "longest (ms)", "own (ms)", f"over {AIM_MS:.0f} ms", "ticks",
                    "at (s)"):
        shown.add_column(heading, justify="left" if heading == "phase" else "right")
    for phase, blocks in watch.blocks.items():
        for rank, (wall, own, at) in enumerate(sorted(blocks, reverse=True)[:SLOWEST]):
            over = sum(block[0] > AIM_MS for block in blocks)
            first = (phase, f"{wall:.0f}", f"{own:.0f}", str(over), str(len(blocks)), f"{at:.1f}")
            rest = ("", f"{wall:.0f}", f"{own:.0f}", "", "", f"{at:.1f}")
            if rank == 0 or wall > AIM_MS:
                shown.add_row(*(rest if rank else first))
    return shown


def main() -> None:
    """Measures and prints."""
    host = boot()
    watch = Watch("--where" in sys.argv)
    scan, prompt = case()
    try:
        volume = measure(host, scan, prompt, watch)
        size = " x ".join(map(str, volume.GetImageData().GetDimensions()))
        Console().print(table(watch, f"The main thread during “{prompt}” on {size} voxels"))
    finally:
        host.close()


if __name__ == "__main__":
    main()

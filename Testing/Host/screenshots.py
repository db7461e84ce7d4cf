"""Pictures of the panel and of the views, before, during and after a run, for README.

    python Testing/Host/screenshots.py [--scan FILE --prompt TEXT] [--output FOLDER]

Runs the module on the stand-in host with the real worker and the embedded model, by default on a
scan of the data folder (DIFFUGTS_TEST_DATA or ../shared/data), or a phantom where it is absent.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTING = Path(__file__).resolve().parents[1]
REPOSITORY = TESTING.parent
if not __package__:
    # Instead of this folder, whose files must not shadow packages of the same names.
    sys.path[:1] = [str(TESTING), str(REPOSITORY)]

from Host.boot import Host, boot  # noqa: E402

PANEL_WIDTH = 440
VIEW = (430, 330)
# Higher than the panel ever is: no scroll bar takes of its width.
TALL = 2000
TURNS = 8
HEADERS = 48
SECONDS = 600.0
NAME = "T1 of a thigh"
CASE = ("sarcoma/sts_033_t1/image.nii.gz", "soft tissue sarcoma")
OTHER = "sts_035_t1"
# Of each colour's eight bits: half the size, and no difference that one sees.
BITS = 6


def scan_and_prompt(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The scan and prompt: as specified, else from the data folder, else a phantom."""
    if arguments.scan:
        return arguments.scan, arguments.prompt
    data = Path(os.environ.get("DIFFUGTS_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if (data / CASE[0]).exists():
        return data / CASE[0], CASE[1]
    from DiffuGTSLib.scan.phantom import make_phantom

    phantom = make_phantom("chest")
    return phantom.write(Path(tempfile.mkdtemp()))[0], phantom.prompt


class Studio:
    """Takes the pictures.

    Args:
        host: the running host.
        root: the panel.
        folder: where the pictures go.
    """

    def __init__(self, host: Host, root: Any, folder: Path) -> None:
        import slicer

        self._host, self._root, self._folder = host, root, folder
        self._window = slicer.util.mainWindow()
        self._window.show()

    def panel(self, name: str) -> Any:
        """The module panel in its whole height."""
        panel = self._root.parent()
        self._settle(TALL)
        self._settle(max(panel.sizeHint.height(), panel.heightForWidth(PANEL_WIDTH - 2)) + 4)
        picture = self._window.grab().toImage()
        self._save(picture, name)
        return picture

    def _settle(self, height: int) -> None:
        """Sets the height of the window; nested layouts follow, one per event loop turn."""
        self._window.resize(PANEL_WIDTH, height)
        for _ in range(TURNS):
            self._host.process()

    def views(self, name: str, **options: Any) -> None:
        """The three slices and the 3D view."""
        from Host import views

        self._save(views.render(size=VIEW, **options), name)

    def overview(self, name: str, panel: Any, **options: Any) -> None:
        """Panel and views side by side, as in the application."""
        import qt

        from Host import views

        right = views.render(size=(VIEW[0], (panel.height() - HEADERS) // 2), **options)
        picture = qt.QImage(panel.width() + right.width(), panel.height(),
                            qt.QImage.Format_RGB888)
        picture.fill(qt.QColor("black"))
        painter = qt.QPainter(picture)
        painter.drawImage(0, 0, panel)
        painter.drawImage(panel.width(), 0, right)
        painter.end()
        self._save(picture, name)

    def _save(self, picture: Any, name: str) -> None:
        from PIL import Image, ImageOps

        path = self._folder / f"{name}.png"
        if not picture.save(str(path)):
            raise OSError(f"The picture could not be written to {path}")
        with Image.open(path) as whole:
            small = ImageOps.posterize(whole.convert("RGB"), BITS)
        small.save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size // 1024} KB")


def take(host: Host, scan: Path, prompt: str, folder: Path) -> None:
    """Plays a run and takes a picture at each of its steps."""
    import slicer

    host.load_module()
    panel = host.widget().panel
    studio = Studio(host, panel.root, folder)
    volume = slicer.util.loadVolume(str(scan))
    volume.SetName(NAME)
    panel.parameters.volume = volume
    panel.prompt.setText(prompt)
    studio.panel("panel-before")
    _during(host, panel, studio)
    studio.views("views-preview")
    host.until(lambda: panel.run is None, SECONDS, "the end of the run")
    lesions = panel.lesions.current[1].lesions
    position = lesions[0].position if lesions else None
    panel.lesions.ui.show3DCheckBox.checked = True
    studio.overview("overview", studio.panel("panel-after"), position=position)
    for kind in ("attention", "residual", "uncertainty"):
        getattr(panel.evidence.ui, f"{kind}CheckBox").checked = True
        result = panel.lesions.current[1]
        host.until(lambda r=result, k=kind: k in r.evidence, 60, kind)
        host.process()
        if kind == "attention":
            studio.panel("panel-evidence")
        studio.views(f"views-{kind}", position=position)
    panel.evidence.ui.uncertaintyCheckBox.checked = False
    panel.evidence.ui.swapButton.click()
    host.until(lambda: "pseudo_healthy" in result.evidence, 60, "the pseudo-healthy scan")
    host.process()
    studio.views("views-healthy", position=position)
    panel.ui.advancedButton.collapsed = False
    host.until(lambda: panel.advanced.ui.refreshDevicesButton.enabled, 120, "the devices")
    studio.panel("panel-advanced")
    _other_computer(host, panel, studio)
    _batch(host, panel, studio, scan, prompt)


def _batch(host: Host, panel: Any, studio: Studio, scan: Path, prompt: str) -> None:
    """Runs a batch over another scan, the volume of the scene and a file that is none."""
    # A short name for the screenshot.
    folder = Path(tempfile.gettempdir()) / "thighs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "damaged.nii.gz").write_bytes(b"no image")
    other = scan.parents[1] / OTHER / scan.name
    file = folder / f"{OTHER}.nii.gz"
    shutil.copyfile(other if other.exists() else scan, file)
    for button in ("findButton", "lesionsButton", "evidenceButton", "advancedButton"):
        getattr(panel.ui, button).collapsed = True
    panel.ui.batchButton.collapsed = False
    batch = panel.batch
    batch.inputs.add(file, folder / "damaged.nii.gz", panel.parameters.volume)
    batch.ui.batchPromptEdit.setText(prompt)
    batch.ui.outputEdit.currentPath = str(folder / "results")
    batch.start()
    run = batch.run
    host.until(lambda: not run.active or run.count("done"), SECONDS, "the first scan")
    studio.panel("panel-batch-during")
    host.until(lambda: not run.active, SECONDS, "the end of the batch")
    batch.table.ui.caseTable.selectRow(0)
    studio.panel("panel-batch")
    shutil.rmtree(folder)


def _other_computer(host: Host, panel: Any, studio: Studio) -> None:
    """Chooses another computer and tests it: this machine, behind an SSH server."""
    from Python.support.sshd import CLIENT, SSHD, SshServer

    if SSHD is None or CLIENT is None:
        print("panel-host.png: skipped, there is no OpenSSH server")
        return
    ui = panel.advanced.ui
    with tempfile.TemporaryDirectory() as folder:
        server = SshServer(Path(folder))
        os.environ["DIFFUGTS_SSH"] = server.command
        try:
            ui.computeSelector.setEditText(server.host)
            ui.testHostButton.click()
            host.until(lambda: "models" in ui.computeInfoLabel.text, SECONDS, "the test")
            for button in ("lesionsButton", "evidenceButton"):
                getattr(panel.ui, button).collapsed = True
            studio.panel("panel-host")
        finally:
            server.stop()
            ui.computeSelector.setCurrentIndex(0)


def _during(host: Host, panel: Any, studio: Studio) -> None:
    """Starts the run and takes a screenshot during inpainting."""
    panel.start()
    bar = panel.runSection.ui.progressBar
    host.until(lambda: panel.run is None or (bar.maximum > 0 and bar.value > 450), SECONDS,
               "the middle of the run")
    studio.panel("panel-during")


def main() -> None:
    """Takes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--prompt", default=CASE[1])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "Resources" / "Screenshots")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    host = boot()
    try:
        take(host, *scan_and_prompt(arguments), arguments.output)
    finally:
        host.close()


if __name__ == "__main__":
    main()

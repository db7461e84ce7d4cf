"""What the panel shows of a result, whatever the worker answers and whichever scan is chosen.

The worker is scripted: a test decides when it answers and what.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.panel_case import Panel, plain
from support.slicer_scans import SECONDS, add_volume, segment_array

from DiffuGTSLib.worker.job_files import write_nrrd

MAPS = ("attention", "pseudo_healthy", "residual", "uncertainty", "probability")
RUN_NOTE, NEXT_NOTE = "The model is not calibrated for it.", "Not all of it was searched."
LESION = {"volume_ml": 12.5, "longest_diameter_mm": 31.0, "perpendicular_mm": 20.0,
          "centroid_ras_mm": [0, 0, 0], "mean_score": 0.7, "max_score": 0.9,
          "slice_range": [5, 9]}


class ScriptedWorker:
    """Stands in for the worker process: runs succeed at once, thresholds as the test says.

    Args:
        queue: the logic's RunQueue, which gets the events.

    Attributes:
        waiting: requests for thresholds that were not answered yet.
    """

    def __init__(self, queue):
        self._queue, self.running, self.waiting = queue, False, []
        self._images = {}

    def start(self, launch):
        self.running, self.waiting = True, []
        self._queue._onEvent({"type": "ready", "id": None, "model": "m", "device": "cpu",
                              "python": "", "torch": "", "version": ""})

    def stop(self, wait=False):
        self.running = False

    kill = stop

    def send(self, request):
        import qt

        if request["type"] == "threshold":
            self.waiting.append(request)
        elif request["type"] == "segment":
            self._images[request["id"]] = request["image"], request["prompt"]
            qt.QTimer.singleShot(0, lambda: self._results(request, request["id"], 0.5, 1,
                                                          (RUN_NOTE,)))

    def answer(self, lesions=2, notes=(), count=None):
        """Answers the next request for a threshold: its results, or the first `count` of them."""
        request = self.waiting.pop(0)
        self._results(request, request["result"], request["threshold"], lesions, notes, count)
        return request

    def refuse(self, request=None):
        """Answers that the result is not there any more."""
        request = request or self.waiting.pop(0)
        self._queue._onEvent({
            "type": "error", "id": request["id"], "code": "result-not-kept", "suggestions": [],
            "message": "That result is no longer held by the worker.",
            "hint": "Run the prompt again."})

    def die(self):
        """Ends as if it had crashed."""
        from DiffuGTSPanel.process.ChildProcess import ProcessExit

        self.running = False
        self._queue._workerDied(ProcessExit("ended", 1))

    def _results(self, request, job, threshold, lesions, notes, count=None):
        path, prompts = self._images[job]
        image, folder = sitk.ReadImage(path), Path(request["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        labels = np.zeros(image.GetSize()[::-1], np.uint16)
        for number in range(1, lesions + 1):
            labels[5:10, 5:10, 8 * number:8 * number + 5] = number
        kinds = MAPS if request["type"] == "segment" else ()
        for index, prompt in enumerate(prompts[:count]):
            files = {}
            for kind in ("mask", *kinds):
                files[kind] = str(folder / f"{kind}-{index}.nrrd")
                array = labels if kind == "mask" else labels.astype(np.float32)
                written = sitk.GetImageFromArray(array)
                written.CopyInformation(image)
                write_nrrd(written, Path(files[kind]))
            described = [{"number": number, **LESION} for number in range(1, lesions + 1)]
            self._queue._onEvent({
                "type": "result", "id": request["id"], "index": index, "count": len(prompts),
                "prompt": prompt, "title": prompt, "found": True, "highest_score": 0.9,
                "threshold": threshold, "needed_score": threshold, "terminology": "",
                "lesions": described, "notes": list(notes), "reliability": "",
                "modality": "CT", "modality_reason": "", "within": None, **files})


class Case(Panel):
    """The panel with a scripted worker."""

    def __init__(self, host):
        super().__init__(host)
        queue = self.panel.logic._runQueue
        self.worker = ScriptedWorker(queue)
        queue._process = queue._thresholdQueue._worker = self.worker
        self.section = self.panel.lesions
        self.slider = self.section.ui.thresholdSlider

    def add(self, name):
        """A volume in the scene, chosen."""
        array = np.random.default_rng(0).integers(-900, 200, (24, 32, 32)).astype(np.int16)
        volume = add_volume(array, np.diag([2.0, 2, 2, 1]), name)
        self.select(volume)
        return volume

    def select(self, volume):
        self.panel.parameters.volume = volume
        self.host.process()

    def segment(self, prompt="lung tumor", **parameters):
        for name, value in parameters.items():
            setattr(self.panel.parameters, name, value)
        self.type(prompt)
        self.press_enter()
        self.until_idle()
        assert self.section.current, self.message
        return self.section.current[0]

    def ask(self, threshold):
        self.slider.value = threshold
        self.host.process()

    def until_threshold(self, value):
        run = self.section.current[0]
        self.host.until(lambda: run.requestedThreshold is None and run.threshold == value,
                        SECONDS, "the threshold")

    def shown(self):
        """All that is shown and saved of the result."""
        from DiffuGTSPanel.widgets.LesionSection import asText

        run, result = self.section.current
        segments = run.segmentationNode.GetSegmentation()
        return {
            "slider": self.slider.value, "summary": plain(self.section.ui.summaryLabel),
            "rows": self.section.ui.lesionTable.rowCount, "table": asText(run),
            "results": len(self.section._entries), "threshold": run.threshold,
            "of the result": result.threshold, "node": run.segmentationNode.GetID(),
            "segments": [segments.GetNthSegment(index).GetName()
                         for index in range(segments.GetNumberOfSegments())],
        }

    @property
    def scan_line(self):
        return plain(self.section.ui.scanLabel)

    @property
    def names(self):
        """Of the results in the list."""
        selector = self.section.ui.resultSelector
        return [selector.itemText(index) for index in range(selector.count)]


@pytest.fixture
def case(host):
    opened = Case(host)
    yield opened
    opened.panel.logic.shutdown()


def edit(run, number=0):
    """Renames a segment, as by hand."""
    segments = run.segmentationNode.GetSegmentation()
    segments.GetSegment(run.results[0].lesions[number].segmentId).SetName("edited by hand")


def remove_any_node():
    import slicer

    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode"))


# A threshold that cannot be applied


def refused(case):
    case.ask(0.3)
    case.worker.refuse()


def died(case):
    case.ask(0.3)
    case.worker.die()


def not_running(case):
    case.worker.running = False
    case.ask(0.3)


def replaced_by_another_model(case):
    from DiffuGTSPanel.data.Run import Options, Run

    case.ask(0.3)
    other = Run("other", ("x",), Options(model="other"), None)
    case.panel.logic._runQueue.request(other, {"type": "quit", "id": None})


def file_is_gone(case):
    case.ask(0.3)
    folder = Path(case.worker.answer()["folder"])
    next(folder.glob("mask*")).unlink()


def second_prompt_fails(case):
    case.ask(0.3)
    request = case.worker.answer(count=1)
    for _turn in range(20):
        case.host.process()
    case.worker.refuse(request)


def scan_is_gone(case):
    import slicer

    case.ask(0.3)
    slicer.mrmlScene.RemoveNode(case.section.current[0].volume)
    case.worker.answer()


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("fail", [
    refused, died, not_running, replaced_by_another_model, file_is_gone, second_prompt_fails,
    scan_is_gone])
def test_a_threshold_that_fails_leaves_all_as_it_was(case, fail, edited):
    case.add("Patient A")
    run = case.segment("lung tumor; kidney tumor")
    if edited:
        edit(run)
    before = case.shown()
    assert before["rows"] == 1
    fail(case)
    case.host.until(lambda: case.message, SECONDS, "the message")
    assert any(words in case.message for words in ("Run the prompt again", "Run again", "Load it"))
    remove_any_node()
    case.host.process()
    assert case.shown() == before
    assert run.requestedThreshold is None
    case.section._select()
    assert case.shown() == before


def test_nothing_changes_before_the_worker_has_answered_and_edits_stay(case):
    volume = case.add("Patient A")
    run = case.segment()
    node, lesion = run.segmentationNode, run.results[0].lesions[0]
    edit(run)
    before = case.shown()
    case.ask(0.3)
    remove_any_node()
    case.host.process()
    assert case.shown() == before | {"slider": 0.3}
    case.worker.answer()
    case.until_threshold(0.3)
    case.host.process()
    assert run.segmentationNode is not node
    assert case.shown()["rows"] == 2
    assert node.GetSegmentation().GetSegment(lesion.segmentId).GetName() == "edited by hand"
    assert segment_array(node, lesion.segmentId, volume).sum() == 125


def test_a_dropped_lesion_stays_dropped_where_another_one_was_edited(case):
    case.add("Patient A")
    run = case.segment()
    case.ask(0.4)
    case.worker.answer()
    case.until_threshold(0.4)
    edit(run)
    case.panel.logic.keepLesion(run, run.results[0].lesions[1], False)
    case.ask(0.3)
    case.worker.answer()
    case.until_threshold(0.3)
    assert [lesion.kept for lesion in run.results[0].lesions] == [True, False]
    assert case.shown()["segments"] == ["lung tumor 1"]


def test_only_the_newest_of_several_thresholds_is_reported(case):
    case.add("Patient A")
    case.segment()
    case.ask(0.3)
    case.ask(0.2)
    case.worker.refuse()
    case.host.process()
    assert case.message == ""
    assert case.slider.value == 0.2
    case.worker.answer()
    case.until_threshold(0.2)
    assert case.shown()["rows"] == 2


def test_the_slider_of_a_result_shows_what_was_requested_for_it(case):
    case.add("Patient A")
    case.segment("lung tumor")
    case.segment("kidney tumor")
    case.ask(0.3)
    selector = case.section.ui.resultSelector
    selector.setCurrentIndex(1)
    assert case.slider.value == 0.5
    selector.setCurrentIndex(0)
    assert case.slider.value == 0.3
    case.worker.refuse()
    assert case.slider.value == 0.5


def test_notes_of_a_threshold_replace_those_of_the_one_before(case):
    case.add("Patient A")
    case.segment()
    summary = case.section.ui.summaryLabel
    assert RUN_NOTE in plain(summary)
    case.ask(0.3)
    case.worker.answer(notes=(RUN_NOTE, NEXT_NOTE))
    case.until_threshold(0.3)
    assert RUN_NOTE in plain(summary)
    assert NEXT_NOTE in plain(summary)
    case.ask(0.6)
    case.worker.answer(notes=(RUN_NOTE,))
    case.until_threshold(0.6)
    assert NEXT_NOTE not in plain(summary)


# Which scan a result is of


def test_a_result_names_its_scan_by_its_current_name(case):
    assert case.section.ui.scanLabel.isHidden()
    volume = case.add("Patient A & <1>")
    case.segment()
    assert case.scan_line == "Scan: Patient A & <1>"
    volume.SetName("Patient C")
    assert case.scan_line == "Scan: Patient C"


def test_another_scan_that_is_chosen_is_named_beside_that_of_the_result(case):
    first = case.add("Patient A")
    case.segment()
    second = case.add("Patient B")
    assert case.scan_line == "Result of Patient A; chosen is Patient B."
    second.SetName("Patient C")
    assert case.scan_line == "Result of Patient A; chosen is Patient C."
    second.SetName("Patient A")
    assert case.scan_line == "Result of Patient A; another scan is chosen."
    case.select(None)
    assert case.scan_line == "Result of Patient A; no scan is chosen."
    case.select(first)
    assert case.scan_line == "Scan: Patient A"


def test_the_warning_follows_the_result_that_is_chosen_in_the_list(case):
    case.add("Patient A")
    case.segment()
    case.add("Patient B")
    case.segment()
    assert case.scan_line == "Scan: Patient B"
    case.section.ui.resultSelector.setCurrentIndex(1)
    assert case.scan_line == "Result of Patient A; chosen is Patient B."


def test_a_scan_that_was_removed_is_named_all_the_same(case):
    import slicer

    first = case.add("Patient A")
    case.segment()
    case.add("Patient B")
    slicer.mrmlScene.RemoveNode(first)
    case.host.process()
    assert case.scan_line == "Result of Patient A (no longer in the scene); chosen is Patient B."
    assert case.shown()["table"].splitlines()[1].startswith("Patient A\t")


def test_a_long_name_is_shortened_and_whole_in_the_tool_tip(case):
    long = "CT_THORAX_ABDOMEN_1.25mm_LUNG_KERNEL_series_{}_reconstruction_with_a_long_name"
    case.add(long.format(1))
    case.segment(seed=9)
    label = case.section.ui.scanLabel
    short = "CT_THORAX_ABDOMEN_…_with_a_long_name"
    assert case.scan_line == f"Scan: {short}"
    assert long.format(1) in label.toolTip
    assert "with model embedded, seed 9." in label.toolTip
    assert label.minimumSizeHint.width() < 330
    case.add(long.format(2))
    assert case.scan_line == f"Result of {short}; another scan is chosen."
    assert f"Chosen is {long.format(2)}." in label.toolTip


def test_results_in_the_list_can_be_told_apart(case):
    import qt

    first = case.add("Patient A")
    case.segment()
    case.segment(seed=9)
    case.segment("kidney tumor")
    second = case.add("Patient B")
    case.segment()
    assert case.names == ["lung tumor · Patient B", "kidney tumor · Patient A",
                          "lung tumor (2) · Patient A", "lung tumor (1) · Patient A"]
    tips = [case.section.ui.resultSelector.itemData(index, qt.Qt.ToolTipRole) for index in (2, 3)]
    assert ["seed 9" in tip for tip in tips] == [True, False]
    second.SetName(first.GetName())
    assert len(set(case.names)) == 4


def test_the_copied_and_the_saved_table_name_the_scan(case, tmp_path):
    import qt

    case.add("Müller, A")
    case.segment()
    case.section.ui.copyButton.click()
    copied = qt.QApplication.clipboard().text()
    case.section.saveCsv(tmp_path / "lesions.csv")
    saved = (tmp_path / "lesions.csv").read_text(encoding="utf-8-sig")
    for text, separator in ((copied, "\t"), (saved, ",")):
        row = next(csv.DictReader(io.StringIO(text), delimiter=separator))
        assert list(row)[:3] == ["scan", "prompt", "lesion"]
        assert (row["scan"], row["prompt"]) == ("Müller, A", "lung tumor")


def test_scans_are_left_when_the_panel_closes(case):
    volume = case.add("Patient A")
    case.segment()
    case.panel.lesions.close()
    volume.SetName("Patient B")
    assert case.scan_line == "Scan: Patient A"

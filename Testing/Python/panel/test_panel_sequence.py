"""The MR sequence in the panel, requested where the model needs it, with the real worker."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields

import pytest
from support.panel_case import plain
from support.slicer_batch import PROMPT, SECONDS, material

from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.scan.modality import MODALITIES, SEQUENCES

__all__ = ["material"]

LABELS = {"CT": 1, "MR/t1": 9, "MR/t2": 10, "MR/other": 8}


def test_the_panel_offers_the_librarys_options(opened):
    """The panel is imported where the library may be absent, so that it states them itself."""
    from DiffuGTSPanel.data.Run import MethodOptions
    from DiffuGTSPanel.widgets.KeptSettings import ModalityChoice, SequenceChoice

    own = {field.name: field.default for field in fields(MethodOptions)}
    own["skull_stripped"] = own.pop("skullStripped")
    assert own.pop("host") == ""  # where the library runs, which it does not know itself
    assert own == Options().as_dict()
    automatic, *sequences = (choice.name for choice in SequenceChoice)
    assert automatic == "AUTOMATIC"
    assert tuple(name.lower() for name in sequences) == SEQUENCES
    assert tuple(choice.name for choice in ModalityChoice) == ("AUTOMATIC", *MODALITIES)


@pytest.fixture(scope="module")
def model(material, tmp_path_factory):
    """The tiny model, changed to one that needs the MR sequence."""
    folder = tmp_path_factory.mktemp("model") / "sequences"
    shutil.copytree(material.model, folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    (folder / "card.json").write_text(json.dumps(card | {"class_labels": LABELS}))
    return folder


@pytest.fixture
def panel(opened, model):
    import slicer

    slicer.mrmlScene.Clear(0)
    opened.enter()
    opened.host.errors.clear()
    opened.parameters.model = str(model)
    opened.type(PROMPT)
    yield opened
    assert not opened.host.errors


def load(panel, material, name):
    """Loads the scan of a ball and selects it."""
    import slicer

    volume = slicer.util.loadVolume(str(material.scans / "eins.nrrd"))
    volume.SetName(name)
    panel.parameters.volume = volume
    return volume


def sequence(panel):
    return panel.advanced.ui.sequenceSelector.currentText


def test_the_sequences_to_choose_from_are_those_of_the_library(panel):
    from DiffuGTSLib.scan.modality import SEQUENCES
    from DiffuGTSPanel.widgets.KeptSettings import SequenceChoice

    assert [choice.option for choice in SequenceChoice] == [None, *SEQUENCES]


def test_an_unknown_sequence_is_requested_and_a_click_chooses_it_and_runs(panel, material):
    load(panel, material, "scän")
    panel.press_enter()
    panel.until_idle()
    assert panel.message.splitlines() == [
        "Which MR sequence this is cannot be told from the scan.",
        "Choose it under Advanced > MR sequence.", "MR sequence: T1 · T2 · Other"]
    panel.runSection.ui.messageLabel.linkActivated.emit("#sequence T2")
    assert panel.run is not None
    assert sequence(panel) == "T2"
    panel.until_idle()
    assert panel.message == ""
    assert panel.lesions.current[1].found


def test_the_sequence_is_read_from_the_volumes_name(panel, material):
    load(panel, material, "Müller 3 t1_mprage")
    panel.press_enter()
    panel.until_idle()
    assert panel.message == ""
    assert panel.lesions.current[1].found


def test_a_sequence_that_the_model_does_not_know_is_refused(panel, material):
    load(panel, material, "t1")
    panel.advanced.ui.sequenceSelector.setCurrentIndex(4)
    assert sequence(panel) == "FLAIR"
    panel.press_enter()
    panel.until_idle()
    assert panel.message.startswith("The model knows no MR sequence flair.")


def test_a_ct_has_no_sequence_whatever_its_name_and_the_list_say(panel, material):
    import slicer

    volume = load(panel, material, "control after T2")
    slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(volume) - 300)
    panel.advanced.ui.sequenceSelector.setCurrentIndex(1)
    panel.advanced.ui.modalitySelector.setCurrentIndex(1)
    assert not panel.advanced.ui.sequenceSelector.enabled
    panel.press_enter()
    panel.until_idle()
    assert panel.message == ""
    panel.advanced.ui.modalitySelector.setCurrentIndex(0)
    panel.press_enter()
    panel.until_idle()
    assert panel.message == ""


def test_a_choice_for_one_scan_does_not_apply_to_the_next(panel, material):
    first = load(panel, material, "one")
    panel.advanced.ui.sequenceSelector.setCurrentIndex(3)
    panel.advanced.ui.modalitySelector.setCurrentIndex(2)
    panel.parameters.volume = first
    assert sequence(panel) == "T2"
    load(panel, material, "two")
    assert sequence(panel) == panel.advanced.ui.modalitySelector.currentText == "Automatic"


def test_a_batch_takes_the_sequence_from_the_section_advanced(panel, material, tmp_path):
    from DiffuGTSPanel.data.Batch import BatchOptions

    batch = panel.batch
    batch.inputs.add(material.scans / "eins.nrrd")
    batch.ui.batchPromptEdit.setText(PROMPT)
    batch.ui.outputEdit.currentPath = str(tmp_path / "out")
    batch.start()
    panel.host.until(lambda: batch.run is None, SECONDS, "the end of the batch")
    batch.table.ui.caseTable.selectRow(0)
    assert "Choose it under Advanced > MR sequence." in plain(batch.table.ui.caseDetailLabel)
    assert batch.last.options.sequence is None
    panel.advanced.ui.sequenceSelector.setCurrentIndex(3)
    assert "--sequence=t2" in BatchOptions(**panel._batchOptions()).arguments()

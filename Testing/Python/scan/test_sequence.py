"""The MR sequence on its way: from a name, an option, a request or the user to the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
import typer

from DiffuGTSLib.cli import app, common
from DiffuGTSLib.cli.segment import Run
from DiffuGTSLib.errors import ModalityMismatch, SequenceUnknown
from DiffuGTSLib.pipeline.options import Options
from DiffuGTSLib.scan import volume
from DiffuGTSLib.scan.modality import MODALITIES, SEQUENCES, guess_skull_stripped
from DiffuGTSLib.worker.protocol import BadRequest, Segment, parse

CHOICES = ("t1", "t2", "other")


@pytest.mark.parametrize(("name", "stripped"), [
    ("sub-01_T1w_bet", True), ("BraTS20_001_t1ce", True), ("brats-gli-0001", True),
    ("flair_skull-stripped", True), ("t2_hdbet", True), ("skullstripped", True),
    ("patient_t1", False), ("alphabet", False), ("striptease", False), ("", False),
])  # fmt: skip
def test_a_name_tells_that_the_skull_is_gone(name: str, stripped: bool) -> None:
    assert guess_skull_stripped(name) is stripped


def test_a_scan_carries_what_its_files_name_tells(tmp_path: Path) -> None:
    image = sitk.GaussianSource(sitk.sitkFloat32, [16, 16, 16], [4.0] * 3, [8.0] * 3)
    sitk.WriteImage(image, str(tmp_path / "x_flair_bet.nrrd"))
    scan = volume.read(tmp_path / "x_flair_bet.nrrd", "MR")
    assert (scan.sequence, scan.skull_stripped) == ("flair", True)
    assert not volume.from_image(image - 1000, "CT", "ct_bet").skull_stripped


def test_what_the_caller_knows_of_a_scan_goes_before_its_name() -> None:
    image = sitk.GaussianSource(sitk.sitkFloat32, [16, 16, 16], [4.0] * 3, [8.0] * 3)
    scan = volume.from_image(image, "MR", "x_flair_bet")
    assert scan.with_overrides() == scan
    known = scan.with_overrides(sequence="t1", skull_stripped=False)
    assert (known.sequence, known.skull_stripped) == ("t1", False)
    with pytest.raises(ModalityMismatch, match="no MR sequence"):
        volume.from_image(image - 1000, "CT").with_overrides(sequence="t1")
    with pytest.raises(ModalityMismatch, match="Hounsfield"):
        scan.with_overrides("CT")


def request(**more: object) -> bytes:
    fields = {"type": "segment", "id": 1, "image": "a", "prompt": "brain tumor", "folder": "b"}
    return json.dumps(fields | more).encode()


def test_a_request_may_state_sequence_and_skull() -> None:
    parsed = parse(request(sequence="t1c", skull_stripped=False))
    assert isinstance(parsed, Segment)
    assert (parsed.options.sequence, parsed.options.skull_stripped) == ("t1c", False)
    silent = parse(request())
    assert isinstance(silent, Segment)
    assert (silent.options.sequence, silent.options.skull_stripped) == (None, None)


@pytest.mark.parametrize("wrong", [{"sequence": "t9"}, {"skull_stripped": "yes"}])
def test_a_request_with_a_wrong_word_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match=next(iter(wrong))):
        parse(request(**wrong))


def test_the_command_knows_the_sequences() -> None:
    assert tuple(choice.value for choice in common.SequenceChoice) == SEQUENCES
    assert tuple(choice.value for choice in common.ModalityChoice) == MODALITIES


def attempt(options: Options) -> Run:
    if options.sequence is None:
        raise SequenceUnknown("", CHOICES)
    return Run([], {"sequence": options.sequence})


def test_on_a_terminal_the_user_is_asked_until_the_answer_is_one(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["flair", "", " T2 "])
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _: True})())
    monkeypatch.setattr(sys, "stderr", type("Terminal", (), {"isatty": lambda _: True})())
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: next(answers))
    assert app._with_sequence_question(attempt, Options()).document == {"sequence": "t2"}


def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", type("File", (), {"isatty": lambda _: False})())
    with pytest.raises(SequenceUnknown):
        app._with_sequence_question(attempt, Options())

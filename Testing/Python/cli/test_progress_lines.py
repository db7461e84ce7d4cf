"""What the command line says of its progress where stderr is a file."""

from __future__ import annotations

from DiffuGTSLib.cli import common
from DiffuGTSLib.progress import ProgressEstimator


def said(capsys, monkeypatch, seconds: float) -> list[str]:
    monkeypatch.setattr(common, "_SECONDS_BETWEEN_LINES", seconds)
    with common.bar(ProgressEstimator(1), ["lung tumor"]) as step:
        step("sending", 1, 4)
        step("encode", 0, 1)
        step("inpaint", 2, 4)
    output = capsys.readouterr()
    assert output.out == ""
    return output.err.splitlines()


def test_a_file_gets_a_line_now_and_then(capsys, monkeypatch) -> None:
    lines = said(capsys, monkeypatch, -1.0)
    assert [line.partition(",")[0] for line in lines] == [
        "sending the scan", "encoding the scan", "inpainting healthy tissue"]
    assert lines[-1].split(", ")[1].endswith("%")


def test_a_short_run_says_nothing(capsys, monkeypatch) -> None:
    assert said(capsys, monkeypatch, 15.0) == []

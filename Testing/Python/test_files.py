"""Files that appear together or not at all, and what dead processes left of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from DiffuGTSLib.errors import OutputNotWritten
from DiffuGTSLib.files import (
    StagedFiles,
    atomic_file,
    atomic_folder,
    is_inside,
    is_same_file,
    remove_unfinished,
    temporary_path,
)


def left_by_a_dead_process(folder: Path) -> list[str]:
    """A file and a folder with a file, under the temporary names of a process that has ended."""
    code = (f"from pathlib import Path; from DiffuGTSLib.files import temporary_path\n"
            f"temporary_path(Path({str(folder)!r}) / 'a.nrrd', '.nrrd').write_text('a patient')\n"
            f"made = temporary_path(Path({str(folder)!r}) / 'b'); made.mkdir()\n"
            f"(made / 'half').write_text('half')")
    subprocess.run([sys.executable, "-c", code], check=True,
                   env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    return sorted(path.name for path in folder.iterdir())


def test_only_what_dead_processes_left_is_removed(tmp_path: Path) -> None:
    dead = left_by_a_dead_process(tmp_path)
    own = temporary_path(tmp_path / "mask.nrrd", ".nrrd")
    other = own.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    stay = [own.name, other, ".lock", "a.seg.nrrd", f".{'a1' * 16}.nrrd", ".diffugts-notes.txt"]
    for name in stay:
        (tmp_path / name).write_text("")
    remove_unfinished(tmp_path)
    assert len(dead) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)


def test_another_machines_files_go_once_the_folder_is_locked(tmp_path: Path) -> None:
    path = tmp_path / f".diffugts-elsewhere-1-{'0' * 12}.nrrd"
    path.write_text("")
    remove_unfinished(tmp_path)
    assert path.exists()
    remove_unfinished(tmp_path, locked=True)
    assert not path.exists()


def test_a_new_folder_clears_what_was_being_built_beside_it(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path)
    with atomic_folder(tmp_path / "model") as building:
        (building / "weights").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_staged_files_appear_together_and_the_old_ones_stay_until_then(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    staged = StagedFiles()
    staged.path(tmp_path / "a.txt", ".txt").write_text("new")
    staged.path(tmp_path / "b.txt", ".txt").write_text("new")
    dropped = staged.path(tmp_path / "c.txt", ".txt")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    staged.drop(dropped)
    staged.commit()
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {
        "a.txt": "new", "b.txt": "new"}


def test_discarded_files_leave_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    staged = StagedFiles()
    staged.path(tmp_path / "a.txt", ".txt").write_text("new")
    staged.discard()
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["old"]


def test_a_message_names_the_final_file(tmp_path: Path) -> None:
    staged = StagedFiles().path(tmp_path / "mask.nrrd", ".nrrd")
    with pytest.raises(OutputNotWritten, match=r"^mask\.nrrd could"), atomic_file(staged, ".nrrd"):
        raise OSError


def test_links_lead_to_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_text("")
    (tmp_path / "link.nrrd").symlink_to("scan.nrrd")
    assert is_same_file(tmp_path / "link.nrrd", tmp_path / "x" / ".." / "scan.nrrd")
    assert not is_same_file(tmp_path / "link.nrrd", tmp_path / "other.nrrd")
    assert is_inside(tmp_path / "link.nrrd", tmp_path)
    assert not is_inside(tmp_path / ".." / "x", tmp_path)

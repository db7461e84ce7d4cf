"""What is published: all files, one commit, small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "Testing"))
import release_tree  # noqa: E402


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release") / "SlicerDiffuGTS"
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    release_tree.write(folder)
    return folder


def test_it_is_one_commit_with_all_files(tree: Path) -> None:
    assert release_tree.git(tree, "rev-list", "--count", "HEAD").strip() == b"1"
    ours = release_tree.git(REPOSITORY, "ls-tree", "-r", "--name-only", "-z", "HEAD")
    theirs = release_tree.git(tree, "ls-tree", "-r", "--name-only", "-z", "HEAD")
    assert theirs == ours
    assert (tree / "CMakeLists.txt").is_file()


def test_its_clone_is_small_enough_for_the_index(tree: Path) -> None:
    assert release_tree.size_mb(tree) < release_tree.LIMIT_MB


def test_what_is_there_already_stays(tree: Path) -> None:
    with pytest.raises(FileExistsError, match="there already"):
        release_tree.write(tree)

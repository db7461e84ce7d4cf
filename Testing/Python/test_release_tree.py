"""What is published: all files, one commit, small."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
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


@pytest.fixture(scope="module")
def published(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published repository with one version, of the same weights."""
    folder = tmp_path_factory.mktemp("published") / "SlicerDiffuGTS.git"
    release_tree.git(tree.parent, "init", "--quiet", "--bare", str(folder))
    release_tree.git(tree, "push", "--quiet", str(folder), "main", "main:refs/tags/v0.1.0")
    return folder


def next_version(tree: Path, folder: Path, changed: str, content: bytes) -> Path:
    """A tree of one commit that differs in one file."""
    shutil.copytree(tree, folder, ignore=shutil.ignore_patterns(".git"))
    (folder / changed).write_bytes(content)
    release_tree.git(folder, "init", "--quiet", "--initial-branch=main")
    release_tree.git(folder, "add", "--all")
    release_tree.git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "next")
    return folder


def test_a_version_with_the_same_weights_adds_next_to_nothing_to_a_clone(
    tree: Path, published: Path, tmp_path: Path
) -> None:
    following = next_version(tree, tmp_path / "next", "README.md", b"another one")
    size, tags = release_tree.size_with_tags(following, str(published))
    assert tags == ["v0.1.0"]
    assert size < release_tree.size_mb(tree) + 1.0


def test_a_version_with_other_weights_adds_them(
    tree: Path, published: Path, tmp_path: Path
) -> None:
    weights = "Resources/Models/embedded/unet/diffusion_pytorch_model.safetensors"
    content = np.random.default_rng(0).bytes((tree / weights).stat().st_size)
    following = next_version(tree, tmp_path / "next", weights, content)
    size, _tags = release_tree.size_with_tags(following, str(published))
    assert size > release_tree.size_mb(tree) + 0.8 * len(content) / 1e6


def test_files_that_are_not_committed_are_named(tmp_path: Path) -> None:
    release_tree.git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("ignored\n")
    for name in ("a new file", "ignored", "kept"):
        (tmp_path / name).write_text(name)
    release_tree.git(tmp_path, "add", "kept", ".gitignore")
    release_tree.git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x")
    release_tree.git(tmp_path, "mv", "kept", "moved")
    assert sorted(release_tree.uncommitted(tmp_path)) == ["a new file", "moved"]

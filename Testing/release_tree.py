"""What is published: the files of a commit as a repository of one commit, without their history.

    python Testing/release_tree.py FOLDER [COMMIT]

The Extensions Index refuses a clone of more than 100 MB, and every set of weights that ever was in
the history would count. The limit here leaves room.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT_MB = 60.0


def git(folder: Path, *arguments: str) -> bytes:
    """What git prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True,
                          capture_output=True).stdout


def write(target: Path, commit: str = "HEAD") -> float:
    """Writes the tree of `commit` into `target` as a repository; returns its clone's size in MB.

    Raises:
        FileExistsError: `target` is there already.
        subprocess.CalledProcessError: git failed.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; remove it first.")
    target.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(git(REPOSITORY, "archive", "--format=tar", commit))) as tar:
        tar.extractall(target, filter="data")
    author = git(REPOSITORY, "log", "-1", "--format=%an%n%ae", commit).decode().splitlines()
    version = git(REPOSITORY, "rev-parse", "--short", commit).decode().strip()
    git(target, "init", "--quiet", "--initial-branch=main")
    git(target, "add", "--all")
    git(target, "-c", f"user.name={author[0]}", "-c", f"user.email={author[1]}", "commit",
        "--quiet", "-m", f"DiffuGTS at {version}")
    git(target, "gc", "--quiet", "--aggressive")
    return size_mb(target)


def size_mb(folder: Path) -> float:
    """All files, git's own among them, in MB: what a clone takes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Writes the tree, and fails where it is too large."""
    target = Path(sys.argv[1])
    try:
        size = write(target, *sys.argv[2:3])
    except FileExistsError as error:
        sys.exit(str(error))
    print(f"{target}: one commit, {size:.1f} MB as a clone")
    if size > LIMIT_MB:
        sys.exit(f"More than {LIMIT_MB:.0f} MB: the Extensions Index may refuse it.")


if __name__ == "__main__":
    main()

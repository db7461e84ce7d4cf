"""What is published: the files of a commit as a repository of one commit, without their history.

    python Testing/release_tree.py FOLDER [--published URL] [--commit COMMIT]

The Extensions Index refuses a clone of more than 100 MB, and every set of weights that ever was in
the history would count. So do those of the versions whose tags a clone fetches: with --published,
the address of the published repository, the size is that of a clone with its tags.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LIMIT_MB = 60.0
# Of the index's 100, with the tags: its host may count the objects a little differently.
LIMIT_WITH_TAGS_MB = 90.0


def git(folder: Path, *arguments: str) -> bytes:
    """What git prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True,
                          capture_output=True).stdout


def uncommitted(repository: Path = REPOSITORY) -> list[str]:
    """Files that differ from the commit or are not in it, those that git ignores aside."""
    lines = git(repository, "status", "--porcelain", "--untracked-files=all", "-z").decode()
    entries = iter(lines.split("\0"))
    names = []
    for entry in entries:
        if entry:
            names.append(entry[3:])
            if entry[0] in "RC":
                next(entries)  # the name before
    return names


def write(target: Path, commit: str = "HEAD") -> float:
    """Writes the tree of `commit` into `target` as a repository; returns its clone's size in MB.

    Raises:
        FileExistsError: `target` is there already.
        subprocess.CalledProcessError: git failed.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already; remove it first: rm -rf {target}")
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


def size_with_tags(tree: Path, published: str) -> tuple[float, list[str]]:
    """A clone's size in MB once `tree` is published as main beside the tags that are there.

    Args:
        tree: that `write` wrote.
        published: address or folder of the published repository.

    Returns:
        The size, and the tags.

    Raises:
        subprocess.CalledProcessError: git failed, or there is no such repository.
    """
    with tempfile.TemporaryDirectory() as folder:
        after, clone = Path(folder, "after.git"), Path(folder, "clone")
        git(Path(folder), "init", "--quiet", "--bare", "--initial-branch=main", str(after))
        git(after, "fetch", "--quiet", published, "refs/tags/*:refs/tags/*")
        git(after, "fetch", "--quiet", str(tree), "main:main")
        git(Path(folder), "clone", "--quiet", after.as_uri(), str(clone))
        return size_mb(clone), git(clone, "tag", "--sort=creatordate").decode().split()


def main() -> None:
    """Writes the tree, and fails where files are not committed, or it is too large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("target", type=Path)
    parser.add_argument("--published", default="", help="address of the published repository")
    parser.add_argument("--commit", default="HEAD")
    given = parser.parse_args()
    changed = uncommitted() if given.commit == "HEAD" else []
    if changed:
        sys.exit("These files are not committed, and would not be published as they are:\n  "
                 + "\n  ".join(changed))
    try:
        size = write(given.target, given.commit)
    except FileExistsError as error:
        sys.exit(str(error))
    print(f"{given.target}: one commit, {size:.1f} MB as a clone")
    if size > LIMIT_MB:
        sys.exit(f"More than {LIMIT_MB:.0f} MB: the Extensions Index may refuse it.")
    if not given.published:
        print("The tags of earlier versions come on top: see docs/publishing.md.")
        return
    size, tags = size_with_tags(given.target, given.published)
    print(f"With the published tags ({', '.join(tags) or 'none'}): {size:.1f} MB as a clone")
    if size > LIMIT_WITH_TAGS_MB:
        sys.exit(f"More than {LIMIT_WITH_TAGS_MB:.0f} MB: move the oldest version into an archive "
                 "first, as docs/publishing.md says.")


if __name__ == "__main__":
    main()

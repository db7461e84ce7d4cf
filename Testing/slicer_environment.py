"""The panel and the worker in exactly the packages that a Slicer ships, and nothing else.

    python Testing/slicer_environment.py 5.12 [5.10 ...]

For each version: an environment with the packages of Testing/Host/slicer-VERSION.txt; what is
missing is installed as the panel does, under its constraints; every module that Slicer's own
process imports is imported in it, with nothing but the shipped packages in reach (Slicer's and Qt's
own are stand-ins that accept everything); a worker and a batch segment a real scan; each shipped
package still has the version of the list. The environments stay in build/, and are made anew where
a list, the requirements or the way of installing has changed; all else is checked each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "DiffuGTS" / "Resources" / "requirements.txt"
# What decides on the packages in an environment, beside its list.
MADE_FROM = (REQUIREMENTS, Path(__file__), REPOSITORY / "DiffuGTSLib" / "doctor.py",
             REPOSITORY / "DiffuGTS" / "DiffuGTSPanel" / "library" / "PackageInstall.py")
SCAN = REPOSITORY / "Resources" / "Samples" / "lung_cancer.nii.gz"
# Run inside the environment: Slicer's own modules accept everything.
STAND_INS = """
import importlib.abc, importlib.machinery, sys, types
class Kind(type):
    def __getattr__(cls, name):
        if name.startswith("__"): raise AttributeError(name)
        return Kind(name, (Anything,), {})
    def __call__(cls, *given, **named):
        decorates = len(given) == 1 and not named and isinstance(given[0], type)
        return given[0] if decorates or given and isinstance(given[0], str) else object.__new__(cls)
class Anything(metaclass=Kind):
    def __class_getitem__(cls, item): return cls
    def __getattr__(self, name): return Kind(name, (Anything,), {})
class Module(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return Kind(name, (Anything,), {})
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    OWN = {"slicer", "qt", "ctk", "vtk", "mrml", "SampleData", "DICOMLib", "PythonQt"}
    def find_spec(self, name, path, target=None):
        own = name.split(".")[0] in self.OWN and name != "slicer.packaging"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if own else None
    def create_module(self, spec): return Module(spec.name)
    def exec_module(self, module): pass
sys.meta_path.insert(0, Finder())
"""
# All distributions but the shipped ones are out of reach, as on a Slicer without the extension.
IMPORTS = STAND_INS + """
import ast, importlib, importlib.metadata, pathlib, re
shipped = set(sys.argv[2].split(","))
canonical = lambda name: re.sub(r"[-_.]+", "-", name).lower()
foreign = {module for module, owners in importlib.metadata.packages_distributions().items()
           if not shipped.intersection(map(canonical, owners))}
class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in foreign:
            raise ModuleNotFoundError(f"Slicer does not ship {name}", name=name)
sys.meta_path.insert(1, Bare())  # behind the stand-ins
repository = pathlib.Path(sys.argv[1])
sys.path[:0] = [str(repository), str(repository / "DiffuGTS")]
files = [p for p in sorted((repository / "DiffuGTS").rglob("*.py")) if "Resources" not in p.parts]
names = [".".join(p.relative_to(repository / "DiffuGTS").with_suffix("").parts) for p in files]
wanted = {n.removesuffix(".__init__") for n in names}
for file in files:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("DiffuGTSLib"):
            wanted.add(node.module)
for name in sorted(wanted):
    importlib.import_module(name)
heavy = {"torch", "jsonschema", "matplotlib", "diffusers", "transformers"} & set(sys.modules)
assert not heavy, f"Slicer's own process imports {heavy}"
print(f"{len(wanted)} modules imported with the {len(shipped)} shipped packages alone")
"""
INSTALL = STAND_INS + """
import pathlib, subprocess
repository, requirements = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sys.path[:0] = [str(repository), str(repository / "DiffuGTS")]
from DiffuGTSPanel.library import PackageInstall
from DiffuGTSLib.doctor import packages
missing = [each.name for each in packages(requirements) if each.state == "missing"]
with PackageInstall.constraintsFile([*missing, "torch"]) as constraints:
    for wanted in (["torch==2.13.0"], ["-r", str(requirements)]):
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet",
                        "--disable-pip-version-check", *wanted, "-c", str(constraints)], check=True)
"""


def python312() -> str:
    """A Python 3.12, which is Slicer's; else the one that runs this, which is said."""
    candidates = [os.environ.get("PYTHON312", ""), "python3.12"]
    for name in filter(None, candidates):
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False
                                   ).returncode == 0:
            return path
    print(f"No Python 3.12 here; {sys.version.split()[0]} takes its place (PYTHON312 names one).")
    return sys.executable


def run(*command: object, **more: object) -> str:
    """What a command prints.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          check=False, **more)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}\nfailed: {str(command[-1])[:200]}")
    return str(done.stdout)


def list_of(version: str) -> Path:
    """The file with the packages that a Slicer ships."""
    return REPOSITORY / "Testing" / "Host" / f"slicer-{version}.txt"


def state_of(version: str, made_from: tuple[Path, ...] = MADE_FROM) -> str:
    """A hash of what decides on the packages in an environment."""
    parts = [hashlib.sha256(path.read_bytes()).hexdigest()
             for path in (list_of(version), *made_from)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def environment(version: str) -> Path:
    """The Python of an environment with the shipped packages and those that the panel installs,
    made where it is not there."""
    folder, state = REPOSITORY / "build" / f"slicer-{version}", state_of(version)
    python, mark = folder / "bin" / "python", folder / "made-from"
    if mark.is_file() and mark.read_text() == state:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    run(python312(), "-m", "venv", folder)
    # --no-deps: what Slicer ships, not what pip would add.
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "-r", list_of(version))
    run(python, "-I", "-c", INSTALL, REPOSITORY, REQUIREMENTS)
    mark.write_text(state)
    return python


def versions_in(lines: str) -> dict[str, str]:
    """Versions by package, of lines as pip has them in requirements and prints them."""
    pairs = (line.split("==") for line in lines.splitlines()
             if "==" in line and not line.startswith("#"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version.strip() for name, version in pairs}


def check_imports(
    python: Path, shipped: dict[str, str], repository: Path = REPOSITORY
) -> None:
    """Imports all that Slicer's own process imports, from the shipped packages alone."""
    print(f"  {run(python, '-I', '-c', IMPORTS, repository, ','.join(shipped)).strip()}")


def check_unchanged(shipped: dict[str, str], python: Path) -> None:
    """Ends the program where a package that Slicer ships has another version."""
    there = versions_in(run(python, "-m", "pip", "freeze", "--all"))
    changed = [f"{name} {version} -> {there.get(name)}" for name, version in shipped.items()
               if there.get(name) != version]
    if changed:
        sys.exit(f"What Slicer ships has changed: {', '.join(changed)}")
    print(f"  {len(there.keys() - shipped.keys())} packages beside the {len(shipped)} that Slicer "
          "ships, which have their versions")


def launch(python: Path, module: str, *arguments: object) -> list[object]:
    """The command with which the panel starts a part of the library."""
    code = (f"import sys; sys.path.insert(0, sys.argv.pop(1)); "
            f"from DiffuGTSLib.{module} import main; sys.exit(main())")
    return [python, "-c", code, REPOSITORY, *arguments]


def worker_segments(python: Path, folder: Path) -> float:
    """Runs the worker on the sample; the seconds to its result."""
    request = {"type": "segment", "id": "1", "image": str(SCAN), "prompt": "lung tumor",
               "folder": str(folder / "job")}
    started = time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in launch(python, "worker")], text=True, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    for line in process.stdout:
        event = json.loads(line)
        if event["type"] in ("result", "error"):
            process.stdin.write('{"type": "quit"}\n')
            process.stdin.close()
            process.wait(30)
            if event["type"] == "error":
                sys.exit(f"The worker failed: {event}")
            return time.monotonic() - started
    sys.exit(f"The worker ended: {process.stderr.read() if process.stderr else ''}")


def batch_segments(python: Path, folder: Path) -> float:
    """Runs a batch of one scan; its seconds."""
    started = time.monotonic()
    run(*launch(python, "cli", "batch", SCAN, "--prompt", "lung tumor", "--output",
                folder / "batch"))
    records = (folder / "batch" / "cases.csv").read_text(encoding="utf-8")
    if ",done," not in records:
        sys.exit(f"The batch did not succeed: {records}")
    return time.monotonic() - started


def main() -> None:
    """Checks each version that is named."""
    for version in sys.argv[1:] or ["5.12", "5.10"]:
        started = time.monotonic()
        print(f"Slicer {version}")
        shipped = versions_in(list_of(version).read_text(encoding="utf-8"))
        python = environment(version)
        check_imports(python, shipped)
        check_unchanged(shipped, python)
        with tempfile.TemporaryDirectory() as folder:
            worker = worker_segments(python, Path(folder))
            batch = batch_segments(python, Path(folder))
        print(f"  worker: result after {worker:.0f} s; batch: {batch:.0f} s; "
              f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()

"""What is installed, what is missing, and what to do about it.

Needs nothing but Python's own library: it has to work where torch and all others are missing.
`python -m DiffuGTSLib.doctor` works where even the command line's packages are.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from DiffuGTSLib import __version__
from DiffuGTSLib.errors import DiffuGTSError

State = Literal["ok", "note", "missing"]

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(>=|==)?\s*([0-9.]*)")
_EXTRA = re.compile(r"extra == ['\"]([^'\"]+)['\"]")
# What the optional packages are for; those of the developers are not looked at.
EXTRAS = {
    "cluster": "batches on several machines (diffugts batch --cluster)",
    "dicom": "multi-frame DICOM, and DICOM segmentations (diffugts batch --dicom-seg)",
    "train": "diffugts train and diffugts evaluate",
}
_PROBE_SECONDS = 180
_MIN_MEMORY_GB = 4.0
# Run in another process: a torch that does not fit this processor ends its process.
_TORCH_PROBE = """
import contextlib, json
with contextlib.suppress(ImportError):
    import sitecustomize  # -S skips it; Slicer's adds the folders of its DLLs on Windows
import torch
devices = []
for i in range(torch.cuda.device_count()):
    entry = {"name": torch.cuda.get_device_name(i)}
    try:
        torch.ones(8, device=i).sum().item()
        free, total = torch.cuda.mem_get_info(i)
        entry.update(free=free, total=total)
    except Exception as error:
        entry["error"] = str(error).splitlines()[0]
    devices.append(entry)
print(json.dumps({"version": torch.__version__, "two": float(torch.ones(2).sum()),
                  "threads": torch.get_num_threads(), "devices": devices}))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: what was looked at.
        state: "ok"; "note", no failure; "missing", needed and not installed.
        found: what was found.
        advice: what to do; empty when nothing is to be done.
    """

    name: str
    state: State
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """The fields, ready for JSON."""
        return asdict(self)


def examine(model: str = "embedded", needed: Path | None = None) -> list[Finding]:
    """All findings: Python, packages, torch and devices, memory, text encoder, model, cache.

    Args:
        needed: a requirements file instead of the package's own requirements; then the
            package's extras are not looked at.
    """
    findings = [_python(), *packages(needed)]
    probe, torch = _torch(needed)
    findings += torch
    findings.append(_memory())
    if probe:
        findings += [_text_encoder(), _model(model)]
    else:
        findings.append(Finding("model", "note", "not looked at", "Repair torch first."))
    findings.append(_cache())
    return findings if needed else [*findings, *extras()]


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(finding.state != "missing" for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """The examination as a table of plain text, with a verdict at its end."""
    wide = max(len(finding.name) for finding in findings)
    lines = [f"DiffuGTS {__version__}"]
    for finding in findings:
        lines.append(f"{finding.state:<8} {finding.name:<{wide}}  {finding.found}")
        if finding.advice:
            lines.append(f"{'':<8} {'':<{wide}}  -> {finding.advice}")
    lines.append("Everything that is needed is installed." if healthy(findings)
                 else "Something that is needed is missing; see the lines marked missing.")
    return "\n".join(lines)


def _python() -> Finding:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", "ok", found)


def requirements(needed: Path | None = None) -> list[tuple[str, str, str]]:
    """What the library needs: name, ">=" or "==" or "", version.

    From the file `needed`, else the installed package, else the checkout's pyproject.toml.
    """
    try:
        if needed is not None:
            lines = needed.read_text(encoding="utf-8").splitlines()
        else:
            lines = importlib.metadata.requires("diffugts") or []
    except importlib.metadata.PackageNotFoundError:
        lines = _project().get("dependencies", [])
    return _parsed(line for line in lines if "extra ==" not in line)


def _project() -> dict[str, Any]:
    """What the checkout's pyproject.toml says of the project; nothing where there is none."""
    path = Path(__file__).parents[1] / "pyproject.toml"
    if not path.is_file():
        return {}
    document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return document["project"]


def _parsed(lines: Iterable[str]) -> list[tuple[str, str, str]]:
    found = (_REQUIREMENT.match(line) for line in lines)
    return [(m[1], m[2] or "", m[3]) for m in found if m]


def extras() -> Iterator[Finding]:
    """A finding an extra: whether its packages are there, what it is for, how to get it."""
    try:
        lines = importlib.metadata.requires("diffugts") or []
        named = [(m[1], line) for line in lines if (m := _EXTRA.search(line))]
        package = "diffugts"
    except importlib.metadata.PackageNotFoundError:
        optional = _project().get("optional-dependencies", {})
        named = [(extra, line) for extra, those in optional.items() for line in those]
        package = "."  # the checkout, which is not installed
    for extra, purpose in EXTRAS.items():
        needs = _parsed(line for of, line in named if of == extra)
        there = {name: _version(name) for name, _, _ in needs}
        lacking = [name for name, relation, version in needs
                   if not (has := there[name]) or not suits(has, relation, version)]
        if lacking:
            yield Finding(f"extra {extra}", "note", f"not installed: {', '.join(lacking)}",
                          f'Only for {purpose}: pip install "{package}[{extra}]"')
        else:
            yield Finding(f"extra {extra}", "ok",
                          ", ".join(f"{name} {version}" for name, version in there.items()))


def _version(name: str) -> str | None:
    """Of an installed package; None where it is absent or half installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(needed: Path | None = None) -> Iterator[Finding]:
    """A finding a required package, none imported; torch is looked at more closely elsewhere."""
    for name, relation, version in requirements(needed):
        if name == "torch":
            continue
        wanted = f'pip install "{name}{relation}{version}"'
        try:
            there = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "missing", "not installed", wanted)
            continue
        if there is None:  # a folder of metadata that an interrupted installation left
            yield Finding(name, "missing", "half installed", f"{wanted} --force-reinstall")
        elif suits(there, relation, version):
            yield Finding(name, "ok", there)
        else:
            yield Finding(name, "missing", f"{there}; {relation}{version} is needed", wanted)


def suits(there: str, relation: str, version: str) -> bool:
    """Whether the version `there` satisfies the requirement."""
    if not relation:
        return True
    have, need = ([int(n) for n in re.findall(r"\d+", v.split("+")[0])[:3]]
                  for v in (there, version))
    length = max(len(have), len(need))
    have, need = (part + [0] * (length - len(part)) for part in (have, need))
    return have == need if relation == "==" else have >= need


def _torch(needed: Path | None) -> tuple[bool, list[Finding]]:
    """Whether torch works, and the findings on it and on its devices."""
    relation, version = next(
        ((r, v) for name, r, v in requirements(needed) if name == "torch"), (">=", "0"))
    wanted = f'pip install "torch{relation}{version}"'
    try:
        probe = subprocess.run(
            # -S and this path: the packages that this process sees, no others.
            [sys.executable, "-S", "-c", _TORCH_PROBE], capture_output=True, text=True, check=False,
            timeout=_PROBE_SECONDS, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    except subprocess.TimeoutExpired:
        return False, [Finding("torch", "missing", "did not answer in three minutes",
                               f"pip uninstall -y torch, then {wanted}")]
    try:
        facts = json.loads(probe.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        if "No module named 'torch'" in probe.stderr:
            return False, [Finding("torch", "missing", "not installed", wanted)]
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
        return False, [Finding("torch", "missing", f"half installed or damaged: {reason[:160]}",
                               f"pip uninstall -y torch, then {wanted}")]
    if not suits(facts["version"], relation, version):
        found = f"{facts['version']}; {relation}{version} is needed"
        return False, [Finding("torch", "missing", found, wanted)]
    findings = [Finding("torch", "ok", facts["version"])]
    findings += [_device(i, entry) for i, entry in enumerate(facts["devices"])]
    if not facts["devices"]:
        findings.append(_cpu_only(facts["threads"]))
    return True, findings


def _device(index: int, entry: dict[str, object]) -> Finding:
    name = f"cuda:{index}"
    if "error" in entry:
        return Finding(name, "note", f"{entry['name']}: cannot be used ({entry['error']})",
                       "Install a torch that is made for this GPU and driver (pytorch.org).")
    free, total = (float(str(entry[key])) / 2**30 for key in ("free", "total"))
    return Finding(name, "ok", f"{entry['name']}, {free:.1f} of {total:.1f} GiB free")


def _cpu_only(threads: int) -> Finding:
    found = f"cpu, {threads} threads"
    if shutil.which("nvidia-smi"):
        return Finding("device", "note", f"{found}; there is an NVIDIA GPU that torch cannot use",
                       "Install a torch with CUDA that fits the driver (pytorch.org).")
    return Finding("device", "ok", f"{found}; no GPU")


def _memory() -> Finding:
    try:
        import psutil
    except ImportError:
        return Finding("memory", "note", "unknown without psutil")
    memory = psutil.virtual_memory()
    free, total = memory.available / 2**30, memory.total / 2**30
    found = f"{free:.1f} of {total:.1f} GiB free"
    if free < _MIN_MEMORY_GB:
        return Finding("memory", "note", found, "Close other programs before large scans.")
    return Finding("memory", "ok", found)


def _text_encoder() -> Finding:
    name = "text encoder"
    try:
        from DiffuGTSLib.networks.text_encoder import check_files, find_folder

        check_files(find_folder())
    except DiffuGTSError as error:
        return Finding(name, "missing", error.message, error.hint)
    except Exception as error:
        return _broken(name, error)
    return Finding(name, "ok", "all-MiniLM-L6-v2, verified")


def _model(model: str) -> Finding:
    name = f"model {Path(model).name}"
    try:
        from DiffuGTSLib.errors import AttentionMissing
        from DiffuGTSLib.models import Card, find, verify
        from DiffuGTSLib.models.store import has_attention

        folder = find(model)
        verify(folder)
        card = Card.read(folder)
        if not has_attention(folder):
            error = AttentionMissing(card.name)
            return Finding(name, "note", "verified; its attention has not been trained", error.hint)
    except DiffuGTSError as error:
        return Finding(name, "missing", error.message, error.hint)
    except Exception as error:
        return _broken(name, error)
    return Finding(name, "ok", f"{card.name} for {' and '.join(card.modalities)}, verified")


def _broken(name: str, error: Exception) -> Finding:
    """A package that is there and cannot be imported may raise anything."""
    module = getattr(error, "name", None)
    what = f"the package {module}" if module else "one of its packages"
    return Finding(name, "missing", f"{what} cannot be imported ({type(error).__name__})",
                   f"pip install --force-reinstall {module or 'diffugts'}")


def _cache() -> Finding:
    from DiffuGTSLib.files import cache_folder

    folder = cache_folder()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free / 2**30
    found = f"{folder.name}, {free:.1f} GiB free on its disk"
    if not os.access(there, os.W_OK):
        return Finding("cache folder", "note", f"{folder.name} cannot be written",
                       "Set DIFFUGTS_CACHE to a folder of yours.")
    return Finding("cache folder", "ok", found)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m DiffuGTSLib.doctor [--json] [--requirements FILE]`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m DiffuGTSLib.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--requirements", type=Path, help="file with other requirements")
    options = parser.parse_args(arguments)
    findings = examine(needed=options.requirements)
    if options.json:
        entries = [finding.as_dict() for finding in findings]
        print(json.dumps({"healthy": healthy(findings), "findings": entries}))
    else:
        print(as_text(findings))
    return 0 if healthy(findings) else 1


if __name__ == "__main__":
    sys.exit(main())

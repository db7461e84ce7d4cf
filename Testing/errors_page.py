"""Writes docs/errors.md: every error code with its meaning, sentences and hints, from the code.

    python Testing/errors_page.py [--check]
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = REPOSITORY / "DiffuGTSLib"
BASES = ("error",)  # never raised itself
PAGE = REPOSITORY / "docs" / "errors.md"
INTRODUCTION = """# Errors

Every failure has a code for programs, a sentence for people and, where there is something to do, a
hint. With `--json` they are `{"error": {"code", "message", "hint", "suggestions"}}`; the worker and
the batch's events hold the same fields. "…" stands for a name or a number. Exit codes: 0 done, 1
failed, 2 wrong usage, 130 cancelled.

`python Testing/errors_page.py` writes this page from the code.
"""


def text_of(node: ast.expr | None) -> str:
    """A text in the code, with an ellipsis for what is only known when it is raised."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return "" if node is None else "…"


def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8"))
            for path in sorted(LIBRARY.rglob("*.py"))}


def error_classes(parsed: dict[Path, ast.Module]) -> dict[str, tuple[str, str]]:
    """Code and first line of the docstring by the name of the class."""
    found = {}
    for tree in parsed.values():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            codes = [item.value for item in node.body if isinstance(item, ast.Assign)
                     and getattr(item.targets[0], "id", "") == "code"]
            if codes and isinstance(codes[0], ast.Constant):
                meaning = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
                found[node.name] = str(codes[0].value), meaning
    return found


def sentences(
    parsed: dict[Path, ast.Module], classes: dict[str, tuple[str, str]]
) -> dict[str, dict[tuple[str, str], None]]:
    """Message and hint of each place that makes an error, by its code, in the order of files."""
    found: dict[str, dict[tuple[str, str], None]] = {code: {} for code, _ in classes.values()}
    for tree in parsed.values():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name not in classes or not node.args:
                continue
            hint = next((k.value for k in node.keywords if k.arg == "hint"),
                        node.args[1] if len(node.args) > 1 else None)
            message = text_of(node.args[0])
            if message.strip("…"):
                found[classes[name][0]][message, text_of(hint)] = None
    return found


def own_sentences(
    parsed: dict[Path, ast.Module], classes: dict[str, tuple[str, str]],
    found: dict[str, dict[tuple[str, str], None]],
) -> None:
    """Adds the sentences that classes state themselves, and those of failures by code."""
    for tree in parsed.values():
        for owner in ast.walk(tree):
            for node in ast.walk(owner) if isinstance(owner, ast.ClassDef) else ():
                if (owner.name in classes and isinstance(node, ast.Call) and node.args
                        and getattr(node.func, "attr", "") == "__init__"):
                    add(found[classes[owner.name][0]], node.args)
            if (isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "BatchFailure"
                    and len(owner.args) > 1 and isinstance(owner.args[0], ast.Attribute)):
                name = getattr(owner.args[0].value, "id", "")
                if name in classes:
                    add(found[classes[name][0]], owner.args[1:])


def add(rows: dict[tuple[str, str], None], arguments: list[ast.expr]) -> None:
    message = text_of(arguments[0])
    if message.strip("…"):
        rows[message, text_of(arguments[1]) if len(arguments) > 1 else ""] = None


def page() -> str:
    parsed = trees()
    classes = error_classes(parsed)
    made = sentences(parsed, classes)
    own_sentences(parsed, classes, made)
    entries = sorted(set(classes.values()))
    lines = [INTRODUCTION, "| Code | Meaning |", "|---|---|"]
    lines += [f"| `{code}` | {meaning} |" for code, meaning in entries if code not in BASES]
    lines += ["", "## Sentences", "", "| Code | Sentence | Hint |", "|---|---|---|"]
    lines += [f"| `{code}` | {escaped(message)} | {escaped(hint)} |"
              for code, _ in entries if code not in BASES for message, hint in made[code]]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")

"""A campaign of bad inputs, kills and full disks, too long for the tests: `make campaign`.

    python Testing/Campaign/run.py [PART ...] [--seed N]

Parts: headers, protocol, kills, batch, disks, packages. Every try has one right outcome: a result
that is true, or a sentence; never a traceback, a crash, a hang, a lost or half-written file. The
table counts them; what is wrong is listed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Python"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import headers
import interruptions
import packages
import protocol
from rich.console import Console
from rich.table import Table
from support.tiny_model import write_tiny_model
from tally import Tally

PARTS: dict[str, Callable[[Path, Path, int], Tally]] = {
    "headers": lambda folder, model, seed: headers.campaign(folder, seed),
    "protocol": protocol.campaign,
    "kills": interruptions.kills_of_one_scan,
    "batch": interruptions.kills_of_a_batch,
    "disks": lambda folder, model, seed: interruptions.full_disks(folder, model),
    "packages": packages.campaign,
}


def main() -> None:
    """Runs the parts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    table, wrong = Table("part", "tried", "right", "wrong", "seconds"), []
    with tempfile.TemporaryDirectory() as root:
        model = write_tiny_model(Path(root) / "tiny")
        for name in chosen.parts or PARTS:
            folder, started = Path(root) / name, time.monotonic()
            folder.mkdir()
            tally = PARTS[name](folder, model, chosen.seed)
            bad = len(tally.wrong)
            table.add_row(tally.part, str(tally.tried), str(tally.tried - bad), str(bad),
                          f"{time.monotonic() - started:.0f}")
            wrong += [f"{tally.part}: {line}" for line in tally.wrong]
    console = Console()
    console.print(table)
    for line in wrong:
        console.print(line, markup=False, highlight=False)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

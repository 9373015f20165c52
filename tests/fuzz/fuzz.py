"""Damaged files of every kind, for every reader: each is read or refused by a typed error, soon and in little memory.

    python tests/fuzz/fuzz.py --number 1000000 [--seed N] [--save FOLDER] [READER...]

prints a line per reader. What ended in a signal, an error of another type, a hang or gigabytes is kept in FOLDER, the
input beside what it did, and the exit status is 1. Files that can hold pickles hold one that would leave a mark.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from harness import Result, Target, kinds, run
from targets import make_targets

COLUMNS = ("inputs", "refused", "accepted", "signals", "findings", "slowest", "peak MiB", "/s")


def shared_out(targets: list[Target], number: int) -> dict[str, int]:
    """Returns how many inputs each reader gets."""
    total = sum(target.share for target in targets)
    return {target.name: max(number * target.share // total, 1) for target in targets}


def run_all(number: int, seed: int, saved: Path, chosen: list[str] | None = None, show=print) -> dict[str, Result]:
    """Tries all readers, or the chosen ones, on so many inputs together.

    Args:
        number: Of inputs.
        seed: Of the inputs.
        saved: Where inputs that did harm are kept.
        chosen: Names of readers; all where there are none.
        show: Gets the lines of the table.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory() as seeds, tempfile.TemporaryDirectory(dir=memory) as work:
        tempfile.tempdir = work  # where readers put what they unpack
        mark = Path(seeds) / "mark"
        targets = [target for target in make_targets(Path(seeds), mark) if not chosen or target.name in chosen]
        numbers = shared_out(targets, number)
        results = {}
        show(f"{'reader':18}" + "".join(f"{column:>9}" for column in COLUMNS))
        for target in targets:
            result = run(target, range(numbers[target.name]), seed, Path(work) / "files", saved)
            if mark.exists():
                result.findings.append((-1, "code in a file was run"))
            results[target.name] = result
            show(_line(target.name, numbers[target.name], result))
        tempfile.tempdir = None
    return results


def _line(name: str, number: int, result: Result) -> str:
    return (
        f"{name:18}{number:9}{result.refused:9}{result.accepted:9}{len(result.signals):9}{len(result.findings):9}"
        f"{result.slowest:8.2f}s{result.peak >> 20:9}{number / max(result.seconds, 1e-9):9.0f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help="which to try (default: all)")
    parser.add_argument("--number", type=int, default=50_000, help="of inputs (default: 50000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, default=Path("fuzz-findings"), help="where harmful inputs are kept")
    parser.add_argument("--list", action="store_true", help="print the readers' names")
    args = parser.parse_args()
    if args.list:
        with tempfile.TemporaryDirectory() as folder:
            print(*(target.name for target in make_targets(Path(folder), Path(folder) / "mark")), sep="\n")
        return 0
    args.save.mkdir(parents=True, exist_ok=True)
    results = run_all(args.number, args.seed, args.save, args.readers, lambda line: print(line, flush=True))
    every = Result()
    for result in results.values():
        every.accepted, every.refused = every.accepted + result.accepted, every.refused + result.refused
        every.signals += result.signals
        every.findings += result.findings
        every.slowest, every.peak = max(every.slowest, result.slowest), max(every.peak, result.peak)
        every.seconds += result.seconds
    print(_line("all", every.accepted + every.refused + len(every.signals), every))
    for name, result in results.items():
        for what, count in kinds(result.findings).most_common():
            print(f"{name}: {what[:200]} ({count} kept in {args.save})")
    return int(bool(every.signals or every.findings))


if __name__ == "__main__":
    sys.exit(main())

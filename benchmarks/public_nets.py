#!/usr/bin/env python3
"""How many public Caffe nets are read and built: every prototxt with layers in the given repositories.

    python benchmarks/public_nets.py [-o REPORT.md] [--list] REPOSITORY...

Each REPOSITORY is a folder of files, or a git repository, bare or not, whose newest commit is read without a checkout.
A net "builds" if its shapes can be worked out in the TEST or in the TRAIN phase, as `pyscratchdet summary` does it,
without its data: nothing but the net file is there. Types and fields that are still unknown are listed with the files
and the repositories that need them. Templates, which a script fills in, are not nets. Nothing is run.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pyscratchdet.errors import PyScratchDetError
from pyscratchdet.layers.base import layer_types
from pyscratchdet.layers.plan import NetFile, plan_net, read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import unknown_fields_allowed

NAME = re.compile(r"\.prototxt(\.\w+)?$")
TEMPLATE = re.compile(r"template|\.tpl\.", re.IGNORECASE)
LAYER = re.compile(rb"^\s*layers?\s*:?\s*\{", re.MULTILINE)
SOLVER = re.compile(rb"^\s*(base_lr|net_param)\s*[:{]", re.MULTILINE)
COUNTS = ("files", "nets", "strict", "read", "known", "built", "looked_at")


@dataclass
class Outcome:
    """What came of one net.

    Attributes:
        strict: Whether every field is known.
        read: Whether it is read with unknown fields passed over.
        known: Whether every type is known, too.
        built: Whether its shapes are known.
        looked_at: Whether it is built, but cannot run, since of some layer only the shapes are known.
        types, fields: Those that are unknown.
        reason: Why it is not built; empty where a type is unknown.
    """

    strict: bool = False
    read: bool = False
    known: bool = False
    built: bool = False
    looked_at: bool = False
    types: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    reason: str = ""


@dataclass
class Repository:
    """What came of one repository's nets: counts, then what is missing -> the files that need it."""

    files: int = 0
    nets: int = 0
    strict: int = 0
    read: int = 0
    known: int = 0
    built: int = 0
    looked_at: int = 0
    types: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    fields: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    reasons: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, name: str, outcome: Outcome) -> None:
        """Counts one net."""
        self.nets += 1
        for count in COUNTS[2:]:
            setattr(self, count, getattr(self, count) + getattr(outcome, count))
        for kind in ("types", "fields"):
            for what in getattr(outcome, kind):
                getattr(self, kind)[what].add(name)
        if outcome.reason:
            self.reasons[outcome.reason].add(name)


class OnlyShapes(logging.Handler):
    """Notes whether a plan said that of some layer only the shapes are known."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def emit(self, record: logging.LogRecord) -> None:
        """Looks at one message."""
        self.seen = self.seen or "only the shapes are known" in record.getMessage()


def prototxts(repository: Path) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each prototxt in a folder or in the newest commit of a git repository."""
    if (repository / "objects").is_dir() or (repository / ".git").exists():
        git = ["git", "-C", str(repository)]
        listed = subprocess.run([*git, "ls-tree", "-rz", "--name-only", "HEAD"], check=True, capture_output=True)
        names = [name for name in listed.stdout.decode().split("\0") if NAME.search(name)]
        if names:
            packed = subprocess.run([*git, "archive", "HEAD", *names], check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isfile() else None
                    if content:
                        yield member.name, content.read()
        return
    for path in sorted(repository.rglob("*.prototxt*")):
        if path.is_file() and NAME.search(path.name):
            yield str(path.relative_to(repository)), path.read_bytes()


def is_net(name: str, content: bytes) -> bool:
    """Returns whether a prototxt is a net, and neither a solver nor a template."""
    return bool(LAYER.search(content)) and not SOLVER.search(content) and not TEMPLATE.search(name)


def try_net(path: Path) -> Outcome:
    """Reads and builds one net."""
    result = Outcome()
    try:
        net = read_net(path)
        result.strict = True
    except PyScratchDetError:
        try:
            with unknown_fields_allowed():
                net = read_net(path)
        except PyScratchDetError as error:
            result.reason = f"not read: {error.code}"
            return result
    result.read = True
    result.fields = {passed.field for passed in net.passed_over}
    result.types = {layer.type for layer in net.param.layer} - set(layer_types())
    result.known = not result.types
    build(net, result)
    return result


def build(net: NetFile, result: Outcome) -> None:
    """Tries both phases; the reason that counts is the first phase's."""
    reasons = []
    for phase in (caffe_pb2.TEST, caffe_pb2.TRAIN):
        handler = OnlyShapes()
        logging.getLogger("pyscratchdet").addHandler(handler)
        try:
            plan_net(net, phase)
        except PyScratchDetError as error:
            reasons.append(f"{error.code}: {error.layer_type or ''} {error.message}")
        else:
            result.built, result.looked_at = True, handler.seen
            return
        finally:
            logging.getLogger("pyscratchdet").removeHandler(handler)
    if result.known:
        result.reason = reasons[0]


def try_repository(repository: Path, known: dict[bytes, Outcome]) -> Repository:
    """Tries all nets of a repository that are not known yet; each lies in an empty folder while it is built."""
    result = Repository()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        for name, content in prototxts(repository):
            result.files += 1
            if is_net(name, content):
                if content not in known:
                    path.write_bytes(content)
                    known[content] = try_net(path)
                result.add(name, known[content])
    return result


def report(results: dict[str, Repository], known: dict[bytes, Outcome]) -> str:
    """Returns the tables as Markdown.

    Args:
        results: Of each repository.
        known: Of each net by its content.
    """
    lines = [
        f"# Public nets, {date.today()}",
        "",
        "Nets: prototxts with layers. Strict: every field is known. Read: with unknown fields passed over. Known:",
        "every type is. Built: shapes in some phase, from the net file alone. Looked at: built, but refused when it is",
        "to run, since of some layer or field only the shapes are known.",
        "",
        "| repository | " + " | ".join(count.replace("_", " ") for count in COUNTS) + " |",
        "|---|" + "---:|" * len(COUNTS),
    ]
    rows = {name: [getattr(result, count) for count in COUNTS] for name, result in results.items()}
    rows["**all**"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    once = [sum(getattr(outcome, count) for outcome in known.values()) for count in COUNTS[2:]]
    rows["**all, equal files once**"] = ["", len(known), *once]
    lines += [f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in rows.items()]
    for title, attribute in (("Unknown types", "types"), ("Unknown fields", "fields"), ("Why not built", "reasons")):
        files: Counter[str] = Counter()
        places: dict[str, list[str]] = defaultdict(list)
        for name, result in results.items():
            for what, names in getattr(result, attribute).items():
                files[what] += len(names)
                places[what].append(name)
        lines += ["", f"## {title}", "", "| what | files | repositories |", "|---|---:|---|"]
        lines += [f"| {what} | {number} | {_shown(places[what])} |" for what, number in files.most_common()]
    return "\n".join(lines) + "\n"


def _shown(names: list[str]) -> str:
    return ", ".join(names if len(names) < 6 else [*names[:3], f"and {len(names) - 3} more"])


def repository_name(path: Path) -> str:
    """Returns what the report calls a repository: its folder, `owner/name` where that is `owner+name`."""
    while path.name in ("repo", ".git"):
        path = path.parent
    return path.name.replace("+", "/")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", nargs="+", type=Path, metavar="REPOSITORY")
    parser.add_argument("-o", "--output", type=Path, metavar="REPORT.md", help="where the tables go (default: printed)")
    parser.add_argument("--list", action="store_true", help="also print each file that is not built, with its reason")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    results: dict[str, Repository] = {}
    known: dict[bytes, Outcome] = {}
    for path in args.repositories:
        results[repository_name(path.resolve())] = result = try_repository(path, known)
        print(f"{path}: {result.built} of {result.nets} nets built", file=sys.stderr)
        if args.list:
            for reason, names in sorted(result.reasons.items()):
                print(*(f"{name}: {reason}" for name in sorted(names)), sep="\n", file=sys.stderr)
    text = report(results, known)
    if args.output:
        args.output.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

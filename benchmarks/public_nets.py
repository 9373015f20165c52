#!/usr/bin/env python3
"""How many public Caffe nets are read and built: every prototxt with layers in the given repositories.

    python benchmarks/public_nets.py [-o REPORT.md] [--list] REPOSITORY...

Each REPOSITORY is a folder of files, or a git repository, bare or not, whose newest commit is read without a checkout.
A net "builds" if its shapes can be worked out in the TEST or in the TRAIN phase, as `pyscratchdet summary` does it,
without its data: nothing but the net file is there. Types and fields that are still unknown are listed with the files
and the repositories that need them. Nothing is run.
"""

from __future__ import annotations

import argparse
import io
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

LAYER = re.compile(rb"^\s*layers?\s*:?\s*\{", re.MULTILINE)
SOLVER = re.compile(rb"^\s*(base_lr|net_param)\s*[:{]", re.MULTILINE)


@dataclass
class Repository:
    """What came of one repository's nets: counts, then what is missing -> the files that need it."""

    files: int = 0
    nets: int = 0
    strict: int = 0
    read: int = 0
    known: int = 0
    built: int = 0
    types: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    fields: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    reasons: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def prototxts(repository: Path) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of each prototxt in a folder or in the newest commit of a git repository."""
    if (repository / "objects").is_dir() or (repository / ".git").exists():
        git = ["git", "-C", str(repository)]
        listed = subprocess.run([*git, "ls-tree", "-rz", "--name-only", "HEAD"], check=True, capture_output=True)
        names = [name for name in listed.stdout.decode().split("\0") if "prototxt" in Path(name).name]
        if names:
            packed = subprocess.run([*git, "archive", "HEAD", *names], check=True, capture_output=True).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isfile() else None
                    if content:
                        yield member.name, content.read()
        return
    for path in sorted(repository.rglob("*prototxt*")):
        if path.is_file():
            yield str(path.relative_to(repository)), path.read_bytes()


def try_net(name: str, path: Path, result: Repository) -> None:
    """Reads and builds one net and counts what came of it."""
    try:
        net = read_net(path)
        result.strict += 1
    except PyScratchDetError:
        try:
            with unknown_fields_allowed():
                net = read_net(path)
        except PyScratchDetError as error:
            result.reasons[f"not read: {error.code}"].add(name)
            return
    result.read += 1
    for passed in net.passed_over:
        result.fields[passed.field].add(name)
    unknown = {layer.type for layer in net.param.layer} - set(layer_types())
    for layer_type in unknown:
        result.types[layer_type].add(name)
    result.known += not unknown
    build(name, net, bool(unknown), result)


def build(name: str, net: NetFile, is_unknown: bool, result: Repository) -> None:
    """Tries both phases; the reason that counts is the first phase's."""
    reasons = []
    for phase in (caffe_pb2.TEST, caffe_pb2.TRAIN):
        try:
            plan_net(net, phase)
        except PyScratchDetError as error:
            reasons.append(f"{error.code}: {error.layer_type or ''} {error.message}")
        else:
            result.built += 1
            return
    if not is_unknown:
        result.reasons[reasons[0]].add(name)


def try_repository(repository: Path) -> Repository:
    """Tries all nets of a repository; each lies in an empty folder while it is built."""
    result = Repository()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        for name, content in prototxts(repository):
            result.files += 1
            if LAYER.search(content) and not SOLVER.search(content):
                result.nets += 1
                path.write_bytes(content)
                try_net(name, path, result)
    return result


def report(results: dict[str, Repository]) -> str:
    """Returns the tables as Markdown."""
    columns = ("files", "nets", "strict", "read", "known", "built")
    lines = [
        f"# Public nets, {date.today()}",
        "",
        "Nets: prototxts with layers. Strict: every field is known. Read: with unknown fields passed over. Known:",
        "every type is. Built: shapes in some phase, from the net file alone.",
        "",
        "| repository | " + " | ".join(columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    rows = {name: [getattr(result, column) for column in columns] for name, result in results.items()}
    rows["**all**"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    lines += [f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in rows.items()]
    for title, attribute in (("Unknown types", "types"), ("Unknown fields", "fields"), ("Why not built", "reasons")):
        files: Counter[str] = Counter()
        places: dict[str, list[str]] = defaultdict(list)
        for name, result in results.items():
            for what, names in getattr(result, attribute).items():
                files[what] += len(names)
                places[what].append(name)
        lines += ["", f"## {title}", "", "| what | files | repositories |", "|---|---:|---|"]
        lines += [f"| {what} | {number} | {', '.join(places[what])} |" for what, number in files.most_common()]
    return "\n".join(lines) + "\n"


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
    results = {}
    for path in args.repositories:
        results[repository_name(path.resolve())] = result = try_repository(path)
        print(f"{path}: {result.built} of {result.nets} nets built", file=sys.stderr)
        if args.list:
            for reason, names in sorted(result.reasons.items()):
                print(*(f"{name}: {reason}" for name in sorted(names)), sep="\n", file=sys.stderr)
    text = report(results)
    if args.output:
        args.output.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

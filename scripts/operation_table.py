#!/usr/bin/env python3
"""Write docs/operations.md: what PyTorch's and ONNX's operators become, how exactly, and in which layers.

python scripts/operation_table.py
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from pyscratchdet.converters import operations
from pyscratchdet.converters.layer_sets import LAYER_SETS
from pyscratchdet.converters.onnx_operators import HANDLERS as ONNX_HANDLERS
from pyscratchdet.converters.operations.composer import OPERATIONS, Exactness
from pyscratchdet.converters.torch_operators import HANDLERS as TORCH_HANDLERS
from pyscratchdet.files import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operations.md"
INTRODUCTION = """# Operations that become Caffe layers

Written by `python scripts/operation_table.py`; do not edit.

`convert` and `pyscratchdet.import_module` take PyTorch modules and ONNX files through one set of operations. Each is a
layer or a composition of layers and says how exact it is. What none of them gives exactly is refused, with the places
where the net can be cut; `--approximate` allows the approximate ones and prints their largest error."""


def rows() -> list[str]:
    """Returns a row for each operation: its name, how exact it is, and what it does."""
    functions = {}
    for module in pkgutil.iter_modules(operations.__path__):
        members = vars(importlib.import_module(f"{operations.__name__}.{module.name}"))
        functions.update({name.rstrip("_"): member for name, member in members.items() if inspect.isfunction(member)})
    first = {name: inspect.getdoc(functions[name]).partition("\n\n")[0].replace("\n", " ") for name in OPERATIONS}
    return [f"| {name} | {OPERATIONS[name].name.lower()} | {first[name]} |" for name in sorted(OPERATIONS)]


def page() -> str:
    """Returns docs/operations.md."""
    lines = [INTRODUCTION, "", *(f"- *{level.name.lower()}*: {level.value}." for level in Exactness), ""]
    lines += ["| operation | exactness | what it does |", "|---|---|---|", *rows()]
    for title, handlers in (("PyTorch's operators", TORCH_HANDLERS), ("ONNX's operators", ONNX_HANDLERS)):
        names = ", ".join(f"`{name}`" for name in sorted(handlers, key=str.lower))
        lines += ["", f"## {title}", "", f"{names}."]
    lines += ["", "## The layers of each target", "", "What `--layers TARGET` keeps to.", ""]
    lines += ["| target | layers |", "|---|---|"]
    lines += [f"| {name} | {' '.join(sorted(layers.types or ()))} |" for name, layers in LAYER_SETS.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page."""
    write_text(PAGE, page())


if __name__ == "__main__":
    main()

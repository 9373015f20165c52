#!/usr/bin/env python3
"""Write docs/which_caffe.md: the dialects of the schema, their fields and layer types, and what is computed of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyscratchdet.layers.base import layer_types
from pyscratchdet.layers.plan import NET_FORK_FIELDS
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import DIALECTS, Known
from pyscratchdet.solver.policies import FORK_FIELDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "which_caffe.md"
SCHEMAS = ROOT / "pyscratchdet" / "proto" / "dialects"
HEAD = """# Which Caffe is this file from?

Written by `python scripts/dialect_page.py`; do not edit.

Every Caffe has a `caffe.proto` of its own. Here the schema of SSD's and RefineDet's Caffe is the base, and what other
Caffes add to it stands in one small file each, a dialect, in `pyscratchdet/proto/dialects`.

- **A text file** (prototxt) is read by the names of its fields, whichever Caffe they are from. A field that only
  chooses an implementation, a precision or a number of threads is passed over, and one line says so. Any other field is
  computed or refused by its name, unless it has the value that its own Caffe has without it.
- **Where only shapes are known**, a net can be looked at (`summary`, `draw-net`), with a warning, and is refused when
  it is to run. That is so for the layer types marked below, and for the fields at the end of this page.
- **A binary file** (caffemodel, solverstate) is read by the field numbers of the base, unless the types of its layers
  show that only one other Caffe can have written it (one line says so), or `--dialect NAME` names it (in Python
  `pyscratchdet.proto.numbers.binary_dialect`). With `--dialect`, they are also written by that Caffe's numbers.
- **Where a text does not show whose it is**, the base's meaning is taken: FaceBoxes writes SSD's PriorBox and computes
  other priors (`--dialect faceboxes` takes its), the first TextBoxes two of each (write `denser_prior_boxes: true`);
  where predictions and priors do not fit, the error says so. BVLC's newer InfogainLoss takes scores, the base's their
  softmax: write `infogain_loss_param { axis: 1 }` for the newer.
- **A Caffe that is not listed**: `--schema caffe.proto` (in Python `pyscratchdet.register_schema`) adds its messages
  and fields, and `--import my_layers.py` the layer types that compute them; [own_layer.md](own_layer.md) shows how.
- **A field that nobody knows** is refused; `--allow-unknown` passes over it with a warning.

Where one name has two types, the wider one is read: `fl_params` and its neighbours are lists in intel/caffe and single
numbers in Ristretto, so a list is read. Two single values of the base are lists elsewhere: `device_id` of a solver
(yjxiong/caffe), where `--gpu` says what counts here, and `resize_param` (eric612/MobileNet-YOLO). The second and later
values of a text are in fields of their own, `later_values_of_...`, and are printed as they were written.
"""


def computed_fields() -> set[tuple[str, str]]:
    """Returns (message, field), or (message, field=VALUE), of all that layer types and the solver compute."""
    found = {("SolverParameter", name) for name in FORK_FIELDS}
    found |= {("NetParameter", name) for name in NET_FORK_FIELDS}
    for cls in layer_types().values():
        for path in cls.known_fork_fields():
            found.update(_resolved(path))
    return found


def _resolved(path: str) -> Iterator[tuple[str, str]]:
    descriptor = caffe_pb2.LayerParameter.DESCRIPTOR
    *way, last = path.split(".")
    for name in way:
        descriptor = descriptor.fields_by_name[name].message_type
    yield descriptor.name, last
    field = descriptor.fields_by_name[last.partition("=")[0]]
    if field.message_type is not None:
        yield from ((field.message_type.name, one.name) for one in field.message_type.fields)


def overview(computed: set[tuple[str, str]]) -> list[str]:
    """Returns the lines of the table of all dialects."""
    lines = [
        "| dialect | Caffe | fields | computed | hints | layer types | of these known here |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    here = layer_types()
    for name, origin in DIALECTS.origins.items():
        fields = [(message, one, known) for message, one, known in _fields(name)]
        types = [layer_type for layer_type, dialects in DIALECTS.types.items() if name in dialects]
        lines.append(
            f"| `{name}` | {origin} | {len(fields)} | {sum((message, one) in computed for message, one, _ in fields)} "
            f"| {sum(known.is_hint for _, _, known in fields)} | {len(types)} | {sum(one in here for one in types)} |"
        )
    return lines


def section(name: str, computed: set[tuple[str, str]]) -> list[str]:
    """Returns the lines about one dialect."""
    source = [line.removeprefix("// ") for line in (SCHEMAS / f"{name}.proto").read_text().splitlines()]
    comment = " ".join(source[: source.index('syntax = "proto2";')])
    here = layer_types()
    types = sorted(layer_type for layer_type, dialects in DIALECTS.types.items() if name in dialects)
    lines = ["", f"## {name}", "", f"Source: {comment}"]
    for title, chosen in (
        ("Layer types known here", [one for one in types if one in here and not here[one].only_shapes]),
        ("Of these only the shapes are known here", [one for one in types if one in here and here[one].only_shapes]),
        ("Layer types unknown here", [one for one in types if one not in here]),
    ):
        if chosen:
            lines += ["", f"{title}: {', '.join(f'`{one}`' for one in chosen)}."]
    rows: dict[str, list[list[str]]] = {}
    for message, one, known in _fields(name):
        row = rows.setdefault(message, [[], [], []])
        row[0 if (message, one) in computed else 1 if known.is_hint else 2].append(_shown(message, one, known))
    if rows:
        lines += ["", "| message | computed | passed over | refused, unless equal |", "|---|---|---|---|"]
    lines += [
        f"| {message} | {' | '.join(', '.join(part) or '-' for part in row)} |" for message, row in sorted(rows.items())
    ]
    values = [
        (enum, value) for enum, own in DIALECTS.values.items() for value, dialects in own.items() if name in dialects
    ]
    if values:
        lines += ["", f"Values: {', '.join(f'`{enum}.{value}`' for enum, value in sorted(values))}."]
    moved = {message: numbers for message, numbers in DIALECTS.numbers.get(name, {}).items() if numbers}
    if moved:
        parts = [f"{message} {', '.join(map(str, sorted(numbers)))}" for message, numbers in sorted(moved.items())]
        lines += ["", f"Numbers with another meaning elsewhere: {'; '.join(parts)}."]
    return lines


def _fields(dialect: str) -> Iterator[tuple[str, str, Known]]:
    for message, fields in DIALECTS.fields.items():
        for name, known in fields.items():
            if dialect in known.dialects:
                yield message, name, known


def _shown(message: str, name: str, known: Known) -> str:
    field = caffe_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name[name]
    named = field.message_type or field.enum_type
    kinds = {getattr(field, key): key.removeprefix("TYPE_").lower() for key in dir(field) if key.startswith("TYPE_")}
    kind = f"{'repeated ' if field.is_repeated else ''}{named.name if named else kinds[field.type]}"
    neutral = known.neutral if known.neutral != "" else '""'
    return f"`{name}` {kind}" + (f" = {neutral}" if neutral is not None else "")


def page() -> str:
    """Returns the whole page."""
    computed = computed_fields()
    lines = [HEAD, *overview(computed)]
    for name in DIALECTS.origins:
        lines += section(name, computed)
    return "\n".join([*lines, *looked_at()]) + "\n"


def looked_at() -> list[str]:
    """Returns the lines about fields that change results but no shapes."""
    types: dict[frozenset[str], list[str]] = {}
    for name, cls in layer_types().items():
        fields = cls.known_fork_fields(runs=False) - cls.known_fork_fields()
        if fields:
            types.setdefault(fields, []).append(f"`{name}`")
    lines = ["", "## Fields of which only the shapes are known"]
    for fields, names in types.items():
        lines += ["", f"{', '.join(names)}: {', '.join(f'`{field}`' for field in sorted(fields))}."]
    return lines


if __name__ == "__main__":
    PAGE.write_text(page())

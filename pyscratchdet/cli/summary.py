"""`pyscratchdet summary`: layers, shapes, parameters, multiply-accumulates and memory of a net, without torch."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pyscratchdet.cli.flags import add_allow_python, add_json_flag, add_phase_flag, add_schema_flags

if TYPE_CHECKING:
    from pyscratchdet.layers.costs import NetCost


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", help="net prototxt")
    add_phase_flag(parser, "TEST")
    parser.add_argument("--input", metavar="SIZE", help="input as N,C,H,W or H,W in place of the file's")
    add_schema_flags(parser)
    add_allow_python(parser)
    parser.add_argument("--total", action="store_true", help="print the totals only")
    add_json_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from pyscratchdet.cli.console import show_json
    from pyscratchdet.errors import counted
    from pyscratchdet.layers.costs import net_cost
    from pyscratchdet.layers.plan import plan_net, read_net
    from pyscratchdet.proto import caffe_pb2

    plan = plan_net(read_net(args.model), caffe_pb2.Phase.Value(args.phase))
    if args.input:
        plan.reshape(_new_shape(args.input, plan))
    cost = net_cost(plan)
    if args.json:
        show_json(_as_dict(cost, not args.total))
        return 0
    if not args.total:
        _print_layers(cost)
    print(
        f"{counted(len(cost.layers), 'layer')}, {counted(cost.num_parameters, 'parameter', spec=',')}, "
        f"{_scaled(cost.macs)} multiply-accumulates ({_scaled(2 * cost.macs)}FLOPs), "
        f"{cost.memory / 2**20:.1f} MiB of blobs"
    )
    return 0


def _as_dict(cost: NetCost, with_layers: bool) -> dict[str, Any]:
    """Returns all figures; parameters are counted as learned values, memory in bytes."""
    from dataclasses import asdict

    totals = {"layers": len(cost.layers), "parameters": cost.num_parameters, "macs": cost.macs, "memory": cost.memory}
    return {"totals": totals, **({"layers": [asdict(layer) for layer in cost.layers]} if with_layers else {})}


def _scaled(number: int) -> str:
    """Returns a number in units of giga, or of mega where it is below 0.01 giga."""
    return f"{number / 1e9:.3f} G" if number >= 1e7 else f"{number / 1e6:.3f} M"


def _new_shape(text: str, plan: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of the net's first input with its last numbers replaced."""
    from pyscratchdet.errors import UsageError

    try:
        given = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        given = ()
    if not given or min(given) < 1:
        raise UsageError("--input takes sizes", code="summary.input", expected="such as 300,300", found=text)
    if not plan.graph.inputs:
        raise UsageError("the net has no input to reshape", code="summary.input", hint="use the deploy net")
    blob = plan.graph.inputs[0]
    shape = plan.shapes[blob]
    if len(given) > len(shape):
        raise UsageError("--input has too many sizes", code="summary.input", expected=len(shape), found=len(given))
    return {plan.graph.blob_names[blob]: (*shape[: len(shape) - len(given)], *given)}


def _print_layers(cost: NetCost) -> None:
    from pyscratchdet.cli.console import console, plain_table

    table = plain_table(("layer", "type", "tops", "parameters>", "MMACs>", "KiB>"))
    for layer in cost.layers:
        tops = " ".join("x".join(map(str, shape)) for shape in layer.tops)
        macs = f"{layer.macs / 1e6:.2f}" if layer.macs else ""
        memory = f"{layer.memory / 1024:.0f}" if layer.memory else "in place"
        table.add_row(layer.name, layer.type, tops, f"{layer.num_parameters:,}", macs, memory)
    console().print(table)

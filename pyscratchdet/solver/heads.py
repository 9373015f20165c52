"""Says which layers a run fills afresh because its weights have other shapes, and whether only the classes differ."""

from __future__ import annotations

from collections.abc import Iterator

from pyscratchdet.layers.base import Shape
from pyscratchdet.runtime import CopyReport, Net


def reset_lines(net: Net, report: CopyReport) -> Iterator[str]:
    """Yields a line for each layer that was filled afresh, and one if all of them differ in the number of classes."""
    for layer, (theirs, mine) in report.reset.items():
        yield f"Layer {layer} is filled afresh: {_text(theirs)} in the weights, {_text(mine)} here"
    if classes := class_counts(net, report):
        yield f"{classes[0]} classes in the weights, {classes[1]} here, background included"


def class_counts(net: Net, report: CopyReport) -> tuple[int, int] | None:
    """Returns the number of classes in the weights and in the net, if that explains all layers filled afresh.

    Each of these layers must have a multiple of the number of classes as outputs, and all else alike.
    """
    losses = [module.layer.param.multibox_loss_param for module in net.layers if module.layer_type == "MultiBoxLoss"]
    here = max((loss.num_classes for loss in losses), default=0)
    pairs = [pair for shapes in report.reset.values() for pair in zip(*shapes, strict=False)]
    alike = all(len(shapes[0]) == len(shapes[1]) for shapes in report.reset.values())
    if not (here and pairs and alike and all(their[1:] == my[1:] and my[0] % here == 0 for their, my in pairs)):
        return None
    found = {their[0] * here / my[0] for their, my in pairs}
    there = found.pop()
    return (int(there), here) if not found and there == int(there) else None


def _text(shapes: list[Shape]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes) or "no blobs"

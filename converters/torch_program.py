"""From a Caffe net to a program of torch.export, which torch alone loads and runs."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from pyscratchdet.converters.file_facts import explain, file_facts
from pyscratchdet.converters.onnx_export import BATCH
from pyscratchdet.converters.torch_source import ModuleSource, module_source
from pyscratchdet.errors import ConversionError
from pyscratchdet.files import write_bytes
from pyscratchdet.runtime import Net

FACTS = "pyscratchdet.json"


def export_program(net: Net, *, heads: str = "", batch: int | None = None) -> ExportedProgram:
    """Returns a net as an exported program that takes its inputs in order and returns {output: tensor}.

    Args:
        net: A TEST net with its weights.
        heads: What a detector ends in: "fixed" (the default for a detector), "boxes" or "raw"; see
            `onnx_export.export_onnx`. "" for a net that is not a detector.
        batch: The batch size; None leaves it open, except in a net that is bound to one.

    Raises:
        ConversionError: A layer has no PyTorch source, or `heads` does not fit the net.
    """
    if heads == "decoded":
        raise ConversionError(
            "an exported program cannot hold rows as found: their number depends on the picture",
            code="torch.heads",
            expected="fixed, boxes or raw",
            found=heads,
        )
    if batch is None:
        batch = net.plan.fixed_batch()
    source = module_source(net, heads=heads or default_heads(net) or "decoded", whole=False)
    # Shapes are traced with two pictures: torch.export takes 1 for a size that never changes.
    examples = tuple(torch.zeros(batch or 2, *shape[1:]) for shape in source.inputs.values())
    shapes = tuple({} if batch else {0: Dim(BATCH)} for _ in examples)
    with torch.no_grad():
        program = torch.export.export(_instance(source), examples, dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def save_program(
    net: Net, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None, **options: Any
) -> ExportedProgram:
    """Writes a net as a file for torch.export.load; what the file says about itself is its extra file FACTS, JSON.

    Args:
        net: A TEST net with its weights.
        path: File to write; atomic.
        metadata: Further facts to keep in the file.
        **options: Options of `export_program`.
    """
    program = export_program(net, **options)
    facts = {**file_facts(net, heads=options.get("heads") or default_heads(net)), **(metadata or {})}
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={FACTS: json.dumps(facts)})
    write_bytes(path, file.getvalue())
    return program


def program_notes(path: str | os.PathLike[str]) -> list[str]:
    """Returns what a user of a written program must know: what goes in and what comes out."""
    extra = {FACTS: ""}
    program = torch.export.load(path, extra_files=extra)
    facts = json.loads(extra[FACTS])
    inputs = {
        node.name: [str(size) if isinstance(size, int) else BATCH for size in node.meta["val"].shape]
        for node in program.graph.nodes
        if node.name in program.graph_signature.user_inputs
    }
    return explain(facts, inputs, "torch.export.load, without this project")


def default_heads(net: Net) -> str:
    """Returns what a net ends in where nothing is chosen."""
    return "fixed" if net.plan.detection_layers else ""


def _instance(source: ModuleSource) -> nn.Module:
    """Returns the net that a source text describes, with its weights."""
    names: dict[str, Any] = {"__name__": __name__}  # dataclasses look their module up
    exec(compile(source.text, "<net>", "exec"), names)  # text that this project wrote
    module: nn.Module = names[source.class_name]()
    state: dict[str, Tensor] = source.state
    module.load_state_dict(state)
    return module.eval()

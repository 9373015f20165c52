"""Runs a recorded case through layer objects directly, without the runtime.

A case is a net of Input layers, perhaps an identity Scale, and the layer under test, called `layer`; beside it lie the
original's numbers under the keys `in:<input>`, `param:<i>`, `out:<top>`, `topdiff:<top>` (the gradient fed in),
`diff:<bottom>`, `pdiff:<i>` and `param_after:<i>`. `run` executes it and returns the relative L2 error of each recorded
result; `errors` does so for a case under `recorded/`, and `recorded_cases` lists those of some types for parametrize.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from google.protobuf import text_format

from pyscratchdet.layers.base import BlobSpec, Context, Layer, layer_class
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

RECORDED = Path(__file__).parent / "recorded"


def make_layer(
    text: str, bottoms: Sequence[tuple[int, ...]], phase: int = caffe_pb2.TRAIN, seed: int = 1
) -> tuple[Layer, list[tuple[int, ...]]]:
    """Returns a layer from the text of a LayerParameter, set up and reshaped, and its top shapes."""
    return build_layer(text_format.Parse(text, caffe_pb2.LayerParameter()), bottoms, phase, seed)


def build_layer(
    param: caffe_pb2.LayerParameter, bottoms: Sequence[tuple[int, ...]], phase: int, seed: int = 1
) -> tuple[Layer, list[tuple[int, ...]]]:
    """Returns a layer, set up and reshaped, and its top shapes; made-up tops are counted as the net does."""
    cls = layer_class(param.type)
    layer = cls(param, Context(phase=phase, random=CaffeRandom(seed), writes=True))
    if cls.auto_tops:
        layer.num_tops = max(layer.num_tops, cls.tops.low)
    assert len(bottoms) in cls.bottoms
    assert layer.num_tops in cls.tops
    layer.setup(bottoms)
    return layer, layer.reshape(bottoms)


def run(prototxt: str, arrays: Mapping[str, np.ndarray], device: torch.device | str = "cpu") -> dict[str, float]:
    """Returns the error of each recorded result by its key; infinite where the shape differs."""
    net = text_format.Parse(prototxt, caffe_pb2.NetParameter())
    blobs: dict[str, torch.Tensor] = {}
    params: list[torch.Tensor] = []
    for param in net.layer:
        if param.type == "Input":
            for top in param.top:
                blobs[top] = torch.tensor(arrays[f"in:{top}"]).to(device).requires_grad_()
            continue
        layer, _ = build_layer(param, [tuple(blobs[name].shape) for name in param.bottom], net.state.phase)
        is_tested = param.name == "layer"
        values = [
            _blob(spec, arrays[f"param:{i}"] if is_tested else None, device) for i, spec in enumerate(layer.blobs)
        ]
        if is_tested:
            params = values
        detached = layer.no_gradient | {j for j, flag in enumerate(param.propagate_down) if not flag}
        bottoms = [blobs[name].detach() if j in detached else blobs[name] for j, name in enumerate(param.bottom)]
        tops = layer.forward(bottoms, values)
        for name, top in zip(param.top, tops, strict=False):
            blobs[name] = top
            if top.requires_grad:
                top.retain_grad()
    results = {f"out:{name}": value for name, value in blobs.items()}
    results |= {f"param_after:{i}": value.detach().clone() for i, value in enumerate(params)}
    if net.force_backward or layer.is_loss:  # without a loss the original's backward pass reaches no layer
        _backward(blobs, arrays)
    results |= {f"diff:{name}": _gradient(value) for name, value in blobs.items()}
    results |= {f"pdiff:{i}": _gradient(value) for i, value in enumerate(params)}
    recorded = [key for key in arrays if key.split(":")[0] in ("out", "param_after", "diff", "pdiff")]
    return {key: relative_error(results[key].detach().cpu().numpy(), arrays[key]) for key in recorded}


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the relative L2 error, or the largest difference where the expectation is zero."""
    if found.shape != expected.shape and found.size != expected.size:
        return float("inf")
    difference = found.astype(np.float64).reshape(expected.shape) - expected
    if not np.isfinite(difference).all():
        return float("inf")
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    return float(np.linalg.norm(difference)) / norm if norm > 1e-6 else float(np.abs(difference).max(initial=0))


def recorded_cases(*types: str) -> list[str]:
    """Returns `<type>/<case>` for every recording of these types; all types when none is named."""
    paths = sorted(RECORDED.glob("*/*.prototxt"))
    return [f"{path.parent.name}/{path.stem}" for path in paths if not types or path.parent.name in types]


def errors(case: str, folder: Path = RECORDED, device: torch.device | str = "cpu") -> dict[str, float]:
    """Returns the errors of a recorded case."""
    with np.load(folder / f"{case}.npz") as arrays:
        return run((folder / f"{case}.prototxt").read_text(), dict(arrays), device)


def _blob(spec: BlobSpec, recorded: np.ndarray | None, device: torch.device | str) -> torch.Tensor:
    if recorded is None:
        value = spec.filler.value if spec.filler is not None else spec.value
        recorded = np.full(spec.shape, value, np.float32)
    assert recorded.shape == spec.shape
    return torch.tensor(recorded).to(device).requires_grad_(not spec.is_statistic)


def _backward(blobs: Mapping[str, torch.Tensor], arrays: Mapping[str, np.ndarray]) -> None:
    fed = [(blobs[key[8:]], torch.tensor(value)) for key, value in arrays.items() if key.startswith("topdiff:")]
    fed = [(top, gradient.view(top.shape).to(top.device)) for top, gradient in fed if top.requires_grad]
    if fed:
        torch.autograd.backward(*zip(*fed, strict=True))


def _gradient(value: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(value) if not value.requires_grad or value.grad is None else value.grad

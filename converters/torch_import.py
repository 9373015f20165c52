"""From a PyTorch module to a Caffe net through torch.export, refusing what Caffe cannot express exactly.

Layers are named after the modules that hold their weights (`layer1.0.conv1`, `features.3`), a BatchNorm's Scale
`<name>_scale`; others after their operator. Statistics of BatchNorm are converted for inference, and training can
continue from them (pyscratchdet.converters.build.SCALE_FACTOR).
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pyscratchdet.converters.build import NetBuilder, Pads, Pair
from pyscratchdet.errors import ConversionError, counted


def import_module(module: torch.nn.Module, shape: Sequence[int], name: str = "net") -> NetBuilder:
    """Returns the net of a module in evaluation mode.

    Args:
        module: Takes one tensor and returns one tensor or several.
        shape: Shape of the input, batch size included; the batch stays open, height and width do not.
        name: The net's name.

    Raises:
        ConversionError: torch.export cannot follow the module, or an operation has no exact Caffe layer.
    """
    module = module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (torch.zeros(*shape),))
    except Exception as error:  # whatever the user's forward or the tracer raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(f"torch.export cannot follow the module: {reason}", code="import.export") from error
    return _TorchGraph(program, name).run(tuple(shape))


class _TorchGraph:
    def __init__(self, program: torch.export.ExportedProgram, name: str) -> None:
        self.program = program
        self.net = NetBuilder(name)
        signature = program.graph_signature
        self.owners = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.inputs = list(signature.user_inputs)
        self.blobs: dict[str, str] = {}  # torch node -> our blob
        self.views: set[str] = set()  # blobs that share PyTorch's memory with another
        self.parts: dict[str, list[str]] = {}  # torch node with several results -> our blobs

    def run(self, shape: tuple[int, ...]) -> NetBuilder:
        state = {**self.program.state_dict, **self.program.constants}
        self.arrays = {
            node: state[owner].detach().float().numpy() for node, owner in self.owners.items() if owner in state
        }
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and node.name in self.inputs:
                self.blobs[node.name] = self.net.input("data", shape)
            elif node.op == "call_function":
                self._convert(node)
            elif node.op == "output":
                for value in node.all_input_nodes:
                    self.net.made(self.blobs.get(value.name, value.name))
        return self.net

    def _convert(self, node: torch.fx.Node) -> None:
        if node.target is operator.getitem:
            parts, index = node.args
            self.blobs[node.name] = self.parts[parts.name][index]  # type: ignore[union-attr, index]
            return
        kind = str(node.target).removeprefix("aten.").split(".")[0]
        in_place, kind = kind.endswith("_"), kind.rstrip("_")
        if kind not in _HANDLERS:
            raise self.net.refuse(node.name, kind, "Caffe has no layer for this operation")
        call = _Call(self, node, kind)
        before = call.input() if in_place else ""
        result = _HANDLERS[kind](call)
        if isinstance(result, list):
            self.parts[node.name] = result
            self.views.update(result)
            return
        self.blobs[node.name] = result
        if in_place and result != before:
            self._overwrite(call, before, result)
        if kind in _VIEWS:
            self.views.add(result)

    def _overwrite(self, call: _Call, before: str, after: str) -> None:
        """Gives a tensor that PyTorch changed in place its new value under all its names."""
        if before in self.views:
            raise call.refuse("an in-place operation on a view, which also changes the viewed tensor")
        self.blobs.update({name: after for name, blob in self.blobs.items() if blob == before})


class _Call:
    """One operation with its arguments by name."""

    def __init__(self, importer: _TorchGraph, node: torch.fx.Node, kind: str) -> None:
        self.importer, self.node, self.kind = importer, node, kind
        self.net = importer.net
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        self.args = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
        self.args.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
        self.args.update(node.kwargs)

    @property
    def name(self) -> str:
        """The module whose weights are used, else the operation's name."""
        for value in self.args.values():
            owner = self.importer.owners.get(getattr(value, "name", ""))
            if owner and "." in owner:
                return str(owner).rpartition(".")[0]
        return self.node.name

    def refuse(self, reason: str) -> ConversionError:
        return self.net.refuse(self.name, self.kind, reason)

    def blob(self, value: Any = None) -> str:
        value = self.args[next(iter(self.args))] if value is None else value
        name = getattr(value, "name", repr(value))
        if name not in self.importer.blobs:
            raise self.refuse(f'"{name}" is not a blob that the net computes')
        return self.importer.blobs[name]

    def input(self) -> str:
        return self.blob(self.args.get("input", self.args.get("self")))

    def shape(self) -> tuple[int, ...]:
        return self.net.shapes[self.input()]

    def array(self, argument: str) -> np.ndarray | None:
        value = self.args.get(argument)
        return None if value is None else self.importer.arrays.get(value.name)

    def weight(self, argument: str) -> np.ndarray:
        array = self.array(argument)
        if array is None:
            raise self.refuse(f"{argument} is not a parameter")
        return array

    def pair(self, argument: str, default: Sequence[int] = ()) -> Pair:
        values = self.args.get(argument, default)
        values = [values] if isinstance(values, int) else list(values) or list(default)
        values = values * 2 if len(values) == 1 else values
        if len(values) != 2:
            raise self.refuse(f"{argument} over {counted(len(values), 'axis', 'axes')}; two are supported")
        return int(values[0]), int(values[1])

    def pads(self) -> Pads:
        if isinstance(self.args.get("padding"), str):
            raise self.refuse("padding by name; give it in numbers")
        height, width = self.pair("padding", (0, 0))
        return height, width, height, width


def _conv(c: _Call) -> str:
    window: dict[str, Any] = {
        "stride": c.pair("stride", (1, 1)),
        "pads": c.pads(),
        "dilation": c.pair("dilation", (1, 1)),
        "group": int(c.args.get("groups", 1)),
    }
    weight, bias = c.weight("weight"), c.array("bias")
    if c.args.get("transposed") or c.kind == "conv_transpose2d":
        return c.net.deconvolution(c.name, c.input(), weight, bias, **window, more=c.pair("output_padding", (0, 0)))
    return c.net.convolution(c.name, c.input(), weight, bias, **window)


def _pad(c: _Call) -> str:
    """Zeros around height and width; PyTorch gives the last axis first."""
    pads = [int(number) for number in c.args["pad"]]
    mode, value = c.args.get("mode", "constant"), c.args.get("value") or 0
    if not any(pads):
        return c.input()
    if mode != "constant" or value:
        raise c.refuse(f"{mode} padding with {value:g}; Caffe pads with zeros")
    left, right, top, bottom, *others = [*pads, 0, 0][: max(4, len(pads))]
    if any(others):
        raise c.refuse(f"padding {pads}; only height and width can be padded")
    return c.net.pad(c.name, c.input(), (top, left, bottom, right))


def _batch_norm(c: _Call) -> str:
    if c.args.get("training"):
        raise c.refuse("normalisation in training mode")
    mean, variance = c.weight("running_mean"), c.weight("running_var")
    scale, bias = c.array("weight"), c.array("bias")
    scale = np.ones_like(mean) if scale is None else scale
    bias = np.zeros_like(mean) if bias is None else bias
    return c.net.batch_norm(c.name, c.input(), scale, bias, mean, variance, float(c.args["eps"]))


def _pool(method: str) -> Callable[[_Call], str]:
    def convert(c: _Call) -> str:
        if c.pair("dilation", (1, 1)) != (1, 1):
            raise c.refuse("dilated windows")
        if c.args.get("divisor_override") is not None:
            raise c.refuse("divisor_override; Caffe divides by the window")
        kernel = c.pair("kernel_size")
        return c.net.pool(
            c.name,
            c.input(),
            method,
            kernel,
            stride=c.pair("stride", kernel),
            pads=c.pads(),
            ceil=bool(c.args.get("ceil_mode")),
            include_pad=bool(c.args.get("count_include_pad", True)),
        )

    return convert


def _adaptive(c: _Call) -> str:
    size, wanted = c.shape()[2:], c.pair("output_size")
    if size == wanted:
        return c.input()
    if wanted == (1, 1):
        return c.net.global_pool(c.name, c.input(), "AVE")
    if any(s % w for s, w in zip(size, wanted, strict=True)):
        raise c.refuse(f"{size} into {wanted} windows of unequal sizes")
    kernel = (size[0] // wanted[0], size[1] // wanted[1])
    return c.net.pool(c.name, c.input(), "AVE", kernel, stride=kernel, pads=(0, 0, 0, 0))


def _mean(c: _Call) -> str:
    axes = sorted(axis % len(c.shape()) for axis in c.args.get("dim") or [])
    if axes != [2, 3] or len(c.shape()) != 4:
        raise c.refuse(f"a mean over axes {axes}; only a mean over height and width has a layer")
    top = c.net.global_pool(c.name, c.input(), "AVE")
    return top if c.args.get("keepdim") else c.net.add("Flatten", f"{c.name}_flat", [top])[0]


def _add(c: _Call) -> str:
    other, alpha = c.args["other"], float(c.args.get("alpha", 1))
    operation = "Mul" if c.kind == "mul" else "Add"
    constant = c.importer.arrays.get(getattr(other, "name", ""), other if isinstance(other, (int, float)) else None)
    sign = -alpha if c.kind == "sub" else alpha
    if constant is not None:
        factor = np.float32(1 if c.kind == "mul" else sign)
        return c.net.constant(c.name, operation, c.input(), np.asarray(constant, np.float32) * factor)
    if c.kind == "mul":
        return c.net.eltwise(c.name, "PROD", [c.input(), c.blob(other)])
    return c.net.eltwise(c.name, "SUM", [c.input(), c.blob(other)], (1.0, sign))


def _cat(c: _Call) -> str:
    bottoms = [c.blob(value) for value in c.args["tensors"]]
    axis = int(c.args.get("dim", 0)) % len(c.net.shapes[bottoms[0]])
    return c.net.add("Concat", c.name, bottoms, concat_param={"axis": axis})[0]


def _flatten(c: _Call) -> str:
    rank = len(c.shape())
    first, last = int(c.args.get("start_dim", 0)) % rank, int(c.args.get("end_dim", -1)) % rank
    return c.net.add("Flatten", c.name, [c.input()], flatten_param={"axis": first, "end_axis": last})[0]


def _permute(c: _Call) -> str:
    order = [int(axis) % len(c.shape()) for axis in c.args["dims"]]
    return c.net.add("Permute", c.name, [c.input()], permute_param={"order": order})[0]


def _transpose(c: _Call) -> str:
    order = list(range(len(c.shape())))
    first, second = int(c.args["dim0"]), int(c.args["dim1"])
    order[first], order[second] = order[second], order[first]
    return c.net.add("Permute", c.name, [c.input()], permute_param={"order": order})[0]


def _parts(c: _Call) -> list[str]:
    """Chunk(number), split(size) and split(sizes) along an axis."""
    axis = int(c.args.get("dim", 0)) % len(c.shape())
    size = c.shape()[axis]
    given = c.args.get("chunks", c.args.get("split_size", c.args.get("split_sizes")))
    if isinstance(given, int):
        step = -(-size // given) if c.kind == "chunk" else given
        sizes = [min(step, size - start) for start in range(0, size, step)]
    else:
        sizes = [int(number) for number in given or []]
    if len(sizes) == 1:
        return [c.input()]
    names = [f"{c.node.name}_{k}" for k in range(len(sizes))]
    used = {int(user.args[1]) for user in c.node.users if user.users}  # type: ignore[arg-type]
    tops = c.net.split(c.name, c.input(), axis, sizes, names)
    if unused := [top for k, top in enumerate(tops) if k not in used]:
        c.net.silence(f"{c.name}_silence", unused)
    return tops


def _nearest(c: _Call) -> str:
    height, width = c.shape()[2:]
    wanted = c.args.get("output_size")
    scales = c.args.get("scale_factors") or [c.args.get("scales_h"), c.args.get("scales_w")]
    factors = [w / h for w, h in zip(wanted, (height, width), strict=True)] if wanted else scales
    if any(factor is None or factor < 1 or factor % 1 for factor in factors):
        raise c.refuse(f"factors {factors}; only whole ones have an exact layer")
    return c.net.enlarge(c.name, c.input(), (int(factors[0]), int(factors[1])))


def _hardtanh(c: _Call) -> str:
    return c.net.clamp(c.name, c.input(), float(c.args.get("min_val", -1)), float(c.args.get("max_val", 1)))


def _bilinear(c: _Call) -> str:
    size, scales = c.args.get("output_size"), c.args.get("scale_factors") or (1, 1)
    height, width = size or [int(have * scale) for have, scale in zip(c.shape()[2:], scales, strict=True)]
    corners = bool(c.args.get("align_corners"))
    return c.net.enlarge_bilinear(c.name, c.input(), (int(height), int(width)), align_corners=corners)


def _prelu(c: _Call) -> str:
    slope = c.weight("weight")
    shared = slope.size == 1 and c.shape()[1] > 1
    weight = slope.reshape(()) if shared else slope
    return c.net.add("PReLU", c.name, [c.input()], [weight], prelu_param={"channel_shared": shared})[0]


def _simple(kind: str, field: str = "", **names: str) -> Callable[[_Call], str]:
    """A layer of one bottom; `names` maps fields of its parameters to arguments."""

    def convert(c: _Call) -> str:
        values: dict[str, Any] = {field: {key: float(c.args[argument]) for key, argument in names.items()}}
        return c.net.add(kind, c.name, [c.input()], **(values if field else {}))[0]

    return convert


_VIEWS = ("flatten", "view", "reshape", "permute", "transpose")
_HANDLERS: dict[str, Callable[[_Call], str | list[str]]] = {
    "conv2d": _conv,
    "conv_transpose2d": _conv,
    "convolution": _conv,
    "linear": lambda c: c.net.inner_product(c.name, c.input(), c.weight("weight"), c.array("bias")),
    "batch_norm": _batch_norm,
    "relu": _simple("ReLU"),
    "leaky_relu": _simple("ReLU", "relu_param", negative_slope="negative_slope"),
    "elu": _simple("ELU", "elu_param", alpha="alpha"),
    "sigmoid": _simple("Sigmoid"),
    "silu": _simple("Swish"),
    "hardswish": _simple("HardSwish"),
    "tanh": _simple("TanH"),
    "abs": _simple("AbsVal"),
    "exp": _simple("Exp"),
    "prelu": _prelu,
    "hardtanh": _hardtanh,
    "relu6": lambda c: c.net.add("ReLU6", c.name, [c.input()])[0],
    "max_pool2d": _pool("MAX"),
    "avg_pool2d": _pool("AVE"),
    "adaptive_avg_pool2d": _adaptive,
    "mean": _mean,
    **dict.fromkeys(("add", "sub", "mul"), _add),
    "cat": _cat,
    "flatten": _flatten,
    "view": lambda c: c.net.reshape(c.name, c.input(), c.args["size"]),
    "reshape": lambda c: c.net.reshape(c.name, c.input(), c.args["shape"]),
    "permute": _permute,
    "transpose": _transpose,
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), _parts),
    "upsample_nearest2d": _nearest,
    "upsample_bilinear2d": _bilinear,
    "hardsigmoid": lambda c: c.net.hard_sigmoid(c.name, c.input(), 1 / 6, 0.5),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "softmax": lambda c: c.net.add(
        "Softmax", c.name, [c.input()], softmax_param={"axis": int(c.args["dim"]) % len(c.shape())}
    )[0],
    **dict.fromkeys(("dropout", "clone", "detach", "contiguous", "alias", "to"), lambda c: c.input()),
}

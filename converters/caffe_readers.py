"""Caffe nets as the Caffe readers of other engines want them: `convert ... --for opencv|mnn|ncnn|rknn`.

Each pass takes a net of the TEST phase and rewrites what the reader gets wrong, in layers that every Caffe has, so that
the new net can be run against the old one before it is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors.numpy
import torch

from pyscratchdet.converters.fold import check_folded, difference_lines
from pyscratchdet.converters.layer_sets import LAYER_SETS
from pyscratchdet.converters.merge_bn import Blobs, Folded, layer_arrays, merge_bn
from pyscratchdet.converters.onnx_export import priors_path
from pyscratchdet.converters.weights import Bundle, Names, read_bundle, write_bundle
from pyscratchdet.errors import ConversionError
from pyscratchdet.files import write_bytes, write_text
from pyscratchdet.layers.plan import NetFile, NetPlan, plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import to_text
from pyscratchdet.proto.upgrade import upgrade_net
from pyscratchdet.runtime import build_net

Pass = Callable[["_Net"], None]


def convert_for(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: str | os.PathLike[str],
    prototxt: str | os.PathLike[str],
    engine: str,
) -> tuple[Blobs, list[str]]:
    """Writes a net for the Caffe reader of an engine, after running it against the net as it was.

    Args:
        source: Weights of any form.
        target: Caffemodel to write.
        model: Prototxt of the net.
        prototxt: Where to write the new net.
        engine: One of TARGETS.

    Returns:
        Its weights, and what was done, in lines.

    Raises:
        FileError, WeightsError, NetError: See `convert_weights`.
        ConversionError: The engine is known to compute something else whatever is written, or the new net does.
    """
    names = Names(model)
    assert names.file is not None
    blobs = read_bundle(source, names).blobs
    net = fit_net(names.file.param, blobs, engine)
    folded = Folded(net.param, net.blobs)
    worst = check_folded(names.file.param, blobs, folded, f"writing it for {engine}")
    write_bundle(target, Bundle(net.blobs), Names(NetFile(net.param)))
    write_text(prototxt, to_text(net.param))
    if net.priors:
        write_bytes(priors_path(target), safetensors.numpy.save(net.priors))
    lines = [
        *net.done,
        *difference_lines(worst, "the net as it was"),
        *_unknown_types(net.param, engine),
        TARGETS[engine].advice,
    ]
    return net.blobs, lines


def _unknown_types(param: caffe_pb2.NetParameter, engine: str) -> list[str]:
    known = TARGETS[engine].types
    unknown = sorted({layer.type for layer in param.layer}.difference(known or {layer.type for layer in param.layer}))
    return [f"{engine} does not know {', '.join(unknown)}"] if unknown else []


def fit_net(param: caffe_pb2.NetParameter, blobs: Blobs, engine: str) -> _Net:
    """Returns the net of the TEST phase for an engine.

    Args:
        param: A net; layers that are not in its TEST phase are left out.
        blobs: Its weights by layer.
        engine: One of TARGETS.

    Raises:
        NetError, LayerError: The net is not valid.
        ConversionError: Weights are missing, or the engine is known to compute something else whatever is written.
    """
    net = _Net(upgrade_net(param), {name: list(arrays) for name, arrays in blobs.items()})
    for change in TARGETS[engine].passes:
        change(net)
    return net


@dataclass
class _Net:
    """A net on its way.

    Attributes:
        param: Its layers, in the latest format.
        blobs: Its weights by layer.
        done: What was done to it, in lines.
        priors: Priors by the name of their blob, where they are no longer part of it.
    """

    param: caffe_pb2.NetParameter
    blobs: Blobs
    done: list[str] = field(default_factory=list)
    priors: dict[str, np.ndarray] = field(default_factory=dict)

    def plan(self) -> NetPlan:
        return plan_net(self.param, caffe_pb2.TEST)

    def note(self, what: str, layers: Iterable[str]) -> None:
        if names := ", ".join(layers):
            self.done.append(f"{what}: {names}")

    def replace(self, index: int, layers: Iterable[caffe_pb2.LayerParameter]) -> None:
        """Puts layers in the place of one."""
        self.set_layers([*self.param.layer[:index], *layers, *self.param.layer[index + 1 :]])

    def set_layers(self, layers: Iterable[caffe_pb2.LayerParameter]) -> None:
        """Makes these the layers; weights of others are dropped."""
        copy = caffe_pb2.NetParameter(layer=layers)
        del self.param.layer[:]
        self.param.layer.extend(copy.layer)
        names = {layer.name for layer in copy.layer}
        self.blobs = {name: arrays for name, arrays in self.blobs.items() if name in names}

    def fresh(self, name: str) -> str:
        """Returns the name, made longer until neither a layer nor a blob has it."""
        taken = {layer.name for layer in self.param.layer}.union(*(layer.top for layer in self.param.layer))
        while name in taken:
            name += "_"
        return name

    def part_from_bottom(self, index: int) -> str:
        """Gives the bottom of an in-place layer a name of its own; returns the name of the bottom."""
        layer = self.param.layer[index]
        old = str(layer.bottom[0])
        if old not in layer.top:
            return old
        new = self.fresh(f"{old}_before_{layer.name}")
        for earlier in self.param.layer[:index]:
            _rename(earlier.bottom, old, new)
            _rename(earlier.top, old, new)
        layer.bottom[0] = new
        return new

    def layers_of(self, *types: str) -> list[tuple[int, int]]:
        """Returns the layers of these types that own their weights, last first: index among the layers and in the plan.

        So those that come before one keep their index when it is replaced.
        """
        nodes = enumerate(self.plan().graph.nodes)
        found = [
            (node.index, place)
            for place, node in nodes
            if node.type in types and node.index >= 0 and not any(spec.name for spec in node.param.param)
        ]
        return found[::-1]


def _rename(names: Any, old: str, new: str) -> None:
    names[:] = [new if name == old else name for name in names]


def _layer(kind: str, name: str, bottoms: Iterable[str], top: str, **settings: Any) -> caffe_pb2.LayerParameter:
    return caffe_pb2.LayerParameter(name=name, type=kind, bottom=list(bottoms), top=[top], **settings)


# --- passes ---


def select_read(net: _Net) -> None:
    """Leaves out what no output depends on: Silence and the layers that only it reads."""
    plan = net.plan()
    _keep(net, plan, plan.graph.outputs)


def _keep(net: _Net, plan: NetPlan, outputs: Iterable[int]) -> None:
    """Leaves out the layers that none of these blobs depends on."""
    nodes = plan.graph.nodes
    needed, kept = set(outputs), {-1}
    for place in reversed(range(len(nodes))):
        if needed.intersection(plan.written(place)):
            needed.update(nodes[place].bottoms)
            kept.add(nodes[place].index)
    net.note("left out, since nothing reads them", [node.name for node in nodes if node.index not in kept])
    net.set_layers(layer for index, layer in enumerate(net.param.layer) if index in kept)


def keep_inputs(net: _Net) -> None:
    """Gives what layers write over an input a name of its own."""
    inputs = {top for layer in net.param.layer if layer.type == "Input" for top in layer.top}
    for index, layer in enumerate(net.param.layer):
        for name in inputs.intersection(layer.top) if layer.type != "Input" else ():
            new = net.fresh(f"{name}_{layer.name}")
            _rename(layer.top, name, new)
            for later in net.param.layer[index + 1 :]:
                _rename(later.bottom, name, new)
                _rename(later.top, name, new)
            net.note("no longer in place on an input", [layer.name])


def fold_affine(net: _Net) -> None:
    """Folds BatchNorm, Scale and Bias into the layers before them."""
    folded = merge_bn(net.param, net.blobs)
    net.param, net.blobs = folded.param, folded.blobs
    net.note("folded into the layers before them", folded.folded)


def convolve_affine(net: _Net) -> None:
    """Writes the BatchNorms, Scales and Biases that are left as convolutions of each channel by itself."""
    plan, changed = net.plan(), []
    for index, place in net.layers_of("BatchNorm", "Scale", "Bias"):
        layer, shapes = plan.layers[place], plan.bottom_shapes(place)
        if len(shapes) > 1 or len(shapes[0]) != 4:
            continue
        affine = layer.affine(shapes[0], layer_arrays(layer, net.blobs) if layer.blobs else [])
        if affine is None:
            continue
        bottom, (top,) = net.part_from_bottom(index), net.param.layer[index].top
        net.replace(index, [_each_channel(layer.name, bottom, top, shapes[0][1], has_bias=True)])
        net.blobs[layer.name] = [affine[0].astype("f4").reshape(-1, 1, 1, 1), affine[1].astype("f4")]
        changed.append(layer.name)
    net.note("written as convolutions of each channel by itself", reversed(changed))


def write_out_prelu(net: _Net) -> None:
    """Writes PReLU as max(x, 0) + (-slope) * max(-x, 0), which is the same to the last bit."""
    plan, changed = net.plan(), []
    for index, place in net.layers_of("PReLU"):
        layer, (shape,) = plan.layers[place], plan.bottom_shapes(place)
        if layer.param.prelu_param.channel_shared or len(shape) != 4:
            continue
        name, (slopes,) = layer.name, layer_arrays(layer, net.blobs)
        above, below, scaled = (net.fresh(f"{name}_{part}") for part in ("above", "below", "scaled"))
        bottom, (top,) = net.part_from_bottom(index), net.param.layer[index].top
        parts = [
            _layer("ReLU", above, [bottom], above),
            _layer("Power", below, [bottom], below, power_param={"scale": -1.0}),
            _layer("ReLU", f"{below}_relu", [below], below),
            _each_channel(scaled, below, scaled, shape[1], has_bias=False),
            _layer("Eltwise", name, [above, scaled], top),
        ]
        net.replace(index, parts)
        del net.blobs[name]  # now the Eltwise's
        net.blobs[scaled] = [-slopes.reshape(-1, 1, 1, 1)]
        changed.append(name)
    net.note("written as ReLU and convolutions", reversed(changed))


def _each_channel(name: str, bottom: str, top: str, channels: int, *, has_bias: bool) -> caffe_pb2.LayerParameter:
    settings = {"num_output": channels, "group": channels, "kernel_size": [1], "bias_term": has_bias}
    return _layer("Convolution", name, [bottom], top, convolution_param=settings)


def write_out_clip(net: _Net) -> None:
    """Writes Clip as ReLU6, between two Powers where its limits are not 0 and 6."""
    changed = []
    for index, _ in net.layers_of("Clip"):
        layer = net.param.layer[index]
        low, high = layer.clip_param.min, layer.clip_param.max
        if not low < high:
            continue
        bottom, (top,), name, scale = net.part_from_bottom(index), layer.top, layer.name, 6 / (high - low)
        if (low, high) == (0, 6):
            parts = [_layer("ReLU6", name, [bottom], top)]
        else:
            inner = net.fresh(f"{name}_scaled")
            parts = [
                _layer("Power", inner, [bottom], inner, power_param={"scale": scale, "shift": -low * scale}),
                _layer("ReLU6", f"{inner}_relu6", [inner], inner),
                _layer("Power", name, [inner], top, power_param={"scale": 1 / scale, "shift": low}),
            ]
        net.replace(index, parts)
        changed.append(name)
    net.note("written as ReLU6", reversed(changed))


def round_prior_sizes(net: _Net) -> None:
    """Writes min_size and max_size as the whole pixels to which Caffe truncates them."""
    changed = []
    for layer in net.param.layer:
        for sizes in (layer.prior_box_param.min_size, layer.prior_box_param.max_size):
            if any(size != int(size) for size in sizes):
                sizes[:] = [float(int(size)) for size in sizes]
                changed.append(layer.name)
    net.note("sizes written in whole pixels, as Caffe truncates them", dict.fromkeys(changed))


def name_slice_points(net: _Net) -> None:
    """Says where each Slice cuts."""
    plan, changed = net.plan(), []
    for index, place in net.layers_of("Slice"):
        param = net.param.layer[index].slice_param
        axis = param.slice_dim if param.HasField("slice_dim") else param.axis
        if not param.slice_point:
            sizes = [shape[axis] for shape in plan.top_shapes[place]]
            param.slice_point.extend(int(end) for end in np.cumsum(sizes)[:-1])
            changed.append(plan.layers[place].name)
    net.note("slice_point written", reversed(changed))


def take_lrn_constant_out(net: _Net) -> None:
    """Writes LRN across channels with k = 1 and a Power behind it."""
    changed = []
    for index, _ in net.layers_of("LRN"):
        layer = net.param.layer[index]
        param = layer.lrn_param
        if param.k in (0, 1) or param.norm_region != caffe_pb2.LRNParameter.ACROSS_CHANNELS:
            continue
        bottom, (top,), inner = net.part_from_bottom(index), layer.top, net.fresh(f"{layer.name}_unscaled")
        norm = _layer("LRN", inner, [bottom], inner, lrn_param=param)
        norm.lrn_param.alpha, norm.lrn_param.k = param.alpha / param.k, 1
        power = _layer("Power", layer.name, [inner], top, power_param={"scale": float(param.k**-param.beta)})
        changed.append(layer.name)
        net.replace(index, [norm, power])
    net.note("k taken out of", reversed(changed))


def refuse_refined_priors(net: _Net) -> None:
    """Refuses RefineDet, whose refined priors OpenCV ignores without a word."""
    for layer in net.param.layer:
        if layer.type == "DetectionOutput" and len(layer.bottom) > 4:
            raise ConversionError(
                "OpenCV ignores the fourth and fifth bottom, so it would find other boxes",
                code="convert.for",
                layer=layer.name,
                layer_type=layer.type,
                hint="convert to ONNX with --heads boxes --batch 1, or for OpenCV 5 with --heads decoded",
            )


def write_out_axpy(net: _Net) -> None:
    """Writes Axpy as Scale and Eltwise; OpenCV computes aY + X instead of aX + Y."""
    changed = []
    for index, _ in net.layers_of("Axpy"):
        layer = net.param.layer[index]
        name, (factor, scaled, added), (top,) = layer.name, layer.bottom, layer.top
        flat, product = net.fresh(f"{name}_factor"), net.fresh(f"{name}_product")
        parts = [
            _layer("Flatten", flat, [factor], flat),
            _layer("Scale", product, [scaled, flat], product, scale_param={"axis": 0}),
            _layer("Eltwise", name, [product, added], top),
        ]
        net.replace(index, parts)
        changed.append(name)
    net.note("written as Scale and Eltwise", reversed(changed))


def cut_detections(net: _Net) -> None:
    """Ends the net before DetectionOutput; the priors, which are constants, leave it."""
    if not (ends := [layer for layer in net.param.layer if layer.type == "DetectionOutput"]):
        return
    names = [layer.bottom[2] for layer in ends]
    net.note("not in the net any more", [layer.name for layer in ends])
    net.set_layers(layer for layer in net.param.layer if layer.type != "DetectionOutput")
    runtime = build_net(net.param, caffe_pb2.TEST, given=net.blobs)
    zeros = {name: torch.zeros(runtime.blob_shapes[name]) for name in runtime.input_names}
    with torch.no_grad():
        found = runtime.forward_blobs(zeros)
    net.priors = {name: found[name].numpy() for name in names}
    net.note("priors in the file beside the caffemodel", net.priors)
    plan = net.plan()
    _keep(net, plan, [blob for blob in plan.graph.outputs if plan.graph.blob_names[blob] not in names])


@dataclass(frozen=True)
class _Target:
    """What the Caffe reader of one engine wants.

    Attributes:
        passes: What is done to the net.
        advice: What its user must know.
        types: The types that it knows; None where that is not known.
    """

    passes: tuple[Pass, ...]
    advice: str
    types: frozenset[str] | None = None


_ALL = (select_read, keep_inputs)
TARGETS = {
    "opencv": _Target(
        (
            *_ALL,
            refuse_refined_priors,
            round_prior_sizes,
            name_slice_points,
            take_lrn_constant_out,
            write_out_axpy,
            write_out_clip,
        ),
        "for OpenCV 4; OpenCV 5 reads ONNX only",
    ),
    "mnn": _Target(
        (*_ALL, fold_affine, convolve_affine, write_out_prelu, write_out_clip),
        "MNN's nets from Caffe take their input in its order NC4HW4; this one is right in NCHW too",
        LAYER_SETS["mnn"].types,
    ),
    "ncnn": _Target((*_ALL, fold_affine, write_out_clip), "for caffe2ncnn", LAYER_SETS["ncnn"].types),
    "rknn": _Target((*_ALL, fold_affine, cut_detections), "for rknn.load_caffe, which has no DetectionOutput"),
}

"""One backward pass and one solver step: what `verify --gradients` and `--step` compare.

Gradients have pycaffe's names: `diff:<blob>` is the gradient of the loss with respect to a blob (for a chain of
in-place layers, to the chain's bottom), `pdiff:<layer>:<i>` that with respect to a weight blob. In a net without losses
they start from given diffs of its outputs, with `force_backward`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from pyscratchdet.caffe.pycaffe import Net as CaffeNet
from pyscratchdet.converters.compare import BlobComparison, Comparison, difference, shapes_note
from pyscratchdet.converters.engines import Arrays, Engine, Recording
from pyscratchdet.errors import UsageError
from pyscratchdet.layers.plan import NetFile
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import Net, copy_weights, load_net, net_blobs
from pyscratchdet.solver import Precision, Solver, read_solver

# Wider than in the test phase: the original's own gradients change by 2e-4 with its number of threads.
TOLERANCE = 1e-3
# Where a sum cancels, rounding is all that is left, as in the gradient of a bias in front of BatchNorm: it may be this
# fraction of the layer's largest gradient.
ROUNDING = 1e-5
EPSILON = float(np.finfo(np.float32).eps)


@dataclass
class Trainee:
    """A net that is built anew for each pass, since a pass may change its statistics and draws random numbers.

    Attributes:
        file: The net.
        weights: Its caffemodel; None leaves the fillers' values.
        phase: "TRAIN" or "TEST".
        seed: For fillers and dropout.
    """

    file: NetFile
    weights: str | os.PathLike[str] | None
    phase: str
    seed: int

    def build(self, *, backward: bool = False) -> Net:
        """Returns the net with its weights; `backward` makes a net without losses run backward too."""
        net = load_net(self.file, self.weights, self.phase, random=CaffeRandom(self.seed))
        if not backward or net.loss_weights:
            return net
        param = caffe_pb2.NetParameter()
        param.CopyFrom(self.file.param)
        param.force_backward = True
        return load_net(replace(self.file, param=param), self.weights, self.phase, random=CaffeRandom(self.seed))

    def with_inputs(self, inputs: Arrays) -> Trainee:
        """Returns the same with Input layers in place of the data layers whose tops are given, {blob: array}."""
        param = caffe_pb2.NetParameter()
        param.CopyFrom(self.file.param)
        for layer in param.layer:
            if not layer.bottom and layer.top and layer.type != "Input" and set(layer.top) <= set(inputs):
                new = caffe_pb2.LayerParameter(name=layer.name, type="Input", top=layer.top, include=layer.include)
                new.input_param.shape.extend(caffe_pb2.BlobShape(dim=inputs[top].shape) for top in layer.top)
                layer.CopyFrom(new)
        return replace(self, file=replace(self.file, param=param))


class FastTraining(Engine):
    """The forward pass of training's fast mode; shows the net's outputs only.

    Args:
        trainee: The net.
    """

    name = "fast"

    def __init__(self, trainee: Trainee) -> None:
        self.net = MODES["fast"][0].prepare(trainee.build(), torch.device("cpu"))

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Returns the outputs."""
        tensors = {name: torch.from_numpy(np.array(inputs[name], np.float32)) for name in self.net.input_names}
        with torch.no_grad():
            return {name: value.cpu().numpy() for name, value in self.net(tensors).items()}


# How engines of ours train, and where.
MODES = {"fast": (Precision(is_fast=True), "cpu"), "cuda": (Precision(), "cuda")}


def gradient_comparison(trainee: Trainee, reference: Engine, inputs: Arrays) -> Comparison:
    """Compares one backward pass of our exact runtime with the same pass elsewhere.

    Args:
        trainee: The net.
        reference: One of `MODES` or a recording with gradients.
        inputs: {input blob: array}.

    Raises:
        UsageError: The reference has no gradients.
    """
    net = trainee.build(backward=True)
    if isinstance(reference, Recording) and reference.gradients:
        top_diffs, expected = reference.top_diffs, reference.gradients
    elif reference.name in MODES:
        top_diffs = output_diffs(net, trainee.seed)
        expected = whole_gradients(trainee.build(backward=True), inputs, top_diffs, *MODES[reference.name])
    else:
        raise _no_training(reference, "gradients")
    return compare_gradients(net, "pyscratchdet", exact_gradients(net, inputs, top_diffs), reference.name, expected)


def step_comparison(trainee: Trainee, reference: Engine, inputs: Arrays, solver: str | os.PathLike[str]) -> Comparison:
    """Compares the first update of a solver in our exact runtime with the same update elsewhere.

    Args:
        trainee: The train net.
        reference: One of `MODES` or a recording with a step.
        inputs: {input blob: array}; a recording brings its own.
        solver: Solver prototxt.

    Raises:
        UsageError: The reference has no step, or one from other weights.
    """
    recorded = isinstance(reference, Recording) and bool(reference.after)
    if not recorded and reference.name not in MODES:
        raise _no_training(reference, "solver step")
    if isinstance(reference, Recording):
        inputs = reference.step_inputs
        trainee = trainee.with_inputs(inputs)
    net = trainee.build()
    weights = net_blobs(net)
    before = named_weights(weights)
    after = solver_step(solver, trainee.file, weights, inputs, Precision(), "cpu")
    if isinstance(reference, Recording):
        return compare_updates(net, "pyscratchdet", before, after, reference.name, reference.before, reference.after)
    expected = solver_step(solver, trainee.file, weights, inputs, *MODES[reference.name])
    return compare_updates(net, "pyscratchdet", before, after, reference.name, before, expected)


def _no_training(reference: Engine, what: str) -> UsageError:
    return UsageError(
        f"{reference.name} shows no {what}",
        code="verify.training",
        expected=f"{', '.join(MODES)} or a recording with them",
        hint="record with scripts/dump_caffe_blobs.py --gradients --step SOLVER",
    )


def output_diffs(net: Net, seed: int) -> dict[str, np.ndarray]:
    """Returns noise for the outputs of a net that has no loss, to be backpropagated; nothing for a net that has one."""
    if net.loss_weights:
        return {}
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=net.blob_shapes[name]).astype(np.float32) for name in net.output_names}


def exact_gradients(net: Net, inputs: Arrays, top_diffs: Arrays) -> dict[str, np.ndarray]:
    """Runs the net layer by layer, forward and backward, as the original does, and returns all gradients.

    Args:
        net: A new net; `force_backward` where it has no loss.
        inputs: {input blob: array}.
        top_diffs: {output: diff} for a net without losses.
    """
    net.reshape({name: inputs[name].shape for name in net.input_names})
    view = CaffeNet.wrap(net)
    for name in net.input_names:
        view.blobs[name].data[...] = inputs[name]
    view.forward()
    for name, diff in top_diffs.items():
        view.blobs[name].diff[...] = diff
    view.backward()
    gradients = {f"diff:{name}": blob.diff.copy() for name, blob in view.blobs.items()}
    for layer, blobs in view.params.items():
        gradients.update({f"pdiff:{layer}:{i}": blob.diff.copy() for i, blob in enumerate(blobs)})
    return gradients


def whole_gradients(
    net: Net, inputs: Arrays, top_diffs: Arrays, precision: Precision, device: str
) -> dict[str, np.ndarray]:
    """Runs the whole net through autograd, as training does, and returns the gradients of its weights.

    Args:
        net: A new net; `force_backward` where it has no loss.
        inputs: {input blob: array}.
        top_diffs: {output: diff} for a net without losses.
        precision: Reference arithmetic or the fast mode.
        device: Where it runs.
    """
    place = torch.device(device)
    net = precision.prepare(net.to(place), place)
    given = {name: torch.from_numpy(np.array(inputs[name], np.float32)).to(place) for name in net.input_names}
    with precision.context(place):
        blobs = net(given)
        loss = net.total_loss(blobs)
    for name, diff in top_diffs.items():
        loss = loss.to(place) + (blobs[name] * torch.from_numpy(diff).to(place)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        f"pdiff:{layer}:{i}": blob.grad.cpu().numpy()
        for layer, blobs in net.params.items()
        for i, blob in enumerate(blobs)
        if blob.grad is not None
    }


def solver_step(
    solver_file: str | os.PathLike[str],
    model: NetFile,
    weights: Mapping[str, list[np.ndarray]],
    inputs: Arrays,
    precision: Precision,
    device: str,
) -> dict[str, np.ndarray]:
    """Makes the first update of a solver and returns the weights after it.

    Args:
        solver_file: Solver prototxt; the nets it names are ignored.
        model: The train net, its inputs given.
        weights: {layer: arrays} to start from.
        inputs: {input blob: array}.
        precision: Reference arithmetic or the fast mode.
        device: Where it runs.

    Returns:
        {"<layer>:<i>": array}.
    """
    param = read_solver(solver_file)
    for field in ("net", "train_net", "train_net_param", "test_net", "test_net_param", "test_iter", "test_interval",
                  "test_state", "snapshot", "display", "weights"):  # fmt: skip
        param.ClearField(field)
    param.net_param.CopyFrom(model.param)
    place = torch.device(device)
    given = {name: torch.from_numpy(np.array(array, np.float32)).to(place) for name, array in inputs.items()}
    solver = Solver(
        param,
        device=place,
        precision=precision,
        feed=lambda net: {name: given[name] for name in net.input_names},
        writes=False,
    )
    copy_weights(solver.net, weights)
    solver.step(1)
    return named_weights(net_blobs(solver.net))


def named_weights(weights: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns copies of {layer: arrays} as {"<layer>:<i>": array}."""
    return {f"{layer}:{i}": array.copy() for layer, arrays in weights.items() for i, array in enumerate(arrays)}


def compare_gradients(net: Net, first: str, gradients: Arrays, reference: str, expected: Arrays) -> Comparison:
    """Compares gradients in the order of their computation, so that the first to differ is where the error begins.

    Args:
        net: The net.
        first: Name of our engine.
        gradients: Our engine's gradients.
        reference: Name of the other engine.
        expected: The other engine's gradients.
    """
    result = Comparison(net.name, first, reference, what="gradient")
    for key, layer, layer_type in _backward_order(net):
        if key in expected and key in gradients:
            slack = ROUNDING * _largest(expected, f"pdiff:{layer}:") if key.startswith("pdiff:") else 0.0
            result.blobs.append(_entry(key, layer, layer_type, gradients[key], expected[key], slack))
        elif np.any(gradients[key]):
            result.missing.append(key)
    return result


def compare_updates(
    net: Net, first: str, before: Arrays, after: Arrays, reference: str, expected_before: Arrays, expected: Arrays
) -> Comparison:
    """Compares what one solver step adds to each weight blob.

    The weights themselves hardly change, so comparing them would hide a wrong rate. The last digits of their change are
    rounding, which is allowed for.

    Args:
        net: The train net.
        first: Name of our engine.
        before: Its weights before the step, by `named_weights`.
        after: Its weights after the step.
        reference: Name of the other engine.
        expected_before: The other's weights before the step.
        expected: The other's weights after the step.

    Raises:
        UsageError: The reference started from other weights.
    """
    result = Comparison(net.name, first, reference, what="update")
    common = [key for key in expected if key in after and key in before and key in expected_before]
    for key in common:
        if not np.array_equal(before[key].ravel(), expected_before[key].ravel()):
            raise UsageError(f"{reference} started its step from other weights", code="verify.step", found=key)
    theirs = {key: expected[key].astype(np.float64) - expected_before[key] for key in common}
    for module in net.layers:
        for key in (f"{module.name}:{i}" for i in range(len(module.roles))):
            if key not in theirs:
                result.missing.append(key)
                continue
            ours = after[key].astype(np.float64) - before[key]
            slack = ROUNDING * _largest(theirs, f"{module.name}:") + EPSILON * float(np.linalg.norm(before[key]))
            result.blobs.append(_entry(key, module.name, module.layer_type, ours, theirs[key], slack))
    return result


def _largest(arrays: Arrays, prefix: str) -> float:
    """Returns the largest L2 norm among a layer's arrays."""
    return max(float(np.linalg.norm(array)) for key, array in arrays.items() if key.startswith(prefix))


def _entry(
    key: str, layer: str, layer_type: str, array: np.ndarray, expected: np.ndarray, slack: float
) -> BlobComparison:
    """Compares one array; `slack` is the L2 norm of the rounding that is allowed on top of the relative tolerance."""
    tolerance = TOLERANCE + slack / (float(np.linalg.norm(expected)) or 1.0)
    entry = BlobComparison(key, layer, layer_type, tuple(expected.shape), None, None, tolerance, (layer,))
    if array.size == expected.size:
        entry.drift = difference(array, expected)
    else:
        entry.add_note(shapes_note(array.shape, expected.shape))
    return entry


def _backward_order(net: Net) -> Iterator[tuple[str, str, str]]:
    """Yields (gradient, layer that computes it, its type): from the losses to the inputs, weights before bottoms."""
    graph, plan = net.plan.graph, net.plan.backward
    names = graph.blob_names
    lowest = {names[blob]: i for i, node in reversed(list(enumerate(graph.nodes))) for blob in node.bottoms}
    for i, node in reversed(list(enumerate(graph.nodes))):
        for k, needed in enumerate(plan.params[i]):
            if needed:
                yield f"pdiff:{node.name}:{k}", node.name, node.type
        for blob, needed in zip(node.bottoms, plan.bottoms[i], strict=True):
            if needed and plan.layers[i] and lowest[names[blob]] == i:
                yield f"diff:{names[blob]}", node.name, node.type

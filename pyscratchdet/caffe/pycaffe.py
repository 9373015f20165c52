"""pycaffe's Net: blobs and weights as numpy views, forward and backward layer by layer (_caffe.cpp, pycaffe.py)."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.caffe.blob import Blob, BlobVec, ParameterBlob, SharedBlob
from pyscratchdet.caffe.missing import check_file
from pyscratchdet.caffe.mode import current_device, global_random
from pyscratchdet.errors import NetError, UsageError
from pyscratchdet.layers.base import layer_types
from pyscratchdet.layers.python_layer import UserLayer as Layer
from pyscratchdet.layers.python_layer import python_layers_allowed
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import LayerModule, build_net, copy_weights, save_weights, share_weights
from pyscratchdet.runtime.net import Net as RuntimeNet

__all__ = ["Layer", "LayerView", "Net", "layer_type_list"]


class LayerView:
    """A layer as pycaffe shows it: its type and its weight blobs."""

    def __init__(self, module: LayerModule) -> None:
        self.type = module.layer_type
        pairs = zip(module.roles, module.blobs, strict=True)
        self.blobs = BlobVec(ParameterBlob(module.blob(role), tuple(blob.shape)) for role, blob in pairs)


class Net:
    """A net with Caffe's blobs.

    `Net(file, phase, level=0, stages=None, weights=None)` or, as older scripts have it, `Net(file, weights, phase)`.

    Gradients follow the original: `backward` starts from the diffs of the tops (a loss starts with its weight), writes
    the diffs of bottoms and adds to the diffs of weights.

    Raises:
        MissingFileError: A file cannot be opened; a RuntimeError too, as in the original.
        PrototxtError, NetError, LayerError, WeightsError: One of the files is invalid.
    """

    def __init__(
        self,
        network_file: str | os.PathLike[str],
        *args: Any,
        phase: int | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        phase, level, stages, weights = _arguments(args, phase, level, stages, weights)
        check_file(network_file)
        if weights is not None:
            check_file(weights)
        with python_layers_allowed():
            net = build_net(network_file, phase, level, list(stages or []), random=global_random(), writes=True)
        self._adopt(net)
        if weights is not None:
            self.copy_from(weights)

    @classmethod
    def wrap(cls, net: RuntimeNet) -> Net:
        """Returns a pycaffe view of an existing net, such as a solver's."""
        view = cls.__new__(cls)
        view._adopt(net)
        return view

    def _adopt(self, net: RuntimeNet) -> None:
        self.runtime = net.to(current_device())
        self._device = current_device()
        plan = net.plan
        self._blobs: list[Blob] = []
        for blob, shape in enumerate(plan.shapes):
            owner, diff_owner = plan.storage.data[blob], plan.storage.diff[blob]
            if owner == blob:
                self._blobs.append(Blob(torch.zeros(shape, device=self._device)))
            else:
                shared = None if diff_owner == blob else self._blobs[diff_owner]
                self._blobs.append(SharedBlob(self._blobs[owner], shape, shared))
        self.layers = [LayerView(module) for module in net.layers]
        self._records: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self._set_loss_diffs()
        self._fill_sources()

    # --- names ---

    @property
    def name(self) -> str:
        """The net's name."""
        return self.runtime.name

    @property
    def _blob_names(self) -> list[str]:
        return self.runtime.blob_names

    @property
    def _layer_names(self) -> list[str]:
        return self.runtime.layer_names

    @property
    def _inputs(self) -> list[int]:
        return self.runtime.plan.graph.inputs

    @property
    def _outputs(self) -> list[int]:
        return self.runtime.plan.graph.outputs

    @property
    def inputs(self) -> list[str]:
        """Names of the input blobs."""
        return self.runtime.input_names

    @property
    def outputs(self) -> list[str]:
        """Names of the blobs that no layer consumes."""
        return self.runtime.output_names

    def _bottom_ids(self, index: int) -> list[int]:
        return self.runtime.plan.graph.nodes[index].bottoms

    def _top_ids(self, index: int) -> list[int]:
        return self.runtime.plan.graph.nodes[index].tops

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Names of each layer's bottoms, by layer name."""
        return self._names(self._bottom_ids)

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Names of each layer's tops, by layer name."""
        return self._names(self._top_ids)

    def _names(self, ids: Any) -> OrderedDict[str, list[str]]:
        names = self._blob_names
        return OrderedDict((layer, [names[j] for j in ids(i)]) for i, layer in enumerate(self._layer_names))

    @property
    def layer_dict(self) -> OrderedDict[str, LayerView]:
        """Layers by name."""
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        """Blobs by name, from input to output."""
        return OrderedDict(zip(self._blob_names, self._blobs, strict=True))

    @property
    def params(self) -> OrderedDict[str, BlobVec]:
        """Weight blobs by layer name."""
        return OrderedDict(
            (name, layer.blobs) for name, layer in zip(self._layer_names, self.layers, strict=True) if layer.blobs
        )

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """Loss weight of each blob, 0 for blobs that are not losses."""
        return OrderedDict(zip(self._blob_names, self._blob_loss_weights, strict=True))

    @property
    def _blob_loss_weights(self) -> list[float]:
        weights = [0.0] * len(self._blobs)
        for node in self.runtime.plan.graph.nodes:
            for blob, weight in zip(node.tops, node.loss_weights, strict=True):
                weights[blob] = weight  # the last layer's counts, as in the original
        return weights

    # --- running ---

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Runs layers `start` to `end` (names, inclusive) and returns the outputs and `blobs`.

        Args:
            blobs: Further blobs to return.
            start: First layer; None for all.
            end: Last layer; None for all.
            **kwargs: Arrays for all input blobs.
        """
        first = self._layer_index(start, 0)
        last = self._layer_index(end, len(self.layers) - 1)
        names = set([end] if end is not None else self.outputs) | set(blobs or [])
        if kwargs:
            self._fill(kwargs, self.inputs, "data", "Input blob arguments do not match net inputs.")
        self._forward(first, last)
        return {name: self.blobs[name].data for name in names}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **kwargs: Any
    ) -> dict[str, np.ndarray]:
        """Runs layers `start` down to `end` backward and returns the diffs of the inputs and of `diffs`."""
        first = self._layer_index(start, len(self.layers) - 1)
        last = self._layer_index(end, 0)
        names = set([end] if end is not None else self.inputs) | set(diffs or [])
        if kwargs:
            self._fill(kwargs, self.outputs, "diff", "Top diff arguments do not match net outputs.")
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in names}

    def forward_all(self, blobs: Sequence[str] | None = None, **kwargs: Any) -> dict[str, np.ndarray]:
        """Runs the net over any number of items in batches and returns all outputs."""
        results: dict[str, list[np.ndarray]] = {name: [] for name in {*self.outputs, *(blobs or [])}}
        for batch in self._batch(kwargs):
            for name, array in self.forward(blobs, None, None, **batch).items():
                results[name].extend(array.copy())
        return _without_padding(results, kwargs)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **kwargs: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Runs forward and backward over any number of items in batches."""
        outputs: dict[str, list[np.ndarray]] = {name: [] for name in {*self.outputs, *(blobs or [])}}
        gradients: dict[str, list[np.ndarray]] = {name: [] for name in {*self.inputs, *(diffs or [])}}
        forward = self._batch({name: kwargs[name] for name in self.inputs if name in kwargs})
        backward = self._batch({name: kwargs[name] for name in self.outputs if name in kwargs})
        nothing: dict[str, np.ndarray] = {}
        for inputs, tops in zip_longest(forward, backward, fillvalue=nothing):
            for name, array in self.forward(blobs, None, None, **inputs).items():
                outputs[name].extend(array.copy())
            for name, array in self.backward(diffs, None, None, **tops).items():
                gradients[name].extend(array.copy())
        return _without_padding(outputs, kwargs), _without_padding(gradients, kwargs)

    def reshape(self) -> None:
        """Works out all shapes anew from those of the input blobs."""
        names = self._blob_names
        self.runtime.reshape({names[blob]: self._blobs[blob].shape for blob in self._inputs})
        for blob, shape in zip(self._blobs, self.runtime.plan.shapes, strict=True):
            if blob.shape != shape:
                blob.reshape(*shape)
        self._records.clear()

    def clear_param_diffs(self) -> None:
        """Sets the diffs of all weights to 0."""
        for layer in self.layers:
            for blob in layer.blobs:
                blob.diff[...] = 0

    # --- weights ---

    def copy_from(self, path: str | os.PathLike[str]) -> None:
        """Copies weights by layer name from a .caffemodel or .caffemodel.h5."""
        self._flush_weights()
        copy_weights(self.runtime, path)
        self._drop_host_copies()

    load_hdf5 = copy_from

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .caffemodel."""
        self._flush_weights()
        save_weights(self.runtime, path, hdf5=False)

    def save_hdf5(self, path: str | os.PathLike[str]) -> None:
        """Writes Caffe's HDF5 form of the weights."""
        self._flush_weights()
        save_weights(self.runtime, path, hdf5=True)

    def share_with(self, other: Net) -> None:
        """Uses the weights of `other` for layers of the same name: both share the memory."""
        self._flush_weights()
        other._flush_weights()
        share_weights(self.runtime, other.runtime)
        self.layers = [LayerView(module) for module in self.runtime.layers]
        self._records.clear()

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Gives the net's MemoryData layer its pictures and labels."""
        layer = self.runtime.layers[0].layer
        if layer.type != "MemoryData":
            raise UsageError(
                "set_input_arrays may only be called if the first layer is a MemoryDataLayer", code="caffe.memory-data"
            )
        layer.set_arrays(data, labels)  # type: ignore[attr-defined]

    _set_input_arrays = set_input_arrays

    # --- the passes themselves ---

    def _forward(self, start: int, end: int) -> float:
        """Runs layers `start` to `end` (indices, inclusive) and returns the sum of their weighted losses."""
        self._flush_weights()
        values: dict[int, Tensor] = {}
        for index in range(start, end + 1):
            self._forward_layer(index, values)
        roots = self.runtime.plan.storage.data
        latest = {roots[blob]: value for blob, value in values.items()}
        for root, value in latest.items():
            self._blobs[root].set(values[root] if root in values else value.reshape(self._blobs[root].shape))
        for blob, value in values.items():
            if roots[blob] != blob:
                self._blobs[blob].set(value)
        nodes = self.runtime.plan.graph.nodes[start : end + 1]
        weighted = [pair for node in nodes for pair in zip(node.tops, node.loss_weights, strict=True) if pair[1]]
        return sum(weight * float(self._blobs[blob].tensor().sum()) for blob, weight in weighted)

    def _forward_layer(self, index: int, values: dict[int, Tensor]) -> None:
        node = self.runtime.layers[index].node
        if node.is_input:
            return
        bottoms, tops = self._apply(index, values)
        if self.runtime.plan.backward.layers[index]:
            self._records[index] = (bottoms, tops)
        for blob, top in zip(node.tops, tops, strict=True):
            values[blob] = top.detach()
        for blob, position in self.runtime.plan.storage.rewritten.get(index, {}).items():
            shape = values[blob].shape if blob in values else self._blobs[blob].shape
            values[blob] = tops[position].detach().reshape(shape)

    def _apply(self, index: int, values: dict[int, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns a layer's bottoms, from `values` or else from the blobs, and the tops it computes from them."""
        module = self.runtime.layers[index]
        wanted = self.runtime.plan.backward
        record = wanted.layers[index]
        roots = self.runtime.plan.storage.data
        bottoms = []
        for blob, needed in zip(module.node.bottoms, wanted.bottoms[index], strict=True):
            bottom = values[blob] if blob in values else self._blobs[blob].tensor()
            if blob not in values and roots[blob] in {roots[top] for top in module.node.tops}:
                bottom = bottom.clone()  # the top overwrites the blob, whose values the gradient still needs
            bottoms.append(bottom.detach().requires_grad_(record and needed))
        self._reshape_layer(index, bottoms)
        with torch.set_grad_enabled(record):
            return bottoms, self.runtime.run_layer(index, bottoms)

    def _reshape_layer(self, index: int, bottoms: Sequence[Tensor]) -> None:
        """Lets a layer check bottoms of a new shape before it computes, as Layer::Forward does."""
        shapes = [tuple(bottom.shape) for bottom in bottoms]
        plan = self.runtime.plan
        known = [plan.shapes[blob] for blob in plan.graph.nodes[index].bottoms]
        if shapes != known:
            plan.layers[index].reshape(shapes)

    def _backward(self, start: int, end: int) -> None:
        wanted = self.runtime.plan.backward
        for index in range(start, end - 1, -1):
            if wanted.layers[index] and not self.runtime.layers[index].node.is_input:
                self._backward_layer(index)

    def _backward_layer(self, index: int) -> None:
        module = self.runtime.layers[index]
        if index not in self._records:  # backward without a forward pass uses what the blobs hold
            self._records[index] = self._apply(index, {})
        bottoms, tops = self._records[index]
        pairs = [
            (top, self._blobs[blob].diff_tensor().view(top.shape).to(top.dtype))
            for blob, top in zip(module.node.tops, tops, strict=True)
            if top.requires_grad
        ]
        needed = [j for j, bottom in enumerate(bottoms) if bottom.requires_grad]
        weights: list[Tensor] = [blob for blob in module.parameters() if blob.requires_grad]
        inputs = [bottoms[j] for j in needed] + weights
        if not inputs:
            return
        gradients: Sequence[Tensor | None] = [None] * len(inputs)  # for tops that are constant
        if pairs:
            gradients = torch.autograd.grad(
                [top for top, _ in pairs], inputs, [diff for _, diff in pairs], retain_graph=True, allow_unused=True
            )
        for j, gradient in zip(needed, gradients, strict=False):
            diff = self._blobs[module.node.bottoms[j]].diff_tensor()
            diff.zero_() if gradient is None else diff.copy_(gradient)
        for weight, gradient in zip(weights, gradients[len(needed) :], strict=True):
            if gradient is not None:
                weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)

    # --- helpers ---

    def _layer_index(self, name: str | None, default: int) -> int:
        if name is None:
            return default
        if name not in self._layer_names:
            raise NetError(f'the net has no layer "{name}"', code="net.layer-name")
        return self._layer_names.index(name)

    def _fill(self, arrays: dict[str, Any], names: Sequence[str], what: str, message: str) -> None:
        if set(arrays) != set(names):
            raise NetError(message, code="caffe.arguments", expected=sorted(names), found=sorted(arrays))
        for name, array in arrays.items():
            target = getattr(self.blobs[name], what)
            if len(array) != len(target):
                raise NetError(
                    f'"{name}" is not batch sized', code="caffe.batch", expected=len(target), found=len(array)
                )
            target[...] = array

    def _batch(self, arrays: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        if not arrays:
            return
        size = self._blobs[0].shape[0]
        number = len(next(iter(arrays.values())))
        for start in range(0, number, size):
            batch = {name: np.asarray(array[start : start + size]) for name, array in arrays.items()}
            missing = size - min(size, number - start)
            yield {
                name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
                for name, array in batch.items()
            }

    def _set_loss_diffs(self) -> None:
        for node in self.runtime.plan.graph.nodes:
            for blob, weight in zip(node.tops, node.loss_weights, strict=True):
                if weight:
                    self._blobs[blob].diff_tensor().fill_(weight)

    def _fill_sources(self) -> None:
        """Gives the tops of sources that fill themselves at set-up (DummyData) their first values."""
        for module in self.runtime.layers:
            if module.layer.fills_at_setup:
                for blob, value in zip(module.node.tops, module.layer.initial_tops(), strict=True):
                    self._blobs[blob].set(value.to(self._device))

    def _flush_weights(self) -> None:
        if self._device.type != "cpu":
            for layer in self.layers:
                for blob in layer.blobs:
                    blob.flush()

    def _drop_host_copies(self) -> None:
        for layer in self.layers:
            for blob in layer.blobs:
                blob._host.clear()


def layer_type_list() -> list[str]:
    """Returns the names of all layer types."""
    return list(layer_types())


def _arguments(
    args: Sequence[Any], phase: int | None, level: int, stages: Sequence[str] | None, weights: Any
) -> tuple[int, int, Sequence[str] | None, Any]:
    """Sorts out the two ways of calling Net."""
    if args and isinstance(args[0], (str, os.PathLike)):
        weights, *args = args
    if len(args) > 4:
        raise UsageError("Net has too many arguments", code="caffe.arguments", expected="file, weights, phase")
    names = dict(zip(("phase", "level", "stages", "weights"), args, strict=False))
    phase = names.get("phase", phase)
    if phase not in (caffe_pb2.TRAIN, caffe_pb2.TEST):
        raise UsageError("Net needs a phase", code="caffe.phase", expected="caffe.TRAIN or caffe.TEST", found=phase)
    return phase, names.get("level", level), names.get("stages", stages), names.get("weights", weights)


def _without_padding(results: dict[str, list[np.ndarray]], inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    number = len(next(iter(inputs.values()))) if inputs else None
    return {name: np.asarray(arrays)[:number] for name, arrays in results.items()}

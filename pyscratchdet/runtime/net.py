"""A Caffe net as a torch.nn.Module: same layers, blobs, names and layouts, gradients from autograd."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyscratchdet.errors import NetError, PyScratchDetError
from pyscratchdet.layers.autograd.shared_memory import rewritten
from pyscratchdet.layers.base import Context, Layer, Shape
from pyscratchdet.layers.plan import NetFile, NetPlan, plan_net
from pyscratchdet.net import Node, lr_mult
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom, Undrawn
from pyscratchdet.runtime.layer_module import LayerModule

Inputs = Mapping[str, Tensor | np.ndarray] | Tensor | np.ndarray | None


@dataclass
class Learnable:
    """One blob that the solver updates.

    Attributes:
        parameter: Its values; `.grad` is Caffe's diff.
        lr_mult: Factor on the learning rate; 0 freezes it.
        decay_mult: Factor on the weight decay.
        name: `<layer>/<blob index>` of the layer that owns it.
        is_statistic: True for statistics that the forward pass updates (BatchNorm); their rate must be 0.
        places: The layers and roles that use it, its owner first.
    """

    parameter: Tensor
    lr_mult: float
    decay_mult: float
    name: str
    is_statistic: bool = False
    places: list[tuple[LayerModule, str]] = field(default_factory=list, repr=False)


class Net(nn.Module):
    """A net built from a prototxt.

    The phase is fixed when the net is built, as in Caffe; `train()` and `eval()` change nothing. Keys of the
    state_dict are `<layer>.<role>`, such as `conv1_1.weight`; a dot in a layer name is written `%2E`, and a second
    layer of the same name gets `%2` at its end.

    Attributes:
        plan: Graph, layer objects and shapes.
        layers: The layer modules in order, Splits included.
        learnable: What a solver updates, in Caffe's order (Net::learnable_params).
    """

    def __init__(self, plan: NetPlan, modules: Sequence[LayerModule]) -> None:
        super().__init__()
        self.plan = plan
        self.layers = list(modules)
        self._blob_keys = _numbered(plan.graph.blob_names)
        for key, module in zip(_module_keys([module.name for module in modules]), modules, strict=True):
            # Not add_module: layer names such as "data" or "type" must not clash with attributes.
            self._modules[key] = module
        self.learnable = _share_parameters(self.layers)
        self._set_gradients()
        self._last_use = _last_uses(plan)
        self._rewritten = plan.storage.rewritten
        self._scaled_by = _normalize_and_scale_pairs(plan, self.layers)
        self._in_place: frozenset[int] = frozenset()

    # --- what pycaffe users look for ---

    @property
    def name(self) -> str:
        """The net's name."""
        return self.plan.graph.name

    @property
    def phase(self) -> int:
        """`caffe_pb2.TRAIN` or `caffe_pb2.TEST`."""
        return self.plan.graph.phase

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers in order, Splits included."""
        return [module.name for module in self.layers]

    @property
    def blob_names(self) -> list[str]:
        """Names of the blobs in the order they are first made."""
        return list(self.plan.graph.blob_names)

    @property
    def blob_shapes(self) -> dict[str, Shape]:
        """Shape of each blob for the present input shapes."""
        return dict(zip(self._blob_keys, self.plan.shapes, strict=True))

    @property
    def input_names(self) -> list[str]:
        """Blobs that the caller provides."""
        return [self.plan.graph.blob_names[blob] for blob in self.plan.graph.inputs]

    @property
    def output_names(self) -> list[str]:
        """Blobs that nobody consumes."""
        return [self.plan.graph.blob_names[blob] for blob in self.plan.graph.outputs]

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """Blobs of each layer that has any, in Caffe's order and layout; the tensors themselves, not copies."""
        return {module.name: module.blobs for module in self.layers if module.roles}

    # --- running ---

    def forward(self, inputs: Inputs = None) -> dict[str, Tensor]:
        """Runs the net and returns its output blobs.

        Args:
            inputs: {input blob: array}; a bare array if the net has one input; None if it has none (data layers).

        Raises:
            NetError: An input is missing or unknown.
            LayerError: A layer cannot take these shapes.
        """
        graph = self.plan.graph
        values = self._run(inputs, keep=False)
        return {graph.blob_names[blob]: values[blob] for blob in graph.outputs}

    def forward_blobs(self, inputs: Inputs = None) -> dict[str, Tensor]:
        """Runs the net and returns every blob by its Caffe name; in-place layers replace the value of their blob.

        They also replace it in every blob that shares the memory in the original (`net.storage`).

        Anonymous tops, which Caffe all calls "(automatic)", are told apart as "(automatic)%2" and so on.

        Raises:
            NetError, LayerError: As from `forward`.
        """
        values = self._run(inputs, keep=True)
        return dict(zip(self._blob_keys, values, strict=True))

    def run_layer(self, index: int, bottoms: Iterable[Tensor]) -> list[Tensor]:
        """Returns the tops of one layer.

        Raises:
            PyScratchDetError: As the layer raises it, with the layer and where it is written.
        """
        try:
            tops: list[Tensor] = self.layers[index](*bottoms)
        except PyScratchDetError:
            with self.plan.located(index):
                raise
        return tops

    def total_loss(self, blobs: Mapping[str, Tensor]) -> Tensor:
        """Returns the sum of loss_weight * top over all losses among `blobs` (a scalar; 0 if there are none)."""
        terms = [weight * blobs[name].sum() for name, weight in self.loss_weights.items() if name in blobs]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    @property
    def loss_weights(self) -> dict[str, float]:
        """Blobs with a non-zero loss weight, by the names of `forward_blobs`."""
        return {
            self._blob_keys[blob]: weight
            for node in self.plan.graph.nodes
            for blob, weight in zip(node.tops, node.loss_weights, strict=True)
            if weight
        }

    def reshape(self, inputs: Mapping[str, Sequence[int]]) -> None:
        """Sets the shapes of inputs and works out all others; `forward` does this by itself when shapes change."""
        self.plan.reshape({name: tuple(shape) for name, shape in inputs.items()})

    def replace_blob(self, module: LayerModule, role: str, tensor: Tensor) -> None:
        """Replaces a blob of one layer by the given tensor: shared memory, not a copy."""
        old = module.blob(role)
        module.adopt(role, tensor)
        for entry in self.learnable:
            if entry.parameter is old:
                entry.parameter = tensor

    def _apply(self, fn: Any, recurse: bool = True) -> Net:
        """Called by `.to()`: buffers become other tensors, so shared statistics must be shared again."""
        super()._apply(fn, recurse)
        for entry in self.learnable:
            if entry.is_statistic:
                (owner, role), *others = entry.places
                entry.parameter = owner.blob(role)
                for module, shared_role in others:
                    module.adopt(shared_role, entry.parameter)
        return self

    def deliver(self, device: torch.device, layout: torch.memory_format = torch.contiguous_format) -> None:
        """Makes data layers deliver their batches on the net's device, and pictures in its memory layout."""

        def send(module: LayerModule, bottoms: tuple[Tensor, ...], tops: list[Tensor]) -> list[Tensor]:
            return [
                top.to(device, non_blocking=True, memory_format=layout if top.dim() == 4 else torch.preserve_format)
                for top in tops
            ]

        for module in self.layers:
            if module.layer.is_source:
                module.register_forward_hook(send)

    def work_in_place(self) -> None:
        """Lets layers that the net file has in place (ReLU) overwrite their bottom, which saves a copy each.

        This holds where only they read their bottom and gradients do not need it: after convolutions and normalisation.
        Hooks that keep the tops of those earlier layers then see ReLU's values.
        """
        nodes, layers = self.plan.graph.nodes, self.plan.layers
        self._in_place = frozenset(
            index
            for index, (before, node) in enumerate(pairwise(nodes), 1)
            if layers[index - 1].top_is_free
            and type(layers[index]).write_over is not Layer.write_over
            and before.tops == node.bottoms == node.tops
            and not self._cut[index]
            and index not in self._rewritten
        )

    def _run(self, inputs: Inputs, keep: bool) -> list[Tensor]:
        given = self._check_inputs(inputs)
        values: list[Tensor | None] = [None] * len(self.plan.graph.blob_names)
        tops: Sequence[Tensor | None]
        done = -1
        for index, module in enumerate(self.layers):
            node = module.node
            scale = self._scaled_by.get(index)
            if index == done:
                tops = [values[node.bottoms[0]]]
            elif scale is not None and (not keep or node.tops == scale.node.tops):
                # One pass over the blob instead of two; nothing else reads the value in between.
                (bottom,) = self._bottoms(values, index)
                tops = [module.layer.normalize(bottom, module.blobs, *scale.blobs)]  # type: ignore[attr-defined]
                done = index + 1
            elif index in self._in_place and (top := module.layer.write_over(values[node.bottoms[0]])) is not None:  # type: ignore[arg-type]
                tops = [top]
            elif node.is_input:
                tops = [given[self.plan.graph.blob_names[blob]] for blob in node.tops]
            else:
                tops = self.run_layer(index, self._bottoms(values, index))
            for blob, top in zip(node.tops, tops, strict=True):
                values[blob] = top
            if index in self._rewritten:
                for blob, position in self._rewritten[index].items():
                    old = values[blob]
                    values[blob] = None if old is None else rewritten(old, tops[position])  # type: ignore[arg-type]
            if not keep:
                for blob in self._last_use[index]:
                    values[blob] = None
        return values  # type: ignore[return-value]

    def _bottoms(self, values: list[Tensor | None], index: int) -> Iterator[Tensor]:
        cut = self._cut[index]
        for j, blob in enumerate(self.layers[index].node.bottoms):
            value = values[blob]
            assert value is not None
            yield value.detach() if j in cut else value

    def _check_inputs(self, inputs: Inputs) -> dict[str, Tensor]:
        names = self.input_names
        if inputs is None:
            inputs = {}
        elif not isinstance(inputs, Mapping):
            if len(names) != 1:
                raise NetError("a bare array needs a net with one input", code="net.input", expected=names or "none")
            inputs = {names[0]: inputs}
        if missing := [name for name in names if name not in inputs]:
            raise NetError("inputs are missing", code="net.input", expected=names, found=f"no {', '.join(missing)}")
        if unknown := [name for name in inputs if name not in names]:
            raise NetError(f"unknown input {', '.join(unknown)}", code="net.input", expected=names or "none")
        given = {name: self._as_input(name, inputs[name]) for name in names}
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        if any(self.plan.shapes[blob] != shapes[self.plan.graph.blob_names[blob]] for blob in self.plan.graph.inputs):
            self.plan.reshape(shapes)
        return given

    def _as_input(self, name: str, value: Tensor | np.ndarray) -> Tensor:
        """Returns an input as a tensor: arrays and whole numbers take the type and device of the weights."""
        weight = next(self.parameters(), None)
        dtype, device = (torch.float32, None) if weight is None else (weight.dtype, weight.device)
        if isinstance(value, Tensor):
            return value if value.is_floating_point() else value.to(dtype)
        try:
            return torch.as_tensor(np.asarray(value), dtype=dtype, device=device)
        except (TypeError, ValueError) as error:
            raise NetError(f'input "{name}" is not an array of numbers: {error}', code="net.input") from error

    def _set_gradients(self) -> None:
        """Turns the backward plan into requires_grad and cut bottoms."""
        plan = self.plan.backward
        wanted: dict[int, bool] = {}
        for i, module in enumerate(self.layers):
            for parameter, needed in zip(module.blobs, plan.params[i], strict=True):
                wanted[id(parameter)] = wanted.get(id(parameter), False) or needed
        for parameter in self.parameters():
            parameter.requires_grad_(wanted.get(id(parameter), True))
        self._cut = [
            frozenset(j for j, flag in enumerate(module.node.param.propagate_down) if not flag)
            | module.layer.no_gradient
            for module in self.layers
        ]


def build_net(
    net: NetFile | caffe_pb2.NetParameter | str | os.PathLike[str],
    phase: int | str = caffe_pb2.TEST,
    level: int = 0,
    stages: Sequence[str] = (),
    random: CaffeRandom | None = None,
    options: Mapping[str, object] | None = None,
    given: Collection[str] = (),
    writes: bool = False,
) -> Net:
    """Builds a net with freshly filled weights.

    Args:
        net: Path of a prototxt, or a NetParameter.
        phase: "TRAIN" or "TEST", or their numbers.
        level: For `min_level` and `max_level` rules.
        stages: Added to the file's own.
        random: Stream that fillers, dropout and data layers draw from; the same seed gives Caffe's weights.
        options: Runtime choices for layers, e.g. {"workers": 2} for data layers.
        given: Layers whose weights the caller sets afterwards: nothing is drawn for them.
        writes: Whether layers may write the files that the net names (HDF5Output, `save_output_param`).

    Raises:
        PrototxtError, NetError, LayerError: The net is faulty.
    """
    phase_number = caffe_pb2.Phase.Value(phase) if isinstance(phase, str) else phase
    context = Context(phase=phase_number, random=random or CaffeRandom(), options=dict(options or {}), writes=writes)
    modules: list[LayerModule] = []
    made: set[str] = set()

    def add(layer: Layer) -> None:
        # The first one of a name receives weights.
        random = Undrawn() if layer.name in given and layer.name not in made else context.random
        made.add(layer.name)
        modules.append(LayerModule(layer, Node(layer.param, -1), random))

    plan = plan_net(net, phase_number, level, stages, context, on_layer=add, runs=True)
    for module, node in zip(modules, plan.graph.nodes, strict=True):
        module.node = node
    return Net(plan, modules)


def _module_keys(names: Sequence[str]) -> list[str]:
    return _numbered([name.replace("%", "%25").replace(".", "%2E") or "%" for name in names])


def _numbered(names: Sequence[str]) -> list[str]:
    """Returns the names, with %2, %3... appended to repeated ones."""
    seen: Counter[str] = Counter()
    keys = []
    for name in names:
        seen[name] += 1
        keys.append(name if seen[name] == 1 else f"{name}%{seen[name]}")
    return keys


def _share_parameters(modules: Sequence[LayerModule]) -> list[Learnable]:
    """Merges blobs with the same param name and lists the learnable ones (net.cpp, Net::AppendParam)."""
    learnable: list[Learnable] = []
    owners: dict[str, tuple[LayerModule, int, int]] = {}
    given: list[tuple[bool, bool]] = []
    for module in modules:
        specs = module.node.param.param
        for k in range(len(module.roles)):
            spec = specs[k] if k < len(specs) else caffe_pb2.ParamSpec()
            if spec.name and spec.name in owners:
                _share(module, k, spec, owners[spec.name], learnable, given)
                continue
            if spec.name:
                owners[spec.name] = (module, k, len(learnable))
            statistic = module.layer.blobs[k].is_statistic
            rate = 0.0 if statistic else lr_mult(module.node, k)
            learnable.append(
                Learnable(
                    module.blobs[k],
                    rate,
                    spec.decay_mult,
                    f"{module.name}/{k}",
                    is_statistic=statistic,
                    places=[(module, module.roles[k])],
                )
            )
            given.append((spec.HasField("lr_mult"), spec.HasField("decay_mult")))
    return learnable


def _share(
    module: LayerModule,
    index: int,
    spec: caffe_pb2.ParamSpec,
    owner: tuple[LayerModule, int, int],
    learnable: list[Learnable],
    given: list[tuple[bool, bool]],
) -> None:
    owner_module, owner_index, number = owner
    mine, theirs = tuple(module.blobs[index].shape), tuple(owner_module.blobs[owner_index].shape)
    permissive = spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE
    fits = np.prod(mine) == np.prod(theirs) if permissive else mine == theirs
    if not fits:
        raise NetError(
            f'param "{spec.name}" cannot be shared with layer "{owner_module.name}"',
            code="net.shared-shape",
            layer=module.name,
            layer_type=module.layer_type,
            expected=theirs,
            found=mine,
        )
    entry = learnable[number]
    has_rate, has_decay = given[number]
    for multiplier, has in (("lr_mult", has_rate), ("decay_mult", has_decay)):
        if spec.HasField(multiplier):
            if has and getattr(entry, multiplier) != getattr(spec, multiplier):
                raise NetError(
                    f'shared param "{spec.name}" has mismatched {multiplier}',
                    code="net.shared-multiplier",
                    layer=module.name,
                    layer_type=module.layer_type,
                    expected=getattr(entry, multiplier),
                    found=getattr(spec, multiplier),
                )
            setattr(entry, multiplier, getattr(spec, multiplier))
    given[number] = (has_rate or spec.HasField("lr_mult"), has_decay or spec.HasField("decay_mult"))
    module.adopt(module.roles[index], entry.parameter)
    entry.places.append((module, module.roles[index]))


def _normalize_and_scale_pairs(plan: NetPlan, modules: Sequence[LayerModule]) -> dict[int, LayerModule]:
    """Returns {index of a BatchNorm: the Scale right after it} for pairs that can be computed in one pass."""
    pairs = {}
    nodes = plan.graph.nodes
    for index, (node, after) in enumerate(pairwise(nodes)):
        if after.bottoms != node.tops or any(node.loss_weights) or index in plan.storage.rewritten:
            continue  # others read the value in between
        if plan.layers[index].takes_in(plan.layers[index + 1]) and len(plan.top_shapes[index][0]) > 1:
            pairs[index] = modules[index + 1]
    return pairs


def _last_uses(plan: NetPlan) -> list[list[int]]:
    """Returns, for each layer, the blobs that are not needed after it (outputs stay)."""
    last: dict[int, int] = {}
    for index, node in enumerate(plan.graph.nodes):
        for blob in [*node.bottoms, *node.tops]:
            last[blob] = index
    keep = set(plan.graph.outputs)
    uses: list[list[int]] = [[] for _ in plan.graph.nodes]
    for blob, index in last.items():
        if blob not in keep:
            uses[index].append(blob)
    return uses

"""Detection mode: the same net in fewer and faster steps, giving only its output blobs.

What happens to the net (`_make_steps`, `_absorb`, `Program`):

- Split, Dropout and Silence disappear; the other layers become steps from values to values.
- BatchNorm with stored statistics, Scale and Bias per channel become one factor and one summand (`Layer.affine`).
- Steps move into the convolution, inner product, or factor and summand before them if nothing else reads the value in
  between: factor and summand into its weights, in float64 (`Layer.fold`); a sum with an earlier value, and then ReLU,
  into the memory of its top.
- ReLU works in place if nothing else reads its bottom.
- What depends only on shapes (PriorBox and what follows it) is computed once per input shape.

With `precision` bfloat16, convolutions and inner products multiply bfloat16 numbers, all but the last ones before an
output; what only moves, adds or compares values takes them as they come, and everything else, decoding included, is
float32 (`_lower`).

Blobs of four axes are channels_last, so Permute and Flatten of the heads are views. On a CPU, 3x3 convolutions of
many channels are computed by `winograd`. Weights kept as oneDNN's kernels read them, and torch.compile with freezing,
gained less than 5 % each: benchmarks/results/2026-11-28-detection-mode.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyscratchdet.errors import NetError
from pyscratchdet.layers.base import Layer, Shape
from pyscratchdet.layers.eltwise import SUM, Eltwise
from pyscratchdet.layers.plan import NetPlan
from pyscratchdet.layers.pooling import MAX, Pooling
from pyscratchdet.layers.relu import ReLU
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import winograd
from pyscratchdet.runtime.layer_module import LayerModule
from pyscratchdet.runtime.net import Inputs, Net

# Input shapes whose constants are kept.
_MAX_SHAPES = 16


class OptimizedNet(Net):
    """A TEST net in detection mode: the layers and weights of the net it was made from, run in fewer steps.

    Called like any Net; results are those of the reference up to float32 rounding. Hooks of layers that were absorbed
    are not called. `forward_blobs` is still the reference. Weights may change between calls (`copy_weights`,
    `load_state_dict`, `to`): the next call folds them again.

    Args:
        net: A TEST net with its weights.
        precision: torch.float32, or torch.bfloat16 for the products of all but the last layers.

    Raises:
        NetError: The net was built for the TRAIN phase.
    """

    def __init__(self, net: Net, precision: torch.dtype = torch.float32) -> None:
        if net.phase != caffe_pb2.TEST:
            raise NetError("only TEST nets have a detection mode", code="net.optimize", expected="TEST", found="TRAIN")
        nn.Module.__init__(self)
        vars(self).update(vars(net))
        self._precision = precision
        self._program: Program | None = None

    @torch.inference_mode()
    def _compute(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._program is None or self._program.is_stale():
            self._program = Program(self, self._precision)
        return self._program.run(given)

    def forward(self, inputs: Inputs = None) -> dict[str, Tensor]:
        """Runs the net and returns its output blobs, without gradients; see `Net.forward`.

        Raises:
            NetError: An input is missing or unknown.
            LayerError: A layer cannot take these shapes.
        """
        tops = self._compute(self._check_inputs(inputs))
        # Copies, because the caller may write to the results, which inference tensors and constants do not allow.
        return {name: top.clone() for name, top in tops.items()}


@dataclass
class Step:
    """A layer that stays unchanged. Values have numbers; each is written once.

    Attributes:
        index: The layer's place in the net.
        module: The layer.
        bottoms, tops: Numbers of values.
        dtype: What its bottoms are converted to; None leaves them as they are.
    """

    index: int
    module: LayerModule
    bottoms: list[int]
    tops: list[int]
    dtype: torch.dtype | None = field(default=None, init=False)

    def run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Returns the tops."""
        return self.module(*bottoms)

    def absorb(self, after: Step) -> bool:
        """Absorbs the only reader of its top, and then makes that reader's top; False if the two stay separate."""
        return False

    def finish(self) -> None:
        """Prepares what `run` needs, once nothing more is absorbed."""

    @property
    def is_fresh(self) -> bool:
        """Whether the top has memory of its own, so that a reader may work on it in place."""
        return type(self.module.layer) is Eltwise

    @property
    def takes_any(self) -> bool:
        """Whether it only moves, adds or compares values, for which their precision is enough."""
        layer = self.module.layer
        if isinstance(layer, Pooling):
            return layer.method == MAX
        return layer.moves_values or type(layer) is ReLU or (type(layer) is Eltwise and layer.operation == SUM)


@dataclass
class Affine(Step):
    """factor * x + summand per channel (axis 1): BatchNorm, Scale, Bias; then ReLU.

    Attributes:
        factor, summand: float64 (C,).
        relu: Whether ReLU follows.
    """

    factor: np.ndarray
    summand: np.ndarray
    relu: bool = False

    def run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Returns the top."""
        bottom = bottoms[0]
        view = (-1, *(1,) * (bottom.dim() - 2))
        factor, summand = self._values
        top = torch.addcmul(summand.view(view), bottom, factor.view(view))
        return [top.relu_() if self.relu else top]

    def absorb(self, after: Step) -> bool:
        """Absorbs what the class says."""
        if self.relu:
            return False
        if isinstance(after, Affine):
            self.factor, self.summand = self.factor * after.factor, self.summand * after.factor + after.summand
            return True
        self.relu = _is_relu(after)
        return self.relu

    def finish(self) -> None:
        """Rounds to the net's precision."""
        self._values = [_tensor(array, self.module.blobs[0]) for array in (self.factor, self.summand)]

    @property
    def is_fresh(self) -> bool:
        """True."""
        return True


@dataclass
class Weighted(Step):
    """A convolution or inner product with what it has absorbed: Affine, a sum with a second bottom, ReLU.

    Attributes:
        arrays: Weight, float64 once something has been folded in, and bias if any; in Caffe's layout.
        relu: Whether ReLU follows.
        is_transformed: Whether `winograd` computes the step.
    """

    arrays: list[np.ndarray]
    relu: bool = False
    is_transformed: bool = field(default=False, init=False)

    def run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Returns the top."""
        top = self._compute(bottoms[0])
        if self.adds:
            top = top.add_(bottoms[1])
        return [top.relu_() if self.relu else top]

    @property
    def adds(self) -> bool:
        """Whether a second bottom is added to the result."""
        return len(self.bottoms) > 1

    def absorb(self, after: Step) -> bool:
        """Absorbs what the class says."""
        if self.relu:
            return False
        if isinstance(after, Affine) and not self.adds:
            arrays = self.module.layer.fold(self.arrays, after.factor, after.summand)
            self.arrays = self.arrays if arrays is None else arrays
            return arrays is not None
        if _is_plain_sum(after) and not self.adds:
            self.bottoms += [value for value in after.bottoms if value not in self.tops]
            return True
        self.relu = _is_relu(after)
        return self.relu

    def finish(self) -> None:
        """Rounds to the net's precision, and chooses how to compute."""
        layer, like = self.module.layer, self.module.blobs[0]
        is_plain = like.device.type == "cpu" and (self.dtype or like.dtype) == torch.float32
        faster = winograd.faster(layer, self.arrays) if is_plain else None
        self.is_transformed = faster is not None
        self._compute: Callable[[Tensor], Tensor] = faster or self._direct(layer, like)
        self.arrays = []

    def _direct(self, layer: Layer, like: Tensor) -> Callable[[Tensor], Tensor]:
        blobs = [_channels_last(_tensor(array, like)) for array in self.arrays]
        if self.dtype is not None:
            blobs = [blob.to(self.dtype) for blob in blobs]
        return lambda bottom: layer.forward([bottom], blobs)[0]

    @property
    def is_fresh(self) -> bool:
        """True."""
        return True


@dataclass
class Rectify(Step):
    """ReLU that writes over its bottom."""

    def run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Returns the top."""
        slope = self.module.layer.negative_slope  # type: ignore[attr-defined]
        return [F.leaky_relu_(bottoms[0], slope) if slope else bottoms[0].relu_()]

    @property
    def is_fresh(self) -> bool:
        """True."""
        return True


@dataclass
class View(Step):
    """A layer's top in the shape of another blob that shares its memory in the original (`net.storage`)."""

    plan: NetPlan
    blob: int

    def run(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Returns the blob."""
        return [bottoms[0].reshape(self.plan.shapes[self.blob])]

    @property
    def is_fresh(self) -> bool:
        """False."""
        return False


class Program:
    """The steps of one net with folded weights; they are valid until the net's weights change.

    Args:
        net: The net, reshaped to its present inputs.
        precision: See OptimizedNet.
    """

    def __init__(self, net: Net, precision: torch.dtype = torch.float32) -> None:
        self.plan = net.plan
        steps, self.inputs, self.outputs = _make_steps(net)
        steps = _needed(steps, set(self.outputs.values()))
        steps = _in_place(_absorb(steps, set(self.outputs.values())), set(self.outputs.values()))
        self._modules = [module for module in net.layers if module.roles]
        self._weights = self._weight_marks()
        self._constant_steps, self.steps = _split_constants(steps)
        if precision != torch.float32:
            _lower(self.steps, set(self.outputs.values()), precision)
        for step in self.steps:
            step.finish()
        self._last_use = _last_uses(self.steps, set(self.outputs.values()))
        self._constants: dict[tuple[Shape, ...], dict[int, Tensor]] = {}

    def is_stale(self) -> bool:
        """Whether weights have changed, or moved, since the program was made."""
        return self._weights != self._weight_marks()

    def run(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the net's outputs for its inputs by name."""
        values = dict(self._constants_for(given))
        for name, value in self.inputs.items():
            values[value] = _channels_last(given[name])
        for step, last in zip(self.steps, self._last_use, strict=True):
            bottoms = [values[value] for value in step.bottoms]
            tops = step.run(bottoms if step.dtype is None else [bottom.to(step.dtype) for bottom in bottoms])
            if not step.bottoms:
                tops = [_channels_last(top) for top in tops]
            values.update(zip(step.tops, tops, strict=True))
            for value in last:
                del values[value]
        return {name: values[value] for name, value in self.outputs.items()}

    def _constants_for(self, given: Mapping[str, Tensor]) -> dict[int, Tensor]:
        key = tuple(tuple(given[name].shape) for name in self.inputs)
        if key not in self._constants:
            if len(self._constants) == _MAX_SHAPES:
                del self._constants[next(iter(self._constants))]
            self._constants[key] = self._compute_constants(next(iter(given.values()), torch.empty(0)).device)
        return self._constants[key]

    def _compute_constants(self, device: torch.device) -> dict[int, Tensor]:
        values: dict[int, Tensor] = {}
        for step in self._constant_steps:
            layer = step.module.layer
            if layer.reads_shapes:
                anything = torch.empty((), device=device)
                tops = step.run([anything.expand(shape) for shape in self.plan.bottom_shapes(step.index)])
            else:
                tops = step.run([values[value] for value in step.bottoms])
            values.update(zip(step.tops, tops, strict=True))
        return values

    def _weight_marks(self) -> list[tuple[int, int]]:
        blobs = (blob for module in self._modules for blob in module.blobs)
        return [(blob.data_ptr(), 0 if blob.is_inference() else blob._version) for blob in blobs]


def _make_steps(net: Net) -> tuple[list[Step], dict[str, int], dict[str, int]]:
    """Returns the steps, and the numbers of the values that are the net's inputs and outputs."""
    steps: list[Step] = []
    number: dict[int, int] = {}  # of the value that a blob has at present
    num_values = 0
    names, inputs = net.plan.graph.blob_names, {}
    for index, module in enumerate(net.layers):
        node = module.node
        bottoms = [number[blob] for blob in node.bottoms]
        if module.layer.copies_bottom:
            number.update(dict.fromkeys(node.tops, bottoms[0]))
            continue
        tops = list(range(num_values, num_values + len(node.tops)))
        num_values += len(tops)
        number.update(zip(node.tops, tops, strict=True))
        if node.is_input:
            inputs.update({names[blob]: number[blob] for blob in node.tops})
        elif not module.layer.only_silences:
            steps.append(_make_step(net, index, bottoms, tops))
        for blob, position in net.plan.storage.rewritten.get(index, {}).items():
            steps.append(View(index, module, [tops[position]], [num_values], net.plan, blob))
            number[blob] = num_values
            num_values += 1
    return steps, inputs, {names[blob]: number[blob] for blob in net.plan.graph.outputs}


def _make_step(net: Net, index: int, bottoms: list[int], tops: list[int]) -> Step:
    module = net.layers[index]
    layer = module.layer
    if layer.reads_shapes:
        return Step(index, module, [], tops)
    if len(bottoms) != 1 or len(tops) != 1 or not module.roles:
        return Step(index, module, bottoms, tops)
    arrays = [_array(blob) for blob in module.blobs]
    if affine := layer.affine(net.plan.bottom_shapes(index)[0], arrays):
        return Affine(index, module, bottoms, tops, *affine)
    if layer.settings:
        return Weighted(index, module, bottoms, tops, arrays)
    return Step(index, module, bottoms, tops)


def _array(blob: Tensor) -> np.ndarray:
    array: np.ndarray = (blob.float() if blob.dtype == torch.bfloat16 else blob).detach().cpu().numpy()
    return array


def _tensor(array: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device, like.dtype)


def _needed(steps: Sequence[Step], outputs: set[int]) -> list[Step]:
    """Leaves out steps whose tops only Silence read."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        if not step.tops or step.module.layer.is_source or wanted.intersection(step.tops):
            wanted.update(step.bottoms)
            kept.append(step)
    return kept[::-1]


def _absorb(steps: Sequence[Step], outputs: set[int]) -> list[Step]:
    """Moves steps into the ones before them."""
    readers = Counter(value for step in steps for value in step.bottoms)
    maker: dict[int, int] = {}  # value -> place of its step among those kept
    kept: list[Step] = []
    for step in steps:
        # Of two bottoms the later one: by then the other is computed.
        value = max(step.bottoms, key=lambda bottom: maker.get(bottom, -1), default=-1)
        place = maker.get(value, -1)
        if place >= 0 and readers[value] == 1 and value not in outputs and kept[place].absorb(step):
            kept[place].tops = step.tops
        else:
            place = len(kept)
            kept.append(step)
        maker.update(dict.fromkeys(step.tops, place))
    return kept


def _in_place(steps: Sequence[Step], outputs: set[int]) -> list[Step]:
    """Lets ReLU overwrite a bottom that nothing else reads or shares memory with."""
    readers = Counter(value for step in steps for value in step.bottoms)
    free: set[int] = set()
    result = []
    for step in steps:
        if type(step.module.layer) is ReLU and type(step) is Step and step.bottoms[0] in free:
            step = Rectify(step.index, step.module, step.bottoms, step.tops)
        if step.is_fresh:
            free.update(value for value in step.tops if readers[value] == 1 and value not in outputs)
        result.append(step)
    return result


def _split_constants(steps: Sequence[Step]) -> tuple[list[Step], list[Step]]:
    """Returns the steps that depend only on input shapes, and the others."""
    constants: set[int] = set()
    parts: tuple[list[Step], list[Step]] = ([], [])
    for step in steps:
        layer = step.module.layer
        is_constant = layer.reads_shapes or (layer.moves_values and constants.issuperset(step.bottoms))
        if is_constant:
            constants.update(step.tops)
        parts[0 if is_constant else 1].append(step)
    return parts


def _lower(steps: Sequence[Step], outputs: set[int], precision: torch.dtype) -> None:
    """Lets the steps with weights compute in another precision, all but the last ones on the way to an output."""
    behind_last = set(outputs)
    for step in reversed(steps):
        is_last = not behind_last.isdisjoint(step.tops)
        if isinstance(step, Weighted):
            step.dtype = torch.float32 if is_last else precision
        else:
            step.dtype = None if step.takes_any else torch.float32
            if is_last:
                behind_last.update(step.bottoms)


def _last_uses(steps: Sequence[Step], outputs: set[int]) -> list[list[int]]:
    """Returns, for each step, the values that are not needed after it."""
    last = {value: place for place, step in enumerate(steps) for value in [*step.bottoms, *step.tops]}
    uses: list[list[int]] = [[] for _ in steps]
    for value, place in last.items():
        if value not in outputs:
            uses[place].append(value)
    return uses


def _is_relu(step: Step) -> bool:
    layer = step.module.layer
    return type(layer) is ReLU and layer.negative_slope == 0 and not isinstance(step, View)


def _is_plain_sum(step: Step) -> bool:
    layer = step.module.layer
    return type(layer) is Eltwise and layer.operation == SUM and not layer.coeff and len(set(step.bottoms)) == 2


def _channels_last(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value

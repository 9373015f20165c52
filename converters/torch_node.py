"""A node of a PyTorch graph, as the handlers of its operators read it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.operations.composer import Composer, Value
from pyscratchdet.errors import ConversionError

_VIEW_NAMES = """_unsafe_view alias chunk contiguous detach dropout expand expand_as feature_dropout flatten mT
narrow permute
reshape reshape_as select slice split split_with_sizes squeeze swapaxes swapdims t to transpose type_as unbind
unflatten unsqueeze view view_as"""
_VIEWS = frozenset(_VIEW_NAMES.split())  # results may share their first argument's memory


@dataclass
class TorchValues:
    """The values of a graph that is being converted.

    Attributes:
        net: The net that is being built.
        owners: Node of a parameter or buffer -> its dotted name.
        constants: Node -> what it is known to be: a tensor, or several.
        blobs: Node -> blob.
        parts: Node with several results -> blobs.
    """

    net: NetBuilder
    owners: dict[str, str]
    constants: dict[str, Any]
    blobs: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)

    def fold_shape(self, node: torch.fx.Node) -> None:
        """Computes a node that depends on a blob's shape alone, such as zeros_like."""
        (blob,) = (value.name for value in node.all_input_nodes if value.name in self.blobs)
        self.constants[blob] = torch.zeros(self.net.shapes[self.blobs[blob]])
        self.fold(node)
        del self.constants[blob]

    def fold(self, node: torch.fx.Node) -> None:
        """Computes a node that depends on constants alone.

        Raises:
            ConversionError: It cannot be computed.
        """
        changed = self.constants[node.all_input_nodes[0].name] if is_in_place(node) else None
        if isinstance(changed, torch.Tensor) and self._is_owned(changed):
            raise self.net.refuse(node.name, str(node.target), "a weight that changes when the module runs")
        try:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda value: self.constants[value.name])
            with torch.no_grad():
                self.constants[node.name] = node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:  # whatever the operator raises
            raise self.net.refuse(node.name, str(node.target), f"its constants cannot be computed: {error}") from error

    def _is_owned(self, tensor: torch.Tensor) -> bool:
        """Returns whether a tensor lies in the memory of a weight."""
        owned = (self.constants[node] for node in self.owners if node in self.constants)
        place = tensor.untyped_storage().data_ptr()
        return any(place == weight.untyped_storage().data_ptr() for weight in owned)


def is_in_place(node: torch.fx.Node) -> bool:
    """Returns whether an operation changes its first argument."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return name.endswith("_") and not name.endswith("__")


def shares_memory(node: torch.fx.Node) -> bool:
    """Returns whether an operation's result may be, or be part of, its first argument."""
    return node.target is operator.getitem or is_in_place(node) or operator_kind(node) in _VIEWS


def operator_kind(node: torch.fx.Node) -> str:
    """Returns the operator's name, alike for all its forms and in place or not."""
    return str(node.target).removeprefix("aten.").split(".")[0].rstrip("_")


class TorchCall:
    """One operation with its arguments by name."""

    def __init__(self, values: TorchValues, node: torch.fx.Node) -> None:
        self.values, self.node = values, node
        self.net = values.net
        self.kind = operator_kind(node)
        schema = getattr(node.target, "_schema", None)
        schema = schema.arguments if schema is not None else []  # an operator of graphs has none
        self.args = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
        self.args.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
        self.args.update(node.kwargs)

    @property
    def name(self) -> str:
        """The module whose weights are used, else the operation's name."""
        for value in self.args.values():
            owner = self.values.owners.get(getattr(value, "name", ""))
            if owner and "." in owner:
                return str(owner).rpartition(".")[0]
        return self.node.name

    @property
    def composer(self) -> Composer:
        """Where its layers are added."""
        return Composer(self.net, self.name, self.kind)

    def refuse(self, reason: str) -> ConversionError:
        """Returns the error that names the operation and the reason."""
        return self.net.refuse(self.name, self.kind, reason)

    def value(self, argument: Any) -> Value:
        """The blob or constant that an argument is: its name, or the argument itself."""
        value = self.args[argument] if isinstance(argument, str) else argument
        if isinstance(value, (int, float)):
            return np.array(value, np.float32)
        if value.name in self.values.blobs:
            return self.values.blobs[value.name]
        found = self.values.constants.get(value.name)
        if not isinstance(found, torch.Tensor):
            raise self.refuse(f'"{value.name}" is not a blob that the net computes')
        array: np.ndarray = found.detach().to(torch.float32).numpy()
        return array

    def blob(self, argument: Any) -> str:
        """The blob that an argument is."""
        value = self.value(argument)
        if isinstance(value, np.ndarray):
            raise self.refuse("a constant where Caffe needs a blob")
        return value

    def input(self) -> str:
        """The first blob."""
        return self.blob(self.node.args[0])

    def shape(self) -> tuple[int, ...]:
        """The first blob's shape."""
        return self.net.shapes[self.input()]

    def axis(self, argument: str = "dim", default: int = 0) -> int:
        """An axis of the first blob, counted from the front."""
        return self.composer.axis(int(self.args.get(argument, default)), len(self.shape()))

    def axes(self, argument: str = "dim") -> list[int]:
        """Axes; all but the batch's where none is given."""
        given = self.args.get(argument)
        given = [given] if isinstance(given, int) else given
        return [self.composer.axis(axis, len(self.shape())) for axis in given or range(len(self.shape()))]

    def array(self, argument: str) -> np.ndarray | None:
        """The constant that an argument is; None where it is not given."""
        if self.args.get(argument) is None:
            return None
        value = self.value(argument)
        if isinstance(value, str):
            raise self.refuse(f"{argument} is not a constant")
        return value

    def weight(self, argument: str) -> np.ndarray:
        """The constant that an argument is."""
        array = self.array(argument)
        if array is None:
            raise self.refuse(f"{argument} is missing")
        return array

    def number(self, argument: str, default: float = 0.0) -> float:
        """A number that may be left out."""
        value = self.args.get(argument)
        if isinstance(value, torch.fx.Node):
            array = self.weight(argument)
            if array.size != 1:
                raise self.refuse(f"{argument} of shape {array.shape} where one number is expected")
            return float(array.ravel()[0])
        return default if value is None else float(value)

    def window(self, argument: str, axes: int, default: Sequence[int] = ()) -> list[int]:
        """Numbers for each axis of a window."""
        values = self.args.get(argument, default)
        values = [values] if isinstance(values, int) else list(values) or list(default)
        values = values * axes if len(values) == 1 else values
        if len(values) != axes:
            raise self.refuse(f"{argument} of {len(values)} numbers where {axes} are needed")
        return [int(value) for value in values]

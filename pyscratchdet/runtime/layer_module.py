"""One layer of a net as a torch.nn.Module: the layer object, its place in the graph, and its blobs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pyscratchdet.layers.base import BlobSpec, Layer, Shape
from pyscratchdet.layers.fillers import fill
from pyscratchdet.net import Node
from pyscratchdet.rng import CaffeRandom


class LayerModule(nn.Module):
    """One layer with its blobs: parameters if they are learned, buffers if the forward pass keeps them as statistics.

    Args:
        layer: The layer object.
        node: Its place in the graph.
        random: Stream that fillers draw from.

    Attributes:
        layer: The layer object.
        node: Its place in the graph.
        roles: The blobs' names (`weight`, `bias`, ...) in Caffe's order.
    """

    def __init__(self, layer: Layer, node: Node, random: CaffeRandom) -> None:
        super().__init__()
        self.layer = layer
        self.node = node
        self.roles = [spec.role for spec in layer.blobs]
        self._shared_shapes: dict[str, Shape] = {}
        for spec in layer.blobs:
            try:
                values = _initial_values(spec, random)
            except MemoryError as error:
                raise layer.fail("no memory for a blob", "memory", found=f"{spec.role} {spec.shape}") from error
            if spec.is_statistic:
                self.register_buffer(spec.role, values)
            else:
                self.register_parameter(spec.role, nn.Parameter(values))

    @property
    def name(self) -> str:
        """The layer's Caffe name."""
        return self.node.name

    @property
    def layer_type(self) -> str:
        """The layer's Caffe type."""
        return self.node.type

    @property
    def blobs(self) -> list[Tensor]:
        """The layer's weight blobs in Caffe's order and layout."""
        values = [self.blob(role) for role in self.roles]
        if self._shared_shapes:
            shapes = [self._shared_shapes.get(role) for role in self.roles]
            values = [value.view(shape) if shape else value for value, shape in zip(values, shapes, strict=True)]
        return values

    def blob(self, role: str) -> Tensor:
        """Returns the parameter or buffer of a blob; its shape differs if it is shared permissively."""
        value = self._parameters[role] if role in self._parameters else self._buffers[role]
        assert value is not None
        return value

    def adopt(self, role: str, owner: Tensor) -> None:
        """Replaces a blob by another layer's blob, seen in this layer's shape."""
        shape = tuple(self.blobs[self.roles.index(role)].shape)
        self._parameters.pop(role, None)
        self._buffers.pop(role, None)
        if isinstance(owner, nn.Parameter):
            self._parameters[role] = owner
        else:
            self._buffers[role] = owner
        self._shared_shapes.pop(role, None)
        if shape != tuple(owner.shape):
            self._shared_shapes[role] = shape

    def forward(self, *bottoms: Tensor) -> list[Tensor]:
        """Returns the tops."""
        return self.layer.forward(bottoms, self.blobs)

    def extra_repr(self) -> str:
        """The layer as it stands in the net: name, type, connections."""
        param = self.node.param
        parts = [f"{self.layer_type}: {', '.join(param.bottom)} -> {', '.join(param.top)}"]
        parts += [f"{role}{tuple(blob.shape)}" for role, blob in zip(self.roles, self.blobs, strict=True)]
        return "; ".join(parts)


def _initial_values(spec: BlobSpec, random: CaffeRandom) -> Tensor:
    if spec.filler is None:
        return torch.from_numpy(np.full(spec.shape, spec.value, np.float32))
    return torch.from_numpy(np.require(fill(spec.filler, spec.shape, random), np.float32, ["C"]))

"""Every Caffe layer type, one file per family, and the registry that finds them by name."""

from pyscratchdet.layers.base import Layer, layer_class, layer_types, register

__all__ = ["Layer", "layer_class", "layer_types", "register"]

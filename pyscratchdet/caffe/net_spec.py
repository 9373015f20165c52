"""Nets written in Python: NetSpec, layers and params (caffe/net_spec.py).

`L.Convolution(bottom, num_output=64, kernel_size=3)` makes a Top; assigned to a NetSpec it gets a name, and `to_proto`
writes the layers in the order in which they are needed. Unnamed tops are named by the layer type and a count, as in
Caffe. Where we are stricter: an unknown layer type or parameter is refused in the caller's line, with the nearest name.
"""

from __future__ import annotations

import functools
import linecache
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from pyscratchdet.errors import NetError, Position, PrototxtError, nearest
from pyscratchdet.proto import caffe_pb2

__all__ = ["Function", "NetSpec", "Top", "assign_proto", "layers", "param_name_dict", "params", "to_proto"]

# Types that keep their parameters in another type's message.
_SHARED_PARAMS = {"Deconvolution": "convolution"}


class SpecError(PrototxtError, AttributeError):
    """A layer type, parameter or constant that Caffe does not have."""


class UnknownTop(NetError, KeyError):
    """A name that was never assigned to the NetSpec."""


def param_name_dict() -> dict[str, str]:
    """Returns {layer type: stem of its parameter field}, e.g. "InnerProduct": "inner_product"."""
    return _param_names(caffe_pb2.LayerParameter.DESCRIPTOR)


@functools.cache
def _param_names(layer: Descriptor) -> dict[str, str]:
    fields = [field for field in layer.fields if field.name.endswith("_param") and field.message_type]
    return {field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param") for field in fields}


def _layer_fields() -> Mapping[str, Any]:
    fields: Mapping[str, Any] = caffe_pb2.LayerParameter.DESCRIPTOR.fields_by_name
    return fields


def _caller() -> tuple[str, int]:
    """Returns file and line of the nearest frame outside this package: the line that an error refers to."""
    frame = sys._getframe(1)
    package = __name__.rpartition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(package + "."):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def _position(place: tuple[str, int]) -> Position:
    path, line = place
    return Position(path, line, text=linecache.getline(path, line).rstrip("\n"))


def _known_types() -> set[str]:
    from pyscratchdet.layers.base import layer_types

    return set(layer_types()) | set(_SHARED_PARAMS) | set(param_name_dict())


def _check_type(name: str) -> None:
    if name in param_name_dict() or name in _SHARED_PARAMS:
        return
    known = _known_types()
    if name not in known:
        hint = nearest(name, known) or f"known types: {', '.join(sorted(known))}"
        raise SpecError(f'unknown layer type "{name}"', code="spec.type", position=_position(_caller()), hint=hint)


def _own_param(type_name: str) -> str | None:
    """Returns the LayerParameter field that holds a type's own parameters, or None."""
    stem = _SHARED_PARAMS.get(type_name) or param_name_dict().get(type_name)
    return f"{stem}_param" if stem else None


def _check_params(type_name: str, names: Iterable[str]) -> None:
    """Refuses parameters that neither the type's own message nor LayerParameter has."""
    own = _own_param(type_name)
    own_fields = set(_layer_fields()[own].message_type.fields_by_name) if own else set()
    for name in names:
        if name in _layer_fields() or (name in own_fields and not name.endswith("param")):
            continue
        known = own_fields | set(_layer_fields())
        hint = nearest(name, known) or f"{type_name} takes: {', '.join(sorted(own_fields)) or 'no parameters'}"
        raise SpecError(
            f'{type_name} has no parameter "{name}"', code="spec.parameter", position=_position(_caller()), hint=hint
        )


def assign_proto(proto: Message, name: str, value: Any) -> None:
    """Assigns a Python value to a field: lists and tuples to repeated fields, dicts to messages, names to enums.

    A single value given to a repeated field becomes its only element.

    Raises:
        SpecError: No such field or enum value, or a value of another type.
    """
    field = proto.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        message = proto.DESCRIPTOR.name
        raise SpecError(
            f'{message} has no field "{name}"',
            code="spec.field",
            hint=nearest(name, proto.DESCRIPTOR.fields_by_name) or "see caffe.proto",
        )
    try:
        if field.is_repeated:
            items = value if isinstance(value, (list, tuple)) else [value]
            _extend(getattr(proto, name), field, items)
        elif field.message_type:
            _fill(getattr(proto, name), value, name)
        else:
            setattr(proto, name, _number(field, value))
    except (TypeError, ValueError) as error:
        if isinstance(error, PrototxtError):
            raise
        raise SpecError(
            f'"{name}" cannot take this value', code="spec.value", expected=_kind(field), found=repr(value)
        ) from error


def _extend(target: Any, field: Any, items: Iterable[Any]) -> None:
    for item in items:
        if field.message_type:
            _fill(target.add(), item, field.name)
        else:
            target.append(_number(field, item))


def _fill(message: Message, value: Any, name: str) -> None:
    if isinstance(value, Message) and value.DESCRIPTOR is message.DESCRIPTOR:
        message.CopyFrom(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            assign_proto(message, key, item)
    else:
        kind = type(value).__name__
        raise SpecError(f'"{name}" takes a dict of {message.DESCRIPTOR.name}', code="spec.value", found=kind)


def _number(field: Any, value: Any) -> Any:
    """Returns an enum's number for its name, and anything else as it is."""
    if field.enum_type is None or not isinstance(value, str):
        return value
    values = field.enum_type.values_by_name
    if value not in values:
        hint = nearest(value, values) or f"one of {', '.join(values)}"
        raise SpecError(f'"{field.name}" has no value "{value}"', code="spec.enum", hint=hint)
    return values[value].number


def _kind(field: Any) -> str:
    if field.enum_type:
        return f"one of {', '.join(field.enum_type.values_by_name)}"
    kinds = {field.CPPTYPE_STRING: "a string", field.CPPTYPE_BOOL: "True or False"}
    decimal = (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE)
    return kinds.get(field.cpp_type, "a number" if field.cpp_type in decimal else "a whole number")


class Top:
    """One output of a layer."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> Any:
        """Returns the NetParameter of all layers that this top needs."""
        return to_proto(self)

    def _update(self, values: Mapping[str, Any]) -> None:
        self.fn._update(values)

    def _to_proto(self, layers: dict[Function, Any], names: dict[Any, str], autonames: Counter[str]) -> None:
        self.fn._to_proto(layers, names, autonames)


class Function:
    """A layer: its type, its bottoms (Tops) and its parameters."""

    def __init__(self, type_name: str, inputs: Iterable[Top], params: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.inputs = tuple(inputs)
        self.params = {name: value for name, value in params.items() if name not in ("ntop", "in_place")}
        self.place = _caller()
        for value in self.inputs:
            if not isinstance(value, Top):
                raise SpecError(
                    f"a bottom of {type_name} is not a top of a layer",
                    code="spec.bottom",
                    position=_position(self.place),
                    found=f"{type(value).__name__} {value!r:.40}",
                )
        _check_params(type_name, self.params)
        self.ntop: int = params.get("ntop", 0 if type_name == "Silence" else 1)
        self.in_place: bool = params.get("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def _name(self, key: Any, names: dict[Any, str], autonames: Counter[str]) -> str:
        if key not in names:
            autonames[self.type_name] += 1
            names[key] = f"{self.type_name}{autonames[self.type_name]}"
        return names[key]

    def _update(self, values: Mapping[str, Any]) -> None:
        _check_params(self.type_name, values)
        self.params.update(values)

    def _to_proto(self, layers: dict[Function, Any], names: dict[Any, str], autonames: Counter[str]) -> None:
        """Adds this layer and those it needs to `layers`, bottoms first; no recursion, because nets are deep."""
        stack = [(self, iter(self.inputs))]
        while stack:
            function, inputs = stack[-1]
            pending = next((top.fn for top in inputs if top.fn not in layers), None)
            if pending is not None:
                stack.append((pending, iter(pending.inputs)))
                continue
            stack.pop()
            if function not in layers:
                layers[function] = function._layer(layers, names, autonames)

    def _layer(self, layers: dict[Function, Any], names: dict[Any, str], autonames: Counter[str]) -> Any:
        layer = caffe_pb2.LayerParameter(type=self.type_name)
        layer.bottom.extend(layers[top.fn].top[top.n] for top in self.inputs)
        if self.in_place:
            layer.top.extend(layer.bottom)
        else:
            layer.top.extend(self._name(top, names, autonames) for top in self.tops)
        layer.name = self._name(self.tops[0] if self.tops else self, names, autonames)
        own = _own_param(self.type_name)
        for name, value in self.params.items():
            try:
                if own and not name.endswith("param") and name in _layer_fields()[own].message_type.fields_by_name:
                    assign_proto(getattr(layer, own), name, value)
                else:
                    assign_proto(layer, name, value)
            except SpecError as error:
                error.position = error.position or _position(self.place)
                error.layer, error.layer_type = error.layer or layer.name, self.type_name
                raise
        return layer


class NetSpec:
    """Named tops; `to_proto` writes every layer that they need, in order of assignment."""

    tops: dict[str, Any]

    def __init__(self) -> None:
        object.__setattr__(self, "tops", {})

    def __setattr__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.tops[name] = value

    def __getitem__(self, name: str) -> Any:
        if name not in self.tops:
            hint = nearest(name, self.tops)
            raise UnknownTop(f'no top "{name}" yet', code="spec.top", position=_position(_caller()), hint=hint)
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def keys(self) -> list[str]:
        """Returns the names in order of assignment."""
        return list(self.tops)

    def vals(self) -> list[Any]:
        """Returns the tops in order of assignment."""
        return list(self.tops.values())

    def update(self, name: str, params: Mapping[str, Any]) -> None:
        """Sets parameters of the layer that makes top `name`."""
        self[name]._update(params)

    def to_proto(self) -> Any:
        """Returns the NetParameter.

        Raises:
            SpecError: A parameter has a value that its field cannot take; the position is the caller's line.
        """
        names = {top: name for name, top in self.tops.items()}
        return _net(self.tops.values(), names)


def to_proto(*tops: Top) -> Any:
    """Returns a NetParameter of all layers that `tops` need, with automatic names."""
    return _net(tops, {})


def _net(tops: Iterable[Any], names: dict[Any, str]) -> Any:
    layers: dict[Function, Any] = {}
    autonames: Counter[str] = Counter()
    for top in tops:
        top._to_proto(layers, names, autonames)
    return caffe_pb2.NetParameter(layer=layers.values())


class Layers:
    """`L.Type(*bottoms, **parameters)` makes a layer: one Top, a tuple of Tops, or the Function when it has none."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _check_type(name)
        return functools.partial(_make_layer, name)


def _make_layer(type_name: str, *inputs: Top, **parameters: Any) -> Any:
    function = Function(type_name, inputs, parameters)
    if function.ntop == 0:
        return function
    return function.tops[0] if function.ntop == 1 else function.tops


class _Constants:
    """The enum values of one parameter message, e.g. `P.Pooling.MAX`."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> int:
        if name.startswith("__"):
            raise AttributeError(name)
        values = {value.name: value.number for enum in self._message.DESCRIPTOR.enum_types for value in enum.values}
        if name not in values:
            raise SpecError(
                f'{self._message.DESCRIPTOR.name} has no constant "{name}"',
                code="spec.constant",
                position=_position(_caller()),
                hint=nearest(name, values) or f"it has: {', '.join(values) or 'none'}",
            )
        number: int = values[name]
        return number


class Parameters:
    """`P.Pooling.MAX`: the constants used in parameters, by message name without `Parameter`."""

    def __getattr__(self, name: str) -> _Constants:
        if name.startswith("__"):
            raise AttributeError(name)
        message = getattr(caffe_pb2, f"{name}Parameter", None)
        if message is None:
            known = [key.removesuffix("Parameter") for key in vars(caffe_pb2) if key.endswith("Parameter")]
            raise SpecError(
                f'no parameters called "{name}"',
                code="spec.constant",
                position=_position(_caller()),
                hint=nearest(name, known),
            )
        return _Constants(message)


layers = Layers()
params = Parameters()

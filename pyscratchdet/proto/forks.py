"""What is known about the fields, enum values and layer types of other Caffes: the dialects of the schema.

The dialects stand in `dialects/`, a .proto file each, and are merged with caffe.proto by `make proto`. Text is parsed
by the names of the merged schema. Its fields are then of three kinds: those that only choose an implementation,
those that the layer types compute, and those that are refused by name unless they leave results as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import Message

from pyscratchdet.errors import Position, PrototxtError
from pyscratchdet.proto import dialect_table

# Before the name of a field of the base: all but the first value where another Caffe has a list.
LATER = "later_values_of_"
# A field of another Caffe is shown with this much of its value.
_VALUE_LENGTH = 60


class UnknownFieldWarning(UserWarning):
    """Fields were passed over; the message lists them."""


class Known(NamedTuple):
    """What is known about a field that the base of the schema lacks.

    Attributes:
        dialects: The names of the dialects that have it.
        is_hint: Whether it only chooses an implementation, a precision, a memory layout or a number of threads.
        neutral: The value that leaves results as they are without the field; None if there is no such value.
    """

    dialects: tuple[str, ...]
    is_hint: bool = False
    neutral: str | None = None


@dataclass
class Dialects:
    """What the merged schema does not say by itself; messages and enums by their names within the package.

    Attributes:
        origins: {dialect: which Caffe it is}.
        fields: {message: {field that the base lacks: what is known}}.
        values: {enum: {value that the base lacks: the dialects that have it}}.
        types: {layer type: the dialects that define it}.
        numbers: {dialect: {message: {its own field number: the merged one}}}, where they differ.
        enum_numbers: {dialect: {enum: {its own value: the merged one}}}, where they differ.
        paths: {dialect registered at run time: its file}.
    """

    origins: dict[str, str] = field(default_factory=dict)
    fields: dict[str, dict[str, Known]] = field(default_factory=dict)
    values: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    types: dict[str, tuple[str, ...]] = field(default_factory=dict)
    numbers: dict[str, dict[str, dict[int, int]]] = field(default_factory=dict)
    enum_numbers: dict[str, dict[str, dict[int, int]]] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)

    def add(self, others: Dialects) -> None:
        """Adds what is known of other dialects."""
        for table in ("origins", "types", "numbers", "enum_numbers", "paths"):
            getattr(self, table).update(getattr(others, table))
        for message, known in others.fields.items():
            self.fields.setdefault(message, {}).update(known)
        for enum, known_values in others.values.items():
            self.values.setdefault(enum, {}).update(known_values)


DIALECTS = Dialects(
    dialect_table.ORIGINS,
    {
        message: {name: Known(*known) for name, known in fields.items()}
        for message, fields in dialect_table.FIELDS.items()
    },
    dialect_table.VALUES,
    dialect_table.TYPES,
    dialect_table.NUMBERS,
    dialect_table.ENUM_NUMBERS,
)


class ForkField(NamedTuple):
    """A field of another Caffe as it is set in a message, or a field of the base with a value of another Caffe.

    Attributes:
        keys: Where it is: ("pooling_param", 0, "torch_pooling", 0).
        value: What is set, as text, shortened if long.
        known: What is known about it.
        enum_value: The name of the value, if only that is another Caffe's.
    """

    keys: tuple[str | int, ...]
    value: str
    known: Known
    enum_value: str = ""

    @property
    def path(self) -> str:
        """Its name as layers declare it: "pooling_param.torch_pooling", "loss_param.normalization=PRE_FIXED"."""
        path = ".".join(key for key in self.keys if isinstance(key, str))
        return f"{path}={self.enum_value}" if self.enum_value else path

    @property
    def title(self) -> str:
        """Its name in messages."""
        *outer, last = self.path.split(".")
        return ".".join([*outer, last.removeprefix(LATER)]) + (" as a list" if last.startswith(LATER) else "")

    @property
    def is_harmless(self) -> bool:
        """Whether it changes no result: a hint, or a neutral value."""
        return self.known.is_hint or (self.known.neutral is not None and _is_same(self.value, self.known.neutral))

    @property
    def origin(self) -> str:
        """Which Caffe defines it."""
        return _origins(self.known.dialects)


def fork_fields(
    message: Message, keys: tuple[str | int, ...] = (), skipped: Collection[str] = ()
) -> Iterator[ForkField]:
    """Yields the fields and enum values of other Caffes that are set in a message, messages inside it included.

    Args:
        message: A message of the schema.
        keys: Put before each field's own keys.
        skipped: Names of fields that are not looked into.
    """
    known_fields = DIALECTS.fields.get(_name(message.DESCRIPTOR), {})
    for descriptor, value in message.ListFields():
        if descriptor.name in skipped:
            continue
        known = known_fields.get(descriptor.name)
        values = list(value) if descriptor.is_repeated else [value]
        for index, one in enumerate(values):
            place = (*keys, descriptor.name, index)
            if descriptor.message_type is None:
                if known is None:
                    yield from _fork_value(descriptor, one, place)
                elif index == 0:
                    yield ForkField(place, _shown(descriptor, values), known)
            elif known is None:
                yield from fork_fields(one, place)
            elif known.is_hint or not _is_new(descriptor.message_type):
                yield ForkField(place, shortened(f"{{ {one} }}"), known)
                yield from () if known.is_hint else fork_fields(one, place)
            else:
                yield from list(fork_fields(one, place)) or [ForkField(place, "{ }", known)]


def _is_new(descriptor: Any) -> bool:
    """Returns whether only other Caffes have a message type."""
    return len(DIALECTS.fields.get(_name(descriptor), ())) == len(descriptor.fields)


def _fork_value(descriptor: Any, value: int, place: tuple[str | int, ...]) -> Iterator[ForkField]:
    """Yields the field if its value is an enum's and only another Caffe has it."""
    if descriptor.enum_type is None:
        return
    named = descriptor.enum_type.values_by_number.get(value)
    dialects = DIALECTS.values.get(_name(descriptor.enum_type), {}).get(named.name if named else "")
    if dialects:
        yield ForkField(place, named.name, Known(dialects, descriptor.name == "engine"), named.name)


def refuse_fork_fields(
    message: Message,
    computed: Collection[str],
    locate: Callable[..., Position | None] = lambda *keys: None,
    *,
    skipped: Collection[str] = (),
    layer: str | None = None,
    layer_type: str | None = None,
) -> list[str]:
    """Refuses what another Caffe computes and we do not.

    Args:
        message: A layer, a net or a solver.
        computed: The fields of other Caffes that are computed, as `ForkField.path` names them; a message's name stands
            for all its fields.
        locate: Keys of a field -> where it is written.
        skipped: Names of fields that are not looked into.
        layer: The layer's name, for the error.
        layer_type: Its type.

    Returns:
        The names of the fields that change no result and are passed over, in their order.

    Raises:
        PrototxtError: A field is not computed, and its value is not the one that leaves results as they are.
    """
    harmless = []
    for found in fork_fields(message, skipped=skipped):
        if _is_computed(found, computed):
            continue
        if not found.is_harmless:
            raise PrototxtError(
                f"{found.title} changes results and is not implemented",
                code="prototxt.fork-field",
                position=locate(*found.keys),
                layer=layer,
                layer_type=layer_type,
                expected=found.known.neutral,
                found=found.value,
                hint=f"defined by {found.origin}",
            )
        harmless.append(found.path)
    return harmless


def fork_paths(message: Message, names: Collection[str]) -> list[str]:
    """Returns the titles of the fields of other Caffes that change results, of those that `names` stands for."""
    if not names:
        return []
    found = [field for field in fork_fields(message, skipped=("blobs",)) if not field.is_harmless]
    return [field.title for field in found if _is_computed(field, names)]


def say_harmless(path: str, names: Iterable[str]) -> None:
    """Warns, in one line a file, of fields that were passed over and change no result."""
    last = sorted({name.rpartition(".")[2].partition("=")[0].removeprefix(LATER) for name in names})
    if last:
        warnings.warn(
            f"{path}: passed over fields that change no result: {', '.join(last)}", UnknownFieldWarning, stacklevel=4
        )


def _is_computed(found: ForkField, computed: Collection[str]) -> bool:
    """Returns whether a field is declared; an empty message is where any of its fields is."""
    return any(
        name == found.path or found.path.startswith(f"{name}.") or name.startswith(f"{found.path}.")
        for name in computed
    )


def is_hint(message: str, name: str) -> bool:
    """Returns whether a field only chooses an implementation; `engine` is one in every message."""
    known = DIALECTS.fields.get(message, {}).get(name)
    return name == "engine" or (known is not None and known.is_hint)


def type_origin(layer_type: str) -> str | None:
    """Returns which Caffe has a layer type, if that is known."""
    return _origins(DIALECTS.types[layer_type]) if layer_type in DIALECTS.types else None


def _origins(dialects: tuple[str, ...]) -> str:
    *most, last = dict.fromkeys(DIALECTS.origins[name] for name in dialects)
    return f"{', '.join(most)} and {last}" if most else last


def _name(descriptor: Any) -> str:
    return str(descriptor.full_name.removeprefix("caffe."))


def _shown(descriptor: Any, values: list[Any]) -> str:
    names = [_text(descriptor, value) for value in values]
    return shortened(f"[{', '.join(names)}]" if descriptor.is_repeated else names[0])


def _text(descriptor: Any, value: Any) -> str:
    if descriptor.enum_type is not None:
        named = descriptor.enum_type.values_by_number.get(value)
        return named.name if named else str(value)
    if isinstance(value, bool):
        return str(value).lower()
    return format(value, ".6g") if isinstance(value, float) else f'"{value}"' if isinstance(value, str) else str(value)


def shortened(value: str) -> str:
    """Returns a value from a text on one line, with its end left off if it is long."""
    words = " ".join(value.split())
    return words if len(words) <= _VALUE_LENGTH else words[:_VALUE_LENGTH] + "..."


def _is_same(value: str, neutral: str) -> bool:
    value = value.strip('"')
    try:
        return float(value) == float(neutral)
    except ValueError:
        return value == neutral

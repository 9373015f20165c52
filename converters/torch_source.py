"""From a Caffe net to PyTorch source that needs torch and safetensors only, and whose reader owns the model.

Each layer writes itself (`Layer.torch_source`). Functions and classes that layers ask for are copied from this project,
with all that these use, so that they are the ones that its tests run. The text is in the form of `ruff format`, under
its default line length as well as under longer ones.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import keyword
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from pyscratchdet import __version__
from pyscratchdet.converters.file_facts import file_facts, input_text, result_text, wrapped
from pyscratchdet.converters.onnx_export import needed_layers, raw_heads, wanted_blobs
from pyscratchdet.errors import ConversionError
from pyscratchdet.files import read_bytes, write_bytes, write_text
from pyscratchdet.layers.autograd.shared_memory import rewritten
from pyscratchdet.layers.base import Shape
from pyscratchdet.layers.detection_output import DetectionOutput
from pyscratchdet.runtime import LayerModule, Net

_WIDTH = 88  # ruff's own line length
_DOC_WIDTH = 78
_LONGEST_VARIABLE = 32  # so that short expressions of two variables fit
_STANDARD = {
    "dataclass": "from dataclasses import dataclass",
    "Path": "from pathlib import Path",
    "Any": "from typing import Any",
}
_OTHERS = {
    "torch": "import torch",
    "F": "import torch.nn.functional as F",
    "load_file": "from safetensors.torch import load_file",
    "Tensor": "from torch import Tensor, nn",
}
_RESERVED = {*dir(builtins), *keyword.kwlist, *_STANDARD, *_OTHERS, "nn", "self", "blobs", "load", "LABELS"}


@dataclass
class ModuleSource:
    """A net as source text.

    Attributes:
        text: A Python module.
        class_name: Its class that is the net.
        state: The weights by the keys of that class's state_dict.
        inputs: Names and shapes of the blobs that `forward` takes, in its order.
        outputs: Names of the blobs that `forward` returns.
    """

    text: str
    class_name: str
    state: dict[str, Tensor]
    inputs: dict[str, Shape]
    outputs: list[str]


def module_source(
    net: Net,
    *,
    heads: str = "decoded",
    whole: bool = True,
    origin: str = "",
    facts: Mapping[str, str] | None = None,
) -> ModuleSource:
    """Returns a net as PyTorch source.

    Args:
        net: A TEST net with its weights.
        heads: What a detector ends in; see `onnx_export.export_onnx`.
        whole: Write all layers; otherwise those that the outputs need.
        origin: The file that the net comes from, for the docstring.
        facts: What the docstring says: `mean`, `scale` and `channels` of the prepared picture; and `labels`, names by
            label as JSON.

    Raises:
        ConversionError: A layer has no PyTorch source, or `heads` needs a DetectionOutput and the net has none.
    """
    first = _Writer(net, heads, whole)
    first.run()
    # A second time, now that it is known which names blobs must leave alone.
    writer = _Writer(net, heads, whole, reserved=first.parts.names)
    writer.run()
    return writer.finish(origin, facts or {})


def save_source(net: Net, path: str | os.PathLike[str], **options: Any) -> ModuleSource:
    """Writes a net as `<name>.py` and its weights as `<name>.safetensors` beside it.

    Args:
        net: A TEST net with its weights.
        path: The Python file; atomic, like the other.
        **options: Options of `module_source`.
    """
    source = module_source(net, **options)
    state = {key: value.contiguous().clone() for key, value in source.state.items()}
    write_bytes(weights_path(path), safetensors.torch.save(state, {"format": "pt"}))
    write_text(path, source.text)
    return source


def source_notes(path: str | os.PathLike[str]) -> list[str]:
    """Returns what the docstring of a written module says of its inputs and outputs, indented."""
    text = ast.get_docstring(ast.parse(read_bytes(path))) or ""
    return textwrap.indent(text.split("\n\n")[2], "  ").splitlines()


def weights_path(path: str | os.PathLike[str]) -> Path:
    """Returns where the weights of a written module are."""
    return Path(path).with_suffix(".safetensors")


class _Parts:
    """Functions and classes of this project that go into a file, each after what it uses."""

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._texts: dict[str, str] = {}
        self._constants: dict[str, float] = {}

    @property
    def names(self) -> set[str]:
        return {*self._texts, *self._constants}

    def add(self, definition: Any) -> str:
        """Adds a definition and all that it uses; returns its name."""
        name: str = definition.__name__
        if name in self._definitions:
            assert self._definitions[name] is definition, f"two parts are called {name}"
            return name
        self._definitions[name] = definition
        text = textwrap.dedent(inspect.getsource(definition)).rstrip()
        surroundings = vars(sys.modules[definition.__module__])
        for used in sorted(_names(text) & surroundings.keys()):
            value = surroundings[used]
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.add_constant(used, value)
            elif getattr(value, "__module__", "").startswith("pyscratchdet."):
                self.add(value)
        self._texts[name] = text
        return name

    def add_constant(self, name: str, value: float) -> str:
        """Adds a named number; returns its name."""
        self._constants[name] = value
        return name

    def constants(self) -> list[str]:
        return [f"{name} = {value!r}" for name, value in sorted(self._constants.items(), key=lambda item: item[1])]

    def texts(self) -> list[str]:
        return list(self._texts.values())


@dataclass
class _Writer:
    """Writes one net; layers see it as `SourceText`."""

    net: Net
    heads: str
    whole: bool
    reserved: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.parts = _Parts()
        self.state: dict[str, Tensor] = {}
        self._init: list[str] = []
        self._body: list[str] = []
        self._shapes: dict[str, Shape] = {}
        self._values: dict[int, str] = {}
        self._halves: dict[int, list[str]] = {}  # boxes and scores instead of detections
        self._attributes: dict[int, str] = {}  # by index of the layer
        self._taken_attributes = {*dir(nn.Module()), *keyword.kwlist, "forward_blobs"}
        self._taken = {*_RESERVED, *self.reserved}
        self._index = 0

    # --- what layers ask for ---

    def module(self, constructor: str, shapes: Mapping[str, Shape] | None = None) -> str:
        module = self.net.layers[self._index]
        name = self._attributes[self._index] = _identifier(module.name, "layer", self._taken_attributes)
        if name != module.name:
            self._init.append(f"# {_literal(module.name)} in the prototxt")
        self._init += _lines(f"self.{name} = {constructor}")
        for role, blob in zip(module.roles, module.blobs, strict=True):
            self.state[f"{name}.{role}"] = blob.detach().reshape((shapes or {}).get(role, blob.shape))
            if isinstance(blob, nn.Parameter) and not blob.requires_grad:
                self._init.append(f"self.{name}.{role}.requires_grad_(False)")
        return f"self.{name}"

    def part(self, definition: Callable[..., Any]) -> str:
        return self.parts.add(definition)

    def constant(self, name: str, value: float) -> str:
        return self.parts.add_constant(name, value)

    def shape(self, value: str) -> Shape:
        return self._shapes[value]

    # --- the net ---

    def run(self) -> None:
        """Writes all layers."""
        net, nodes = self.net, self.net.plan.graph.nodes
        cut = raw_heads(net) if self.heads != "decoded" else None
        self._wanted = wanted_blobs(net, cut if self.heads == "raw" else None)
        if not self._wanted:
            raise ConversionError("the net has no outputs, so there is no module to write", code="torch.no-output")
        ends = set(net.plan.detection_layers)
        if self.whole:
            chosen = [index for index in range(len(nodes)) if self.heads != "raw" or index not in ends]
        else:
            chosen = needed_layers(net, self._wanted)
        for index in chosen:
            self._index = index
            self._add_layer(net.layers[index])
        self._share()

    def _add_layer(self, module: LayerModule) -> None:
        node, plan = module.node, self.net.plan
        names = plan.graph.blob_names
        if node.is_input:
            for blob, shape in zip(node.tops, plan.top_shapes[self._index], strict=True):
                self._set(blob, shape)
            return
        if cut := [names[blob] for blob in node.bottoms if blob in self._halves]:
            raise ConversionError(
                f'its bottom "{cut[0]}" does not exist in this form', code="torch.heads", layer=node.name
            )
        bottoms = [self._bottom(module, place, blob) for place, blob in enumerate(node.bottoms)]
        if isinstance(module.layer, DetectionOutput) and self.heads == "boxes":
            top = names[node.tops[0]]
            self._halves[node.tops[0]] = halves = [f"{top}_boxes", f"{top}_scores"]
            values = [_identifier(name[-_LONGEST_VARIABLE:], "blob", self._taken) for name in halves]
            self._assign(", ".join(values), *module.layer.torch_source_boxes(self, bottoms))
            self._half_values = dict(zip(halves, values, strict=True))
            return
        if isinstance(module.layer, DetectionOutput) and self.heads == "fixed":
            results = module.layer.torch_source_fixed(self, bottoms)
        else:
            results = module.layer.torch_source(self, bottoms)
        for blob, result, shape in zip(node.tops, results, plan.top_shapes[self._index], strict=True):
            if node.type == "Split":
                self._values[blob] = result
            else:
                self._assign(self._set(blob, shape), result)
        self._rewrite(module)

    def _bottom(self, module: LayerModule, place: int, blob: int) -> str:
        value = self._values[blob]
        flags = module.node.param.propagate_down
        if place >= len(flags) or flags[place] or place in module.layer.no_gradient:
            return value
        self._shapes[f"{value}.detach()"] = self._shapes[value]
        return f"{value}.detach()"

    def _set(self, blob: int, shape: Shape) -> str:
        """Returns the variable that a blob is written to."""
        if blob not in self._values:
            name = self.net.plan.graph.blob_names[blob][:_LONGEST_VARIABLE]
            self._values[blob] = _identifier(name, "blob", self._taken)
        self._shapes[self._values[blob]] = shape
        return self._values[blob]

    def _assign(self, target: str, value: str) -> None:
        self._body += _lines(f"{target} = {value}")

    def _rewrite(self, module: LayerModule) -> None:
        """Gives a top's values to the other blobs that share its memory in the original."""
        others = self.net.plan.storage.rewritten.get(self._index, {})
        done = {self._values[blob] for blob in module.node.tops}
        for blob, position in others.items():
            value = self._values.get(blob)
            if value is None or value in done:
                continue
            done.add(value)
            top = self._values[module.node.tops[position]]
            self._assign(value, f"{self.part(rewritten)}({value}, {top})")

    def _share(self) -> None:
        """Lets layers that share a blob share its parameter."""
        indices = {id(module): index for index, module in enumerate(self.net.layers)}
        for entry in self.net.learnable:
            places = [
                (self._attributes[indices[id(module)]], role)
                for module, role in entry.places
                if indices[id(module)] in self._attributes
            ]
            for name, role in places[1:]:
                (owner, owner_role), shapes = places[0], self.state
                if shapes[f"{owner}.{owner_role}"].shape != shapes[f"{name}.{role}"].shape:
                    raise ConversionError(
                        "a blob that is shared under another shape has no PyTorch source",
                        code="torch.unsupported",
                        layer=name,
                    )
                self._init += _lines(f"self.{name}.{role} = self.{owner}.{owner_role}")

    # --- the file ---

    def finish(self, origin: str, facts: Mapping[str, str]) -> ModuleSource:
        """Returns the whole module."""
        graph = self.net.plan.graph
        inputs = {self._values[blob]: graph.blob_names[blob] for blob in graph.inputs if blob in self._values}
        outputs: dict[str, str] = {}
        for blob in self._wanted:
            if blob in self._halves:
                outputs |= self._half_values
            else:
                outputs[graph.blob_names[blob]] = self._values[blob]
        class_name = _class_name(self.net.name, {*_RESERVED, *self.parts.names, *self._values.values()})
        sections = [
            *self.parts.texts(),
            "\n".join(self._class(class_name, list(inputs), outputs)),
            "\n".join(_loader(class_name)),
        ]
        shapes = {name: self._shapes[value] for value, name in inputs.items()}
        about = self._about(origin, shapes, outputs, facts)
        constants = [*self.parts.constants(), *_labels(json.loads(facts.get("labels", "{}")))]
        code = "\n\n\n".join(sections)
        head = f'"""{about}"""\n\nfrom __future__ import annotations\n\n{_imports(code)}\n'
        middle = "\n" + "\n".join(constants) + "\n" if constants else ""
        text = f"{head}{middle}\n\n{code}\n"
        ast.parse(text)
        return ModuleSource(text, class_name, self.state, shapes, list(outputs))

    def _class(self, name: str, inputs: Sequence[str], outputs: Mapping[str, str]) -> list[str]:
        blobs = {key: value for key, value in self._blobs().items() if key not in outputs}
        arguments = ", ".join(["self", *(f"{value}: Tensor" for value in inputs)])
        returned = [f"{_literal(key)}: {value}," for key, value in {**blobs, **outputs}.items()]
        names = f"names = ({', '.join(map(_literal, outputs))}{',' * (len(outputs) == 1)})"
        body = [
            f"class {name}(nn.Module):",
            f'    """The net {_plain(self.net.name) or "without a name"}."""',
            "",
            "    def __init__(self) -> None:",
            "        super().__init__()",
            *(f"        {line}" for line in self._init),
            "",
            *_signature("forward_blobs", arguments, "dict[str, Tensor]"),
            '        """Returns all blobs by their names in the prototxt."""',
            *(f"        {line}" for line in self._body),
            "        return {",
            *(f"            {line}" for line in returned),
            "        }",
            "",
            *_signature("forward", arguments, "dict[str, Tensor]"),
            '        """Returns the net\'s outputs by their names in the prototxt."""',
            *(f"        {line}" for line in _lines(f"blobs = self.forward_blobs({', '.join(inputs)})")),
            *(f"        {line}" for line in _lines(names)),
            "        return {name: blobs[name] for name in names}",
        ]
        return body

    def _blobs(self) -> dict[str, str]:
        """Returns the variables of all blobs, by the names of `Net.forward_blobs`, but for copies that Caffe adds."""
        copies = {blob for node in self.net.plan.graph.nodes if node.type == "Split" for blob in node.tops}
        names = list(self.net.blob_shapes)
        return {names[blob]: value for blob, value in sorted(self._values.items()) if blob not in copies}

    def _about(self, origin: str, inputs: Mapping[str, Shape], outputs: Iterable[str], facts: Mapping[str, str]) -> str:
        facts = {**file_facts(self.net, self.heads), **facts}
        lines = [
            f"The net {_plain(self.net.name) or 'without a name'} in PyTorch: needs torch and safetensors, no Caffe.",
            "",
            f"Written by pyscratchdet {__version__}{f' from {_plain(origin)}' if origin else ''}; yours to edit.",
            "`load` gives the net with the weights of the safetensors file beside this one.",
            "",
        ]
        for name, shape in inputs.items():
            dims = ["N", *map(str, shape[1:])]
            lines += wrapped(_capital(input_text(facts, _plain(name), dims)), _DOC_WIDTH)
        lines += wrapped(f"Outputs: {', '.join(_plain(name) for name in outputs)}", _DOC_WIDTH)
        if "heads" in facts:
            facts["rows"] = _plain(facts.get("rows", "rows"))
            lines += wrapped(_capital(result_text(facts)), _DOC_WIDTH)
        lines += ["Names are the prototxt's, but for characters that Python's names cannot have.", ""]
        return "\n".join(lines)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _loader(class_name: str) -> list[str]:
    return [
        *_signature("load", "path: str | Path | None = None", class_name, indent=0),
        '    """Returns the net with its weights, in evaluation mode.',
        "",
        "    Args:",
        "        path: A safetensors file; by default the one beside this file.",
        '    """',
        f"    net = {class_name}()",
        '    weights = path or Path(__file__).with_suffix(".safetensors")',
        "    net.load_state_dict(load_file(weights))",
        "    return net.eval()",
    ]


def _labels(labels: Mapping[str, str]) -> list[str]:
    if not labels:
        return []
    return ["LABELS = {", *(f"    {label}: {_literal(name)}," for label, name in labels.items()), "}"]


def _imports(code: str) -> str:
    used = _names(code)
    groups = ([line for name, line in table.items() if name in used] for table in (_STANDARD, _OTHERS))
    return "\n\n".join("\n".join(group) for group in groups if group)


def _names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def _identifier(name: str, kind: str, taken: set[str]) -> str:
    """Returns a Python name that is not in `taken`, as like the given one as can be, and puts it there."""
    base = re.sub(r"\W", "_", name, flags=re.ASCII).lstrip("_")
    if not base or base[0].isdigit():
        base = f"{kind}_{base}".rstrip("_")
    if base in taken and f"{base}_" not in taken:
        base += "_"
    result, count = base, 1
    while result in taken:
        count += 1
        result = f"{base}_{count}"
    taken.add(result)
    return result


def _class_name(name: str, taken: set[str]) -> str:
    words = re.findall(r"[A-Za-z0-9]+", name)
    base = "".join(word[0].upper() + word[1:] for word in words) or "Net"
    base = f"Net{base}" if base[0].isdigit() else base
    return f"{base}Net" if base in taken else base


def _literal(text: str) -> str:
    """Returns a string literal in ruff's form: double quotes unless that means more backslashes."""
    quoted = repr(text)
    if quoted[0] == "'" and '"' not in text:
        return f'"{quoted[1:-1]}"'
    return quoted


def _plain(text: str) -> str:
    """Returns a stranger's text for a docstring: what could end it or be read as an escape becomes "_"."""
    return re.sub(r"[^\w .,:;()/+-]", "_", text, flags=re.ASCII)


def _signature(name: str, arguments: str, result: str, indent: int = 4) -> list[str]:
    line = f"{' ' * indent}def {name}({arguments}) -> {result}:"
    if len(line) <= _WIDTH:
        return [line]
    inner = [f"{' ' * indent}    {argument}," for argument in arguments.split(", ")]
    return [f"{' ' * indent}def {name}(", *inner, f"{' ' * indent}) -> {result}:"]


def _lines(statement: str, indent: int = 8, end: str = "") -> list[str]:
    """Returns a statement, or a part of a call, in lines of at most _WIDTH characters where brackets allow it.

    Args:
        statement: Without line breaks.
        indent: How far the lines will be from the margin; the first has no blanks of its own.
        end: What follows the statement in its last line.
    """
    if indent + len(statement) + len(end) <= _WIDTH or not statement.endswith((")", "]")):
        return [statement + end]
    start = _opening(statement)
    parts = _split(statement[start + 1 : -1])
    if not parts or (statement[start] == "[" and start and statement[start - 1] not in "=( "):
        return [statement + end]
    inner = [line for part in parts for line in _lines(part, indent + 4, ",")]
    return [statement[: start + 1], *(f"    {line}" for line in inner), statement[-1] + end]


def _opening(text: str) -> int:
    """Returns the place of the bracket that the last character closes."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] in ")]") - (text[place] in "([")
        if not depth:
            return place
    raise AssertionError(text)


def _split(text: str) -> list[str]:
    """Splits at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            parts.append(text[start:place].strip())
            start = place + 1
    return [part for part in [*parts, text[start:].strip()] if part]

"""From a PyTorch module to a Caffe net through torch.export, refusing what Caffe cannot express exactly.

Layers are named after the modules that hold their weights (`layer1.0.conv1`, `features.3`), a BatchNorm's Scale
`<name>_scale`; others after their operator. Statistics of BatchNorm are converted for inference, and training can
continue from them (pyscratchdet.converters.build.SCALE_FACTOR). What depends on weights and constants alone is computed
in advance.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch.utils import _pytree as pytree

from pyscratchdet.converters.build import NetBuilder
from pyscratchdet.converters.graph_import import GraphWalk, Links, known_output
from pyscratchdet.converters.layer_sets import layer_set
from pyscratchdet.converters.torch_node import TorchCall, TorchValues, is_in_place, operator_kind, shares_memory
from pyscratchdet.converters.torch_operators import HANDLERS, OF_SHAPES
from pyscratchdet.errors import ConversionError, PyScratchDetError


def import_module(
    module: torch.nn.Module,
    shapes: Sequence[int] | Sequence[Sequence[int]],
    name: str = "net",
    *,
    layers: str | None = None,
    approximate: bool = False,
    outputs: Sequence[str] = (),
) -> NetBuilder:
    """Returns the net of a module in evaluation mode.

    Args:
        module: Takes tensors and returns tensors, in any structure.
        shapes: Shape of the input, batch size included, or one for each; the batch stays open, other axes do not.
        name: The net's name.
        layers: The target whose layers it may have, a key of `layer_sets.LAYER_SETS`; None for all.
        approximate: Whether operations that no layers compute exactly may be approximated.
        outputs: Where the net ends: modules by their dotted names, or operations; by default what the module returns.

    Raises:
        UsageError: There is no such target or output.
        ConversionError: torch.export cannot follow the module, or an operation has no exact Caffe layers; says where
            the net can be cut.
    """
    net = NetBuilder(name, layer_set(layers), approximate=approximate)
    given = [shapes] if isinstance(shapes[0], int) else shapes
    tensors = tuple(torch.zeros(*shape) for shape in given)  # type: ignore[misc]
    module = module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, tensors)
    except Exception as error:  # whatever the user's forward or the tracer raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(f"torch.export cannot follow the module: {reason}", code="import.export") from error
    return _TorchGraph(_in_known_operations(program), net).run(
        [tuple(tensor.shape) for tensor in tensors], list(outputs)
    )


def _in_known_operations(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Takes apart what no operation stands for and PyTorch itself can write in others, as regions under autocast."""
    reached, unknown = set(program.graph_signature.user_inputs), set()
    for node in program.graph.nodes:
        if node.op != "call_function" or reached.isdisjoint(value.name for value in node.all_input_nodes):
            continue
        reached.add(node.name)
        if node.target is not operator.getitem and operator_kind(node) not in HANDLERS.keys() | OF_SHAPES:
            unknown.add(node.target)
    if not unknown:
        return program
    table = torch.export.default_decompositions()
    chosen = {target: table[target] for target in unknown if target in table}
    if not chosen and all(isinstance(target, torch._ops.OpOverload) for target in unknown):
        return program
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        simpler: torch.export.ExportedProgram = program.run_decompositions(chosen)
    return simpler


class _TorchGraph:
    """The graph of a program on its way into a net."""

    def __init__(self, program: torch.export.ExportedProgram, net: NetBuilder) -> None:
        self.program, self.net = program, net
        signature = program.graph_signature
        owners = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        state = {**program.state_dict, **program.constants}
        tensors = {node: state[owner].detach() for node, owner in owners.items() if owner in state}
        self.values = TorchValues(net, owners, tensors)
        self.inputs = list(signature.user_inputs)
        self.nodes = {node.name: node for node in program.graph.nodes}
        self.order = {name: index for index, name in enumerate(self.nodes)}
        self.first: dict[str, str] = {}  # torch node -> the blob that it made, whatever writes over it later
        self.roots: dict[str, str] = {}  # torch node -> the node whose memory it shares
        for node in program.graph.nodes:
            base = node.all_input_nodes[0].name if node.all_input_nodes and shares_memory(node) else node.name
            self.roots[node.name] = self.roots.get(base, base)
        self.modules = _module_results(program.graph)

    def run(self, shapes: Sequence[tuple[int, ...]], outputs: list[str]) -> NetBuilder:
        """Builds the net."""
        returned = self._returned() if not outputs else {name: self._node_of(name) for name in outputs}
        names = ["data"] if len(self.inputs) == 1 else self.inputs
        for node, name, shape in zip(self.inputs, names, shapes, strict=True):
            self.values.blobs[node] = self.net.input(name, shape)
        nodes = [node for node in self.program.graph.nodes if node.op == "call_function"]
        steps = [(node, Links([value.name for value in node.all_input_nodes], self._made(node))) for node in nodes]
        paths = {node: path for path, node in self.modules.items()}
        walk = GraphWalk(self.net, steps, self.values.blobs, paths)
        walk.cut(returned.values())
        walk.run(self._convert, list(returned.values()))
        blobs = {**self.values.blobs, **({} if not outputs else self.first)}
        if constant := [name for name, node in returned.items() if node not in blobs]:
            raise ConversionError(
                f'output "{constant[0]}" does not depend on any input', code="import.output", found="a constant"
            )
        self.net.outputs = {name: self.net.made(blobs[node]) for name, node in returned.items()}
        self.net.select(self.net.outputs.values())
        tops = self.net.tops()
        self.net.sources = {
            path: self.first[node] for path, node in self.modules.items() if self.first.get(node) in tops
        }
        return self.net

    def _made(self, node: torch.fx.Node) -> list[str]:
        """Returns the values that an operation makes or changes."""
        if not is_in_place(node):
            return [node.name]
        order, root = self.order, self.roots[node.name]
        return [name for name, other in self.roots.items() if other == root and order[name] <= order[node.name]]

    def _returned(self) -> dict[str, str]:
        """Returns {output: node} in order; the keys of a dict, else numbers."""
        (node,) = (node for node in self.program.graph.nodes if node.op == "output")
        names = [getattr(value, "name", "") for value in node.args[0]][
            -len(self.program.graph_signature.user_outputs) :
        ]
        structure = pytree.tree_unflatten(names, self.program.call_spec.out_spec)
        if isinstance(structure, Mapping) and all(isinstance(value, str) for value in structure.values()):
            return {str(key): value for key, value in structure.items()}
        return {str(index): value for index, value in enumerate(names)}

    def _node_of(self, name: str) -> str:
        """Returns the node of a module's or operation's result."""
        nodes = {node.name for node in self.program.graph.nodes if node.op == "call_function"}
        if name in self.modules:
            return self.modules[name]
        if name not in nodes:
            raise known_output(name, [*self.modules, *nodes])
        return name

    def _convert(self, node: torch.fx.Node) -> None:
        values = self.values
        if all(value.name not in values.blobs and value.name not in values.parts for value in node.all_input_nodes):
            values.fold(node)
            return
        if node.target is not operator.getitem and operator_kind(node) in OF_SHAPES:
            values.fold_shape(node)
            return
        if node.target is operator.getitem:
            parts, index = node.args
            self._set(node, values.parts[parts.name][index])  # type: ignore[union-attr, index]
            return
        call = TorchCall(values, node)
        if call.kind not in HANDLERS:
            raise call.refuse("Caffe has no layer for this operation")
        before = call.input() if is_in_place(node) else ""
        try:
            result = HANDLERS[call.kind](call)
        except PyScratchDetError:  # a refusal with its own reason
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # forms not thought of
            raise call.refuse(f"arguments in a form that is not known: {error}") from error
        if isinstance(result, list):
            values.parts[node.name] = result
            return
        if before and result != before:
            self._overwrite(call, before, result)
        self._set(node, result)

    def _set(self, node: torch.fx.Node, blob: str) -> None:
        self.values.blobs[node.name] = self.first[node.name] = blob

    def _overwrite(self, call: TorchCall, before: str, after: str) -> None:
        """Gives a tensor that PyTorch changes in place its new value under all its names.

        Raises:
            ConversionError: Another view of its memory is read later, which would have to change too.
        """
        blobs, order = self.values.blobs, self.order
        for name, blob in blobs.items():
            if self.roots[name] != self.roots[call.node.name]:
                continue
            if blob == before:
                blobs[name] = after
            elif any(order[user.name] > order[call.node.name] for user in self.nodes[name].users):
                raise call.refuse("an in-place operation on a view, which also changes the viewed tensor")


def _module_results(graph: torch.fx.Graph) -> dict[str, str]:
    """Returns {module's dotted path: the node whose value is all that leaves the module}."""
    inside: dict[str, list[torch.fx.Node]] = {}
    for node in graph.nodes:
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            inside.setdefault(path, []).append(node)
    results = {}
    for path, nodes in inside.items():
        members = set(nodes)
        leaving = [node for node in nodes if any(user not in members for user in node.users)]
        if path and "@" not in path and len(leaving) == 1:
            results[path] = leaving[0].name
    return results

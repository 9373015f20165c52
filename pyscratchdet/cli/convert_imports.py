"""The directions of `pyscratchdet convert` that begin at a PyTorch model or an ONNX graph and end in a Caffe net."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyscratchdet.cli.convert_output import Outcome, written
from pyscratchdet.errors import counted

if TYPE_CHECKING:
    from pyscratchdet.converters.imports import ImportedNet
    from pyscratchdet.converters.torch_models import Shapes


def onnx_net(args: argparse.Namespace) -> Outcome:
    """An ONNX graph as a net."""
    from pyscratchdet.converters.imports import import_file

    return _write_net(import_file(args.source, priors=args.priors, **_graph_choices(args)), args)


def torch_net(args: argparse.Namespace) -> Outcome:
    """A PyTorch model as a net."""
    return _write_net(_imported(args, **_graph_choices(args)), args)


def torch_backbone(args: argparse.Namespace) -> str:
    """A PyTorch model's weights under a detector's layer names."""
    from pyscratchdet.converters.backbone import write_backbone

    result = write_backbone(_imported(args).net, args.model, args.target)
    return "\n".join([written(result.blobs, args), *result.lines()])


def torch_detector(args: argparse.Namespace) -> str:
    """An SSD on a PyTorch classifier, in a folder to train."""
    from pyscratchdet import prototxt
    from pyscratchdet.converters.backbone import take_bgr
    from pyscratchdet.converters.imports import import_module
    from pyscratchdet.converters.torch_models import named_model
    from pyscratchdet.proto.weights import write_caffemodel
    from pyscratchdet.prototxt.classifier import feature_layers, ssd_on_classifier

    model = named_model(args.source, args.weights)
    size = args.size or 300
    features = args.features.split(",") if args.features else feature_layers(model.module, model.name)
    net = import_module(model.module, (1, 3, size, size), model.name, outputs=features).net
    take_bgr(net, model.std)
    maps = {layer: (blob, net.shapes[blob]) for layer, blob in net.outputs.items()}
    num_blobs = {layer: len(arrays) for layer, arrays in net.blobs.items()}
    folder = args.target.rstrip("/")
    options = prototxt.Options(folder=folder)
    options = options.of_folder(args.data) if args.data else options
    recipe = ssd_on_classifier(net.param, num_blobs, maps, size, f"ssd_{model.name}", model.mean_bgr, options)
    paths = prototxt.write(recipe, folder)
    start = os.path.join(folder, "start.caffemodel")
    write_caffemodel(start, net.param, net.blobs)
    lines = [
        f"{', '.join(path.name for path in paths)} and {os.path.basename(start)}",
        f"feature layers: {', '.join(f'{layer} {_sizes(shape)}' for layer, (_, shape) in maps.items())}",
        f"  pyscratchdet train --solver {folder}/solver.prototxt --weights {start}",
    ]
    return "\n".join(lines)


def torch_classifier(args: argparse.Namespace) -> str:
    """A PyTorch classifier in a folder to train on."""
    from pyscratchdet import prototxt
    from pyscratchdet.converters.backbone import take_bgr
    from pyscratchdet.converters.imports import import_module
    from pyscratchdet.converters.torch_models import named_model, num_dropouts
    from pyscratchdet.errors import UsageError
    from pyscratchdet.proto.weights import write_caffemodel
    from pyscratchdet.prototxt.fine_tuning import PictureLists, fine_tuning

    paths = args.lists.split(",")
    if len(paths) != 2:
        raise UsageError("--lists: two lists are needed", code="usage.option", expected="TRAIN.txt,TEST.txt")
    lists = PictureLists.read(*paths)
    model = named_model(args.source, args.weights)
    size = args.size or model.shapes[0][-1]
    net = import_module(model.module, (1, 3, size, size), model.name).net
    take_bgr(net, model.std)
    num_blobs = {layer: len(arrays) for layer, arrays in net.blobs.items()}
    (output,) = net.outputs.values()
    folder = args.target.rstrip("/")
    recipe, renewed = fine_tuning(
        net.param, num_blobs, output, net.shapes[output][1], size, model.name, model.mean_bgr, folder, lists
    )
    paths = prototxt.write(recipe, folder)
    start = os.path.join(folder, "start.caffemodel")
    names = {layer.name for layer in recipe.deploy.layer}
    write_caffemodel(start, recipe.deploy, {name: blobs for name, blobs in net.blobs.items() if name in names})
    dropped = num_dropouts(model.module)
    lines = [
        f"{', '.join(path.name for path in paths)} and {os.path.basename(start)}",
        f"{counted(lists.num_classes, 'class', 'classes')}, {counted(lists.num_train, 'picture')} to train on, "
        f"{lists.num_test} to test on",
        *([f"begins anew: {renewed}"] if renewed else []),
        *([f"not in the nets: its {counted(dropped, 'Dropout layer')}"] if dropped else []),
        f"  pyscratchdet train --solver {folder}/solver.prototxt --weights {start}",
    ]
    return "\n".join(lines)


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))


def _graph_choices(args: argparse.Namespace) -> dict[str, Any]:
    outputs = [name.strip() for name in args.outputs.split(",")] if args.outputs else []
    return {"layers": args.layers, "approximate": args.approximate, "outputs": outputs}


def _imported(args: argparse.Namespace, **choices: Any) -> ImportedNet:
    from pyscratchdet.converters.imports import import_module
    from pyscratchdet.converters.torch_models import named_model

    model = named_model(args.source, args.weights)
    return import_module(model.module, _input_shapes(args, model.shapes), model.name, **choices)


def _input_shapes(args: argparse.Namespace, usual: Shapes) -> Shapes:
    """Returns the shapes of --input, of --size, or those that the model is made for."""
    from pyscratchdet.converters.torch_models import parse_shapes
    from pyscratchdet.errors import UsageError

    if args.input and args.size:
        raise UsageError("--input and --size exclude each other", code="convert.input")
    shapes = parse_shapes(args.input) if args.input else usual
    if args.size:
        shapes = ((1, 3, args.size, args.size),)
    if not shapes:
        raise UsageError(
            f"{args.source} does not tell the shape of its input", code="convert.input", expected="--input 1x3x224x224"
        )
    return shapes


def _write_net(imported: ImportedNet, args: argparse.Namespace) -> Outcome:
    from pyscratchdet.converters.imports import is_proved, report

    comparisons = imported.write(args.prototxt, args.target, check=not args.no_check)
    lines = [written(imported.net.blobs, args), *report(imported, comparisons)]
    return Outcome("\n".join(lines), is_proved(imported, comparisons))

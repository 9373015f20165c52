"""`pyscratchdet convert`: weights and nets from one form into another, chosen by the files' endings.

Each direction is one entry of `DIRECTIONS`: from what to what, which options it needs and which it may take. An option
that the chosen direction does not read is refused, so that none is ignored.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from pyscratchdet.cli import convert_imports
from pyscratchdet.cli.console import say, show
from pyscratchdet.cli.convert_output import Outcome, notes, written
from pyscratchdet.cli.flags import HelpFormatter, add_allow_python, add_schema_flags
from pyscratchdet.errors import counted

if TYPE_CHECKING:
    from pyscratchdet.converters.weights import Bundle
    from pyscratchdet.detect.detector import Preparation
    from pyscratchdet.layers.plan import NetPlan
    from pyscratchdet.solver.snapshot import SolverState

# Option: settings of argparse. A default here holds in the directions that read the option.
OPTIONS: dict[str, dict[str, Any]] = {
    "model": {
        "metavar": "PROTOTXT",
        "help": "prototxt that the weights belong to; names the blobs, gives ONNX, .pt2 and .py their graph",
    },
    "prototxt": {"metavar": "FILE", "help": "write the net to this prototxt"},
    "fold": {"action": "store_true", "help": "fold BatchNorm, Scale and Bias into the layers before them"},
    "for": {
        "choices": ("opencv", "mnn", "ncnn", "rknn"),
        "help": "write the net as this engine's own Caffe reader wants it",
    },
    "half": {"action": "store_true", "default": False, "help": "store values as float16"},
    "calibrate": {
        "metavar": "PICTURES",
        "help": "compute in int8; value ranges are taken from these pictures, prepared by --mean, --scale and --rgb",
    },
    "heads": {
        "choices": ("decoded", "fixed", "boxes", "raw"),
        "default": None,
        "help": "what a detector ends in: rows as found (default; not for .pt2); keep_top_k rows, padded with -1 "
        "(default for .pt2); decoded boxes and scores before suppression; what DetectionOutput reads (for ONNX, the "
        "priors are in a file beside it)",
    },
    "opset": {"type": int, "metavar": "N", "default": None, "help": "version of ONNX's operators (default: 17)"},
    "batch": {"metavar": "N|dynamic", "default": "dynamic", "help": "batch size that the file declares"},
    "input_picture": {
        "choices": ("bgr", "rgb"),
        "default": None,
        "help": "the file takes uint8 pictures (N, H, W, C) of any size, blue or red first, and prepares them itself",
    },
    "labelmap": {"metavar": "PROTOTXT", "default": None, "help": "label map to keep in the file"},
    "mean": {"metavar": "B,G,R", "default": None, "help": "mean to keep in the file (for pictures: SSD's by default)"},
    "scale": {"type": float, "metavar": "X", "default": 1.0, "help": "scale to keep in the file (default: 1)"},
    "rgb": {"action": "store_true", "default": False, "help": "the net takes red first"},
    "keep_paths": {
        "action": "store_true",
        "default": False,
        "help": "keep what the caffemodel says of its training, names of files included, for the same bytes on the way "
        "back",
    },
    "coco_to_voc": {"action": "store_true", "help": "SRC is a COCO detector: keep VOC's classes only"},
    "mmdetection": {"action": "store_true", "help": "SRC is a ScratchDet checkpoint of mmdetection"},
    "weights": {
        "metavar": "FILE",
        "default": None,
        "help": "values of the PyTorch model: .pth, .pt or .safetensors (default: random ones)",
    },
    "input": {
        "metavar": "SHAPE[,SHAPE...]",
        "default": None,
        "help": "shapes of the model's inputs, such as 1x3x224x224 (default: what the model is made for)",
    },
    "size": {"type": int, "metavar": "N", "default": None, "help": "height and width of its only input, a picture"},
    "features": {
        "metavar": "NAME[,NAME...]",
        "default": None,
        "help": "submodules that the detector reads, fine ones first (default: those at 1/16 and 1/32 of the picture)",
    },
    "data": {
        "metavar": "DIR",
        "default": None,
        "help": "what `lmdb folder` made, for sources and classes (default: PASCAL VOC's)",
    },
    "lists": {
        "metavar": "TRAIN.txt,TEST.txt",
        "default": None,
        "help": "pictures of classes, `path label` per line; labels count from 0, paths start at the list's folder",
    },
    "outputs": {
        "metavar": "NAME[,NAME...]",
        "default": None,
        "help": "end the net here, before what has no layer: ONNX values, or submodules of a PyTorch model",
    },
    "priors": {
        "metavar": "FILE",
        "default": None,
        "help": "priors of a detector whose ONNX file ends in locations and scores: .npz with `priors` (P, 4), or text",
    },
    "layers": {
        "choices": ("bvlc", "ssd", "opencv", "mnn", "ncnn", "rknn"),
        "default": None,
        "help": "write only layers that this Caffe, or this engine's Caffe reader, has",
    },
    "approximate": {
        "action": "store_true",
        "default": False,
        "help": "allow approximations of what has no exact layer (GELU); their errors are printed",
    },
    "no_check": {
        "action": "store_true",
        "default": False,
        "help": "do not run the written net against its source and OpenCV 4",
    },
}
_NAMES = ("command", "source", "target", "quiet", "interruption", "writes")
_SCHEMA = {"schema": "FILE", "import": "MODULE", "dialect": "NAME"}
_NET = ("model", "allow_unknown", "allow_python", *_SCHEMA)  # where a net is read
_FACTS = ("labelmap", "mean", "scale", "rgb")  # what a file says about itself
_ONNX = ("half", "heads", "opset", "batch", "input_picture", *_FACTS)  # how ONNX is written

_CAFFE, _TORCH, _STATE = ("*.caffemodel", "*.h5"), ("*.pt", "*.pth"), ("*.solverstate", "*.solverstate.h5")
_TENSORS = ("*.safetensors", *_TORCH)
_MODELS = ("torchvision:*", "timm:*", "module:*")
_GRAPH = ("outputs", "layers", "approximate")  # how a graph becomes a net

_WEIGHTS = (*_CAFFE, *_TENSORS, "*.onnx")


@dataclass(frozen=True)
class Direction:
    """One kind of conversion.

    Attributes:
        what: What it makes, in a line of the help.
        sources, targets: Endings, or beginnings, of the names; lower case.
        run: Converts, and returns what is printed about the target, or that and whether it passed its checks.
        chosen_by: Options by which it is chosen where the endings allow several.
        needs: Other options that must be given.
        takes: Options that may be given.
    """

    what: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    run: Callable[[argparse.Namespace], str | Outcome]
    chosen_by: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """The options without which it does not run."""
        return (*self.chosen_by, *self.needs)

    @property
    def options(self) -> str:
        """What may follow the files, as a usage line shows it."""
        taken = [f"[{_shown(name)}]" for name in self.takes if name not in self.required]
        return " ".join([*map(_shown, self.required), *taken]) or "no options"

    def connects(self, args: argparse.Namespace) -> bool:
        """Whether it goes from SRC to DST."""
        return _matches(args.source, self.sources) and _matches(args.target, self.targets)

    def check(self, given: Iterable[str]) -> None:
        """Refuses a command line that lacks options or has some that nothing would read.

        Raises:
            UsageError: Names them.
        """
        from pyscratchdet.errors import UsageError

        if unread := [_flag(name) for name in given if name not in (*self.required, *self.takes)]:
            message = f"{self.what} does not use {', '.join(unread)}"
            raise UsageError(message, code="convert.option", expected=self.options)
        if missing := [_shown(name) for name in self.required if name not in given]:
            raise UsageError(f"{self.what} needs {' and '.join(missing)}", code="convert.missing-option")

    def lines(self) -> list[str]:
        """Returns its part of the help."""
        ends = [
            ", ".join(end.removeprefix("*").replace("*", "NAME") for end in side)
            for side in (self.sources, self.targets)
        ]
        return [f"{self.what}: {self.options}", f"  from {ends[0]}", f"  to {ends[1]}"]


class _Help(argparse.RawDescriptionHelpFormatter, HelpFormatter):
    """Leaves the lines of the epilog as they are."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.usage = "pyscratchdet convert SRC DST [options of the direction]"
    parser.formatter_class = _Help
    parser.add_argument(
        "source", metavar="SRC", help="file to read, or torchvision:NAME, timm:NAME, module:PACKAGE.MODULE:FACTORY"
    )
    parser.add_argument("target", metavar="DST", help="file to write, or a folder to deploy: OUT/")
    for name, settings in OPTIONS.items():
        parser.add_argument(_flag(name), **{**settings, "default": argparse.SUPPRESS})
    add_schema_flags(parser)
    add_allow_python(parser)
    parser.set_defaults(writes=("target", "prototxt"), interruption="stops; DST stays as it was")
    parser.set_defaults(allow_unknown=False, allow_python=False)
    parser.epilog = "\n".join(
        ["directions, and the options that each reads:"]
        + [line for direction in DIRECTIONS for line in ("", *direction.lines())]
    )


def run(args: argparse.Namespace) -> int:
    """Converts one file; 1 where what was written does not compute what its source does."""
    outcome = convert_by(args)
    (say if outcome.is_sound else show)(f"{args.target}: {outcome.text}")
    if passed_over := _passed_over(args):
        show("results may differ from those of the net's own Caffe, since these fields were passed over:")
        show("\n".join(f"  {field}" for field in passed_over))
    return 0 if outcome.is_sound else 1


def convert_by(args: argparse.Namespace) -> Outcome:
    """Converts as the arguments say.

    Raises:
        UsageError: An option that the direction does not read, or lacks.
    """
    given = [name for name, value in vars(args).items() if name not in _NAMES and value not in (None, False, [], "")]
    direction = _choose(args, given)
    direction.check(given)
    for name in direction.takes:
        vars(args).setdefault(name, OPTIONS.get(name, {}).get("default"))
    result = direction.run(args)
    return Outcome(result, True) if isinstance(result, str) else result


def _passed_over(args: argparse.Namespace) -> list[str]:
    """Returns the fields of the net that --allow-unknown let pass and that may change results."""
    if not args.allow_unknown or not getattr(args, "model", None):
        return []
    from pyscratchdet.layers.plan import read_net

    return [str(field) for field in read_net(args.model).passed_over if not field.is_harmless]


def _choose(args: argparse.Namespace, given: Iterable[str]) -> Direction:
    """Returns the first direction between the two files whose `chosen_by` is given, else the last one."""
    from pyscratchdet.errors import ConversionError

    possible = [direction for direction in DIRECTIONS if direction.connects(args)]
    if not possible:
        raise ConversionError(
            f"nothing converts {args.source} to {args.target}, by their endings",
            code="convert.ending",
            hint="pyscratchdet convert --help lists the directions",
        )
    return next((direction for direction in possible if set(direction.chosen_by).issubset(given)), possible[-1])


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path.lower(), pattern) for pattern in patterns)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(name: str) -> str:
    """Returns an option as it is written, with what stands for its value."""
    settings = OPTIONS.get(name, {"action": "store_true"})
    value = (
        settings.get("metavar")
        or _SCHEMA.get(name)
        or "|".join(settings.get("choices", ()))
        or ("N" if "type" in settings else "")
    )
    return f"{_flag(name)} {value}".strip()


# --- the directions ---


def _weights(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.weights import convert_weights

    bundle = convert_weights(args.source, args.target, args.model, **_choices(args))
    lines = [written(bundle.blobs, args)]
    if bundle.unknown:
        lines.append(f"kept, though the net has no such layers: {', '.join(bundle.unknown)}")
    lines += _drawn(bundle, args)
    if bundle.forgotten:
        from pyscratchdet.converters.file_facts import wrapped

        lines += wrapped(
            f"left out: {counted(len(bundle.forgotten), 'name')} of files and folders of the training, so converting "
            "back gives the same values in other bytes (--keep-paths keeps them)",
            indent="  ",
        )
    return "\n".join(lines)


def _int8(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.quantize import convert_quantized

    preparation = _preparation(args)
    facts = {**_label_facts(args), **_preparation_facts(args)}
    options = _graph_options(args)
    result = convert_quantized(args.source, args.target, args.model, args.calibrate, preparation, facts, options)
    return "\n".join([*result.lines(), *notes(args.target)])


def _deploy_folder(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.deploy_folder import ONNX, PROGRAMS, write_deploy_folder

    facts = {**_label_facts(args), **_preparation_facts(args)}
    onnx = _graph_options(args)
    bundle = write_deploy_folder(args.source, args.target, args.model, _labels(args), _preparation(args), facts, onnx)
    detect, detect_opencv = (os.path.join(args.target, name) for name in PROGRAMS)
    lines = [
        "net, weights, ONNX file, labels and two programs",
        f"  python {detect} PICTURE...",
        f"  python {detect_opencv} PICTURE...   (OpenCV 5 or onnxruntime; without pyscratchdet)",
        *_drawn(bundle, args),
        *([f"left out, since the net has no such layers: {', '.join(bundle.unknown)}"] if bundle.unknown else []),
        f"{os.path.join(args.target, ONNX)}:",
        *notes(os.path.join(args.target, ONNX)),
    ]
    return "\n".join(lines)


def _drawn(bundle: Bundle, args: argparse.Namespace) -> list[str]:
    """Returns the line on layers of a whole net that the source lacks."""
    if not bundle.drawn:
        return []
    return [f"not in {args.source}, so with the values that their fillers drew: {', '.join(bundle.drawn)}"]


def _fold(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.fold import convert_folded

    result = convert_folded(args.source, args.target, args.model, args.prototxt, **_choices(args))
    return "\n".join([written(result.folded.blobs, args), *result.lines()])


def _for_reader(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.caffe_readers import convert_for

    blobs, lines = convert_for(args.source, args.target, args.model, args.prototxt, vars(args)["for"])
    return "\n".join([written(blobs, args), *lines])


def _coco_to_voc(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.coco_voc import COCO_OF_VOC, convert_coco_to_voc

    blobs = convert_coco_to_voc(args.source, args.target)
    return f"{len(COCO_OF_VOC)} classes in {', '.join(blobs)}; {written(blobs, args)}"


def _mmdetection(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.mmdetection import convert_mmdetection

    return written(convert_mmdetection(args.source, args.model, args.target), args)


def _state_to_torch(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.solver_state import state_to_torch

    return _described(state_to_torch(args.source, args.target, args.model))


def _state_from_torch(args: argparse.Namespace) -> str:
    from pyscratchdet.converters.solver_state import state_from_torch

    return _described(state_from_torch(args.source, args.target))


DIRECTIONS = (
    Direction("a solver state for PyTorch", _STATE, _TORCH, _state_to_torch, needs=("model",), takes=_NET),
    Direction("a solver state from PyTorch", _TORCH, _STATE, _state_from_torch),
    Direction(
        "a PyTorch model under a detector's layers",
        _MODELS,
        ("*.caffemodel",),
        convert_imports.torch_backbone,
        chosen_by=("model",),
        takes=("weights", "input", "size", *_NET),
    ),
    Direction(
        "a PyTorch classifier to train on, a folder, its name ending in /",
        _MODELS,
        ("*/",),
        convert_imports.torch_classifier,
        chosen_by=("lists",),
        takes=("weights", "size"),
    ),
    Direction(
        "a detector on a PyTorch classifier, a folder to train, its name ending in /",
        _MODELS,
        ("*/",),
        convert_imports.torch_detector,
        takes=("weights", "size", "features", "data"),
    ),
    Direction(
        "a PyTorch model as a net",
        _MODELS,
        ("*.caffemodel",),
        convert_imports.torch_net,
        needs=("prototxt",),
        takes=("weights", "input", "size", *_GRAPH, "no_check"),
    ),
    Direction(
        "a checkpoint of mmdetection",
        _TORCH,
        ("*.caffemodel",),
        _mmdetection,
        chosen_by=("mmdetection",),
        needs=("model",),
        takes=_NET,
    ),
    Direction(
        "a COCO detector for VOC", ("*.caffemodel",), ("*.caffemodel",), _coco_to_voc, chosen_by=("coco_to_voc",)
    ),
    Direction(
        "a net for another engine's Caffe reader",
        _WEIGHTS,
        ("*.caffemodel",),
        _for_reader,
        chosen_by=("for",),
        needs=("model", "prototxt"),
        takes=_NET,
    ),
    Direction(
        "a net in int8",
        _WEIGHTS,
        ("*.onnx",),
        _int8,
        chosen_by=("calibrate",),
        needs=("model",),
        takes=("heads", "opset", "batch", "labelmap", "mean", "scale", "rgb", *_NET),
    ),
    Direction(
        "a folded net in Caffe's forms",
        _WEIGHTS,
        _CAFFE,
        _fold,
        chosen_by=("fold",),
        needs=("model", "prototxt"),
        takes=_NET,
    ),
    Direction(
        "a folded net for PyTorch",
        _WEIGHTS,
        _TENSORS,
        _fold,
        chosen_by=("fold",),
        needs=("model", "prototxt"),
        takes=("half", *_NET),
    ),
    Direction(
        "a folded net in ONNX",
        _WEIGHTS,
        ("*.onnx",),
        _fold,
        chosen_by=("fold",),
        needs=("model",),
        takes=("prototxt", *_ONNX, *_NET),
    ),
    Direction(
        "an ONNX graph as a net",
        ("*.onnx",),
        ("*.caffemodel",),
        convert_imports.onnx_net,
        chosen_by=("prototxt",),
        takes=(*_GRAPH, "priors", "no_check"),
    ),
    Direction("a net in ONNX", _WEIGHTS, ("*.onnx",), _weights, needs=("model",), takes=(*_ONNX, "keep_paths", *_NET)),
    Direction(
        "a net for torch.export.load",
        _WEIGHTS,
        ("*.pt2",),
        _weights,
        needs=("model",),
        takes=("heads", "batch", *_FACTS, *_NET),
    ),
    Direction(
        "a net as PyTorch source, with its weights in a .safetensors file beside it",
        _WEIGHTS,
        ("*.py",),
        _weights,
        needs=("model",),
        takes=("heads", *_FACTS, *_NET),
    ),
    Direction(
        "a folder to deploy, its name ending in /",
        _WEIGHTS,
        ("*/",),
        _deploy_folder,
        needs=("model", "labelmap"),
        takes=("opset", "mean", "scale", "rgb", *_NET),
    ),
    Direction("weights in Caffe's forms", _WEIGHTS, _CAFFE, _weights, takes=_NET),
    Direction("weights for PyTorch", _WEIGHTS, _TENSORS, _weights, takes=("half", *_NET)),
)


def _choices(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the options of the writer, as far as the direction reads them."""
    choices = {name: vars(args)[name] for name in ("half", "keep_paths") if name in args}
    ending = os.path.splitext(args.target)[1].lower()
    writer = {".onnx": _onnx_choices, ".pt2": _program_choices, ".py": _source_choices}.get(ending)
    return choices if writer is None else {**choices, **writer(args)}


def _onnx_choices(args: argparse.Namespace) -> dict[str, Any]:
    from pyscratchdet.converters.onnx_export import PictureInput

    onnx, facts = _graph_options(args), _facts(args)
    if args.input_picture:
        onnx["picture"] = PictureInput(_preparation(args), rgb=args.input_picture == "rgb")
        facts |= {"picture": args.input_picture, **_preparation_facts(args)}
    return {"onnx": onnx, "facts": facts}


def _program_choices(args: argparse.Namespace) -> dict[str, Any]:
    return {"torch": {"heads": args.heads or "", "batch": _batch(args.batch)}, "facts": _facts(args)}


def _source_choices(args: argparse.Namespace) -> dict[str, Any]:
    origin = f"{os.path.basename(args.model)} and {os.path.basename(args.source)}"
    return {"torch": {"heads": args.heads or "decoded", "origin": origin}, "facts": _facts(args)}


def _facts(args: argparse.Namespace) -> dict[str, str]:
    """Returns what a file says about labels and, where it was given, the preparation of pictures."""
    return _label_facts(args) | (_preparation_facts(args) if _is_prepared(args) else {})


def _is_prepared(args: argparse.Namespace) -> bool:
    """Whether an option says how pictures are prepared."""
    return args.mean is not None or args.scale != 1 or args.rgb


def _graph_options(args: argparse.Namespace) -> dict[str, Any]:
    from pyscratchdet.converters.onnx_export import OPSET

    return {
        "heads": getattr(args, "heads", None) or "decoded",
        "opset": args.opset or OPSET,
        "batch": _batch(getattr(args, "batch", "dynamic")),
    }


def _preparation(args: argparse.Namespace) -> Preparation:
    """Returns how pictures are prepared, which must fit the net."""
    from pyscratchdet.cli.detector_options import preparation_of

    preparation, plan = preparation_of(args), _plan(args)
    shapes = [plan.shapes[blob] for blob in plan.graph.inputs]
    if len(shapes) == 1 and len(shapes[0]) == 4:
        preparation.mean_of(shapes[0][1])
    return preparation


def _plan(args: argparse.Namespace) -> NetPlan:
    from pyscratchdet.layers.plan import plan_net

    return plan_net(args.model, runs=True)


def _preparation_facts(args: argparse.Namespace) -> dict[str, str]:
    from pyscratchdet.converters.file_facts import ASSUMED, GIVEN, preparation_facts

    return preparation_facts(_preparation(args), GIVEN if _is_prepared(args) else ASSUMED)


def _batch(text: str) -> int | None:
    from pyscratchdet.errors import UsageError

    if text == "dynamic":
        return None
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise UsageError("--batch: not a batch size", code="usage.option", expected="1, 2, ... or dynamic", found=text)
    return int(text)


def _label_facts(args: argparse.Namespace) -> dict[str, str]:
    import json

    return {"labels": json.dumps(_labels(args))} if args.labelmap is not None else {}


def _labels(args: argparse.Namespace) -> dict[int, str]:
    """Returns {label: class name} of the label map, which must fit the net where that shows how many it has."""
    from pyscratchdet.data.label_map import label_to_name, read_label_map
    from pyscratchdet.detect.detector import check_class_names
    from pyscratchdet.detect.labels import label_outputs

    names = label_to_name(read_label_map(args.labelmap), strict=True, display=True, path=args.labelmap)
    plan = _plan(args)
    ends: list[Any] = [plan.layers[index] for index in plan.detection_layers]
    numbers = [end.num_labels for end in ends] or [output.num_classes for output in label_outputs(plan)]
    if len(numbers) == 1:
        check_class_names(names, numbers[0], f"{args.labelmap}: ")
    return names


def _described(state: SolverState) -> str:
    return f"iteration {state.iteration}, {counted(len(state.histories), 'history', 'histories')}"

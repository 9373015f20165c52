"""`pyscratchdet convert`: weights and nets from one form into another, chosen by the files' endings."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyscratchdet.cli.flags import add_allow_unknown

if TYPE_CHECKING:
    from pyscratchdet.converters.build import NetBuilder
    from pyscratchdet.converters.merge_bn import Blobs

_FORMS = ".caffemodel, .h5, .safetensors, .pt, .onnx or .solverstate"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("source", metavar="SRC", help=f"{_FORMS}, or torchvision:NAME such as torchvision:vgg16_bn")
    parser.add_argument("target", metavar="DST", help=_FORMS)
    parser.add_argument("--model", metavar="NET", help="prototxt: names the blobs, gives ONNX its graph")
    parser.add_argument("--prototxt", metavar="FILE", help="write the net too, from ONNX, torchvision or folded")
    parser.add_argument("--fold", action="store_true", help="fold BatchNorm and Scale into the layers before them")
    parser.add_argument("--half", action="store_true", help="store values as float16 (.safetensors, .pt, .onnx)")
    parser.add_argument(
        "--heads",
        choices=("decoded", "raw"),
        default="decoded",
        help="ONNX of a detector ends in detections (default), or before DetectionOutput",
    )
    parser.add_argument(
        "--coco-to-voc",
        action="store_true",
        help="SRC is a COCO detector's caffemodel: keep VOC's classes only",
    )
    parser.add_argument("--mmdetection", action="store_true", help="SRC is a ScratchDet checkpoint of mmdetection")
    parser.add_argument("--weights", metavar="FILE", help="state_dict of a torchvision model; left out, random weights")
    parser.add_argument("--size", type=int, default=224, help="input of a torchvision model in pixels (default: 224)")
    add_allow_unknown(parser)


def run(args: argparse.Namespace) -> int:
    """Converts one file."""
    import os

    if any(".solverstate" in name.lower() for name in (args.source, args.target)):
        return _solver_state(args)
    if args.source.startswith("torchvision:"):
        blobs = _from_torchvision(args)
    elif args.source.lower().endswith(".onnx") and args.prototxt and not args.model:
        from pyscratchdet.converters.onnx_import import import_onnx

        blobs = _write(import_onnx(args.source), args)
    elif args.mmdetection:
        from pyscratchdet.converters.mmdetection import convert_mmdetection
        from pyscratchdet.errors import UsageError

        if not args.model:
            raise UsageError("--mmdetection needs --model", code="convert.model")
        blobs = convert_mmdetection(args.source, args.model, args.target)
    elif args.coco_to_voc:
        from pyscratchdet.converters.coco_voc import COCO_OF_VOC, convert_coco_to_voc

        blobs = convert_coco_to_voc(args.source, args.target)
        print(f"{len(COCO_OF_VOC)} classes in {', '.join(blobs)}")
    elif args.fold:
        from pyscratchdet.converters.merge_bn import convert_folded

        blobs = convert_folded(args.source, args.target, args.model, args.prototxt, half=args.half, heads=args.heads)
    else:
        from pyscratchdet.converters.weights import convert_weights

        blobs = convert_weights(args.source, args.target, args.model, half=args.half, heads=args.heads).blobs
    number = sum(array.size for arrays in blobs.values() for array in arrays)
    size = os.path.getsize(args.target) / 1e6
    print(f"{args.target}: {len(blobs)} layers, {number:,} values, {size:.1f} MB")
    return 0


def _solver_state(args: argparse.Namespace) -> int:
    from pyscratchdet.converters.solver_state import state_from_torch, state_to_torch
    from pyscratchdet.errors import UsageError

    if ".solverstate" in args.target.lower():
        state = state_from_torch(args.source, args.target)
    elif args.model:
        state = state_to_torch(args.source, args.target, args.model)
    else:
        raise UsageError("a solver state needs --model, whose blobs it belongs to", code="convert.model")
    print(f"{args.target}: iteration {state.iteration}, {len(state.histories)} histories")
    return 0


def _from_torchvision(args: argparse.Namespace) -> Blobs:
    from pyscratchdet.converters.torch_import import import_module, torchvision_model

    name = args.source.partition(":")[2]
    net = import_module(torchvision_model(name, args.weights), (1, 3, args.size, args.size), name)
    if not args.model:
        return _write(net, args)
    from pyscratchdet.converters.backbone import write_backbone

    result = write_backbone(net, args.model, args.target)
    print("\n".join(result.lines()))
    return result.blobs


def _write(net: NetBuilder, args: argparse.Namespace) -> Blobs:
    from pyscratchdet.errors import UsageError

    if not args.prototxt or not args.target.lower().endswith(".caffemodel"):
        raise UsageError(
            "a net needs two files",
            code="convert.net",
            expected="DST.caffemodel and --prototxt FILE",
            found=args.target,
        )
    net.write(args.prototxt, args.target)
    return net.blobs

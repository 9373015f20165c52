"""`pyscratchdet convert`: weights and nets from one form into another, chosen by the files' endings."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("source", metavar="SRC", help=".caffemodel, .h5, .safetensors, .pt or .onnx")
    parser.add_argument("target", metavar="DST", help=".caffemodel, .h5, .safetensors, .pt or .onnx")
    parser.add_argument("--model", metavar="DEPLOY", help="deploy prototxt: names the blobs, gives ONNX its graph")
    parser.add_argument("--half", action="store_true", help="store values as float16 (.safetensors, .pt, .onnx)")
    parser.add_argument(
        "--heads",
        choices=("decoded", "raw"),
        default="decoded",
        help="ONNX of a detector ends in detections (default), or before DetectionOutput",
    )


def run(args: argparse.Namespace) -> int:
    """Converts one file."""
    import os

    from converters.weights import convert_weights

    bundle = convert_weights(args.source, args.target, args.model, half=args.half, heads=args.heads)
    number = sum(array.size for arrays in bundle.blobs.values() for array in arrays)
    size = os.path.getsize(args.target) / 1e6
    print(f"{args.target}: {len(bundle.blobs)} layers, {number:,} values, {size:.1f} MB")
    return 0

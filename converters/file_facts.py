"""What a converted file that is a whole net says about itself: metadata for programs, and lines for people.

`convert` writes the metadata and prints the lines; `onnx_detection` reads the metadata of ONNX files.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pyscratchdet import __version__
from pyscratchdet.detect.detector import Preparation
from pyscratchdet.runtime import Net

COLUMNS = "image, label, score, xmin, ymin, xmax, ymax"
BOXES = "relative to the picture (0 to 1), not clipped to it"
GIVEN, ASSUMED = "given", "SSD's, as none was given"  # where mean, scale and channels come from
RESIZE = "stretched to size, bilinear, as bytes"
# By form; docs/deployment.md has the measurements. "" is a net that is not a detector.
RUNS_IN = {
    "": "onnxruntime, OpenVINO, OpenCV 5, MNN; OpenCV 4 with --batch N",
    "decoded": "onnxruntime, OpenVINO, OpenCV 5, MNN",
    "fixed": "onnxruntime, OpenVINO, OpenCV 5, MNN; with --batch N meant for TensorRT and compilers too",
    "boxes": "onnxruntime, OpenVINO, OpenCV 5, MNN; OpenCV 4 with --batch N; meant for engines without suppression",
    "raw": "onnxruntime, OpenVINO, OpenCV 5, MNN; OpenCV 4 with --batch N; you decode, with the priors file beside it",
}
_MOST_LABELS = 8  # more are not printed one by one
_RESULTS = {
    "decoded": f"output {{rows}}, a row for each detection: {COLUMNS}\nboxes are {BOXES}\n"
    "where nothing is found in any picture, each has one row of label -1",
    "fixed": f"output {{rows}}, keep_top_k rows for each picture: {COLUMNS}\nboxes are {BOXES}\n"
    "rows of -1 follow each picture's detections",
    "boxes": "outputs: all boxes before suppression, and their scores\n"
    f"boxes: xmin, ymin, xmax, ymax, {BOXES}\nscores: one for each class, background included",
    "raw": "outputs: offsets to the priors, scores of all classes with the background, and the priors\n"
    f"boxes that you decode are {BOXES}",
}


def file_facts(net: Net, heads: str = "decoded") -> dict[str, str]:
    """Returns what every file says about itself: texts by name, no paths among them.

    A detector's pictures are taken to be prepared as SSD's are; facts of the caller replace that.
    """
    facts = {"pyscratchdet": __version__}
    shapes = [net.blob_shapes[name] for name in net.input_names]
    if shapes:
        facts["size"] = "x".join(str(size) for size in shapes[0][2:])
    ends: list[Any] = [net.plan.layers[index] for index in net.plan.detection_layers]
    if not ends:
        return facts
    facts["heads"] = heads
    if len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][1] in (1, 3):
        facts |= preparation_facts(Preparation(tuple(Preparation().mean_of(shapes[0][1]).tolist())), ASSUMED)
    if heads != "raw":
        facts["boxes"] = BOXES
    if heads not in ("decoded", "fixed"):
        return facts
    facts["columns"] = COLUMNS
    if len(ends) == 1:
        end = ends[0]
        facts |= {
            "rows": end.param.top[0],
            "predictions": "\n".join(name for k, name in enumerate(end.param.bottom) if k != 2),
            "num_classes": str(end.num_labels),
            "background": str(end.background_label),
            "confidence_threshold": repr(end.confidence_threshold),
        }
    return facts


def preparation_facts(preparation: Preparation, origin: str = GIVEN) -> dict[str, str]:
    """Returns how pictures are prepared, as a file says it and `detect` reads it.

    Args:
        preparation: Mean, scale and channel order.
        origin: GIVEN or ASSUMED.
    """
    return {
        "preparation": origin,
        "mean": ",".join(f"{value:.9g}" for value in preparation.mean),
        "scale": f"{preparation.scale:.9g}",
        "channels": "rgb" if preparation.rgb else "bgr",
        "resize": RESIZE,
    }


def explain(facts: Mapping[str, str], inputs: Mapping[str, Sequence[str]], runs_in: str = "") -> list[str]:
    """Returns what a user of a file must know, in lines that fit a terminal.

    Args:
        facts: What the file says about itself.
        inputs: {name: sizes, or what they are called}.
        runs_in: Engines that are known to take it.
    """
    heads = facts.get("heads", "")
    texts = [f"known to run in {runs_in or RUNS_IN[heads]}"]
    texts += [input_text(facts, name, dims) for name, dims in inputs.items()]
    if heads:
        texts += [result_text(facts), _labels_text(facts)]
    return [line for text in texts for line in wrapped(text, indent="  ")]


def wrapped(text: str, width: int = 79, indent: str = "") -> list[str]:
    """Returns a text in lines of at most this width; those after the first are indented further."""
    first, *details = text.split("\n")
    lines = _fill(first, width, indent, 4)
    return lines + [line for detail in details for line in _fill(detail, width, f"{indent}  ", 2)]


def input_text(facts: Mapping[str, str], name: str, dims: Sequence[str]) -> str:
    """Returns what goes into an input of these sizes, by what the file says about itself: a line and its details."""
    head = f"input {name} ({', '.join(dims)})"
    if "picture" in facts:
        order, size = _order(facts["picture"], dims[-1]), " x ".join(facts["size"].split("x"))
        return f"{head}, uint8: pictures of any size, {order}\ninside: stretched to {size}; {_values(facts)}"
    if "mean" not in facts or len(dims) != 4:
        return f"{head}, float32: prepared as in training (--mean, --scale and --rgb record how)"
    order, size = _order(facts["channels"], dims[1]), f"{dims[2]} x {dims[3]}"
    return f"{head}, float32: {order}\npicture stretched to {size} (height x width), bilinear\n{_values(facts)}"


def result_text(facts: Mapping[str, str]) -> str:
    """Returns what a detector's results mean, by what its file says about itself: a line and its details."""
    return _RESULTS[facts["heads"]].format(rows=facts.get("rows", "rows"))


def _fill(text: str, width: int, indent: str, more: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent + " " * more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _order(channels: str, number: str) -> str:
    return "gray" if number == "1" else {"bgr": "blue first (BGR)", "rgb": "red first (RGB)"}[channels]


def _values(facts: Mapping[str, str]) -> str:
    assumed = f"\nthese are {ASSUMED}: --mean, --scale, --rgb" if facts.get("preparation") == ASSUMED else ""
    return f"(value - mean) * scale, mean {facts['mean']}, scale {facts['scale']}{assumed}"


def _labels_text(facts: Mapping[str, str]) -> str:
    if "labels" not in facts:
        return "labels: the file has no names for them (--labelmap records them)"
    labels = json.loads(facts["labels"])
    shown = [f"{label} {name}" for label, name in labels.items()]
    if len(shown) > _MOST_LABELS:
        shown[_MOST_LABELS - 1 : -1] = ["..."]
    return f"labels: {', '.join(shown)}"

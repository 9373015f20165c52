"""Pictures per second and core for SSD300's training transformations, against decoding alone and torchvision v2.

    python benchmarks/data_loading.py [--database LMDB] [--rounds 5] [--output FILE.md]

CPU time of one process on one core, as medians of interleaved rounds, so that other work on the machine hardly matters;
pictures of 500 x 375 are made here, those of a database are measured too. `--memory N` instead loads N batches and
prints how the resident memory grew.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from google.protobuf import text_format

from pyscratchdet.data import fast, images
from pyscratchdet.data.batches import ReferenceBatches
from pyscratchdet.data.database import new_database
from pyscratchdet.data.loader import BatchLoader
from pyscratchdet.data.maker import BatchMaker, Job
from pyscratchdet.data.objects import objects_of
from pyscratchdet.data.plan import Planner, Streams
from pyscratchdet.data.records import Records
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.files import write_text
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom, LibcRandom

REMARK = """What dominates: decoding, which all ways share. Next are LANCZOS4, the interpolation of one picture in five,
which OpenCV does not vectorise along rows, and the conversion to HSV and back."""
# In each round.
_PICTURES = 96
SAMPLER = """batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
  sample_constraint { %s } max_sample: 1 max_trials: 50 } """
BOUNDS = [f"min_jaccard_overlap: {value}" for value in (0.1, 0.3, 0.5, 0.7, 0.9)] + ["max_jaccard_overlap: 1"]
SSD300 = """type: "AnnotatedData" top: "data" top: "label"
transform_param { mirror: true mean_value: 104 mean_value: 117 mean_value: 123
  resize_param { height: 300 width: 300 interp_mode: LINEAR interp_mode: AREA interp_mode: NEAREST interp_mode: CUBIC
    interp_mode: LANCZOS4 }
  distort_param { brightness_prob: 0.5 brightness_delta: 32 contrast_prob: 0.5 contrast_lower: 0.5 contrast_upper: 1.5
    hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5 saturation_upper: 1.5 }
  expand_param { prob: 0.5 max_expand_ratio: 4 } emit_constraint { emit_type: CENTER } }
data_param { batch_size: 32 backend: LMDB }
annotated_data_param { batch_sampler { max_sample: 1 max_trials: 1 } SAMPLERS }"""


def layer_param(database: str) -> caffe_pb2.LayerParameter:
    text = SSD300.replace("SAMPLERS", "".join(SAMPLER % bound for bound in BOUNDS))
    param = text_format.Parse(text, caffe_pb2.LayerParameter())
    param.data_param.source = database
    return param


def make_pictures(database: str, count: int = 64) -> None:
    """Writes pictures with the detail of photographs: noise of all scales, and three boxes each."""
    random = np.random.default_rng(0)
    with new_database(database) as writer:
        for index in range(count):
            layers = [
                cv2.resize(random.normal(0, 60 / 2**level, (375 >> (6 - level), 500 >> (6 - level), 3)), (500, 375))
                for level in range(2, 7)
            ]
            picture = np.clip(128 + sum(layers), 0, 255).astype(np.uint8)
            datum = caffe_pb2.Datum(channels=3, height=375, width=500, encoded=True, data=images.encode(picture, "jpg"))
            record = caffe_pb2.AnnotatedDatum(datum=datum, type=caffe_pb2.AnnotatedDatum.BBOX)
            for label in range(1, 4):
                low = random.uniform(0, 0.6, 2)
                high = low + random.uniform(0.1, 0.4, 2)
                entry = record.annotation_group.add(group_label=label).annotation.add()
                entry.bbox.xmin, entry.bbox.ymin, entry.bbox.xmax, entry.bbox.ymax = *low, *high
            writer.put(f"{index:08d}", record.SerializeToString())


def ways(param: caffe_pb2.LayerParameter) -> dict[str, tuple[int, Callable[[], object]]]:
    """Returns what is measured: name, (pictures per call, call)."""
    records = Records(param.data_param.source)
    transformer = DataTransformer(param.transform_param)
    maker = BatchMaker(Job(param, seed=1))
    output = np.empty(maker.shape, np.uint8)
    streams = Streams(CaffeRandom(1), CaffeRandom(2), LibcRandom())
    planner = Planner(param.transform_param, param.annotated_data_param.batch_sampler, is_train=True)
    exact_param = caffe_pb2.LayerParameter()
    exact_param.CopyFrom(param)
    exact = ReferenceBatches(Records(param.data_param.source), transformer, planner, streams, 8)
    counter = iter(range(10**9))

    def decode() -> None:
        for _ in range(32):
            cv2.imdecode(np.frombuffer(records.next().annotated().datum.data, np.uint8), cv2.IMREAD_COLOR)

    return {
        "decode": (32, decode),
        "fast": (32, lambda: maker.make(next(counter), output)),
        "exact": (8, exact.next),
        "torchvision": (8, torchvision_way(Records(param.data_param.source))),
    }


def torchvision_way(records: Records) -> Callable[[], None]:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill={tv_tensors.Image: (123, 117, 104), "others": 0}),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((300, 300), antialias=True),
            v2.SanitizeBoundingBoxes(),
        ]
    )

    def load() -> None:
        for _ in range(8):
            record = records.next().annotated()
            image = cv2.imdecode(np.frombuffer(record.datum.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            height, width = image.shape[:2]
            objects = objects_of([record], ["record"])
            boxes = torch.from_numpy(objects.boxes * np.float32([width, height, width, height]))
            target = {
                "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
                "labels": torch.from_numpy(objects.labels.astype(np.int64)),
            }
            tensor = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
            transform(tensor, target)

    return load


def measure(calls: dict[str, tuple[int, Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Returns the CPU seconds per picture of each: medians of rounds, as what is drawn differs between them."""
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, (count, call) in calls.items():
            start = time.process_time()
            for _ in range(_PICTURES // count):
                call()
            seen[name].append((time.process_time() - start) / _PICTURES)
    # The first round warms up.
    return {name: float(np.median(seconds[1:])) for name, seconds in seen.items()}


def stages(param: caffe_pb2.LayerParameter, batches: int = 12) -> dict[str, float]:
    """Returns the CPU seconds per picture of each stage of fast loading: medians, as batches differ."""
    maker = BatchMaker(Job(param, seed=1))
    spent = dict.fromkeys(("decode", "draw the plan", "distort", "resize by LANCZOS4", "resize otherwise"), 0.0)
    output = np.empty(maker.shape, np.uint8)

    def timed(call: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            start = time.process_time()
            result = call(*args)
            spent[name(*args)] += time.process_time() - start
            return result

        return wrapper

    def resize_name(image: np.ndarray, interpolation: int, output: np.ndarray) -> str:
        is_lanczos = interpolation == caffe_pb2.ResizeParameter.LANCZOS4
        return "resize by LANCZOS4" if is_lanczos else "resize otherwise"

    whole = timed(maker.make, lambda *args: "all")
    places: list[tuple[Any, str, Callable[..., str]]] = [
        (maker, "_decode", lambda *args: "decode"),
        (maker, "_draw", lambda *args: "draw the plan"),
        (fast, "distort", lambda *args: "distort"),
        (fast, "resize", resize_name),
    ]
    seen: dict[str, list[float]] = {}
    with ExitStack() as stack:
        for owner, attribute, name in places:
            stack.enter_context(mock.patch.object(owner, attribute, timed(getattr(owner, attribute), name)))
        for batch in range(batches):
            spent.update(dict.fromkeys([*spent, "all"], 0.0))
            whole(batch, output)
            for stage, seconds in spent.items():
                seen.setdefault(stage, []).append(seconds / len(output))
    medians = {stage: float(np.median(values)) for stage, values in seen.items()}
    whole_time = medians.pop("all")
    return {**medians, "the rest": whole_time - sum(medians.values())}


def report(seconds: dict[str, float], parts: dict[str, float], title: str, pictures: int) -> str:
    floor = seconds["decode"]
    rows = [
        ("decode alone (cv2): the floor", "decode"),
        ("fast loading", "fast"),
        ("exact path", "exact"),
        ("torchvision v2: distort, zoom out, IoU crop, flip, resize", "torchvision"),
    ]
    lines = [
        f"| {title} | {1000 * seconds[name]:.2f} | {1 / seconds[name]:.0f} | {100 * floor / seconds[name]:.0f} % |"
        for title, name in rows
    ]
    spent = ", ".join(f"{name} {1000 * part:.2f}" for name, part in parts.items())
    return "\n".join(
        [
            f"## {title}",
            "",
            f"{pictures} pictures.",
            "",
            "| | ms a picture | pictures/s and core | of decoding alone |",
            "|---|---|---|---|",
            *lines,
            "",
            f"Fast loading is {seconds['torchvision'] / seconds['fast']:.1f} times as fast as torchvision's "
            f"transformations of the same pictures. Its stages, in ms a picture: {spent}.",
            "",
        ]
    )


def heading() -> str:
    return "\n".join(
        [
            "# Loading data: SSD300's training transformations",
            "",
            f"{datetime.date.today()}, {platform.machine()}, {processor()}, Python {platform.python_version()}, OpenCV "
            f"{cv2.__version__}, torch {torch.__version__}; one core, CPU time, medians of interleaved rounds.",
            "",
        ]
    )


def processor() -> str:
    """Returns the processor's name if the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def memory(param: caffe_pb2.LayerParameter, batches: int, workers: int) -> None:
    """Prints the resident memory of this process and its workers as batches go by."""
    loader = BatchLoader(param, workers=workers)
    for batch in range(batches):
        loader.next()
        if (batch + 1) % max(1, batches // 10) == 0:
            pids = (
                [os.getpid(), *(worker._process.pid for worker in loader._pool._workers)] if workers else [os.getpid()]
            )
            kilobytes = sum(_resident(pid) for pid in pids)
            print(f"batch {batch + 1}: {kilobytes / 1024:.0f} MiB resident", flush=True)
    loader.close()


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", help="AnnotatedDatum LMDB, besides generated pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="markdown file for the table")
    parser.add_argument("--memory", type=int, metavar="N", help="load N batches of 4 and watch the memory")
    parser.add_argument("--workers", type=int, default=1, help="for --memory")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(f"{folder}/pictures")
        sources = {"Generated pictures, 500 x 375": f"{folder}/pictures"}
        if args.database:
            sources = {f"Photographs: {Path(args.database).name}": args.database, **sources}
        if args.memory:
            param = layer_param(next(iter(sources.values())))
            param.data_param.batch_size = 4
            memory(param, args.memory, args.workers)
            return 0
        text = heading()
        for title, database in sources.items():
            param = layer_param(database)
            seconds = measure(ways(param), args.rounds)
            text += "\n" + report(seconds, stages(param), title, len(Records(database).database))
    text += f"\n{REMARK}\n"
    text += "\nReproduce: `python benchmarks/data_loading.py` (with `--database` for one's own pictures).\n"
    print(text)
    if args.output:
        write_text(args.output, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

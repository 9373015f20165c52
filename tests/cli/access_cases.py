"""What each command may read, write, start and connect to: the table of docs/security.md, and the files it is tried on.

`python tests/cli/access_cases.py` writes the table into the page; test_access.py holds both to what commands do.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BEGIN, END = "<!-- written by tests/cli/access_cases.py -->\n", "<!-- end of what is written -->"


@dataclass(frozen=True)
class Access:
    """One row.

    Attributes:
        command: As the page names it.
        line: A command line to try; OUT is a folder of its own.
        reads, writes: {what the page says: patterns of files below the folder that the tests make}.
        starts, connects: {what the page says: patterns of programs, of addresses}.
    """

    command: str
    line: str
    reads: dict[str, list[str]]
    writes: dict[str, list[str]] = field(default_factory=dict)
    starts: dict[str, list[str]] = field(default_factory=dict)
    connects: dict[str, list[str]] = field(default_factory=dict)

    def row(self) -> str:
        """Returns the page's line."""
        program = "; ".join([*self.starts, *self.connects])
        cells = [f"`{self.command}`", "; ".join(self.reads), "; ".join(self.writes), program]
        return f"| {' | '.join(cell or '-' for cell in cells)} |"


NET = {"the net": ["kit/net.prototxt"]}
NET_WEIGHTS = {**NET, "the weights": ["kit/net.caffemodel"]}
DETECTOR = {"the net": ["kit/detector.prototxt"], "the weights": ["kit/detector.caffemodel"]}
LABELS = {"the label map": ["kit/labels.prototxt"]}
DATA = {"what its data layers name": ["kit/db/data.mdb", "kit/labels.prototxt"]}
DATA_NET = {"the net": ["kit/data.prototxt"], **DATA}
TEST_NET = {"the net": ["kit/test.prototxt"], "the weights": ["kit/detector.caffemodel"], **DATA}
SOLVER = {"the solver file": ["kit/solver.prototxt"], "its nets": ["kit/data.prototxt"], **DATA}
PICTURES = {"the pictures": ["kit/VOCdevkit/VOC2007/JPEGImages/*"]}
VOC = {
    "the devkit's lists and annotations": ["kit/VOCdevkit/VOC2007/ImageSets/*", "kit/VOCdevkit/VOC2007/Annotations/*"]
}
DETECTOR_OPTIONS = "--model kit/detector.prototxt --weights kit/detector.caffemodel --labelmap kit/labels.prototxt"
REPORT = {"result files, charts and report.html in `-o`": ["OUT/*"]}

ROWS = [
    Access("generate", "generate ssd300_vgg16_voc0712 -o OUT", {}, {"the nets in `-o`": ["OUT/*"]}),
    Access(
        "train",
        "train --solver kit/solver.prototxt --log OUT/log --metrics OUT/m.csv --fast --workers 2",
        {**SOLVER},
        {"snapshots under `snapshot_prefix`": ["out/snapshots/*"], "`--log`, `--log_dir`, `--metrics`, `--tensorboard`":
         ["OUT/log", "OUT/m.csv"]},
        {"`--workers`: processes of its own, which decode pictures": ["python*"]},
    ),
    Access("test", "test --model kit/test.prototxt --weights kit/detector.caffemodel --iterations 1", TEST_NET),
    Access("time", "time --model kit/data.prototxt --iterations 1", DATA_NET),
    Access(
        "evaluate voc",
        f"evaluate voc --data kit/VOCdevkit {DETECTOR_OPTIONS} -o OUT",
        {**DETECTOR, **LABELS, **VOC, **PICTURES},
        {**REPORT},
    ),
    Access(
        "evaluate coco",
        f"evaluate coco --data kit/coco.json --images kit/VOCdevkit/VOC2007/JPEGImages {DETECTOR_OPTIONS} -o OUT",
        {**DETECTOR, **LABELS, "the json": ["kit/coco.json"], **PICTURES},
        {**REPORT},
    ),
    Access(
        "evaluate folder",
        f"evaluate folder --pictures kit/VOCdevkit --annotations kit/VOCdevkit {DETECTOR_OPTIONS} -o OUT"
        " --train-log kit/train.log",
        {**DETECTOR, **LABELS, **VOC, **PICTURES, "`--train-log`": ["kit/train.log"]},
        {**REPORT},
    ),
    Access(
        "evaluate caffe",
        "evaluate caffe --model kit/test.prototxt --weights kit/detector.caffemodel --iterations 1",
        TEST_NET,
    ),
    Access("score", "score kit/detector.caffemodel --model kit/test.prototxt --iterations 1", TEST_NET),
    Access(
        "detect",
        f"detect kit/VOCdevkit/VOC2007/JPEGImages {DETECTOR_OPTIONS} --format json,voc,coco,csv --crops -o OUT",
        {**DETECTOR, **LABELS, **PICTURES},
        {"pictures, crops and lists in `-o`": ["OUT/*"]},
    ),
    Access(
        "detect --engine",
        f"detect kit/VOCdevkit/VOC2007/JPEGImages {DETECTOR_OPTIONS} --engine onnxruntime -o OUT",
        {**DETECTOR, **LABELS, **PICTURES},
        {"pictures, crops and lists in `-o`": ["OUT/*"]},
    ),
    Access(
        "convert",
        "convert kit/net.caffemodel OUT/net.onnx --model kit/net.prototxt",
        {"the source": ["kit/net.caffemodel"], "`--model`": ["kit/net.prototxt"]},
        {"the target, and `--prototxt`": ["OUT/net.onnx"]},
    ),
    Access(
        "convert --calibrate",
        "convert kit/detector.caffemodel OUT/net.onnx --model kit/detector.prototxt"
        " --calibrate kit/VOCdevkit/VOC2007/JPEGImages",
        {"the source": ["kit/detector.caffemodel"], "`--model`": ["kit/detector.prototxt"], **PICTURES},
        {"the target, and meanwhile files in the system's temporary folder": ["OUT/net.onnx"]},
    ),
    Access(
        "verify",
        "verify --model kit/net.prototxt --weights kit/net.caffemodel --report OUT/r.html --json OUT/r.json",
        {**NET_WEIGHTS},
        {"`--report`, `--json`": ["OUT/r.html", "OUT/r.json"]},
    ),
    Access(
        "lmdb",
        "lmdb --anno_type=detection --label_map_file=kit/labels.prototxt kit/VOCdevkit/ kit/list.txt OUT/db",
        {"the list": ["kit/list.txt"], **LABELS, "the pictures and annotations that the list names":
         ["kit/VOCdevkit/VOC2007/JPEGImages/*", "kit/VOCdevkit/VOC2007/Annotations/*"]},
        {"the database": ["OUT/db*"]},
    ),
    Access(
        "lmdb voc",
        "lmdb voc kit/VOCdevkit OUT/db --split test --label-map kit/labels.prototxt",
        {**LABELS, **VOC, **PICTURES},
        {"the database, and its lists beside it": ["OUT/db*"]},
    ),
    Access(
        "lmdb coco",
        "lmdb coco kit/VOCdevkit/VOC2007/JPEGImages kit/coco.json OUT/db",
        {"the json": ["kit/coco.json"], **PICTURES},
        {"the database, and its lists beside it": ["OUT/db*"]},
    ),
    Access(
        "lmdb folder",
        "lmdb folder kit/VOCdevkit kit/VOCdevkit OUT/data --split 0.5",
        {**VOC, **PICTURES},
        {"the data folder": ["OUT/data*"]},
    ),
    Access(
        "lmdb to-coco",
        "lmdb to-coco kit/db OUT/coco.json --label-map kit/labels.prototxt",
        {"the database": ["kit/db/data.mdb"], **LABELS},
        {"the json": ["OUT/coco.json"]},
    ),
    Access(
        "lmdb show",
        "lmdb show kit/db -o OUT --model kit/data.prototxt",
        {"the database": ["kit/db/data.mdb"], "the net": ["kit/data.prototxt"]},
        {"pictures in `-o`": ["OUT/*"]},
    ),
    Access(
        "create-label-map",
        "create-label-map kit/map.txt OUT/map.prototxt",
        {"the list of names": ["kit/map.txt"]},
        {"the label map": ["OUT/map.prototxt"]},
    ),
    Access(
        "get-image-size",
        "get-image-size kit/VOCdevkit/ kit/list.txt OUT/sizes.txt",
        {"the list": ["kit/list.txt"], "the pictures that it names": ["kit/VOCdevkit/VOC2007/JPEGImages/*"]},
        {"the sizes": ["OUT/sizes.txt"]},
    ),
    Access(
        "compute-image-mean",
        "compute-image-mean kit/db OUT/mean.binaryproto",
        {"the database": ["kit/db/data.mdb"]},
        {"the mean file": ["OUT/mean.binaryproto"]},
    ),
    Access(
        "extract-features",
        "extract-features kit/detector.caffemodel kit/data.prototxt conv OUT/features 1 lmdb",
        {"the weights": ["kit/detector.caffemodel"], **DATA_NET},
        {"the databases": ["OUT/features*"]},
    ),
    Access(
        "upgrade-net",
        "upgrade-net kit/net.prototxt OUT/net.prototxt",
        {"the net": ["kit/net.prototxt"]},
        {"the new file": ["OUT/net.prototxt"]},
    ),
    Access(
        "upgrade-solver",
        "upgrade-solver kit/solver.prototxt OUT/solver.prototxt",
        {"the solver file": ["kit/solver.prototxt"]},
        {"the new file": ["OUT/solver.prototxt"]},
    ),
    Access(
        "draw-net",
        "draw-net kit/net.prototxt OUT/net.svg",
        NET,
        {"the picture": ["OUT/net.svg"]},
        {"Graphviz's `dot`, where there is one": ["dot"]},
    ),
    Access("plot-log", "plot-log kit/train.log -o OUT/log.png", {"the logs": ["kit/train.log"]},
           {"the picture": ["OUT/log.png"]}),
    Access("summary", "summary kit/net.prototxt", NET),
    Access(
        "view",
        "view kit/detector.prototxt --weights kit/detector.caffemodel --picture kit/picture.png --labels kit/db"
        " --verify kit/verify.json --against kit/net.prototxt -o OUT/page.html",
        {**DETECTOR, "`--picture`, `--labels`, `--verify`, `--against`":
         ["kit/picture.png", "kit/db/data.mdb", "kit/verify.json", "kit/net.prototxt"]},
        {"the page": ["OUT/page.html"]},
    ),
    Access("experiment list", "experiment list table1", {}),
    Access(
        "experiment run",
        "experiment run table1 --scale mini --only bn_none_lr0.001_scratch --iterations 1 --data kit/VOCdevkit -o OUT",
        {**VOC, **PICTURES},
        {"databases, nets, snapshots, logs and results in `-o`": ["OUT/*"]},
    ),
    Access(
        "experiment landscape",
        "experiment landscape --iterations 1 --data kit/VOCdevkit -o OUT",
        {**VOC, **PICTURES},
        {"databases, nets and results in `-o`": ["OUT/*"]},
    ),
    Access(
        "experiment report",
        "experiment report kit/runs -o OUT",
        {"results and metrics in the folder": ["kit/runs/settings.json", "kit/runs/table2/root1x7/seed1/*"]},
        {"report.html, report.md and figures in `-o`": ["OUT/*"]},
    ),
    Access("doctor", "doctor", {}),
    Access("completion", "completion bash", {}),
    Access("demo-data", "demo-data OUT --images 2", {}, {"pictures and annotations": ["OUT/*"]}),
]  # fmt: skip


def table() -> str:
    """Returns the page's table."""
    head = "| command | reads | writes | starts, connects to |\n|---|---|---|---|\n"
    return head + "".join(f"{row.row()}\n" for row in ROWS)


def page_with_table(text: str) -> str:
    """Returns the page with its table as it should be."""
    return re.sub(f"(?s)({re.escape(BEGIN)}).*?({re.escape(END)})", lambda match: match[1] + table() + match[2], text)


# --- what a stranger's net may ask for, put behind the kit's nets ---

HOSTILE = {
    "Python": """layer { name: "py" type: "Python" bottom: "conv" top: "py"
  python_param { module: "stranger" layer: "Layer" } }
""",
    "HDF5Output": """layer { name: "h5" type: "HDF5Output" bottom: "conv" bottom: "conv"
  hdf5_output_param { file_name: "elsewhere/taken.h5" } }
""",
    "VideoData": """layer { name: "video" type: "VideoData" top: "frame" top: "none"
  video_data_param { video_type: VIDEO video_file: "ADDRESS" } data_param { batch_size: 1 } }
layer { name: "unseen" type: "Silence" bottom: "frame" bottom: "none" }
""",
    "data layers": """layer { name: "images" type: "ImageData" top: "images" top: "classes"
  image_data_param { source: "elsewhere/list.txt" batch_size: 1 } }
layer { name: "records" type: "Data" top: "records" top: "labels"
  data_param { source: "kit/db" batch_size: 1 backend: LMDB }
  transform_param { mean_file: "elsewhere/mean.binaryproto" crop_size: 5 } }
layer { name: "rows" type: "HDF5Data" top: "rows" hdf5_data_param { source: "elsewhere/rows.txt" batch_size: 1 } }
layer { name: "unseen" type: "Silence"
  bottom: "images" bottom: "classes" bottom: "records" bottom: "labels" bottom: "rows" }
""",
}
# Commands that build a net, those of them that write what it asks for, as Caffe does, and those that only read it.
BUILDS = {"train", "test", "time", "evaluate caffe", "score", "extract-features", "detect", "convert", "verify",
          "summary", "draw-net", "evaluate voc", "evaluate coco", "view"}  # fmt: skip
WRITES = {"train", "test", "evaluate caffe", "score"}
READS = {"upgrade-net", "lmdb show"}


# --- the files ---

VERIFIED = {"what": "blob", "failure": "", "first": "a", "reference": "b", "verdict": "c", "culprit": None, "blobs": []}
CELL = "table2/root1x7"
SETTINGS = {"scale": "mini", "rule": 2, "pictures": {"VOC2007 test": "2 pictures"}}
RESULT = {"cell": CELL, "seed": 1, "status": "done", "iterations": 5, "metrics": {"mAP": 9.5}}
INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 24 dim: 32 } } }\n'
CONV = """layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 8 stride: 8 weight_filler { type: "xavier" } } }
"""
HEADS = """layer { name: "loc" type: "InnerProduct" bottom: "conv" top: "loc"
  inner_product_param { num_output: 48 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "conf" type: "InnerProduct" bottom: "conv" top: "conf"
  inner_product_param { num_output: 24 weight_filler { type: "xavier" } } }
layer { name: "prior" type: "PriorBox" bottom: "conv" bottom: "data" top: "prior" prior_box_param { min_size: 9 } }
layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
  detection_output_param { num_classes: 2 nms_param { top_k: 5 } keep_top_k: 5 confidence_threshold: -9 SAVE } }
"""
# What a stranger's deploy net may ask for, and what `detect` and its like pass over.
SAVE = """save_output_param { output_directory: "elsewhere/results" output_name_prefix: "comp4_" output_format: "VOC"
  label_map_file: "elsewhere/labels.prototxt" name_size_file: "elsewhere/sizes.txt" num_test_image: 1 }"""
DATA_LAYER = """layer { name: "data" type: "AnnotatedData" top: "data" top: "label"
  transform_param { resize_param { prob: 1 resize_mode: WARP height: 24 width: 32 } }
  annotated_data_param { label_map_file: "kit/labels.prototxt" }
  data_param { source: "kit/db" batch_size: 2 backend: LMDB } }
"""
JUDGE = """layer { name: "eval" type: "DetectionEvaluate" bottom: "out" bottom: "label" top: "eval"
  detection_evaluate_param { num_classes: 2 background_label_id: 0 overlap_threshold: 0.5 } }
"""
LOSS = 'layer { name: "loss" type: "Reduction" bottom: "conv" top: "loss" loss_weight: 1 }\n'
QUIET = 'layer { name: "quiet" type: "Silence" bottom: "label" }\n'
RATE = """base_lr: 0.01 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "out/snapshots/toy" random_seed: 1"""
LABEL_MAP = """item { name: "none_of_the_above" label: 0 display_name: "background" }
item { name: "cat" label: 1 display_name: "cat" }
"""
XML = """<annotation><filename>NAME.png</filename><size><width>32</width><height>24</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>17</ymax></bndbox></object>
</annotation>
"""
LOG = """I0101 10:00:02.000001 12 solver.cpp:243] Iteration 0, loss = 20.5
I0101 10:00:09.000001 12 solver.cpp:243] Iteration 10, loss = 2.5
"""


def make_files(root: Path) -> None:
    """Makes the folders kit, elsewhere, home, out and tmp under `root`.

    kit holds what the command lines name, elsewhere what only a net names.
    """
    import cv2
    import numpy as np

    from pyscratchdet.cli import main
    from pyscratchdet.files import write_bytes, write_text
    from pyscratchdet.proto import caffe_pb2
    from pyscratchdet.runtime import build_net, save_weights

    for name in ("elsewhere", "home", "out", "tmp"):
        (root / name).mkdir()
    kit, year = root / "kit", root / "kit/VOCdevkit/VOC2007"
    for name in ("a", "b"):
        (year / "JPEGImages").mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(ord(name)).integers(0, 255, (24, 32, 3), np.uint8)
        assert cv2.imwrite(str(year / "JPEGImages" / f"{name}.png"), picture)
        (year / "JPEGImages" / f"{name}.png").rename(year / "JPEGImages" / f"{name}.jpg")
        write_text(year / "Annotations" / f"{name}.xml", XML.replace("NAME", name))
    for name in ("trainval", "test"):
        write_text(year / "ImageSets/Main" / f"{name}.txt", "a\nb\n")
    lines = (f"VOC2007/JPEGImages/{name}.jpg VOC2007/Annotations/{name}.xml\n" for name in "ab")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [3, 4, 17, 13], "area": 221, "iscrowd": 0}
    images = [{"id": k, "file_name": f"{name}.jpg", "width": 32, "height": 24} for k, name in enumerate("ab", 1)]
    coco = {"images": images, "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    files = {
        "net.prototxt": INPUT + CONV,
        "detector.prototxt": INPUT + CONV + HEADS.replace("SAVE", SAVE),
        "data.prototxt": DATA_LAYER + CONV + LOSS + QUIET,
        "test.prototxt": DATA_LAYER + CONV + HEADS.replace("SAVE", "") + JUDGE,
        "solver.prototxt": f'net: "kit/data.prototxt" {RATE}',
        "labels.prototxt": LABEL_MAP,
        "list.txt": "".join(lines),
        "map.txt": "cat 1 cat\n",
        "coco.json": json.dumps(coco),
        "train.log": LOG,
        "verify.json": json.dumps([VERIFIED]),
        "runs/settings.json": json.dumps(SETTINGS),
        f"runs/{CELL}/seed1/result.json": json.dumps(RESULT),
        f"runs/{CELL}/seed1/metrics.csv": "kind,iteration,loss\ntrain,0,9.5\ntrain,5,2.5\n",
    }
    for name, text in files.items():
        write_text(kit / name, text)
    for name in ("net", "detector"):
        save_weights(build_net(str(kit / f"{name}.prototxt")), kit / f"{name}.caffemodel")
    write_text(root / "elsewhere/stranger.py", "open('elsewhere/ran', 'w').close()\n")
    assert cv2.imwrite(str(kit / "picture.png"), np.zeros((24, 32, 3), np.uint8))
    assert cv2.imwrite(str(root / "elsewhere/secret.png"), np.zeros((5, 5, 3), np.uint8))
    write_text(root / "elsewhere/list.txt", "elsewhere/secret.png 1\n")
    write_text(root / "elsewhere/rows.txt", "elsewhere/secret.h5\n")
    mean = caffe_pb2.BlobProto(num=1, channels=3, height=24, width=32, data=[1.0] * 2304)
    write_bytes(root / "elsewhere/mean.binaryproto", mean.SerializeToString())
    for name in ("secret.h5", "taken.h5", "labels.prototxt", "sizes.txt"):
        write_text(root / "elsewhere" / name, "as it was")
    options = ["--anno_type=detection", f"--label_map_file={kit}/labels.prototxt"]
    assert main(["lmdb", *options, f"{kit}/VOCdevkit/", f"{kit}/list.txt", f"{kit}/db"]) == 0


def make_hostile(root: Path, folder: str, layers: str) -> None:
    """Makes a second kit whose nets have more layers."""
    from pyscratchdet.files import write_text

    for path in (root / "kit").glob("*.prototxt"):
        text = path.read_text()
        if "layer {" in text:
            text += layers
        write_text(root / folder / path.name, text.replace("kit/data.prototxt", f"{folder}/data.prototxt"))


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

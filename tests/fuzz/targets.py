"""Every reader of files, with small whole files to damage and ways to damage them."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import cv2
import h5py
import lmdb
import mutations
import numpy as np
import torch
from harness import Target

from pyscratchdet.boxes.result_files import read_name_sizes
from pyscratchdet.converters.engines import Recording
from pyscratchdet.converters.onnx_detection import OnnxDetection, OnnxDetector
from pyscratchdet.converters.onnx_export import save_onnx
from pyscratchdet.converters.onnx_import import import_onnx
from pyscratchdet.converters.solver_state import state_from_torch, state_to_torch
from pyscratchdet.converters.weights import Names, read_bundle, write_bundle
from pyscratchdet.data.annotations import AnnotationReader
from pyscratchdet.data.coco import read_coco
from pyscratchdet.data.database import Database
from pyscratchdet.data.images import decode_image
from pyscratchdet.data.label_map import read_label_map
from pyscratchdet.data.lists import read_image_set, read_list
from pyscratchdet.data.records import annotated_of, datum_of
from pyscratchdet.data.transform import read_mean
from pyscratchdet.data.voc_xml import read_voc_xml
from pyscratchdet.detect.media import read_picture
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import unknown_fields_allowed
from pyscratchdet.proto.upgrade import upgrade_solver
from pyscratchdet.proto.weights import read_weights, write_blob
from pyscratchdet.runtime import build_net, save_weights
from pyscratchdet.solver.curves import read_curves
from pyscratchdet.solver.snapshot import SolverState, read_resume, read_state, state_bytes, write_snapshot
from pyscratchdet.solver.solver import check_settings, read_solver
from pyscratchdet.view.drift import read_drift

NET = """name: "small"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 7 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 2 }
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } engine: CAFFE } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { eps: 1e-3 } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""
REPORT = """[{"net": "n", "first": "pyscratchdet", "reference": "opencv", "what": "blob", "agrees": false,
  "culprit": "conv", "failure": "", "verdict": "They part.", "missing": [], "passed_over": [],
  "blobs": [{"blob": "conv", "layer": "conv", "layer_type": "Convolution", "shape": [1, 3],
  "drift": {"max_abs": 1.0, "relative": 0.5, "cosine": 0.9}, "own": {"max_abs": 1.0, "relative": 0.5, "cosine": 0.9},
  "tolerance": 1e-5, "suspects": ["conv"], "note": "", "agrees": false}, {"blob": "prob", "layer": "prob",
  "layer_type": "Softmax", "shape": [1, 4], "drift": null, "own": null, "tolerance": 1e-5, "suspects": [], "note": "",
  "agrees": true}]}]"""
HEADS = """name: "heads" input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 8 } # one head
layer { name: "loc" type: "Convolution" bottom: "data" top: "loc" convolution_param { num_output: 16 kernel_size: 1 } }
layer { name: "perm" type: "Permute" bottom: "loc" top: "perm" permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "flat" type: "Flatten" bottom: "perm" top: "flat" flatten_param { axis: 1 } }
layer { name: "r" type: "Reshape" bottom: "flat" top: "r" reshape_param { shape { dim: 0 dim: -1 dim: 4 } } }
layer { name: "prior" type: "PriorBox" bottom: "loc" bottom: "data" top: "prior"
  prior_box_param { min_size: 2.5 max_size: 4 aspect_ratio: [2, 3] flip: true variance: 0.1 step: 8 } }
layer { name: "cut" type: "Slice" bottom: "flat" top: "a" top: "b" slice_param { axis: 1 slice_point: 9 } }
layer { name: "sum" type: "Concat" bottom: "a" bottom: "b" top: "sum" include { phase: TEST stage: "x" } }
layer { name: "drop" type: "Dropout" bottom: "a" top: "a" dropout_param { dropout_ratio: 0.4 } exclude { phase: TRAIN }
}
"""
DETECTOR = """name: "detector" input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 8 }
layer { name: "loc" type: "Convolution" bottom: "data" top: "loc"
  convolution_param { num_output: 4 kernel_size: 2 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "conf" type: "Convolution" bottom: "data" top: "conf"
  convolution_param { num_output: 2 kernel_size: 2 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "loc_perm" type: "Permute" bottom: "loc" top: "loc_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "loc_flat" type: "Flatten" bottom: "loc_perm" top: "loc_flat" flatten_param { axis: 1 } }
layer { name: "conf_perm" type: "Permute" bottom: "conf" top: "conf_perm"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "rows" type: "Reshape" bottom: "conf_perm" top: "rows" reshape_param { shape { dim: 0 dim: -1 dim: 2 } } }
layer { name: "prob" type: "Softmax" bottom: "rows" top: "prob" softmax_param { axis: 2 } }
layer { name: "conf_flat" type: "Flatten" bottom: "prob" top: "conf_flat" flatten_param { axis: 1 } }
layer { name: "prior" type: "PriorBox" bottom: "loc" bottom: "data" top: "prior"
  prior_box_param { min_size: 3 variance: 0.1 step: 2 } }
layer { name: "found" type: "DetectionOutput" bottom: "loc_flat" bottom: "conf_flat" bottom: "prior" top: "found"
  detection_output_param { num_classes: 2 nms_param { nms_threshold: 0.45 top_k: 9 } keep_top_k: 5 } }
"""
V1 = """name: "old" input: "data" input_dim: 1 input_dim: 1 input_dim: 6 input_dim: 6
layers { bottom: "data" top: "c" name: "c" type: CONVOLUTION blobs_lr: 1 blobs_lr: 2 weight_decay: 1
  convolution_param { num_output: 2 kernel_size: 3 } }
layers { bottom: "c" top: "c" name: "r" type: RELU }
layers { layer { name: "p" type: "pool" kernelsize: 2 stride: 2 pool: MAX } bottom: "c" top: "p" }
"""
SOLVER = """net: "net.prototxt" test_iter: 3 test_interval: 100 base_lr: 0.001 display: 10 max_iter: 120 # one
lr_policy: "multistep" stepvalue: [80, 100] gamma: 0.1 momentum: 0.9 weight_decay: 0.0005 snapshot: 40
snapshot_prefix: "x" solver_mode: GPU type: "SGD" random_seed: 1 snapshot_format: BINARYPROTO clip_gradients: 35
"""
LABELS = """item { name: "none_of_the_above" label: 0 display_name: "background" }
item { name: "cat" label: 1 display_name: "cat" }
item { name: "dog" label: 2 display_name: 'dog' }
"""
XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation><folder>x</folder><filename>a.jpg</filename><size><width>60</width><height>40</height><depth>3</depth></size>
 <object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
  <bndbox><xmin>1</xmin><ymin>2.5</ymin><xmax>30</xmax><ymax>35</ymax></bndbox></object>
 <object><name>dog</name><difficult>1</difficult><bndbox><xmin>4</xmin><ymin>4</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
  <part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part></object>
</annotation>
"""
LAUGHS = "<!DOCTYPE a [<!ENTITY a0 'ha'>{}]><annotation>&a9;</annotation>".format(
    "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 10))
)
OUTSIDE = (
    "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><annotation><object><name>&x;</name></object></annotation>"
)
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4], "area": 14.0, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "dog"}],
}
COCO_ONE = {
    "image": {"width": 60, "height": 40},
    "annotation": [{"category_id": 1, "bbox": [1, 2, 9, 9], "iscrowd": 1}],
}
LIST = "JPEGImages/a.jpg Annotations/a.xml\nJPEGImages/b.jpg Annotations/b.xml\nc.png 3\n"
SIZES = "a 40 60\nb 300 500\n2007_000027 500 486\n"
SET = "2007_000027 1\n2007_000032 -1\n000012\n"
LOG = """I1121 10:00:00.000000 7 solver.cpp:239] Iteration 0 (2.5 iter/s, 4s/10 iters), loss = 17.5
I1121 10:00:00.000000 7 solver.cpp:258]     Train net output #0: mbox_loss = 17.5 (* 1 = 17.5 loss)
I1121 10:00:00.000000 7 sgd_solver.cpp:112] Iteration 0, lr = 0.001
I1121 10:00:01.000000 7 solver.cpp:347] Iteration 10, Testing net (#0)
I1121 10:00:01.000000 7 solver.cpp:546]     Test net output #0: detection_eval = 0.5
"""
CSV = "iteration,loss,lr,mAP\n0,17.5,0.001,\n10,12,0.001,0.5\n"
JSONL = '{"iteration": 0, "loss": 17.5, "lr": 0.001}\n{"iteration": 10, "loss": 12, "mAP": 0.5}\n'


# Between the files of a folder in one input; whatever is damaged, files come of it.
NEXT_FILE = b"\n-- next file --\n"


class Marker:
    """Leaves a file where its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def make_targets(folder: Path, mark: Path) -> list[Target]:
    """Returns all readers.

    Args:
        folder: Where whole files are made, and the net that weights belong to lies; it stays.
        mark: A file that appears where code in a file was run.
    """
    deploy = folder / "net.prototxt"
    deploy.write_text(NET)
    net = build_net(str(deploy))
    caffemodel = folder / "net.caffemodel"
    save_weights(net, caffemodel)
    names = Names(deploy)
    for ending in ("safetensors", "pt", "onnx", "h5"):
        write_bundle(folder / f"net.{ending}", read_bundle(caffemodel, names), names)
    state = SolverState(
        120, "net.caffemodel", [entry.parameter.detach().numpy() for entry in net.learnable], 2, 0.5, 80
    )
    write_snapshot(folder / "net.solverstate", caffemodel, state, {"seed": 3, "rates": [0.1, 0.2]})
    state_to_torch(folder / "net.solverstate", folder / "state.pt", deploy)
    torch.save({"state_dict": {"conv.weight": Marker(mark)}}, folder / "pickled.pt")
    write_blob(folder / "mean.binaryproto", np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5))
    data = {path.name: path.read_bytes() for path in folder.iterdir()}
    picture = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    jpg, png, gray = (
        cv2.imencode(kind, image)[1].tobytes()
        for kind, image in ((".jpg", picture), (".png", picture[:20, :30]), (".png", picture[:9, :7, 0]))
    )
    record = caffe_pb2.AnnotatedDatum(type=0, datum={"data": jpg, "encoded": True, "label": 1})
    record.annotation_group.add(group_label=1).annotation.add(instance_id=0).bbox.xmax = 0.5
    raw = caffe_pb2.Datum(channels=3, height=4, width=5, data=bytes(60), label=2)
    records = [record.SerializeToString(), raw.SerializeToString()]
    coco, coco_one = json.dumps(COCO).encode(), json.dumps(COCO_ONE).encode()
    text, protobuf, archive = [mutations.text], [mutations.protobuf], [mutations.archive]

    def weights(path: Path) -> object:
        return read_bundle(path, names)

    return [
        Target("prototxt", _read_net, [NET.encode(), HEADS.encode(), V1.encode()], text, "net.prototxt", 60),
        Target("solver", _read_solver, [SOLVER.encode()], text, "solver.prototxt", 60),
        Target("label map", read_label_map, [LABELS.encode()], text, "labelmap.prototxt", 60),
        Target("caffemodel", weights, [data["net.caffemodel"]], protobuf, "w.caffemodel", 120),
        Target("hdf5", read_weights, [data["net.h5"], *_odd_hdf5(folder)], [_hdf5], "w.h5", 1),
        Target("solverstate", read_state, [data["net.solverstate"]], protobuf, "s.solverstate", 100),
        Target("solverstate hdf5", read_state, [state_bytes(state, hdf5=True)], [], "s.solverstate.h5", 1),
        Target("resume", lambda path: _read_resume(path, folder), [data["net.resume"]], [mutations.json_value, *text],
               "net.resume", 60),
        Target("safetensors", weights, [data["net.safetensors"]], [mutations.safetensors], "w.safetensors", 60),
        Target("pt", weights, [data["net.pt"], data["pickled.pt"], pickle.dumps({"state_dict": Marker(mark)})], archive,
               "w.pt", 15),
        Target("optimizer pt", lambda path: state_from_torch(path, path.with_name("out")), [data["state.pt"]], archive,
               "o.pt", 15),
        Target("npz", Recording, _npz(mark), archive, "r.npz", 30),
        Target("onnx weights", weights, [data["net.onnx"]], protobuf, "w.onnx", 20),
        Target("onnx", import_onnx, [data["net.onnx"]], protobuf, "g.onnx", 8),
        Target("onnx detector", _read_detector, _detectors(folder), protobuf, "d.onnx", 4),
        Target("mean", read_mean, [data["mean.binaryproto"]], protobuf, "mean.binaryproto", 100),
        Target("lmdb", _read_database, [_lmdb(folder, records)], [mutations.lmdb], "db/data.mdb", 40),
        Target("leveldb", _read_leveldb, [_leveldb(folder, records)], [], "level.files", 2),
        Target("record", _read_record, records, protobuf, "record", 60),
        Target("jpeg", read_picture, [jpg], [mutations.jpeg], "p.jpg", 60),
        Target("png", read_picture, [png, gray], [mutations.png], "p.png", 60),
        Target("voc xml", read_voc_xml, [XML.encode(), LAUGHS.encode(), OUTSIDE.encode()], text, "a.xml", 60),
        Target("coco json", _read_coco, [coco], [mutations.json_value, *text], "coco.json", 60),
        Target("coco annotation", lambda path: AnnotationReader({"1": 1}).read(str(path), "json", 40, 60), [coco_one],
               [mutations.json_value, *text], "one.json", 60),
        Target("list", read_list, [LIST.encode(), "\ufeffa b\r\n".encode()], text, "list.txt", 60),
        Target("image set", read_image_set, [SET.encode()], text, "set.txt", 60),
        Target("name sizes", read_name_sizes, [SIZES.encode()], text, "sizes.txt", 60),
        Target("log", read_curves, [LOG.encode()], text, "train.log", 60),
        Target("csv", read_curves, [CSV.encode()], text, "train.csv", 60),
        Target("verify report", lambda path: read_drift(str(path)), [REPORT.encode()], [mutations.json_value, *text],
               "report.json", 60),
        Target("jsonl", read_curves, [JSONL.encode()], text, "train.jsonl", 60),
    ]  # fmt: skip


def _read_net(path: Path) -> None:
    with unknown_fields_allowed():
        plan_net(path)


def _read_detector(path: Path) -> None:
    detector = OnnxDetector.of_file(path)
    engine = OnnxDetection("onnxruntime", detector, threads=1)
    detector.labels()
    engine.find(detector.preparation()(np.zeros((4, 5, 3), np.uint8), engine.channels, *engine.size)[None])


def _read_solver(path: Path) -> None:
    check_settings(upgrade_solver(read_solver(path)))


def _read_resume(path: Path, folder: Path) -> None:
    state = path.with_suffix(".solverstate")
    if not state.exists():
        state.symlink_to(folder / "net.solverstate")
    read_resume(state, folder / "net.caffemodel")


def _read_record(path: Path) -> None:
    value = path.read_bytes()
    annotated_of(value, "record")
    datum = datum_of(value, "record")
    if datum.encoded:
        decode_image(datum.data)


def _read_coco(path: Path) -> None:
    found = read_coco(path)
    found.label_map()


def _read_database(path: Path) -> None:
    for _ in Database(path.parent):
        pass


def _read_leveldb(path: Path) -> None:
    """Reads the folder that a file holds, without names that would leave it, as no copying of folders makes such."""
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for part in path.read_bytes().split(NEXT_FILE):
        name, _, content = part.partition(b"\0")
        if name not in (b"", b".", b"..") and b"/" not in name and len(name) < 200:
            (folder / os.fsdecode(name)).write_bytes(content)
    for _ in Database(folder):
        pass


def _detectors(folder: Path) -> list[bytes]:
    """Returns a detector with rows as found, and one with a fixed number of them."""
    (folder / "detector.prototxt").write_text(DETECTOR)
    facts = {"mean": "1,2,3", "scale": "0.5", "channels": "bgr", "labels": '{"0": "background", "1": "cat"}'}
    path = folder / "detector.onnx"
    made = []
    for options in ({"heads": "decoded"}, {"heads": "fixed", "batch": 2}):
        save_onnx(build_net(str(folder / "detector.prototxt")), path, metadata=facts, **options)
        made.append(path.read_bytes())
    return made


def _lmdb(folder: Path, records: list[bytes]) -> bytes:
    with lmdb.open(str(folder / "lmdb"), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for index in range(40):
            transaction.put(b"%08d_a.jpg" % index, records[index % 2] if index % 7 else records[0] * 3)
    return (folder / "lmdb" / "data.mdb").read_bytes()


def _leveldb(folder: Path, records: list[bytes]) -> bytes:
    import plyvel

    for turn in range(2):  # opened twice, so that there are a table and a log
        with plyvel.DB(str(folder / "leveldb"), create_if_missing=True) as database:
            for index in range(8):
                database.put(b"%08d_%d" % (index, turn), records[index % 2])
    files = [path for path in sorted((folder / "leveldb").iterdir()) if not path.name.startswith("LO")]
    return NEXT_FILE.join(os.fsencode(path.name) + b"\0" + path.read_bytes() for path in files)


def _npz(mark: Path) -> list[bytes]:
    plain = {"in:data": np.ones((2, 3), "f4"), "out:a": np.arange(5.0), "diff:a": np.zeros((1, 2, 3), "f4")}
    found = []
    for save, arrays in (
        (np.savez, plain),
        (np.savez_compressed, plain),
        (np.savez, {**plain, "out:b": np.array([Marker(mark)], object)}),
    ):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        found.append(buffer.getvalue())
    return found


def _odd_hdf5(folder: Path) -> list[bytes]:
    """Returns files that point elsewhere, are linked in circles, or claim more than they hold."""

    def links(file: h5py.File) -> None:
        file["data/a/0"] = np.ones((2, 3), "f4")
        file["data/b"] = file["data/a"]
        file["data/c"] = h5py.SoftLink("/data/a")
        file["data/d"] = h5py.ExternalLink("net.h5", "/data")

    def storage(file: h5py.File) -> None:
        file.create_dataset("data/a/0", (4,), "f4", external=[("/etc/passwd", 0, 16)])

    def virtual(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((2, 3), "f4")
        layout[:] = h5py.VirtualSource("net.h5", "data/conv/0", (2, 3))
        file.create_virtual_dataset("data/a/0", layout)

    def claims(file: h5py.File) -> None:
        file.create_dataset("data/a/0", (1 << 20, 1 << 10), "f4", chunks=(1 << 10, 1 << 4), compression="gzip")
        file.create_dataset("data/a/1", data=np.ones((9, 5)), chunks=(2, 3), compression="gzip", shuffle=True)

    found = []
    for make in (links, storage, virtual, claims):
        path = folder / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        found.append(path.read_bytes())
    return found


def _hdf5(data: bytes, random: object) -> bytes:
    """Writes a small number of HDF5's over another: sizes, addresses, message types and flags are such."""
    changed = bytearray(data)
    if len(changed) < 9:
        return data
    for _ in range(random.choice((1, 2, 5))):
        filled = [place for place in (random.randrange(len(changed)) for _ in range(16)) if changed[place]]
        place = random.choice(filled or [0])
        other = random.randrange(len(changed) - 8)
        size = random.choice((1, 2, 8))
        changed[place : place + size] = changed[other : other + size]
    return bytes(changed)

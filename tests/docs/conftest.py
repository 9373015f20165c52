"""The files that the pages' commands name, small: a thin SSD300 with its weights, pictures, lists and databases."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import read, write
from pyscratchdet.runtime import load_net, save_weights

MODELS = Path(__file__).parents[2] / "prototxt" / "models"
DUMPER = Path(__file__).parents[2] / "scripts" / "dump_caffe_blobs.py"
THIN = 32  # SSD300's layers under their names, with a thirty-second of their channels
XML = """<annotation><filename>{name}.jpg</filename><size><width>90</width><height>60</height><depth>3</depth></size>
<object><name>{label}</name><difficult>0</difficult>
<bndbox><xmin>13</xmin><ymin>14</ymin><xmax>55</xmax><ymax>47</ymax></bndbox></object></annotation>
"""
PICTURES = {"000001": "dog", "000002": "person", "000003": "dog", "000004": "person", "000005": "dog"}
SOLVER = """train_net: "train.prototxt" test_net: "test.prototxt" test_iter: 1 test_interval: 2 base_lr: 0.0001
lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 max_iter: 2 display: 1 snapshot: 1
snapshot_prefix: "snapshots/ssd" solver_mode: CPU type: "SGD"
eval_type: "detection" ap_version: "11point" test_initialization: false random_seed: 1
"""
SCRIPT = """import sys
import caffe
print len(caffe.Net(sys.argv[1], sys.argv[2], caffe.TEST).blobs)
"""


def write_net(kind, folder, recipe="ssd300_vgg16_voc0712"):
    """Writes the thin net of a recipe, its data layers reading what the folder holds."""
    net = read(MODELS / recipe / f"{kind}.prototxt", caffe_pb2.NetParameter)
    net.name = "SSD300"
    for layer in net.layer:
        if layer.type == "Convolution" and "mbox" not in layer.name:
            layer.convolution_param.num_output //= THIN
        if layer.type == "AnnotatedData":
            layer.data_param.source = "trainval_lmdb" if kind == "train" else "test_lmdb"
            layer.data_param.batch_size = 2
            layer.annotated_data_param.label_map_file = "labelmap.prototxt"
            # On a flat canvas all values under a maximum are equal but for rounding, which then decides the gradient.
            layer.transform_param.ClearField("expand_param")
        if layer.type == "DetectionOutput":
            layer.detection_output_param.ClearField("save_output_param")
        if layer.type == "DetectionEvaluate":
            layer.detection_evaluate_param.ClearField("name_size_file")
    write(folder / f"{kind}.prototxt", net)


def write_picture(path, seed):
    picture = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(picture, (90, 60)))


def write_devkit(folder):
    for year in ("VOC2007", "VOC2012"):
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / year / part).mkdir(parents=True)
        for seed, (name, label) in enumerate(PICTURES.items()):
            write_picture(folder / year / "JPEGImages" / f"{name}.jpg", seed)
            (folder / year / "Annotations" / f"{name}.xml").write_text(XML.format(name=name, label=label))
        for part, names in (("trainval", ["000001", "000002", "000003"]), ("test", ["000004", "000005"])):
            (folder / year / "ImageSets/Main" / f"{part}.txt").write_text("\n".join(names) + "\n")


def write_coco(path, label_map):
    categories = [{"id": item.label, "name": item.display_name} for item in label_map.item if item.label]
    box = {"category_id": 12, "bbox": [13, 14, 42, 33], "area": 1386, "iscrowd": 0}
    images = [{"id": k, "file_name": f"{name}.jpg", "width": 90, "height": 60} for k, name in enumerate(PICTURES)]
    boxes = [{"id": image["id"], "image_id": image["id"], **box} for image in images]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


def call(line):
    assert main(line.split()) == 0, line


def record(target, model, *options):
    """Records blobs as the page on verifying says; our own Caffe stands in for the original."""
    words = [DUMPER.name, model, "model.caffemodel", target, *options]
    subprocess.run([sys.executable, "-m", "pyscratchdet.caffe", *words], check=True, capture_output=True)


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """Returns the folder; each page works in a copy of it."""
    folder = tmp_path_factory.mktemp("kit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for kind in ("deploy", "train", "test"):
            write_net(kind, folder)
        (folder / "solver.prototxt").write_text(SOLVER)
        net = load_net("deploy.prototxt")
        for name, blobs in net.params.items():
            if name.endswith("mbox_conf"):
                blobs[0].detach().mul_(0.1)
                blobs[1].detach().view(-1, 21)[:, 0] += 5  # mostly background, as in a trained net
        save_weights(net, "model.caffemodel")
        call("create-label-map voc labelmap.prototxt")
        write_devkit(folder / "VOCdevkit")
        write_coco(folder / "instances.json", read("labelmap.prototxt", caffe_pb2.LabelMap))
        call("lmdb voc VOCdevkit trainval_lmdb --split trainval --years 2007 --label-map labelmap.prototxt")
        call("lmdb voc VOCdevkit test_lmdb --split test --years 2007 --label-map labelmap.prototxt")
        lines = (f"VOC2007/JPEGImages/{name}.jpg VOC2007/Annotations/{name}.xml\n" for name in PICTURES)
        (folder / "list.txt").write_text("".join(lines))
        (folder / "count_blobs.py").write_text(SCRIPT)
        shutil.copytree("VOCdevkit/VOC2007/JPEGImages", "photos")
        shutil.copytree("VOCdevkit/VOC2007/Annotations", "annotations")
        for number, name in enumerate(("photo", "one", "two")):
            write_picture(folder / f"{name}.jpg", number)
        shutil.copy(DUMPER, ".")
        record("recorded.npz", "deploy.prototxt")
        record("recorded_training.npz", "train.prototxt", "--train", "--gradients", "--step", "solver.prototxt")
        call("lmdb folder photos annotations training/own/data")
        models = folder / "training/own/models/own"
        models.mkdir(parents=True)
        shutil.copy("deploy.prototxt", models)
        shutil.copy("model.caffemodel", models / "own_best.caffemodel")
    return folder


@pytest.fixture
def folder(kit, tmp_path, monkeypatch):
    """Returns a copy of the kit, which is the working folder."""
    shutil.copytree(kit, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path

"""Bad input of every kind to every command: status 2, one message, nothing written."""

import argparse
import importlib
import re
import shlex
import shutil

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import COMMANDS, main
from pyscratchdet.data.database import Database
from pyscratchdet.proto import caffe_pb2, weights

NET = """
name: "toy"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 8 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 4 } }
"""
DATA_NET = """
layer { name: "data" type: "AnnotatedData" top: "data" top: "label" annotated_data_param { }
  data_param { source: "SOURCE" batch_size: 2 backend: LMDB } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "Reduction" bottom: "fc" top: "loss" loss_weight: 1 }
"""
BAD_NETS = {
    "syntax": NET.replace("top:", "top", 1),
    "unclosed": NET + "layer {",
    "unknown_field": NET.replace("num_output", "num_outputs"),
    "unknown_type": NET.replace("InnerProduct", "InnerProdukt"),
    "unknown_bottom": NET.replace('bottom: "data"', 'bottom: "dta"'),
    "binary": "\x00\x01\x02",
}
XML = "<annotation><size><width>8</width><height>6</height><depth>3</depth></size>{}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"


RATE = 'base_lr: 1 lr_policy: "fixed" max_iter: 1 test_iter: 1 test_interval: 1'


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """A folder with good and bad files; its entries by name."""
    folder = tmp_path_factory.mktemp("kit")

    def write(name, content):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    write("net.prototxt", NET)
    for name, source in BAD_NETS.items():
        write(f"{name}.prototxt", source)
        write(f"{name}.solver", f'net: "{folder}/{name}.prototxt" {RATE}')
    write("bad.solver", "base_lr: much")
    write("no_net.solver", RATE)
    write("gone.solver", f'net: "{folder}/gone.prototxt" {RATE}')
    write("data.prototxt", DATA_NET.replace("SOURCE", f"{folder}/no_lmdb"))
    write("data.solver", f'net: "{folder}/data.prototxt" {RATE}')
    (folder / "no_lmdb").mkdir()
    write("no_lmdb/data.mdb", b"no database" * 1000)
    values = np.arange(576, dtype=np.float32).reshape(4, 144)
    for name, array in (("good", values), ("shapes", values[:, :7])):
        blobs = [weights.array_to_blob(array), weights.array_to_blob(np.zeros(4, np.float32))]
        net = caffe_pb2.NetParameter(layer=[{"name": "fc", "type": "InnerProduct", "blobs": blobs}])
        write(f"{name}.caffemodel", net.SerializeToString())
    write("truncated.caffemodel", (folder / "good.caffemodel").read_bytes()[:-10])
    write("text.caffemodel", "no weights at all")
    write("text.h5", b"\x89HDF\r\n\x1a\n and no more")
    write("text.safetensors", b"\x08\0\0\0\0\0\0\0{broken}")
    write("text.pt", b"no checkpoint")
    write("text.onnx", b"no graph, only words that are no protobuf")
    write("pickle.pt", b"cos\nsystem\n(S'true'\ntR.")
    assert cv2.imwrite(str(folder / "good.png"), np.zeros((6, 8, 3), np.uint8))
    write("bad.png", b"no picture")
    write("good.xml", XML.format(OBJECT.format("cat")))
    write("bad.xml", "<annotation><object>")
    write("no_objects.xml", XML.format(""))
    write("no_size.xml", "<annotation><size><width>0</width><height>6</height></size></annotation>")
    write("other.xml", "<html><body/></html>")
    write("empty.xml", "")
    write("labels.prototxt", 'item { name: "dog" label: 1 display_name: "dog" }')
    write("bad_labels.prototxt", 'item { name: "dog" label: "one" }')
    write("good_list.txt", "good.png good.xml\n")
    for name in ("bad", "no_objects", "no_size", "other", "empty"):
        write(f"{name}_list.txt", f"good.png {name}.xml\n")
    write("bad_picture_list.txt", "bad.png good.xml\n")
    write("gone_list.txt", "gone.png good.xml\n")
    write("odd_list.txt", "good.png\n")
    write("bad_map.txt", b"\xff\xfe\n")
    write("bad.log", b"\x00\xff\xfe no log")
    write("empty.log", "")
    write("bad.json", "{")
    write("bad.npz", b"no arrays")
    return folder


def rows():
    """Yields (name, command line); KIT stands for the folder of files and OUT for a folder to write into."""
    nets = [f"KIT/{name}.prototxt" for name in ("gone", *BAD_NETS)]
    files = ["KIT/gone.caffemodel", "KIT/truncated.caffemodel", "KIT/text.caffemodel", "KIT/text.h5"]
    misfits = [*files, "KIT/shapes.caffemodel"]
    solvers = [f"KIT/{name}.solver" for name in ("none", "bad", "no_net", "gone", "data", *BAD_NETS)]
    readers = [
        "summary {}",
        "test --model {} --weights KIT/good.caffemodel --iterations 1",
        "time --model {} --iterations 1",
        "detect KIT/good.png --model {} --weights KIT/good.caffemodel -o OUT/found",
        "convert KIT/good.caffemodel OUT/net.onnx --model {}",
        "verify --model {} --weights KIT/good.caffemodel --report OUT/report.html",
        "extract-features KIT/good.caffemodel {} fc OUT/features 1 lmdb",
        "evaluate caffe --model {} --weights KIT/good.caffemodel --iterations 1",
    ]
    for reader in readers:
        yield from (reader.format(net) for net in nets)
    for name in ("gone", "syntax", "unclosed", "unknown_field", "binary"):
        yield f"upgrade-net KIT/{name}.prototxt OUT/net.prototxt"
        yield f"draw-net KIT/{name}.prototxt OUT/net.svg"
    yield from (f"upgrade-solver {solver} OUT/solver.prototxt" for solver in solvers[:2])
    yield from (f"train --solver {solver}" for solver in solvers)
    yield from (f"evaluate caffe --solver {solver} --weights KIT/good.caffemodel" for solver in solvers)
    for reader in (
        "test --model KIT/net.prototxt --weights {} --iterations 1",
        "time --model KIT/net.prototxt --weights {} --iterations 1",
        "detect KIT/good.png --model KIT/net.prototxt --weights {} -o OUT/found",
        "convert {} OUT/net.onnx --model KIT/net.prototxt",
        "verify --model KIT/net.prototxt --weights {} --report OUT/report.html",
        "extract-features {} KIT/net.prototxt fc OUT/features 1 lmdb",
    ):
        yield from (reader.format(path) for path in misfits)
    for ending in ("caffemodel", "h5", "safetensors", "pt"):
        yield from (f"convert {path} OUT/net.{ending}" for path in files)
        yield from (f"convert KIT/{name} OUT/net.{ending}" for name in ("text.safetensors", "text.pt", "pickle.pt"))
    yield from ("convert KIT/text.onnx OUT/net.caffemodel", "convert KIT/good.caffemodel OUT/net.xyz")
    yield "convert KIT/good.caffemodel OUT/net.onnx"  # without its net
    yield "test --model KIT/data.prototxt --weights KIT/good.caffemodel"  # a folder that is no LMDB
    yield "time --model KIT/data.prototxt"
    yield "extract-features KIT/good.caffemodel KIT/data.prototxt fc OUT/features 1 lmdb"
    yield "extract-features KIT/good.caffemodel KIT/net.prototxt fc,data OUT/features 1 lmdb"
    yield "extract-features KIT/good.caffemodel KIT/net.prototxt fc OUT/features none lmdb"
    for database in ("KIT/gone", "KIT/no_lmdb", "KIT/good.png"):
        yield f"compute-image-mean {database} OUT/mean.binaryproto"
        yield f"lmdb show {database} -o OUT/shown"
    listed = "lmdb --anno_type=detection --label_map_file={} KIT/ {} OUT/lmdb"
    yield listed.format("KIT/labels.prototxt", "KIT/good_list.txt")  # has no cat
    yield listed.format("KIT/bad_labels.prototxt", "KIT/good_list.txt")
    yield listed.format("KIT/gone.prototxt", "KIT/good_list.txt")
    for name in ("bad", "no_objects", "no_size", "other", "empty", "bad_picture", "gone", "odd"):
        yield listed.format("voc", f"KIT/{name}_list.txt")
    yield listed.format("voc", "KIT/none.txt")
    yield "lmdb --anno_type=segmentation KIT/ KIT/good_list.txt OUT/lmdb"
    yield "lmdb --min_dim=x KIT/ KIT/good_list.txt OUT/lmdb"
    yield "lmdb voc KIT/gone OUT/lmdb"
    yield "lmdb coco KIT/bad.json KIT OUT/lmdb"
    yield "lmdb KIT/good_list.txt"
    for name in ("bad_picture_list", "gone_list", "none"):
        yield f"get-image-size KIT/ KIT/{name}.txt OUT/sizes.txt"
    yield "get-image-size --name_id_file=KIT/none.txt KIT/ KIT/good_list.txt OUT/sizes.txt"
    yield from (f"create-label-map KIT/{name}.txt OUT/map.prototxt" for name in ("none", "bad_map"))
    yield from (f"plot-log KIT/{name} -o OUT/log.png" for name in ("gone.log", "bad.log", "empty.log"))
    net = "--model KIT/net.prototxt --weights KIT/good.caffemodel"
    yield f"detect KIT/bad.png {net} -o OUT/found"
    yield f"detect KIT/gone.png {net} -o OUT/found"
    yield f"detect KIT/good.png {net} --mean red -o OUT/found"
    yield f"detect KIT/good.png {net} --gpu x -o OUT/found"
    yield f"detect KIT/good.png {net} --labelmap KIT/bad_labels.prototxt -o OUT/found"
    yield f"verify {net} --input KIT/bad.png"
    yield f"verify {net} --input KIT/bad.npz"
    yield f"verify {net} --against KIT/bad.npz"
    yield f"verify {net} --against caffe3"
    yield f"evaluate voc {net} --data KIT/gone"
    yield f"evaluate coco {net} --data KIT/bad.json"
    yield "evaluate coco --data KIT/gone.json --results KIT/bad.json"
    yield "evaluate voc --data KIT --results KIT/gone"
    yield "score KIT/gone.caffemodel --model KIT/net.prototxt --iterations 1"
    yield "score KIT/gone --solver KIT/data.solver"
    yield "summary KIT/net.prototxt --input large"
    yield "summary KIT/net.prototxt --phase VALIDATE"
    yield "time --model KIT/net.prototxt --iterations many"
    yield "time --model KIT/net.prototxt --gpu none"
    yield "test --model KIT/net.prototxt"
    yield "generate no_such_net -o OUT/models"
    yield "generate -o OUT/models"
    yield "generate scratchdet300_rootres18_voc0712 --num-classes x -o OUT/models"
    yield "generate scratchdet300_rootres18_voc0712 --gpus all -o OUT/models"
    yield "demo-data KIT"  # not empty
    yield "demo-data OUT/data --images -3"
    yield "draw-net KIT/net.prototxt OUT/net.xyz"
    # A folder that cannot be written: its place is taken by a file.
    blocked = "KIT/good.png/below"
    yield f"upgrade-net KIT/net.prototxt {blocked}/net.prototxt"
    yield f"draw-net KIT/net.prototxt {blocked}/net.svg"
    yield f"convert KIT/good.caffemodel {blocked}/net.h5"
    yield f"verify {net} --against onnxruntime --report {blocked}/report.html"
    yield f"get-image-size KIT/ KIT/good_list.txt {blocked}/sizes.txt"
    yield f"create-label-map KIT/good_list.txt {blocked}/map.prototxt"
    yield f"lmdb --anno_type=detection --label_map_file=voc KIT/ KIT/good_list.txt {blocked}/lmdb"
    yield f"generate scratchdet300_rootres18_voc0712 -o {blocked}/models"
    yield f"demo-data {blocked}/data --images 1 --test 1"
    yield f"train --solver KIT/data.solver --log {blocked}/log"
    yield from (f"{command} --no-such-option" for command in COMMANDS)


def run(arguments):
    try:
        return main(arguments)
    except SystemExit as end:  # argparse
        return end.code


@pytest.mark.parametrize("line", list(rows()))
def test_status_2_one_message_and_nothing_written(line, kit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(kit.rglob("*"))
    out = tmp_path / "out"
    arguments = [word.replace("KIT", str(kit)).replace("OUT", str(out)) for word in shlex.split(line)]
    status = run(arguments)
    message = capsys.readouterr().err
    assert status == 2, message
    assert "Traceback" not in message
    heads = [text for text in message.splitlines() if re.match(r"pyscratchdet[ \w-]*: ", text)]
    assert len(heads) == 1, message
    assert len(heads[0]) > len("pyscratchdet: error"), message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert sorted(kit.rglob("*")) == before


@pytest.mark.parametrize(
    "line",
    [
        "convert good.caffemodel good.caffemodel",
        "convert good.caffemodel link.caffemodel",
        "convert good.caffemodel new.caffemodel --fold --model net.prototxt --prototxt ./net.prototxt",
        "convert net.safetensors net.py --model net.prototxt",
        "upgrade-net lossy.prototxt lossy.prototxt",
        "draw-net net.prototxt net.prototxt",
        "view net.prototxt -o net.prototxt",
        "view net.html",
        "plot-log good_list.txt labels.prototxt -o labels.prototxt",
        "verify --model net.prototxt --weights good.caffemodel --report net.prototxt",
        "verify --model net.prototxt --weights good.caffemodel --json good.caffemodel",
        "verify --model net.prototxt --against openvino:text.onnx --report text.onnx",
        "get-image-size . good_list.txt good_list.txt",
        "create-label-map good_list.txt good_list.txt",
        "evaluate coco --data detections.json --model net.prototxt -o .",
    ],
)
def test_no_command_replaces_what_it_reads(line, kit, tmp_path, monkeypatch, capsys):
    shutil.copytree(kit, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.caffemodel").symlink_to("good.caffemodel")
    (tmp_path / "detections.json").write_text("[]")
    shutil.copy("net.prototxt", "net.html")
    lossy = 'layers { layer { name: "old" type: "relu" kernelsize: 2 } bottom: "data" top: "a" }'
    (tmp_path / "lossy.prototxt").write_text(f'input: "data" input_dim: [1, 3, 8, 8] {lossy}\n')
    assert run(["convert", "good.caffemodel", "net.safetensors"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(shlex.split(line)) == 2
    assert "is read by this command, and is not replaced" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (tmp_path / "link.caffemodel").is_symlink()


def test_a_picture_without_objects_among_others_is_kept_and_noted(kit, tmp_path, capsys):
    """As convert_annoset keeps it: a picture of background."""
    (tmp_path / "list.txt").write_text("good.png good.xml\ngood.png no_objects.xml\n")
    database = tmp_path / "lmdb"
    flags = ["--anno_type=detection", "--label_map_file=voc"]
    assert run(["lmdb", *flags, f"{kit}/", str(tmp_path / "list.txt"), str(database)]) == 0
    told = capsys.readouterr().out
    assert "2 records written, 0 skipped" in told
    assert f"noted once: no objects ({kit}/no_objects.xml)" in told
    groups = [len(caffe_pb2.AnnotatedDatum.FromString(value).annotation_group) for _, value in Database(database)]
    assert groups == [1, 0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_flag(command, capsys):
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: pyscratchdet {command}" in shown
    parser = argparse.ArgumentParser()
    parser.set_defaults(command=command)
    importlib.import_module(f"pyscratchdet.cli.{COMMANDS[command][0]}").configure(parser)
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        assert action.help or isinstance(action, argparse._SubParsersAction), action
        for name in action.option_strings:
            assert name in shown, name

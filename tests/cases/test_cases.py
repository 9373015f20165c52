"""One test for each input that once went wrong, with what is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pyscratchdet.cli import main
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.onnx_export import export_onnx
from pyscratchdet.converters.torch_models import named_model
from pyscratchdet.data.database import Database
from pyscratchdet.data.records import annotated_of
from pyscratchdet.errors import LayerError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import UnknownFieldWarning
from pyscratchdet.proto.text import parse
from pyscratchdet.proto.weights import array_to_blob, read_weights
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import build_net, load_net, save_weights

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Sums of a few float32 products in another order.
ROUNDING = 1e-6
LABEL_MAP = 'item { name: "none_of_the_above" label: 0 } item { name: "cat" label: 1 }'
XML = """<annotation><size><width>32</width><height>24</height><depth>3</depth></size>
<object><name>cat</name><bndbox><xmin>{}</xmin><ymin>4</ymin><xmax>{}</xmax><ymax>17</ymax></bndbox></object>
</annotation>"""


def noise(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def run(capsys, *words):
    """Returns the command's status and what it printed, on one line."""
    status = main([str(word) for word in words])
    captured = capsys.readouterr()
    return status, " ".join((captured.out + captured.err).split())


def outputs(name, **inputs):
    with torch.no_grad():
        return {key: value.numpy() for key, value in build_net(str(HERE / name)).forward_blobs(inputs).items()}


def pooled(text):
    return build_net(parse(text, caffe_pb2.NetParameter)).blob_shapes["pool1"]


# --- fields of forks ---


def test_ceil_mode_rounds_down_as_its_fork_does():
    text, rest = (HERE / "ceil_mode.prototxt").read_text().split('layer { name: "pool2"')
    assert "kernel_size: 9" in rest  # fits 9 x 9 only, so the whole net has no right form
    assert pooled(text) == (1, 4, 8, 8)
    assert pooled(text.replace("ceil_mode: false", "ceil_mode: true")) == (1, 4, 9, 9)
    assert pooled(text.replace("ceil_mode: false", "round_mode: FLOOR")) == (1, 4, 8, 8)
    assert pooled(text.replace("ceil_mode: false", "round_mode: CEIL")) == (1, 4, 9, 9)


def test_sigma_of_smooth_l1():
    a, b, sigma2 = noise(2, 3), noise(2, 3, seed=2) / 9, 9.0
    x = np.abs(a - b)
    expected = np.where(x < 1 / sigma2, 0.5 * sigma2 * x**2, x - 0.5 / sigma2).sum() / 2
    assert outputs("sigma2.prototxt", a=a, b=b)["loss"] == pytest.approx(expected, rel=ROUNDING)


def test_an_engine_is_a_hint():
    text = (HERE / "engine_mkl.prototxt").read_text()
    with pytest.warns(UnknownFieldWarning, match="engine"):
        net = build_net(parse(text, caffe_pb2.NetParameter))
    plain = build_net(parse(text.replace("engine: MKL2017", ""), caffe_pb2.NetParameter))
    assert net.blob_shapes == plain.blob_shapes == {"x": (2, 3, 8, 8), "y": (2, 2, 6, 6)}


def test_clip():
    data = noise(1, 3, 4, 4) * 9
    np.testing.assert_array_equal(outputs("clip.prototxt", data=data)["out"], data.clip(0, 6))


def roi_pool(x, rois, size, scale):
    """As Fast R-CNN's roi_pooling_layer.cpp: rounded corners, at least one cell, bins that may overlap."""
    result = np.zeros((len(rois), x.shape[1], size, size), "f4")
    for k, (item, *corners) in enumerate(rois):
        left, top, right, bottom = (int(np.floor(corner * scale + 0.5)) for corner in corners)
        height, width = max(bottom - top + 1, 1) / size, max(right - left + 1, 1) / size
        for i in range(size):
            for j in range(size):
                rows = [
                    min(max(int(edge) + top, 0), x.shape[2])
                    for edge in (np.floor(i * height), np.ceil((i + 1) * height))
                ]
                columns = [
                    min(max(int(edge) + left, 0), x.shape[3])
                    for edge in (np.floor(j * width), np.ceil((j + 1) * width))
                ]
                window = x[int(item), :, slice(*rows), slice(*columns)]
                result[k, :, i, j] = window.max(axis=(1, 2)) if window.size else 0
    return result


def test_roi_pooling():
    x = noise(1, 3, 8, 8)
    rois = np.array([[0, 0, 0, 15, 15], [0, 2, 5, 9, 14], [0, 4, 4, 4, 4], [0, 11, 3, 15, 8]], "f4")
    np.testing.assert_array_equal(outputs("roi.prototxt", x=x, rois=rois)["y"], roi_pool(x, rois, 2, 0.5))


def test_shapes_need_neither_mean_file_nor_database(capsys):
    status, printed = run(capsys, "summary", HERE / "mean.prototxt")
    assert status == 0, printed
    assert "4x3x227x227" in printed
    assert "4x2x225x225" in printed


# --- storage that Caffe shares ---


def test_layers_in_place_behind_shared_storage():
    data = noise(1, 4, 2, 2)
    blobs = outputs("alias.prototxt", data=data)
    expected = 2 / (1 + np.exp(-data.astype("f8")))
    for name in ("a", "r", "f"):
        assert difference(blobs[name].ravel(), expected.ravel()).relative < ROUNDING, name


# --- verify ---


def test_verify_where_opencv_rounds_down_too(capsys):
    status, printed = run(capsys, "verify", "--model", HERE / "shapes_differ.prototxt")
    assert status == 0, printed
    assert "opencv agree on all 3 blobs" in printed


def test_verify_names_the_first_blob_whose_shapes_differ(capsys, tmp_path):
    net = build_net(str(HERE / "shapes_differ.prototxt"), random=CaffeRandom(1))
    save_weights(net, tmp_path / "w.caffemodel")
    data = noise(1, 4, 16, 16)
    recorded = {
        "in:data": data,
        "out:pool1": noise(1, 4, 9, 9),
        "out:conv": noise(1, 3, 9, 9),
        "out:pool2": noise(1, 3),
    }
    np.savez(tmp_path / "r.npz", **recorded)
    options = ("--weights", tmp_path / "w.caffemodel", "--against", tmp_path / "r.npz")
    status, printed = run(capsys, "verify", "--model", HERE / "shapes_differ.prototxt", *options)
    assert status == 1
    assert "part at blob pool1, layer pool1 (Pooling): shape 1x4x8x8 here, 1x4x9x9 in the reference" in printed


def test_verify_of_slice(capsys):
    status, printed = run(capsys, "verify", "--model", HERE / "slice_axis.prototxt")
    assert status == 0, printed
    assert "opencv agree on all 6 blobs" in printed


@pytest.mark.parametrize(
    ("case", "note"),
    [("lrn_k", "OpenCV ignores k"), ("axpy", "OpenCV computes aY + X, Caffe aX + Y")],
)
def test_verify_knows_what_opencv_does_otherwise(case, note, capsys):
    status, printed = run(capsys, "verify", "--model", HERE / f"{case}.prototxt")
    assert status == 1
    assert note in printed
    assert "onnxruntime agree on all 1 blob" in printed


def test_layer_in_place_on_the_input(capsys):
    status, printed = run(capsys, "verify", "--model", HERE / "inplace_on_input.prototxt")
    assert status == 0, printed
    assert "onnxruntime agree on all 2 blobs" in printed
    assert "opencv agree on all 2 blobs" in printed
    onnx.checker.check_model(export_onnx(build_net(str(HERE / "inplace_on_input.prototxt"))))


@pytest.mark.parametrize("with_weights", [True, False])
def test_verify_gives_each_engine_its_verdict(with_weights, capsys, tmp_path):
    options = []
    if with_weights:
        save_weights(build_net(str(HERE / "upsample.prototxt")), tmp_path / "w.caffemodel")
        options = ["--weights", tmp_path / "w.caffemodel"]
    status, printed = run(capsys, "verify", "--model", HERE / "upsample.prototxt", *options)
    assert status == 0, printed
    assert "onnxruntime agree on all 2 blobs" in printed
    assert "opencv did not run" in printed


# --- folding ---


@pytest.mark.parametrize("case", ["fold_two_tops", "fold_fc_axis"])
def test_folding_changes_no_value(case, capsys, tmp_path):
    model = HERE / f"{case}.prototxt"
    net = build_net(str(model))
    rng = np.random.default_rng(3)
    with torch.no_grad():
        for blobs in net.params.values():
            for blob in blobs:
                blob.copy_(torch.from_numpy(rng.uniform(0.5, 2, tuple(blob.shape)).astype("f4")))
    save_weights(net, tmp_path / "w.caffemodel")
    folded = tmp_path / "folded.prototxt", tmp_path / "folded.caffemodel"
    status, printed = run(
        capsys, "convert", tmp_path / "w.caffemodel", folded[1], "--fold", "--model", model, "--prototxt", folded[0]
    )
    assert status == 0, printed
    inputs = {name: noise(*net.blob_shapes[name], seed=seed) for seed, name in enumerate(net.input_names)}
    with torch.no_grad():
        expected, found = net(inputs), load_net(*map(str, folded))(inputs)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert difference(found[name].numpy(), value.numpy()).relative < ROUNDING


# --- ONNX ---


def imported(case, folder, capsys):
    """Returns the status, what was said, and the outputs of the source and of the net that it became."""
    paths = folder / "n.caffemodel", folder / "n.prototxt"
    status, printed = run(capsys, "convert", HERE / f"{case}.onnx", paths[0], "--prototxt", paths[1])
    if status:
        return status, printed, None, None
    session = onnxruntime.InferenceSession(HERE / f"{case}.onnx", providers=["CPUExecutionProvider"])
    data = noise(*session.get_inputs()[0].shape)
    net = load_net(str(paths[1]), str(paths[0]))
    with torch.no_grad():
        (found,) = net(data).values()
    return status, printed, session.run(None, {"data": data})[0], found.numpy()


@pytest.mark.parametrize("case", ["pad_zero", "zeropad_conv", "hsigmoid"])
def test_onnx_that_caffe_can_say(case, tmp_path, capsys):
    status, printed, expected, found = imported(case, tmp_path, capsys)
    assert status == 0, printed
    assert difference(found, expected).relative < ROUNDING


@pytest.mark.parametrize("case", ["bil", "convt_op", "avg_ceil", "gelu"])
def test_onnx_is_exact_or_refused_once_with_its_reason(case, tmp_path, capsys):
    status, printed, expected, found = imported(case, tmp_path, capsys)
    if status == 0:
        assert difference(found, expected).relative < ROUNDING
        return
    assert status == 2
    assert "makes no sense" not in printed
    assert printed.count("[onnx") + printed.count("[import") + printed.count("[torch") <= 1
    assert printed.count("[") == 1 + printed.count("[1")  # the code alone, besides lists of numbers
    assert not (tmp_path / "n.caffemodel").exists()


# --- scripts for pycaffe ---

SCRIPTS = {
    "blobvec.py": "import caffe\nprint(caffe._caffe.BlobVec)\n",
    "draw_lrm.py": """import caffe.draw
from caffe.proto import caffe_pb2
from google.protobuf import text_format
net = caffe_pb2.NetParameter()
text_format.Merge('layer { name: "a" type: "Input" top: "a" }', net)
caffe.draw.draw_net_to_file(net, 'a.svg', 'LR', None, False)
""",
    "missing_net.py": "import caffe\nnet = caffe.Net('nowhere.prototxt', 'nowhere.caffemodel', caffe.TEST)\n",
    "fork/train.py": "import caffe\nfrom caffe.model_libs import *\nprint(MyForkBody)\n",
    "fork/python/caffe/model_libs.py": "def MyForkBody(net, from_layer):\n    return net\n",
    "py2lib/helper_py2.py": "def greet():\n    print 'hello from Python 2'\n",
    "py2path/solve.py": """import sys
sys.path.insert(0, '../py2lib')
import caffe
import helper_py2
helper_py2.greet()
""",
}


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("blobvec.py", 0, "BlobVec"),
        ("draw_lrm.py", 0, ""),
        ("missing_net.py", 1, "nowhere.prototxt"),
        ("fork/train.py", 0, "<function MyForkBody"),
        ("py2path/solve.py", 0, "hello from Python 2"),
    ],
)
def test_script(script, status, said, tmp_path):
    for name, text in SCRIPTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path = tmp_path / script
    command = [sys.executable, "-m", "pyscratchdet.caffe", path.name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, env=environment)
    assert bool(done.returncode) == bool(status), done.stderr
    assert said in done.stdout + done.stderr
    assert "None" not in done.stderr
    assert (path.parent / "a.svg").exists() == (script == "draw_lrm.py")


# --- data ---


def write_pictures(folder, names=("one",), corners=(3, 20), gray=False):
    """Writes pictures, annotations, a label map and the list of both."""
    (folder / "labels.prototxt").write_text(LABEL_MAP)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(number).integers(0, 255, (24, 32) if gray else (24, 32, 3), np.uint8)
        assert cv2.imwrite(str(folder / f"{name}.jpg"), picture)
        (folder / f"{name}.xml").write_text(XML.format(*corners))
    (folder / "list.txt").write_text("".join(f"{name}.jpg {name}.xml\n" for name in names))


def make_database(capsys, folder, *options):
    words = ["--anno_type=detection", f"--label_map_file={folder}/labels.prototxt", *options]
    return run(capsys, "lmdb", *words, f"{folder}/", folder / "list.txt", folder / "db")


DATA = """layer { name: "data" type: "AnnotatedData" top: "data" top: "label" TRANSFORM annotated_data_param { }
  data_param { source: "FOLDER/db" batch_size: 2 backend: LMDB } }
layer { name: "quiet" type: "Silence" bottom: "data" bottom: "label" }"""


def data_net(folder, transform):
    (folder / "net.prototxt").write_text(DATA.replace("TRANSFORM", transform).replace("FOLDER", str(folder)))
    return folder / "net.prototxt"


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_database_ends_in_a_message(part, capsys, tmp_path):
    write_pictures(tmp_path, [f"p{k}" for k in range(40)])
    assert make_database(capsys, tmp_path)[0] == 0
    data = (tmp_path / "db/data.mdb").read_bytes()
    (tmp_path / "db/data.mdb").write_bytes(data[: int(len(data) * part)])
    command = [sys.executable, "-m", "pyscratchdet", "compute-image-mean", tmp_path / "db", tmp_path / "m.binaryproto"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "db" in done.stderr


def test_blob_message_split_over_several_fields(tmp_path):
    """Protobuf merges the pieces of a message that is written in several."""
    values = noise(4, 3)
    whole = array_to_blob(values)
    shape, data = caffe_pb2.BlobProto(shape=whole.shape), caffe_pb2.BlobProto(data=whole.data)
    layer = caffe_pb2.LayerParameter(name="fc", type="InnerProduct").SerializeToString()
    pieces = shape.SerializeToString() + data.SerializeToString()[:0]
    half = caffe_pb2.BlobProto(data=whole.data[:5]).SerializeToString()
    rest = caffe_pb2.BlobProto(data=whole.data[5:]).SerializeToString()
    body = pieces + half + rest
    layer += bytes([7 << 3 | 2, len(body)]) + body
    content = bytes([100 << 3 & 0x7F | 0x80 | 2, 100 >> 4]) + bytes([len(layer)]) + layer
    (tmp_path / "w.caffemodel").write_bytes(content)
    parsed = caffe_pb2.NetParameter.FromString(content)
    assert list(parsed.layer[0].blobs[0].data) == values.ravel().tolist()
    (found,) = read_weights(tmp_path / "w.caffemodel").blobs["fc"]
    np.testing.assert_array_equal(found, values)


def test_encoded_as_create_annoset_prints_it(capsys, tmp_path):
    write_pictures(tmp_path)
    status, printed = make_database(capsys, tmp_path, "--encoded=True", "--check_label=False", "--encode_type=jpg")
    assert status == 0, printed
    record = annotated_of(Database(tmp_path / "db").value(0), "record")
    assert record.datum.encoded
    assert record.datum.data == (tmp_path / "one.jpg").read_bytes()


def test_to_coco_keeps_folders_and_not_the_keys_digits(capsys, tmp_path):
    write_pictures(tmp_path, ["one", "sub/two"])
    assert make_database(capsys, tmp_path)[0] == 0
    options = ("--label-map", tmp_path / "labels.prototxt")
    assert run(capsys, "lmdb", "to-coco", tmp_path / "db", tmp_path / "c.json", *options)[0] == 0
    images = json.loads((tmp_path / "c.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["one.jpg", "sub/two.jpg"]


def test_gray_database_with_distortion(capsys, tmp_path):
    write_pictures(tmp_path, gray=True)
    assert make_database(capsys, tmp_path, "--gray", "--encoded", "--encode_type=jpg")[0] == 0
    distort = "transform_param { distort_param { brightness_prob: 1 brightness_delta: 9 saturation_prob: 1 } }"
    status, printed = run(capsys, "time", "--model", data_net(tmp_path, distort), "--iterations", 1)
    assert status in (0, 2), printed
    assert status == 0 or "distort_param" in printed


@pytest.mark.parametrize("corner", ["", "5,5", "five"])
def test_coordinate_that_is_no_number(corner, capsys, tmp_path):
    write_pictures(tmp_path, corners=(corner, 20))
    status, printed = make_database(capsys, tmp_path)
    assert status == 2
    assert "one.xml" in printed
    assert "xmin" in printed
    assert not (tmp_path / "db").exists()


def test_reversed_corners_are_refused_when_they_are_written(capsys, tmp_path):
    write_pictures(tmp_path, corners=(20, 3))
    status, printed = make_database(capsys, tmp_path)
    assert status == 2
    assert "one.xml" in printed
    assert not (tmp_path / "db").exists()


def test_picture_name_with_a_blank_names_the_line(capsys, tmp_path):
    write_pictures(tmp_path, ["one", "my cat"])
    _, printed = make_database(capsys, tmp_path)
    assert len(Database(tmp_path / "db")) == 1
    assert f"{tmp_path}/list.txt:2" in printed


def test_mean_file_of_another_size(capsys, tmp_path):
    write_pictures(tmp_path)
    assert make_database(capsys, tmp_path)[0] == 0
    blob = caffe_pb2.BlobProto(num=1, channels=3, height=9, width=9, data=[1.0] * 243)
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    mean = f'transform_param {{ mean_file: "{tmp_path}/mean.binaryproto" }}'
    status, printed = run(capsys, "time", "--model", data_net(tmp_path, mean), "--iterations", 1)
    assert status == 2
    assert "mean" in printed
    assert "9" in printed


# --- the command line ---

PYTHON_NET = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "py" type: "Python" bottom: "x" top: "y" python_param { module: "stranger" layer: "Layer" } }"""


def test_summary_runs_no_code_of_the_net(capsys, tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemExit('run')")
    (tmp_path / "net.prototxt").write_text(PYTHON_NET)
    monkeypatch.syspath_prepend(tmp_path)
    status, printed = run(capsys, "summary", tmp_path / "net.prototxt")
    assert status == 2
    assert 'layer "py" (Python)' in printed
    assert '"stranger"' in printed
    assert "--allow-python" in printed


RECURRENT = """name: "r"
layer { name: "in" type: "DummyData" top: "x" top: "cont" top: "y" dummy_data_param {
  shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 } shape { dim: 3 dim: 2 dim: 5 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 }
  data_filler { type: "uniform" min: -1 max: 1 } } }
layer { name: "rec" type: "TYPE" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 5
  weight_filler { type: "uniform" min: -0.5 max: 0.5 } bias_filler { type: "constant" value: 0.1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "h" bottom: "y" top: "loss" }"""


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_resuming_keeps_recurrent_state(kind, tmp_path):
    (tmp_path / "net.prototxt").write_text(RECURRENT.replace("TYPE", kind))
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 6 snapshot: 3 '
        f'random_seed: 2 snapshot_prefix: "{tmp_path}/s"'
    )
    assert main(["train", "--solver", str(tmp_path / "solver.prototxt")]) == 0
    whole = (tmp_path / "s_iter_6.caffemodel").read_bytes()
    (tmp_path / "s_iter_6.caffemodel").unlink()
    assert main(["train", f"--solver={tmp_path}/solver.prototxt", f"--snapshot={tmp_path}/s_iter_3.solverstate"]) == 0
    assert (tmp_path / "s_iter_6.caffemodel").read_bytes() == whole


def test_convert_refuses_options_that_it_would_not_read(capsys, tmp_path):
    save_weights(build_net(str(HERE / "upsample.prototxt")), tmp_path / "w.caffemodel")
    words = ["convert", tmp_path / "w.caffemodel", tmp_path / "v.caffemodel"]
    options = ("--coco-to-voc", "--half", "--size", 5, "--weights", "nowhere.pth")
    status, printed = run(capsys, *words, *options)
    assert status == 2
    assert all(option in printed for option in ("--half", "--size", "--weights"))
    assert not (tmp_path / "v.caffemodel").exists()


@pytest.mark.parametrize("ending", ["caffemodel.h5", "safetensors"])
def test_weights_of_layers_that_the_net_lacks_come_back(ending, capsys, tmp_path):
    model = tmp_path / "net.prototxt"
    text = (HERE / "upsample.prototxt").read_text()
    more = 'layer { name: "gone" type: "InnerProduct" bottom: "u" top: "gone" inner_product_param { num_output: 2 } }'
    model.write_text(text)
    save_weights(build_net(parse(text + more, caffe_pb2.NetParameter)), tmp_path / "w.caffemodel")
    there, back = tmp_path / f"w.{ending}", tmp_path / "back.caffemodel"
    assert run(capsys, "convert", tmp_path / "w.caffemodel", there, "--model", model)[0] == 0
    status, printed = run(capsys, "convert", there, back, "--model", model)
    assert status == 0, printed
    before, after = (read_weights(path).blobs for path in (tmp_path / "w.caffemodel", back))
    assert list(after) == [name for name in before if name in after]
    for name in ("c", "gone"):
        for ours, theirs in zip(after[name], before[name], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_torchvision_never_loads_from_the_network(capsys, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("connects")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    paths = tmp_path / "n.caffemodel", tmp_path / "n.prototxt"
    status, printed = run(capsys, "convert", "torchvision:retinanet_resnet50_fpn", paths[0], "--prototxt", paths[1])
    assert status == 2
    assert "torchvision" in printed
    assert named_model("torchvision:ssd300_vgg16").module.backbone  # which converts


def test_onnx_refusals_are_not_wrapped(capsys, tmp_path):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[2, 2])], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 2, 9, 9))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    options = ("--prototxt", tmp_path / "n.prototxt")
    status, printed = run(capsys, "convert", tmp_path / "m.onnx", tmp_path / "n.caffemodel", *options)
    assert status == 2
    assert "makes no sense" not in printed
    assert printed.count("[onnx.") + printed.count("[import.") == 1


def test_snapshot_that_is_a_caffemodel(capsys, tmp_path):
    (tmp_path / "net.prototxt").write_text(RECURRENT.replace("TYPE", "RNN"))
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "{tmp_path}/s"'
    )
    save_weights(build_net(str(tmp_path / "net.prototxt"), "TRAIN"), tmp_path / "x.caffemodel")
    options = (f"--solver={tmp_path}/solver.prototxt", f"--snapshot={tmp_path}/x.caffemodel")
    status, printed = run(capsys, "train", *options)
    assert status == 2
    assert "damaged" not in printed
    assert "--weights" in printed
    assert ".solverstate" in printed


FIXED_DETECTOR = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
layer { name: "loc" type: "InnerProduct" bottom: "x" top: "loc" inner_product_param { num_output: 64 } }
layer { name: "conf" type: "InnerProduct" bottom: "x" top: "conf" inner_product_param { num_output: 32 } }
layer { name: "r" type: "Reshape" bottom: "conf" top: "r" reshape_param { shape { dim: BATCH dim: -1 dim: 2 } } }
layer { name: "sm" type: "Softmax" bottom: "r" top: "sm" softmax_param { axis: 2 } }
layer { name: "f" type: "Flatten" bottom: "sm" top: "f" }
layer { name: "prior" type: "PriorBox" bottom: "x" bottom: "x" top: "prior" prior_box_param { min_size: 2 } }
layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "f" bottom: "prior" top: "out"
  detection_output_param { num_classes: 2 nms_param { top_k: 5 } keep_top_k: 5 } }"""


def test_batch_that_is_fixed_inside_the_net():
    fixed, free = (build_net(parse(FIXED_DETECTOR.replace("BATCH", dim), caffe_pb2.NetParameter)) for dim in "10")
    dims = export_onnx(fixed).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 3, 4, 4]
    assert export_onnx(free).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_another_batch_is_refused_at_the_layer_that_fixes_it():
    text = FIXED_DETECTOR.replace("BATCH", "1")
    net = build_net(parse(text, caffe_pb2.NetParameter))
    with pytest.raises(LayerError) as caught, torch.no_grad():
        net(torch.zeros(8, 3, 4, 4))
    assert 'layer "r" (Reshape)' in str(caught.value)
    with torch.no_grad():
        assert build_net(parse(FIXED_DETECTOR.replace("BATCH", "0"), caffe_pb2.NetParameter))(torch.zeros(8, 3, 4, 4))

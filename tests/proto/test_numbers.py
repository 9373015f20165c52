"""Binary files of other Caffes: `dialects/` holds a net of each, as text and as its own Caffe's schema writes it."""

from pathlib import Path

import pytest

from pyscratchdet.cli import main
from pyscratchdet.errors import UsageError, WeightsError
from pyscratchdet.proto import caffe_pb2, schema, text, weights
from pyscratchdet.proto.forks import DIALECTS, fork_fields
from pyscratchdet.proto.numbers import binary_dialect

FOLDER = Path(__file__).parent / "dialects"
TEXTS = sorted(FOLDER.glob("*.prototxt"))
BINARIES = sorted(FOLDER.glob("*.caffemodel"))
# Nets whose layer types show whose they are.
SHOWN = {"cascade", "focal", "mscnn", "openpose", "pspnet", "ristretto", "sphereface", "textboxes", "yolo"}
# Nets that the base cannot read, since it has other types under their numbers.
MEET_OTHERS = {"intel"}


def net_of(path):
    return text.read(path.with_suffix(".prototxt"), caffe_pb2.NetParameter)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_every_dialect_has_a_net_with_fields_of_its_own(path):
    found = list(fork_fields(net_of(path)))
    assert bool(found) == (path.stem != "faceboxes")  # whose schema is SSD's
    assert all(path.stem in one.known.dialects for one in found)


def test_no_dialect_is_left_out():
    assert {path.stem for path in TEXTS} == set(DIALECTS.origins)
    # OpenCV's and OpenVINO's are importers, which wrote no files; the true numbers of the other's are not known.
    assert {path.stem for path in BINARIES} == set(DIALECTS.origins) - {"opencv", "openvino", "unsourced"}


def test_each_dialect_has_numbers_of_its_own():
    folder = Path(schema.__file__).parent / "dialects"
    blocks = [schema.read_schema(path).options["block"] for path in folder.glob("*.proto")]
    assert len(set(blocks)) == len(blocks) == len(DIALECTS.origins)


@pytest.mark.parametrize("path", BINARIES, ids=lambda path: path.stem)
def test_a_binary_file_is_read_and_written_by_the_numbers_of_its_dialect(path, tmp_path):
    with binary_dialect(path.stem):
        net = weights.read_message(path, caffe_pb2.NetParameter)
        weights.write_message(tmp_path / "again", net)
        again = weights.read_message(tmp_path / "again", caffe_pb2.NetParameter)
    assert net == again == net_of(path)
    assert len((tmp_path / "again").read_bytes()) == path.stat().st_size  # the same fields, if in another order


@pytest.mark.parametrize("path", BINARIES, ids=lambda path: path.stem)
def test_without_a_name_the_layer_types_decide(path, caplog):
    if path.stem in MEET_OTHERS:
        with pytest.raises(WeightsError, match="--dialect"):
            weights.read_message(path, caffe_pb2.NetParameter)
        return
    net = weights.read_message(path, caffe_pb2.NetParameter)
    said = f"{path}: read by the field numbers of {DIALECTS.origins[path.stem]}, which its layer types show"
    assert (said in caplog.text) == (path.stem in SHOWN)
    if path.stem in SHOWN:
        assert net == net_of(path)


def test_a_type_that_many_caffes_have_shows_none_of_them(tmp_path, caplog):
    net = caffe_pb2.NetParameter(layer=[{"name": "r", "type": "ReLU6"}, {"name": "i", "type": "Interp"}])
    net.layer[1].interp_param.height = 7
    weights.write_message(tmp_path / "net", net)
    assert weights.read_message(tmp_path / "net", caffe_pb2.NetParameter) == net
    assert not caplog.text


def test_weights_of_another_caffe_are_read(tmp_path):
    net = caffe_pb2.NetParameter(layer=[{"name": "conv", "type": "Convolution", "engine": "MKLDNN"}])
    path = tmp_path / "net.caffemodel"
    with binary_dialect("intel"):
        weights.write_caffemodel(path, net, {"conv": [[[1.0, 2.0]]]})
        assert weights.read_weights(path).blobs["conv"][0].tolist() == [[1, 2]]
    with pytest.raises(WeightsError, match="if another Caffe wrote it, --dialect"):
        weights.read_weights(path)


def test_unknown_dialects_are_refused():
    with pytest.raises(UsageError, match='did you mean "nvidia"'), binary_dialect("nvidai"):
        pass


def test_commands_take_the_name_of_a_dialect(tmp_path, capsys):
    binary = tmp_path / "net.caffemodel"
    assert main(["upgrade-net", str(FOLDER / "intel.caffemodel"), str(binary), "--dialect", "intel"]) == 0
    with binary_dialect("intel"):
        assert weights.read_message(binary, caffe_pb2.NetParameter) == net_of(FOLDER / "intel.prototxt")
    assert main(["upgrade-net", str(FOLDER / "intel.caffemodel"), str(binary), "--dialect", "intl"]) == 2
    assert 'no such dialect, found intl; did you mean "intel"?' in capsys.readouterr().err

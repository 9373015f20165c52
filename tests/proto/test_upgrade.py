"""Upgrades of old formats: recordings of the original tools, each rule, and what cannot be upgraded."""

import hashlib
import shutil
from pathlib import Path

import pytest

from pyscratchdet.cli import main
from pyscratchdet.errors import PrototxtError
from pyscratchdet.layers.plan import read_net
from pyscratchdet.proto import caffe_pb2, text, weights
from pyscratchdet.proto.upgrade import net_needs_upgrade, upgrade_net, upgrade_solver, v1_type_name

DATA = Path(__file__).parent / "data"
CASES = sorted(path.name.removesuffix(".out.prototxt") for path in DATA.glob("*.out.prototxt"))
REFUSED = ["bad_syntax", "solver_bad", "v0_padding_not_conv", "v0_unknown_type", "v1_with_v0_layer"]
# Checksums of what the original's upgrade_net_proto_binary wrote.
BINARY = {
    "b_v0_hand": "939fcc15eef80aa8ea8096460b912c9c67cc5451063a34aa97d2d2cbc1756d79",
    "b_v2_bn3": "6932153ceb7a32954b32ab91e521582e3d1d871b2f14fe3acdff08c0d8105c78",
}


def command(case):
    return "upgrade-solver" if "solver" in case else "upgrade-net"


def upgraded(source):
    return upgrade_net(text.parse(source, caffe_pb2.NetParameter))


@pytest.mark.parametrize("case", CASES)
def test_text_equals_the_recording(case, tmp_path):
    out = tmp_path / "out.prototxt"
    assert main([command(case), str(DATA / f"{case}.in.prototxt"), str(out)]) == 0
    kind = caffe_pb2.SolverParameter if "solver" in case else caffe_pb2.NetParameter
    assert text.read(out, kind) == text.read(DATA / f"{case}.out.prototxt", kind)


def test_in_place_as_the_original_tools(tmp_path):
    for case in CASES[:2]:
        shutil.copy(DATA / f"{case}.in.prototxt", tmp_path / "net.prototxt")
        assert main([command(case), str(tmp_path / "net.prototxt"), str(tmp_path / "net.prototxt")]) == 0
        assert main([command(case), str(DATA / f"{case}.in.prototxt"), str(tmp_path / "out.prototxt")]) == 0
        assert (tmp_path / "net.prototxt").read_bytes() == (tmp_path / "out.prototxt").read_bytes()


@pytest.mark.parametrize("case", BINARY)
def test_binary_equals_the_recording_byte_for_byte(case, tmp_path):
    out = tmp_path / "out.caffemodel"
    assert main(["upgrade-net", str(DATA / f"{case}.in.caffemodel"), str(out)]) == 0
    assert hashlib.sha256(out.read_bytes()).hexdigest() == BINARY[case]


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_original_refuses_is_refused_with_its_line(case, tmp_path, capsys):
    source = tmp_path / "in.prototxt"
    shutil.copy(DATA / f"{case}.in.prototxt", source)
    assert main([command(case), str(source), str(tmp_path / "out.prototxt")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"pyscratchdet: {source}:")
    assert int(message.split(":")[2]) > 0
    assert not (tmp_path / "out.prototxt").exists()


def test_upgrade_twice_changes_nothing_and_never_the_argument():
    for case in CASES:
        if "solver" in case:
            continue
        net = text.read(DATA / f"{case}.in.prototxt", caffe_pb2.NetParameter)
        before = net.SerializeToString(deterministic=True)
        once = upgrade_net(net)
        assert net.SerializeToString(deterministic=True) == before
        assert not net_needs_upgrade(once)
        assert upgrade_net(once) is once


def test_every_v1_type_has_its_present_name():
    names = {kind: v1_type_name(kind) for kind in caffe_pb2.V1LayerParameter.LayerType.values()}
    by_name = {caffe_pb2.V1LayerParameter.LayerType.Name(kind): name for kind, name in names.items()}
    assert by_name["NONE"] == ""
    assert by_name["SOFTMAX_LOSS"] == "SoftmaxWithLoss"
    assert by_name["SIGMOID_CROSS_ENTROPY_LOSS"] == "SigmoidCrossEntropyLoss"
    assert by_name["IM2COL"] == "Im2col"
    assert len(set(names.values())) == len(names)


def test_inputs_become_one_layer():
    shapes = 'input: "a" input: "b" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4 '
    net = upgraded(shapes + "input_dim: 5 input_dim: 6 input_dim: 7 input_dim: 8 layer { name: 'l' }")
    assert [layer.name for layer in net.layer] == ["input", "l"]
    assert list(net.layer[0].top) == ["a", "b"]
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(PrototxtError, match="expected input_shape, or four input_dim, for each of its 2 inputs"):
        upgraded(shapes)
    # Without any shape, as in old weights files, the names are dropped.
    assert not upgraded('input: "a" layer { name: "l" }').input


def test_three_batch_norm_params_are_dropped_and_other_counts_stay():
    net = upgraded(
        'layer { type: "BatchNorm" param { } param { } param { lr_mult: 0 } }'
        'layer { type: "BatchNorm" param { } param { } }'
        'layer { type: "Scale" param { } param { } param { } }'
    )
    assert [len(layer.param) for layer in net.layer] == [0, 2, 3]


def test_one_old_transformation_field_gives_every_data_layer_its_messages():
    net = upgraded("layers { type: DATA data_param { scale: 0.5 } } layers { type: IMAGE_DATA } layers { type: RELU }")
    moved, empty, other = net.layer
    assert moved.transform_param.scale == 0.5
    assert not moved.data_param.HasField("scale")
    assert empty.HasField("transform_param")
    assert empty.HasField("image_data_param")
    assert not other.HasField("transform_param")
    untouched = upgraded("layers { type: DATA } layers { type: WINDOW_DATA }").layer
    assert not any(layer.HasField("transform_param") or layer.HasField("data_param") for layer in untouched)


def test_v1_multipliers_become_params():
    net = upgraded(
        'layers { type: CONVOLUTION blobs_lr: 1 blobs_lr: 2 weight_decay: 3 param: "w" blob_share_mode: PERMISSIVE }'
    )
    params = net.layer[0].param
    assert [(p.lr_mult, p.decay_mult, p.name, p.share_mode) for p in params] == [(1, 3, "w", 1), (2, 1, "", 0)]
    assert not params[1].HasField("decay_mult")


def test_padding_layer_moves_into_the_convolution():
    net = upgraded(
        'input: "x" input_dim: 1 input_dim: 2 input_dim: 5 input_dim: 4 '
        'layers { layer { name: "p" type: "padding" pad: 2 } bottom: "x" top: "p" }'
        'layers { layer { name: "c" type: "conv" num_output: 3 kernelsize: 5 stride: 2 } bottom: "p" top: "c" }'
    )
    assert [layer.name for layer in net.layer] == ["input", "c"]
    convolution = net.layer[1]
    assert list(convolution.bottom) == ["x"]
    assert list(convolution.convolution_param.pad) == [2]
    assert list(convolution.convolution_param.kernel_size) == [5]


def test_parameter_of_another_type_is_a_problem_that_does_not_stop(tmp_path, capsys):
    path = tmp_path / "in.prototxt"
    path.write_text('layers { layer { name: "r" type: "relu" kernelsize: 3 } top: "r" }')
    assert main(["upgrade-net", str(path), str(tmp_path / "out.prototxt")]) == 1
    assert "parameter kernelsize is unknown for layer type relu" in capsys.readouterr().err
    assert text.read(tmp_path / "out.prototxt", caffe_pb2.NetParameter).layer[0].type == "ReLU"


def test_errors_of_an_upgrade_name_the_layers_line(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('input: "x" input_dim: [1, 2, 5, 4]\n\nlayers { layer { name: "f" type: "frob" } bottom: "x" }')
    with pytest.raises(PrototxtError, match=r':3:1: layer "f": unknown V0 layer type "frob"'):
        read_net(path)
    path.write_text('layer { }\nlayers { name: "a" type: RELU }')
    with pytest.raises(PrototxtError, match=":2:1: layer and layers are mixed"):
        read_net(path)
    path.write_text('name: "n"\ninput: "x"\ninput_dim: 3')
    with pytest.raises(PrototxtError, match=":2:1: inputs without a shape"):
        read_net(path)


def test_solver_type_becomes_a_name():
    solver = caffe_pb2.SolverParameter(solver_type=caffe_pb2.SolverParameter.RMSPROP, base_lr=0.5)
    assert upgrade_solver(solver) == caffe_pb2.SolverParameter(type="RMSProp", base_lr=0.5)
    current = caffe_pb2.SolverParameter(type="Adam")
    assert upgrade_solver(current) is current
    with pytest.raises(PrototxtError, match="both given"):
        upgrade_solver(caffe_pb2.SolverParameter(type="Adam", solver_type=0))


def test_weights_of_all_versions_are_read_alike(tmp_path):
    blob = caffe_pb2.BlobProto(shape={"dim": [2, 3]}, data=range(6))
    v2 = caffe_pb2.NetParameter(layer=[{"name": "a", "type": "InnerProduct", "blobs": [blob]}])
    kind = caffe_pb2.V1LayerParameter.INNER_PRODUCT
    v1 = caffe_pb2.NetParameter(layers=[{"name": "a", "type": kind, "blobs": [blob]}])
    v0 = caffe_pb2.NetParameter(layers=[{"layer": {"name": "a", "type": "innerproduct", "blobs": [blob]}}])
    for number, net in enumerate([v0, v1, v2]):
        path = tmp_path / f"v{number}.caffemodel"
        weights.write_message(path, net)
        assert weights.read_weights(path).blobs["a"][0].tolist() == [[0, 1, 2], [3, 4, 5]]

"""Folded nets compute the same; solver states survive the way through torch."""

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_nets import NET, detector, noise, small_net, write_net

from pyscratchdet.cli import main
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.fold import check_folded
from pyscratchdet.converters.merge_bn import merge_bn
from pyscratchdet.converters.solver_state import state_from_torch, state_to_torch
from pyscratchdet.errors import ConversionError, SolverError
from pyscratchdet.files import write_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse
from pyscratchdet.proto.weights import write_caffemodel
from pyscratchdet.runtime import build_net, copy_weights, load_net, net_blobs
from pyscratchdet.solver.snapshot import SolverState, read_state, state_bytes

# Relative L2: folding rounds each weight once more, half a unit in the last place of float32 (6e-8), and sums of up to
# 54 products differ in their rounding.
TOLERANCE = 2e-6
# Relative L2 of a small detector's heads, OpenCV's and onnxruntime's orders of summation included: what DESIGN
# promises of one layer.
HEAD_TOLERANCE = 1e-5


def chain(*layers, before="data"):
    """A net of a head of three channels and layers `type { params }`, each on the last one's blob."""
    text = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 dim: 7 dim: 5 } } }'
    for k, (kind, params) in enumerate(layers):
        text += f' layer {{ name: "l{k}" type: "{kind}" bottom: "{before}" top: "b{k}" {params} }}'
        before = f"b{k}"
    return text


HOSTS = {
    "convolution": ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 2 }"),
    "no-bias": ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 bias_term: false }"),
    "deconvolution": ("Deconvolution", "convolution_param { num_output: 4 kernel_size: 3 group: 2 }"),
    "inner-product": ("InnerProduct", "inner_product_param { num_output: 4 }"),
    "transposed": ("InnerProduct", "inner_product_param { num_output: 4 transpose: true }"),
}


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_takes_what_follows(host):
    text = chain(HOSTS[host], ("BatchNorm", ""), ("Scale", "scale_param { bias_term: true }"), ("Bias", ""))
    param = parse(text, caffe_pb2.NetParameter)
    net = build_net(param)
    rng = np.random.default_rng(4)
    blobs = {
        name: [rng.uniform(0.2, 2, a.shape).astype("f4") for a in arrays] for name, arrays in net_blobs(net).items()
    }
    copy_weights(net, blobs)
    folded = merge_bn(param, blobs)
    assert [layer.type for layer in folded.param.layer] == ["Input", HOSTS[host][0]]
    assert folded.folded == ["l1", "l2", "l3"]
    assert folded.param.layer[1].top == ["b3"]
    again = build_net(folded.param)
    copy_weights(again, folded.blobs)
    inputs = {"data": torch.from_numpy(noise((2, 6, 7, 5)) / 100)}
    with torch.no_grad():
        expected, found = net(inputs)["b3"].numpy(), again(inputs)["b3"].numpy()
    assert difference(found, expected).relative < TOLERANCE


def test_a_scale_factor_of_zero_means_no_statistics():
    text = chain(HOSTS["no-bias"], ("BatchNorm", "batch_norm_param { eps: 0.25 }"))
    param = parse(text, caffe_pb2.NetParameter)
    weight = np.ones((4, 6, 3, 3), "f4")
    blobs = {"l0": [weight], "l1": [np.full(4, 5, "f4"), np.full(4, 5, "f4"), np.zeros(1, "f4")]}
    folded = merge_bn(param, blobs)
    np.testing.assert_array_equal(folded.blobs["l0"][0], weight * 2)  # 1 / sqrt(0 + 0.25)
    np.testing.assert_array_equal(folded.blobs["l0"][1], np.zeros(4))


def test_what_others_read_stays():
    """The raw convolution has a second reader, and a pre-activation BatchNorm follows no convolution."""
    text = chain(("BatchNorm", ""), HOSTS["no-bias"], ("BatchNorm", ""))
    text += ' layer { name: "reader" type: "ReLU" bottom: "b1" top: "r" }'
    param = parse(text, caffe_pb2.NetParameter)
    folded = merge_bn(param, net_blobs(build_net(param)))
    assert folded.folded == []
    assert folded.kept == ["l0", "l2"]
    assert folded.param == param


def test_weights_that_two_layers_share_are_left_alone():
    """Each branch has statistics of its own, so one folded weight cannot serve both."""
    shared = "param { name: 'w' } convolution_param { num_output: 4 kernel_size: 3 bias_term: false }"
    text = chain(("Convolution", shared), ("BatchNorm", ""))
    text += f' layer {{ name: "other" type: "Convolution" bottom: "data" top: "other" {shared} }}'
    text += ' layer { name: "other_bn" type: "BatchNorm" bottom: "other" top: "other_bn" }'
    text += ' layer { name: "alone" type: "Convolution" bottom: "data" top: "alone"'
    text += " convolution_param { num_output: 5 kernel_size: 1 } }"
    text += ' layer { name: "alone_bn" type: "BatchNorm" bottom: "alone" top: "alone_bn" }'
    param = parse(text, caffe_pb2.NetParameter)
    blobs = net_blobs(build_net(param))
    folded = merge_bn(param, blobs)
    assert folded.folded == ["alone_bn"]
    assert folded.kept == ["l1", "other_bn"]
    np.testing.assert_array_equal(folded.blobs["l0"][0], blobs["l0"][0])


def test_other_axes_and_other_readers_end_a_fold():
    """A Scale along the width is no factor per channel; a second bottom is no constant."""
    for last in ("scale_param { axis: 3 }", "scale_param { axis: 1 num_axes: 2 }"):
        text = chain(HOSTS["no-bias"], ("BatchNorm", ""), ("Scale", last))
        param = parse(text, caffe_pb2.NetParameter)
        assert merge_bn(param, net_blobs(build_net(param))).folded == ["l1"]
    text = chain(HOSTS["no-bias"]) + ' layer { name: "s" type: "Scale" bottom: "b0" bottom: "data" top: "s" }'
    text = text.replace("num_output: 4 kernel_size: 3", "num_output: 6 kernel_size: 1")
    param = parse(text, caffe_pb2.NetParameter)
    param.layer[-1].scale_param.axis = 0
    assert merge_bn(param, net_blobs(build_net(param))).folded == []


INPUTS = """
layer { name: "data" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }
layer { name: "more" type: "Input" top: "b" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }
"""
CONV = "convolution_param { num_output: 4 kernel_size: 3 bias_term: false }"
NORM = 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "n" }'
SCALE = 'layer { name: "sc" type: "Scale" bottom: "n" top: "n" scale_param { bias_term: true } }'
# A net, and the layers that are folded; what is left must compute the same.
NETS = {
    "a BatchNorm for each phase": (
        f'layer {{ name: "c" type: "Convolution" bottom: "a" top: "c" {CONV} }}'
        'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "n" include { phase: TRAIN }'
        " batch_norm_param { use_global_stats: false } }"
        'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "n" include { phase: TEST }'
        " batch_norm_param { use_global_stats: true } }" + SCALE,
        ["bn", "sc"],
    ),
    "two tops": (
        f'layer {{ name: "c" type: "Convolution" bottom: "a" bottom: "b" top: "c" top: "d" {CONV} }}{NORM}{SCALE}'
        'layer { name: "sum" type: "Eltwise" bottom: "n" bottom: "d" top: "sum" }',
        [],
    ),
    "an inner product along the last axis": (
        'layer { name: "c" type: "InnerProduct" bottom: "a" top: "c" inner_product_param { num_output: 7 axis: 3 } }'
        + NORM,
        [],
    ),
    "an inner product along the last of two axes": (
        'layer { name: "flat" type: "Reshape" bottom: "a" top: "f" reshape_param { shape { dim: 6 dim: 30 } } }'
        'layer { name: "c" type: "InnerProduct" bottom: "f" top: "c" inner_product_param { num_output: 7 axis: -1 } }'
        + NORM
        + SCALE,
        ["bn", "sc"],
    ),
    "a convolution along another axis": (
        'layer { name: "c" type: "Convolution" bottom: "a" top: "c"'
        " convolution_param { num_output: 3 kernel_size: 2 axis: 2 } }" + NORM,
        [],
    ),
    "a scale that another layer shares": (
        f'layer {{ name: "c" type: "Convolution" bottom: "a" top: "c" {CONV} }}'
        'layer { name: "s" type: "Scale" bottom: "c" top: "n" param { name: "s" } }'
        f'layer {{ name: "d" type: "Convolution" bottom: "b" top: "d" {CONV} }}'
        'layer { name: "relu" type: "ReLU" bottom: "d" top: "d" }'
        'layer { name: "t" type: "Scale" bottom: "d" top: "t" param { name: "s" } }',
        [],
    ),
    "storage that a Reshape shares": (
        f'layer {{ name: "c" type: "Convolution" bottom: "a" top: "c" {CONV} }}'
        'layer { name: "view" type: "Reshape" bottom: "c" top: "v" reshape_param { shape { dim: 0 dim: 4 dim: -1 } } }'
        'layer { name: "sc" type: "Scale" bottom: "v" top: "v" }',
        [],
    ),
    "a scale along another axis, by its negative number": (
        f'layer {{ name: "c" type: "Convolution" bottom: "a" top: "c" {CONV} }}'
        'layer { name: "s" type: "Scale" bottom: "c" top: "s" scale_param { axis: -3 } }'
        'layer { name: "t" type: "Scale" bottom: "s" top: "t" scale_param { axis: -1 } }',
        ["s"],
    ),
    "one factor for all": (
        f'layer {{ name: "c" type: "Convolution" bottom: "a" top: "c" {CONV} }}'
        'layer { name: "s" type: "Scale" bottom: "c" top: "s" scale_param { axis: 0 num_axes: 0 } }',
        ["s"],
    ),
    "a training loss beside it": (
        f'layer {{ name: "c" type: "Convolution" bottom: "a" top: "c" {CONV} }}{NORM}{SCALE}'
        'layer { name: "aux" type: "InnerProduct" bottom: "n" top: "aux" include { phase: TRAIN }'
        " inner_product_param { num_output: 2 } }",
        ["bn", "sc"],
    ),
}


@pytest.mark.parametrize("case", NETS)
def test_folding_follows_the_net_of_the_test_phase(case, tmp_path, capsys):
    text, expected = NETS[case]
    deploy, caffemodel = write_net(tmp_path, INPUTS + text)
    names = [str(tmp_path / name) for name in ("f.caffemodel", "f.prototxt")]
    assert main(["convert", caffemodel, names[0], "--fold", "--model", deploy, "--prototxt", names[1]]) == 0
    printed = capsys.readouterr().out
    assert f"{len(expected)} layer{'s' * (len(expected) != 1)} folded" in printed
    assert "run against the unfolded net on noise: blob" in printed
    before, after = load_net(deploy, caffemodel), load_net(names[1], names[0])
    assert [name for name in before.layer_names if name not in after.layer_names] == expected
    inputs = {"a": torch.from_numpy(noise((2, 3, 6, 5))), "b": torch.from_numpy(noise((2, 3, 6, 5), 6))}
    with torch.no_grad():
        wanted, found = before(inputs), after(inputs)
    assert list(found) == list(wanted)
    for name in wanted:
        assert difference(found[name].numpy(), wanted[name].numpy()).relative < TOLERANCE


def test_weights_of_other_phases_are_named(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, INPUTS + NETS["a training loss beside it"][0])
    blobs = dict(net_blobs(load_net(deploy, caffemodel)))
    structure = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name=name) for name in (*blobs, "aux")])
    write_caffemodel(caffemodel, structure, {**blobs, "aux": [np.ones((2, 3), "f4")]})
    names = [str(tmp_path / name) for name in ("f.caffemodel", "f.prototxt")]
    assert main(["convert", caffemodel, names[0], "--fold", "--model", deploy, "--prototxt", names[1]]) == 0
    assert "left out: aux" in capsys.readouterr().out


@pytest.mark.parametrize("gone", ["conv1", "bn1", "conv2"])
def test_a_layer_without_weights_is_an_error(tmp_path, capsys, gone):
    deploy, caffemodel = write_net(tmp_path)
    blobs = dict(net_blobs(load_net(deploy, caffemodel)))
    del blobs[gone]
    structure = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name=name) for name in blobs])
    write_caffemodel(caffemodel, structure, blobs)
    names = [str(tmp_path / name) for name in ("f.caffemodel", "f.prototxt")]
    assert main(["convert", caffemodel, names[0], "--fold", "--model", deploy, "--prototxt", names[1]]) == 2
    assert f'layer "{gone}"' in (message := capsys.readouterr().err)
    assert message.endswith("[convert.missing]\n")
    assert not (tmp_path / "f.caffemodel").exists()


def test_a_batch_norm_of_five_blobs_is_one_message(tmp_path, capsys):
    """NVCaffe keeps scale and bias in it; without the fork's field our layer has three blobs."""
    deploy, caffemodel = write_net(tmp_path)
    blobs = dict(net_blobs(load_net(deploy, caffemodel)))
    blobs["bn1"] += [np.ones(6, "f4"), np.ones(6, "f4")]
    structure = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name=name) for name in blobs])
    write_caffemodel(caffemodel, structure, blobs)
    names = [str(tmp_path / name) for name in ("f.caffemodel", "f.prototxt")]
    assert main(["convert", caffemodel, names[0], "--fold", "--model", deploy, "--prototxt", names[1]]) == 2
    message = capsys.readouterr().err
    assert message.startswith('pyscratchdet: layer "bn1" (BatchNorm): its weights do not fit, expected [(6,), (6,)')


def test_a_folded_net_that_computes_something_else_is_refused(tmp_path):
    net = small_net()
    param, blobs = parse(NET, caffe_pb2.NetParameter), net_blobs(net)
    folded = merge_bn(param, blobs)
    worst = check_folded(param, blobs, folded)
    assert worst is not None
    assert worst.drift is not None
    assert worst.drift.relative < TOLERANCE
    folded.blobs["conv1"][0] = folded.blobs["conv1"][0] * np.float32(1.001)
    with pytest.raises(ConversionError, match="folding changes blob"):
        check_folded(param, blobs, folded)


def test_missing_weights_are_named():
    param = parse(NET, caffe_pb2.NetParameter)
    blobs = net_blobs(small_net())
    del blobs["scale1"]
    with pytest.raises(ConversionError) as caught:
        merge_bn(param, blobs)
    assert (caught.value.code, caught.value.layer) == ("convert.missing", "scale1")


def test_folding_by_command(tmp_path):
    deploy, caffemodel = write_net(tmp_path, detector())
    target, prototxt = str(tmp_path / "folded.caffemodel"), str(tmp_path / "folded.prototxt")
    assert main(["convert", caffemodel, target, "--model", deploy, "--fold", "--prototxt", prototxt]) == 0
    net = load_net(prototxt, target)
    assert "BatchNorm" not in [module.layer_type for module in net.layers]
    inputs = noise((1, 3, 22, 26)) / 100
    with torch.no_grad():
        expected = load_net(deploy, caffemodel).forward_blobs({"data": inputs})
        found = net.forward_blobs({"data": inputs})
    assert (
        difference(found["mbox_conf_flatten"].numpy(), expected["mbox_conf_flatten"].numpy()).relative < HEAD_TOLERANCE
    )
    assert found["detection_out"].shape == expected["detection_out"].shape
    theirs = cv2.dnn.readNetFromCaffe(prototxt, target)
    theirs.setInput(inputs)
    assert difference(theirs.forward("mbox_loc"), expected["mbox_loc"].numpy()).relative < HEAD_TOLERANCE
    assert main(["convert", caffemodel, target, "--fold"]) == 2


def test_folded_onnx_by_command(tmp_path):
    deploy, caffemodel = write_net(tmp_path, detector())
    inputs = noise((2, 3, 22, 26)) / 100
    answers = {}
    for target, options in (("faithful", []), ("folded", ["--fold"])):
        path = str(tmp_path / f"{target}.onnx")
        assert main(["convert", caffemodel, path, "--model", deploy, "--heads", "raw", *options]) == 0
        model = onnx.load(path)
        kinds = {node.op_type for node in model.graph.node}
        assert ("BatchNormalization" in kinds) == (target == "faithful")
        assert {"conv1", "loc1", "mbox_loc"} <= {name for node in model.graph.node for name in node.output}
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        answers[target] = session.run(["mbox_loc"], {"data": inputs})[0]
    assert len(answers["folded"]) == 2
    assert difference(answers["folded"], answers["faithful"]).relative < HEAD_TOLERANCE


# --- solver states ---


def a_state(folder, num_histories):
    deploy, _ = write_net(folder)
    rng = np.random.default_rng(2)
    shapes = [tuple(blob.parameter.shape) for blob in build_net(deploy).learnable]
    histories = [rng.normal(size=shape).astype("f4") for _ in range(num_histories) for shape in shapes]
    state = SolverState(1234, "net_iter_1234.caffemodel", histories, current_step=2, minimum_loss=0.5)
    write_bytes(folder / "a.solverstate", state_bytes(state))
    return deploy, state


@pytest.mark.parametrize("num_histories", [1, 2])
@pytest.mark.parametrize("ending", ["solverstate", "solverstate.h5"])
def test_solver_state_through_torch(tmp_path, num_histories, ending):
    deploy, state = a_state(tmp_path, num_histories)
    source, middle, back = tmp_path / "a.solverstate", tmp_path / "a.pt", tmp_path / f"b.{ending}"
    assert main(["convert", str(source), str(middle), "--model", deploy]) == 0
    assert main(["convert", str(middle), str(back)]) == 0
    found = read_state(back)
    assert (found.iteration, found.learned_net, found.current_step) == (1234, state.learned_net, 2)
    for mine, theirs in zip(found.histories, state.histories, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    if ending == "solverstate":
        assert back.read_bytes() == source.read_bytes()


def test_the_pt_file_is_the_optimizers_state(tmp_path):
    from pyscratchdet.solver.optimizers import Adam

    deploy, state = a_state(tmp_path, 2)
    state_to_torch(tmp_path / "a.solverstate", tmp_path / "a.pt", deploy)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["names"][:2] == ["conv1/0", "conv1/1"]
    learnable = build_net(deploy).learnable
    optimizer = Adam([blob.parameter for blob in learnable])
    optimizer.load_state_dict(
        {"state": content["optimizer"]["state"], "param_groups": optimizer.state_dict()["param_groups"]}
    )
    for mine, theirs in zip(optimizer.histories(), state.histories, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)
    content["optimizer"]["state"][1]["history0"].requires_grad_()  # as nothing but the values is taken
    torch.save(content, tmp_path / "b.pt")
    state_from_torch(tmp_path / "b.pt", tmp_path / "b.solverstate")
    assert (tmp_path / "b.solverstate").read_bytes() == (tmp_path / "a.solverstate").read_bytes()


def test_states_that_do_not_fit_are_refused(tmp_path):
    deploy, state = a_state(tmp_path, 1)
    state.histories = list(state.histories)[:-1]
    write_bytes(tmp_path / "short.solverstate", state_bytes(state))
    with pytest.raises(ConversionError) as caught:
        state_to_torch(tmp_path / "short.solverstate", tmp_path / "s.pt", deploy)
    assert caught.value.code == "state.count"
    torch.save({"state_dict": {}}, tmp_path / "none.pt")
    with pytest.raises(SolverError) as caught:
        state_from_torch(tmp_path / "none.pt", tmp_path / "b.solverstate")
    assert caught.value.code == "state.torch"
    assert not (tmp_path / "b.solverstate").exists()

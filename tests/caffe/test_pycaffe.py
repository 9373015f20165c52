"""pycaffe's Net: its calling forms, blobs that write through, both passes, weights in and out."""

import re

import numpy as np
import pytest

import pyscratchdet.caffe as caffe
from pyscratchdet.errors import NetError, PyScratchDetError, UsageError, WeightsError

NET = """
name: "toy" force_backward: true
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 6 } } }
layer { name: "target" type: "Input" top: "target" input_param { shape { dim: 2 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "target" top: "loss" loss_weight: 3 }
"""
DEPLOY = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 3 dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def write(tmp_path):
    def write_net(text, name="net.prototxt"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write_net


@pytest.fixture
def net(write):
    caffe.set_random_seed(7)
    net = caffe.Net(write(NET), caffe.TRAIN)
    rng = np.random.default_rng(1)
    for name in net.inputs:
        net.blobs[name].data[...] = rng.normal(size=net.blobs[name].shape)
    return net


def numerical_gradient(net, array, index, step=1e-2):
    """Central difference of the weighted loss."""
    values = []
    for sign in (1, -1):
        array[index] += sign * step
        values.append(3 * float(net.forward()["loss"]))
        array[index] -= sign * step
    return (values[0] - values[1]) / (2 * step)


NET_MEMBERS = """blobs params forward forward_all backward forward_backward_all reshape copy_from save save_hdf5
load_hdf5 share_with inputs outputs layers layer_dict top_names bottom_names blob_loss_weights clear_param_diffs
set_input_arrays _set_input_arrays _layer_names _blob_names _blobs _inputs _outputs _bottom_ids _top_ids"""
SOLVER_MEMBERS = ["step", "solve", "iter", "snapshot", "restore", "add_callback"]


def test_everything_that_scripts_use_is_there(net):
    assert [name for name in caffe.__all__ if getattr(caffe, name) is None] == []
    assert [name for name in re.findall(r"\w+", NET_MEMBERS) if not hasattr(net, name)] == []
    assert [name for name in SOLVER_MEMBERS if not hasattr(caffe.SGDSolver, name)] == []
    assert {"Convolution", "MultiBoxLoss", "Python", "AnnotatedData"} <= set(caffe.layer_type_list())


def test_names_in_order(net):
    assert net.name == "toy"
    assert net._layer_names == ["in", "target", "conv", "relu", "fc", "loss"]
    assert list(net.blobs) == net._blob_names == ["data", "target", "conv", "fc", "loss"]
    assert (net.inputs, net.outputs) == (["data", "target"], ["loss"])
    assert ([net._blob_names[i] for i in net._inputs], net._outputs) == (["data", "target"], [4])
    assert net.bottom_names["loss"] == ["fc", "target"]
    assert net.top_names["relu"] == ["conv"]
    assert (net._bottom_ids(5), net._top_ids(5)) == ([3, 1], [4])
    assert list(net.params) == ["conv", "fc"]
    assert [blob.shape for blob in net.params["conv"]] == [(4, 3, 3, 3), (4,)]
    types = ["Input", "Input", "Convolution", "ReLU", "InnerProduct", "EuclideanLoss"]
    assert [layer.type for layer in net.layers] == types
    assert net.layer_dict["fc"].blobs[1].count == 5
    assert net.blob_loss_weights == {"data": 0, "target": 0, "conv": 0, "fc": 0, "loss": 3}
    blob = net.blobs["conv"]
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 4, 5, 4, 160)


def test_both_calling_forms(net, write, tmp_path):
    weights = str(tmp_path / "net.caffemodel")
    net.save(weights)
    model = write(NET)
    for built in (
        caffe.Net(model, weights, caffe.TRAIN),
        caffe.Net(model, caffe.TRAIN, weights=weights),
        caffe.Net(network_file=model, weights=weights, phase=caffe.TRAIN),
        caffe.Net(model, caffe.TRAIN, 0, ["some_stage"], weights),
    ):
        np.testing.assert_array_equal(built.params["fc"][0].data, net.params["fc"][0].data)
    with pytest.raises(UsageError, match="needs a phase"):
        caffe.Net(model)
    with pytest.raises(UsageError, match="needs a phase"):
        caffe.Net(model, 5)
    with pytest.raises(UsageError, match="too many arguments"):
        caffe.Net(model, caffe.TRAIN, 0, [], weights, 3)


def test_level_and_stages_choose_layers(write):
    source = DEPLOY + (
        'layer { name: "more" type: "ReLU" bottom: "prob" top: "more" include { min_level: 2 stage: "deep" } }'
    )
    path = write(source)
    assert "more" not in caffe.Net(path, caffe.TEST).blobs
    assert "more" in caffe.Net(path, caffe.TEST, level=2, stages=["deep"]).blobs


def test_missing_files_are_runtime_errors_as_in_the_original(write, tmp_path):
    missing = str(tmp_path / "none.prototxt")
    with pytest.raises(RuntimeError, match=r"Could not open file .*none\.prototxt"):
        caffe.Net(missing, caffe.TEST)
    with pytest.raises(RuntimeError, match="Could not open file"):
        caffe.Net(write(DEPLOY), str(tmp_path / "none.caffemodel"), caffe.TEST)
    with pytest.raises(OSError, match="Could not open file") as caught:
        caffe.io.load_image(str(tmp_path / "none.jpg"))
    assert isinstance(caught.value, PyScratchDetError)
    assert caught.value.code == "file.read"


def test_arrays_write_through_and_stay_valid(net):
    data, conv, weight = net.blobs["data"].data, net.blobs["conv"].data, net.params["fc"][0].data
    first = net.forward()["loss"].copy()
    np.testing.assert_array_equal(conv, net.blobs["conv"].data)
    assert conv.max() > 0
    data *= 2
    second = net.forward()["loss"].copy()
    assert second != first
    np.testing.assert_array_equal(conv, net.blobs["conv"].data)
    weight[...] = 0
    net.params["fc"][1].data[...] = 0
    expected = (net.blobs["target"].data.astype(np.float64) ** 2).sum() / 4
    # EuclideanLoss: sum of squares / (2 * batch of 2).
    np.testing.assert_allclose(net.forward()["loss"], expected, rtol=1e-6)


def test_forward_from_one_layer_to_another(net):
    whole = {name: array.copy() for name, array in net.forward(blobs=["conv", "fc"]).items()}
    assert set(whole) == {"loss", "conv", "fc"}
    net.blobs["conv"].data[...] = 1
    part = net.forward(start="fc", end="fc")
    weight, bias = (blob.data for blob in net.params["fc"])
    # Sums of 80 products in float32.
    np.testing.assert_allclose(part["fc"], np.tile(weight.sum(1) + bias, (2, 1)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(net.blobs["conv"].data, np.ones((2, 4, 5, 4)))
    assert net._forward(0, 5) == pytest.approx(3 * float(whole["loss"]), rel=1e-6)  # float32 rounding
    np.testing.assert_array_equal(net.blobs["fc"].data, whole["fc"])


def test_forward_with_arrays(net):
    data, target = np.ones((2, 3, 7, 6)), np.zeros((2, 5))
    out = net.forward(data=data, target=target)
    assert (net.blobs["data"].data == 1).all()
    np.testing.assert_allclose(out["loss"], (net.blobs["fc"].data ** 2).sum() / 4, rtol=1e-6)  # sums of 10 in float32
    with pytest.raises(NetError, match="do not match net inputs"):
        net.forward(data=data)
    with pytest.raises(NetError, match="not batch sized"):
        net.forward(data=data[:1], target=target)
    with pytest.raises(NetError, match='no layer "nothing"'):
        net.forward(start="nothing")


def test_backward_against_differences(net):
    net.forward()
    net.backward()
    gradients = {
        "data": (net.blobs["data"].data, net.blobs["data"].diff.copy(), (1, 2, 3, 4)),
        "weight": (net.params["conv"][0].data, net.params["conv"][0].diff.copy(), (3, 1, 0, 2)),
        "bias": (net.params["fc"][1].data, net.params["fc"][1].diff.copy(), (4,)),
    }
    for name, (array, gradient, index) in gradients.items():
        # float32 losses around 10 with steps of 0.01: three digits; a ReLU may switch.
        assert gradient[index] == pytest.approx(numerical_gradient(net, array, index), rel=2e-2, abs=2e-3), name


def test_diffs_of_weights_add_up_and_those_of_blobs_do_not(net):
    net.forward()
    net.backward()
    blob, weight = net.blobs["conv"].diff.copy(), net.params["conv"][0].diff.copy()
    assert np.abs(weight).max() > 0
    net.forward()
    net.backward()
    np.testing.assert_array_equal(net.blobs["conv"].diff, blob)
    np.testing.assert_array_equal(net.params["conv"][0].diff, 2 * weight)
    net.clear_param_diffs()
    assert not net.params["conv"][0].diff.any()
    # The loss weight is the diff that backward starts from; another one scales all gradients.
    assert net.blobs["loss"].diff == 3
    net.blobs["loss"].diff[...] = 6
    net.backward()
    np.testing.assert_allclose(net.params["conv"][0].diff, 2 * weight, rtol=1e-6)  # float32 rounding


def test_backward_in_part_and_from_given_diffs(net):
    net.forward()
    diff = np.arange(10, dtype=np.float32).reshape(2, 5)
    net.blobs["fc"].diff[...] = diff
    found = net.backward(start="fc", end="fc", diffs=["conv"])
    assert set(found) == {"fc", "conv"}
    expected = (diff @ net.params["fc"][0].data).reshape(2, 4, 5, 4)
    np.testing.assert_allclose(found["conv"], expected, rtol=1e-5, atol=1e-5)  # sums of 5 in float32
    assert not net.blobs["data"].diff.any()
    with pytest.raises(NetError, match="do not match net outputs"):
        net.backward(fc=diff)


def test_backward_without_forward_goes_by_the_blobs(net):
    net.blobs["conv"].data[...] = 1
    net.blobs["fc"].diff[...] = 1
    net.backward(start="fc", end="fc")
    np.testing.assert_allclose(net.params["fc"][0].diff, np.full((5, 80), 2), rtol=1e-6)  # float32 rounding


def test_forward_in_pieces_then_backward(net):
    net.blobs["conv"].data  # someone holds the array  # noqa: B018
    net.forward()
    net.forward(start="fc")
    net.forward(end="conv")
    net.backward()
    assert np.isfinite(net.blobs["data"].diff).all()


def test_propagate_down_stops_gradients(write):
    source = NET.replace("force_backward: true", "")
    cut = source.replace('bottom: "conv" top: "fc"', 'bottom: "conv" top: "fc" propagate_down: false')
    for text, reaches in ((source, True), (cut, False)):
        net = caffe.Net(write(text), caffe.TRAIN)
        net.blobs["data"].data[...] = 1
        net.forward()
        net.backward()
        assert bool(net.params["conv"][0].diff.any()) is reaches
        assert net.params["fc"][0].diff.any()
        assert not net.blobs["data"].diff.any()  # nobody asked for it


def test_reshape_by_blob_then_net(net):
    net.blobs["data"].reshape(4, 3, 7, 6)
    net.blobs["target"].reshape(4, 5)
    net.reshape()
    assert [blob.shape for blob in net.blobs.values()] == [(4, 3, 7, 6), (4, 5), (4, 4, 5, 4), (4, 5), ()]
    net.forward()
    net.backward()
    assert net.blobs["data"].diff.shape == (4, 3, 7, 6)
    assert net.blobs["loss"].diff == 3
    net.blobs["data"].reshape(4, 2, 7, 6)
    with pytest.raises(PyScratchDetError, match="conv") as caught:
        net.reshape()
    assert caught.value.position.line == 5


def test_forward_reshapes_by_itself(write):
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    net.blobs["data"].reshape(5, 2)
    net.blobs["data"].data[...] = 1
    assert net.forward()["prob"].shape == (5, 4)
    np.testing.assert_allclose(net.blobs["prob"].data.sum(1), np.ones(5), rtol=1e-6)  # sums of 4 in float32


def test_values_stay_when_a_blob_is_reshaped(write):
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    blob = net.blobs["data"]
    blob.data[...] = np.arange(6).reshape(3, 2)
    blob.reshape(2, 3)
    assert blob.data.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_weights_survive_both_forms(net, write, tmp_path):
    other = caffe.Net(write(NET), caffe.TRAIN)
    for write_weights, read_weights, name in (
        (net.save, other.copy_from, "a.caffemodel"),
        (net.save_hdf5, other.load_hdf5, "no_ending"),
    ):
        for blob in other.params["conv"]:
            blob.data[...] = 9
        write_weights(str(tmp_path / name))
        held = other.params["conv"][0].data
        read_weights(str(tmp_path / name))
        for layer in net.params:
            for mine, theirs in zip(net.params[layer], other.params[layer], strict=True):
                np.testing.assert_array_equal(mine.data, theirs.data)
        np.testing.assert_array_equal(held, net.params["conv"][0].data)


def test_weights_of_other_shapes_are_refused_and_change_nothing(net, write, tmp_path):
    net.save(str(tmp_path / "a.caffemodel"))
    other = caffe.Net(write(NET.replace("num_output: 5", "num_output: 6").replace("dim: 5 ", "dim: 6 ")), caffe.TRAIN)
    before = other.params["conv"][0].data.copy()
    with pytest.raises(WeightsError, match="the shape of weight differs") as caught:
        other.copy_from(str(tmp_path / "a.caffemodel"))
    assert (caught.value.layer, caught.value.expected, caught.value.found) == ("fc", (6, 80), (5, 80))
    np.testing.assert_array_equal(other.params["conv"][0].data, before)


def test_shared_nets_see_one_memory(net, write):
    other = caffe.Net(write(NET), caffe.TRAIN)
    other.share_with(net)
    net.params["fc"][1].data[...] = 5
    assert (other.params["fc"][1].data == 5).all()
    other.params["conv"][0].data[0, 0] = 2
    assert (net.params["conv"][0].data[0, 0] == 2).all()
    for name in net.inputs:
        other.blobs[name].data[...] = net.blobs[name].data
    np.testing.assert_array_equal(other.forward()["loss"], net.forward()["loss"])


def test_forward_all_in_batches(write):
    net = caffe.Net(write(DEPLOY), caffe.TEST)
    data = np.random.default_rng(2).normal(size=(7, 2)).astype(np.float32)
    found = net.forward_all(data=data, blobs=["fc"])
    weight, bias = (blob.data for blob in net.params["fc"])
    assert found["prob"].shape == (7, 4)
    np.testing.assert_allclose(found["fc"], data @ weight.T + bias, rtol=1e-5, atol=1e-6)  # sums of 2 in another order


def test_forward_backward_all(write):
    net = caffe.Net(write("force_backward: true " + DEPLOY), caffe.TRAIN)
    data = np.random.default_rng(2).normal(size=(4, 2)).astype(np.float32)
    diff = np.random.default_rng(3).normal(size=(4, 4)).astype(np.float32)
    outputs, gradients = net.forward_backward_all(data=data, prob=diff, diffs=["fc"])
    prob = outputs["prob"]
    expected = prob * (diff - (diff * prob).sum(1, keepdims=True))
    assert gradients["data"].shape == (4, 2)
    # Softmax's gradient subtracts values that nearly cancel.
    np.testing.assert_allclose(gradients["fc"], expected, rtol=1e-4, atol=1e-6)


def test_permissive_sharing_is_one_memory_in_two_shapes(write):
    text = """
    layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 1 dim: 1 } } }
    layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" }
      inner_product_param { num_output: 4 bias_term: false weight_filler { type: "gaussian" } } }
    layer { name: "b" type: "Convolution" bottom: "data" top: "b" param { name: "w" share_mode: PERMISSIVE }
      convolution_param { num_output: 4 kernel_size: 1 bias_term: false } }
    layer { name: "la" type: "Reduction" bottom: "a" top: "la" loss_weight: 1 }
    layer { name: "lb" type: "Reduction" bottom: "b" top: "lb" loss_weight: 1 }
    """
    net = caffe.Net(write(text), caffe.TRAIN)
    first, second = net.params["a"][0], net.params["b"][0]
    assert (first.shape, second.shape) == ((4, 3), (4, 3, 1, 1))
    first.data[...] = np.arange(12).reshape(4, 3)
    assert second.data.ravel().tolist() == list(range(12))
    net.blobs["data"].data[...] = 1
    out = net.forward(blobs=["a", "b"])
    np.testing.assert_array_equal(out["a"], out["b"].reshape(2, 4))
    net.backward()
    # Two items through two layers into one weight.
    assert first.diff.tolist() == np.full((4, 3), 4).tolist()
    assert second.diff.shape == (4, 3, 1, 1)
    assert (second.diff == 4).all()


def test_same_seed_same_weights(write):
    drawn = []
    for seed in (3, 3, 4):
        caffe.set_random_seed(seed)
        drawn.append(caffe.Net(write(DEPLOY), caffe.TEST).params["fc"][0].data.copy())
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).all()


def test_device_without_cuda_is_a_typed_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    caffe.set_device(1)
    with pytest.raises(UsageError, match="no CUDA device"):
        caffe.set_mode_gpu()
    caffe.set_mode_cpu()
    caffe.set_device(0)


@pytest.mark.parametrize(
    ("layer", "slope"),
    [("type: 'ELU'", [np.exp(-0.5), 1]), ("type: 'Power' power_param { power: 0 }", [0, 0])],
)
def test_the_gradient_of_a_layer_in_place_on_an_input(write, layer, slope):
    net = caffe.Net(
        write(
            f"""
            force_backward: true
            layer {{ name: "in" type: "Input" top: "data" input_param {{ shape {{ dim: 2 }} }} }}
            layer {{ name: "layer" bottom: "data" top: "data" {layer} }}
            """
        ),
        caffe.TRAIN,
    )
    net.blobs["data"].data[...] = [-0.5, 2]
    net.forward()
    net.blobs["data"].diff[...] = 3
    net.backward()
    np.testing.assert_allclose(net.blobs["data"].diff, np.multiply(3, slope), rtol=1e-6)  # float32 rounding

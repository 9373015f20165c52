"""Whole nets through the importers: YOLO's shapes, cuts, targets' layers, and small files that went wrong once."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from small_nets import seeded
from test_operations import APPROXIMATE, CASES, Of, run, write_onnx
from torch import nn
from yolo_nets import YoloV5, YoloV8, YoloX

from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.layer_sets import LAYER_SETS
from pyscratchdet.converters.onnx_import import import_onnx
from pyscratchdet.converters.torch_import import import_module
from pyscratchdet.errors import ConversionError, UsageError
from pyscratchdet.runtime import build_net, copy_weights

RECORDED = Path(__file__).parent / "onnx_cases"
# Relative L2: 20 to 60 convolutions of float32 sums in another order; each moves a blob by about 1e-7.
TOLERANCE = 1e-5


def outputs_of(net, inputs):
    found = build_net(net.param)
    copy_weights(found, net.blobs)
    with torch.no_grad():
        blobs = found.forward_blobs({found.input_names[0]: inputs})
    return {name: blobs[blob] for name, blob in net.outputs.items()}


def picture(*shape):
    return torch.from_numpy(np.random.default_rng(4).uniform(-1, 1, shape).astype("f4"))


@pytest.mark.parametrize("kind", [YoloV5, YoloV8, YoloX])
def test_yolo_shapes_with_their_decoding_and_cut_before_it(kind):
    torch.manual_seed(2)
    module, inputs = seeded(kind()), picture(1, 3, 64, 96)
    heads = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(lambda _, __, value, name=name: heads.update({name: value}))
        for name in kind.outputs
    ]
    with torch.no_grad():
        expected = module(inputs)
    for hook in hooks:
        hook.remove()
    whole = outputs_of(import_module(module, inputs.shape), inputs)
    assert difference(whole["0"].numpy(), expected.numpy()).relative < TOLERANCE
    net = import_module(module, inputs.shape, outputs=kind.outputs)
    cut = outputs_of(net, inputs)
    assert list(cut) == list(kind.outputs)
    for name, value in cut.items():
        assert difference(value.numpy(), heads[name].numpy()).relative < TOLERANCE, name
    assert sorted(build_net(net.param).output_names) == sorted(net.outputs.values())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.before = nn.Conv2d(3, 6, 3)
        self.side = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.before(x).relu_()
        rows = x.flatten(2)
        return (rows @ rows.transpose(1, 2)).softmax(2), self.side(x)


def test_a_refusal_says_where_the_net_can_be_cut(tmp_path):
    module, inputs = seeded(Attention()), picture(1, 3, 8, 9)
    with pytest.raises(ConversionError, match="a product of two blobs, as in attention") as caught:
        import_module(module, inputs.shape)
    names = caught.value.hint.removeprefix("it converts up to --outputs ").split(",")
    assert names == ["flatten", "transpose", "side"]
    net = import_module(module, inputs.shape, outputs=names)
    with torch.no_grad():
        expected = module.before(inputs).relu()
        torch.testing.assert_close(outputs_of(net, inputs)["side"], module.side(expected), rtol=1e-5, atol=1e-6)
    alone = import_module(module, inputs.shape, outputs=["side"])
    assert [layer.name for layer in alone.param.layer][2:] == ["relu_", "side"]
    write_onnx(module, inputs, tmp_path / "m.onnx")
    with pytest.raises(ConversionError, match="attention") as caught:
        import_onnx(tmp_path / "m.onnx")
    names = caught.value.hint.removeprefix("it converts up to --outputs ").split(",")
    cut = import_onnx(tmp_path / "m.onnx", outputs=names)
    assert list(cut.outputs) == names
    assert len(names) == 3


def test_unknown_outputs_and_targets_are_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"sidee.*did you mean"):
        import_module(Attention(), (1, 3, 8, 9), outputs=["sidee"])
    with pytest.raises(UsageError, match="no layers are known"):
        import_module(nn.ReLU(), (1, 3), layers="caffe2")
    write_onnx(nn.ReLU(), torch.zeros(1, 3), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="there is no value"):
        import_onnx(tmp_path / "m.onnx", outputs=["relu"])


def test_several_inputs_and_named_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, left, right):
            x = self.conv(left)
            return {"sum": x + right, "features": x}

    module = Two().eval()
    net = import_module(module, [(1, 3, 5, 6), (1, 4, 5, 6)])
    assert net.inputs == ["left", "right"]
    assert list(net.outputs) == ["sum", "features"]
    assert net.outputs["features"] == net.sources["conv"] == "conv"
    left, right = picture(1, 3, 5, 6), picture(1, 4, 5, 6)
    found = build_net(net.param)
    copy_weights(found, net.blobs)
    with torch.no_grad():
        blobs = found.forward_blobs({"left": left, "right": right})
        for name, value in module(left, right).items():
            torch.testing.assert_close(blobs[net.outputs[name]], value, rtol=1e-5, atol=1e-6)


def test_a_view_of_what_is_changed_in_place_is_refused_only_if_it_is_read_later():
    class Later(nn.Module):
        def forward(self, x):
            y = x * 2
            rows = y.flatten(1)
            y.relu_()
            return rows + 1

    class Chain(nn.Module):
        def forward(self, x):
            return (x * 2).flatten(1).relu_() + 1

    class Mask(nn.Module):
        def forward(self, x):
            mask = torch.zeros(3, 4)
            mask[1:, :2] = 2.5  # through a view of it
            return x * mask

    class Count(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            return x * self.count.add_(1)

    with pytest.raises(ConversionError, match="view"):
        import_module(Later(), (1, 2, 3, 4))
    with pytest.raises(ConversionError, match="a weight that changes"):
        import_module(Count(), (1, 2, 3, 4))
    inputs = picture(1, 2, 3, 4)
    torch.testing.assert_close(run(import_module(Mask(), inputs.shape), inputs), Mask()(inputs), rtol=0, atol=1e-6)
    inputs = picture(1, 2, 3, 4)
    torch.testing.assert_close(run(import_module(Chain(), inputs.shape), inputs), Chain()(inputs), rtol=0, atol=1e-6)


class Region(nn.Module):
    """A region under autocast is an operator that holds a graph."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.conv(x)
        with torch.autocast("cpu", enabled=False):
            x = self.bn(x).relu_()
        return nn.functional.tanhshrink(x)


def test_what_pytorch_writes_in_other_operations_is_taken_apart():
    module, inputs = seeded(Region()), picture(1, 3, 5, 7)
    net = import_module(module, inputs.shape)
    with torch.no_grad():
        assert difference(run(net, inputs).numpy(), module(inputs).numpy()).relative < TOLERANCE
    assert {"conv", "bn"} <= set(net.blobs)

    class Attend(nn.Module):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(x, x, x)

    with pytest.raises(ConversionError, match="as in attention"):
        import_module(Attend(), (1, 2, 4, 6))
    with pytest.raises(ConversionError, match=r"(trunc|floor).*no layer"):
        import_module(Of(nn.ReLU(), lambda m, x: torch.frac(m(x))), (1, 2, 4, 6))


TARGETED = """silu mish hard-swish hard-sigmoid relu6 clamp tanh abs gelu gate mask layer-norm-tokens group-norm
pixel-shuffle channel-shuffle bilinear-corners flip take mean-channels threshold arg-max permute large-permute
shuffle-net softplus exp"""


@pytest.mark.parametrize("target", LAYER_SETS)
def test_layers_of_a_target_alone(target):
    refused = {}
    torch.manual_seed(7)
    for name in TARGETED.split():
        entry = CASES[name]
        module = nn.Sequential(nn.Conv2d(entry.shape[1], entry.shape[1], 1), _module(entry.function)).eval()
        try:
            net = import_module(module, entry.shape, layers=target, approximate=True)
        except ConversionError as error:
            refused[name] = error
            continue
        types = {layer.type for layer in net.param.layer} - {"Input"}
        assert types <= LAYER_SETS[target].types
        inputs, tolerance = picture(*entry.shape), APPROXIMATE if entry.approximate else TOLERANCE
        with torch.no_grad():
            expected = module(inputs).numpy()
        assert difference(outputs_of(net, inputs)["0"].numpy(), expected).relative < tolerance, name
    assert all(error.message.endswith(f" is needed, which {target} lacks") for error in refused.values())
    assert {name: error.message.split()[2] for name, error in refused.items()} == {
        "bvlc": {"large-permute": "Permute"},
        "ssd": {},
        "opencv": {"threshold": "Threshold", "arg-max": "ArgMax"},
        "mnn": {},
        "ncnn": {"exp": "Exp"},
        "rknn": {"threshold": "Threshold", "arg-max": "ArgMax", "exp": "Exp"},
    }[target]


def _module(function):
    if isinstance(function, nn.Module):
        return function

    class Wrapped(nn.Module):
        def forward(self, x):
            return function(x)

    return Wrapped()


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.onnx")), ids=lambda path: path.stem)
def test_small_files_that_went_wrong_once(path):
    approximate = path.stem == "gelu"
    net = import_onnx(path, approximate=approximate)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = picture(*session.get_inputs()[0].shape)
    (expected,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    (found,) = outputs_of(net, inputs).values()
    assert difference(found.numpy(), expected).relative < TOLERANCE
    assert bool(net.approximations) == approximate

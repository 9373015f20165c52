"""Every operation of PyTorch and ONNX that Caffe layers express, through both doors: the module, and its ONNX file.

Each case is a function of one tensor. It is imported by torch.export and from what torch.onnx.export writes; both nets
must compute what PyTorch does, in our runtime and, where it has the layers, in OpenCV 4.
"""

import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_nets import seeded
from torch import nn

from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.onnx_import import import_onnx
from pyscratchdet.converters.operations.activations import ERF_ERROR, GELU_ERROR
from pyscratchdet.converters.operations.composer import OPERATIONS, Exactness
from pyscratchdet.converters.torch_import import import_module
from pyscratchdet.errors import ConversionError
from pyscratchdet.runtime import load_net

# Relative L2: the same float32 sums of up to a few hundred terms in another order, and constants that are divided out
# beforehand (6e-8 each).
TOLERANCE = 5e-6
# The widest approximation is off by ERF_ERROR, 1e-5 or less, of values of about 1.
APPROXIMATE = 2e-5
SHAPE = (2, 6, 9, 12)


class Case(nn.Module):
    """A function or module behind a convolution, which gives it values of both signs."""

    def __init__(self, function, shape=SHAPE):
        super().__init__()
        self.before = nn.Conv2d(shape[1], shape[1], 1)
        self.function = function

    def forward(self, x):
        return self.function(self.before(x))


class Of(nn.Module):
    """A function of a module: its weights are the case's."""

    def __init__(self, module, function):
        super().__init__()
        self.module, self.function = module, function

    def forward(self, x):
        return self.function(self.module, x)


@dataclass
class Entry:
    """A case.

    Attributes:
        operations: Those of OPERATIONS that it goes through.
        function: Of the tensor.
        shape: Of the tensor.
        onnx: Why PyTorch does not write it to ONNX; "" if it does.
        opencv: Why OpenCV 4 is not asked; "" if it is.
        approximate: Whether it is approximated.
    """

    operations: str
    function: object
    shape: tuple = SHAPE
    onnx: str = ""
    opencv: str = ""
    approximate: bool = False


E = Entry


def conv(*args, **options):
    return nn.Conv2d(6, 4, *args, **options)


def deconv(**options):
    return nn.ConvTranspose2d(6, 4, (3, 2), stride=(2, 3), **options)


def resize(**options):
    return lambda x: F.interpolate(x, **options)


def weight(*shape, seed=3):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype("f4"))


def given(constant, function):
    """A function of a tensor and a constant."""
    return lambda x: function(x, constant)


def rows(x):
    """(2, 6, 108): a blob of three axes."""
    return x.flatten(2)


CASES = {
    # convolution
    "conv": E("convolution", conv((3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)),
    "conv-same": E("convolution", conv((5, 3), padding="same", dilation=(1, 2))),
    "conv-line": E("convolution", Of(nn.Conv1d(6, 4, 5, stride=2, padding=3, groups=2), lambda m, x: m(rows(x)))),
    "conv-standardised": E("convolution", given(weight(4, 6, 3, 3), lambda x, w: F.conv2d(x, w / w.std()))),
    "deconv": E("deconvolution", deconv(padding=(1, 1), output_padding=(1, 2), groups=2)),
    "deconv-beyond-its-kernel": E("deconvolution", deconv(output_padding=(1, 2))),
    "deconv-line": E("deconvolution", Of(nn.ConvTranspose1d(6, 4, 5, 3, padding=1), lambda m, x: m(rows(x)))),
    "linear-rows": E("linear", nn.Linear(12, 5)),
    "linear-tokens": E("linear permute", Of(nn.Linear(6, 5), lambda m, x: m(rows(x).transpose(1, 2)))),
    "matrix-after": E("linear", given(weight(12, 5), lambda x, w: x @ w)),
    "matrix-before": E("linear", given(weight(5, 9), lambda x, w: w @ x)),
    "einsum": E("einsum", given(weight(6, 9, 5), lambda x, w: torch.einsum("nchw,chk->nwk", x, w))),
    "pad-conv": E("pad", nn.Sequential(nn.ZeroPad2d((1, 0, 2, 3)), conv(3, padding=1))),
    "pad-alone": E("pad", lambda x: F.pad(x, (1, 2, 0, 3)).relu()),
    "pad-number": E("pad", lambda x: F.pad(x, (1, 2, 3, 0), value=0.5).relu()),
    "pad-cuts": E("pad", lambda x: F.pad(x, (-1, 2, -2, -3)).relu()),
    "pad-channels": E("pad", lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)).relu()),
    "pad-channels-number": E("pad", lambda x: F.pad(x, (0, 0, 0, 0, 2, 0), value=1.5).relu()),
    "pad-reflect": E("pad", lambda x: F.pad(x, (3, 1, 2, 4), mode="reflect")),
    "pad-replicate": E("pad", lambda x: F.pad(x, (3, 1, 2, 4), mode="replicate")),
    "pad-before-max-pool": E("pad max_pool", lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-np.inf), 3, 2)),
    # shapes
    "identity": E("identity", lambda x: F.dropout(x, training=False).relu()),
    "reshape": E("reshape", lambda x: x.reshape(2, 3, -1, 4)),
    "fold-into-the-batch": E("reshape", lambda x: F.max_pool2d(x.reshape(4, 3, 9, 12), 2).reshape(2, 6, 4, 6)),
    "flatten": E("flatten", lambda x: x.flatten(1)),
    "flatten-some": E("flatten", lambda x: x.flatten(1, 2)),
    "permute": E("permute", lambda x: x.permute(0, 2, 3, 1)),
    "large-permute": E("permute", lambda x: x.permute(0, 2, 3, 1), (1, 6, 24, 17)),
    "permute-ones": E("permute", lambda x: x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1)),
    "concat": E("concat", lambda x: torch.cat([x, x.relu(), x.abs()], 2)),
    "concat-constant": E("concat", given(weight(1, 6, 9, 2), lambda x, w: torch.cat([w, x], 3)),
                         (1, 6, 9, 12)),
    "stack": E("concat", lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2)),
    "split": E("split", lambda x: torch.cat([part.relu() for part in x.split([1, 3, 2], 1)][::-1], 1)),
    "chunk-unused": E("split", lambda x: x.chunk(3, 3)[1] * 2),
    "unbind": E("split", lambda x: x[:, :3].unbind(1)[1].relu()),
    "slice": E("slice", lambda x: x[:, 1:-1, 2:, :7]),
    "slice-steps": E("slice take", lambda x: x[:, :, ::2, 1::3]),
    "focus": E("slice take", lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2]], 1),
               (2, 6, 8, 12)),
    "slice-channels": E("slice take", lambda x: x[:, ::2]),
    "take": E("take", given(torch.tensor([5, 0, 0, 3]), lambda x, i: x[:, i])),
    "take-many-rows": E("take", given(torch.arange(36) * 7 % 9, lambda x, i: x[:, :, i])),
    "select": E("take", lambda x: x[:, :, -1].relu()),
    "expand": E("expand", lambda x: x.mean(1, keepdim=True).expand(-1, 6, -1, -1) * 2),
    "expand-last": E("expand", lambda x: x.mean(3, keepdim=True).expand(-1, -1, -1, 5) * 2),
    "expand-middle": E("expand", lambda x: x.mean(2, keepdim=True).expand(-1, -1, 5, -1) * 2),
    "tile": E("tile", lambda x: x.repeat(1, 2, 1, 3)),
    "repeat-interleave": E("repeat_interleave", lambda x: x.repeat_interleave(3, 1)),
    "enlarge": E("enlarge", nn.Upsample(scale_factor=(2, 3))),
    "pixel-shuffle": E("depth_to_space", nn.PixelShuffle(2), (2, 12, 5, 7)),
    "pixel-unshuffle": E("space_to_depth", nn.PixelUnshuffle(3)),
    "channel-shuffle": E("shuffle_channels", nn.ChannelShuffle(3), onnx="channel_shuffle is not exported"),
    "shuffle-net": E("permute", lambda x: x.view(2, 3, 2, 9, 12).transpose(1, 2).reshape(2, 6, 9, 12)),
    "flip": E("flip", lambda x: x.flip([1, 3])),
    "roll": E("roll", lambda x: x.roll([2, -1], [2, 3])),
    # pooling and resizing
    "max-pool": E("max_pool", nn.MaxPool2d((3, 2), (2, 2), padding=(1, 0))),
    "max-pool-ceil": E("max_pool", nn.MaxPool2d(2, 2, ceil_mode=True)),
    "max-pool-line": E("max_pool", lambda x: F.max_pool1d(rows(x), 3, 2, padding=1)),
    "average-pool": E("average_pool", nn.AvgPool2d((3, 2), (2, 3), padding=(1, 0))),
    "average-pool-ceil": E("average_pool", nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
                           onnx="PyTorch counts windows beyond the padding otherwise than some engines"),
    "average-pool-inside": E("average_pool", nn.AvgPool2d((3, 5), 2, padding=(1, 2), count_include_pad=False)),
    "average-pool-inside-ceil": E(
        "average_pool", nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False)),
    "average-pool-line": E("average_pool", lambda x: F.avg_pool1d(rows(x), 3, 2, padding=1)),
    "global-max": E("global_pool", nn.AdaptiveMaxPool2d(1)),
    "adaptive": E("adaptive_pool", nn.AdaptiveAvgPool2d((3, 4))),
    "adaptive-unequal": E("adaptive_pool resize_by", nn.AdaptiveAvgPool2d((4, 7)), onnx="unequal windows"),
    "nearest-any": E("resize_nearest", resize(size=(7, 17))),
    "nearest-smaller": E("resize_nearest", resize(scale_factor=1 / 3)),
    "bilinear": E("resize_bilinear", resize(scale_factor=(3, 2), mode="bilinear")),
    "bilinear-corners": E("resize_bilinear", resize(size=(13, 21), mode="bilinear", align_corners=True)),
    "bilinear-any": E("resize_bilinear", resize(size=(7, 29), mode="bilinear")),
    "bicubic": E("resize_by", resize(size=(20, 17), mode="bicubic"), onnx="cubic"),
    # arithmetic
    "add": E("add", lambda x: x + x.relu()),
    "sub-scaled": E("add", lambda x: torch.sub(x, x.relu(), alpha=3)),
    "number-less-x": E("add", lambda x: 0.75 - x),
    "add-rows": E("add", given(weight(12), lambda x, w: w + x)),
    "add-product": E("add multiply", lambda x: torch.addcmul(x, x.relu(), x, value=0.5), onnx="not exported"),
    "add-gate": E("add expand", lambda x: x + x.mean((2, 3), keepdim=True)),
    "add-mask": E("add expand", lambda x: x + x.mean(1, keepdim=True)),
    "add-wide-constant": E("add expand", given(weight(1, 4, 1, 1), lambda x, w: x.mean(1, keepdim=True) + w)),
    "multiply": E("multiply", lambda x: x * x.sigmoid()),
    "multiply-channels-and-columns": E("multiply", given(weight(6, 1, 12), lambda x, w: x * w)),
    "gate": E("multiply", lambda x: x * x.mean((2, 3), keepdim=True)),
    "gate-of-rows": E("multiply", lambda x: x * x.mean(3, keepdim=True)),
    "mask": E("multiply", lambda x: x * x.mean(1, keepdim=True)),
    "divide-number": E("divide", lambda x: x / 3),
    "divide-blobs": E("divide", lambda x: x / (x.abs() + 1).mean((2, 3), keepdim=True)),
    "number-by-blob": E("divide", lambda x: 2 / (x.abs() + 1)),
    "lerp": E("where add multiply", lambda x: torch.lerp(x, x.relu(), 0.3), onnx="lerp is not exported"),
    "cosine": E("reduce divide", lambda x: F.cosine_similarity(x, x.relu() + 0.1), onnx="compares by Max of blobs"),
    "maximum": E("maximum", lambda x: torch.maximum(x, -x.relu() + 0.2)),
    "minimum": E("minimum", lambda x: torch.minimum(x, x.relu() - 0.2)),
    "square": E("square", lambda x: x**2),
    "pow": E("power", lambda x: (x.abs() + 0.1) ** 1.5 * 2),
    "rsqrt": E("power", lambda x: (x.abs() + 0.5).rsqrt()),
    "clamp": E("clamp", lambda x: x.clamp(-0.3, 0.9)),
    "clamp-low": E("clamp", lambda x: x.clamp(min=-0.3)),
    "clamp-high": E("clamp", lambda x: x.clamp(max=0.3)),
    "relu6": E("clamp", lambda x: F.relu6(x * 8)),
    "hard-sigmoid": E("hard_sigmoid", nn.Hardsigmoid()),
    "hard-sigmoid-in-steps": E("clamp", lambda x: F.relu6(x + 3) / 6),
    "threshold": E("greater multiply", nn.Threshold(0.2, 0), opencv="has no Threshold", onnx="a comparison of blobs"),
    "where": E("where", given(weight(9, 1) > 0, lambda x, m: torch.where(m, x, x.relu() + 1))),
    "where-number": E("where", given(weight(6, 1, 1) > 0, lambda x, m: torch.where(m, 0.5, x))),
    "matrix-by-column": E("product", lambda x: rows(x) @ x.mean((1, 2), keepdim=True).expand(-1, 1, 9, -1)
                          .reshape(2, 108, 1).softmax(1)),
    # functions of single values
    "leaky": E("relu", nn.LeakyReLU(0.2)),
    "prelu": E("prelu", nn.PReLU(6)),
    "prelu-shared": E("prelu", nn.PReLU(), opencv="reads no shared slope"),
    "elu": E("elu", nn.ELU(0.7)),
    "selu": E("elu", nn.SELU()),
    "celu": E("elu", nn.CELU(0.7)),
    "sigmoid": E("sigmoid", nn.Sigmoid()),
    "tanh": E("tanh", nn.Tanh()),
    "abs": E("absolute", torch.abs),
    "exp": E("exponential", torch.exp),
    "log": E("logarithm", lambda x: (x.abs() + 0.5).log()),
    "softplus": E("softplus", nn.Softplus()),
    "softplus-steep": E("softplus", nn.Softplus(beta=2), onnx="beta"),
    "log-sigmoid": E("softplus", nn.LogSigmoid(), onnx="a logarithm of what may round to 0"),
    "silu": E("silu", nn.SiLU()),
    "mish": E("mish", nn.Mish()),
    "hard-swish": E("hard_swish", nn.Hardswish()),
    "softsign": E("softsign", nn.Softsign()),
    "hard-shrink": E("hard_shrink", nn.Hardshrink(0.3), opencv="has no Threshold", onnx="a comparison of blobs"),
    "soft-shrink": E("soft_shrink", nn.Softshrink(0.3), onnx="a comparison of blobs"),
    "glu": E("split multiply", nn.GLU(1)),
    "gelu": E("gelu", nn.GELU(), approximate=True),
    "gelu-tanh": E("gelu_tanh", nn.GELU("tanh")),
    "erf": E("error_function", torch.erf, approximate=True),
    # normalisation
    "batch-norm": E("batch_norm", nn.BatchNorm2d(6)),
    "layer-norm": E("layer_norm", Of(nn.LayerNorm(6), lambda m, x: m(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))),
    "layer-norm-tokens": E("layer_norm", Of(nn.LayerNorm(12), lambda m, x: m(x.flatten(1, 2)))),
    "layer-norm-by-hand": E(
        "reduce add multiply",
        lambda x: (d := x - x.mean(1, keepdim=True)) / (d**2).mean(1, keepdim=True).add(1e-3).sqrt(),
    ),
    "rms-norm": E("layer_norm", nn.RMSNorm(12, eps=1e-3), onnx="needs opset 23"),
    "group-norm": E("group_norm", nn.GroupNorm(3, 6, eps=1e-3)),
    "group-norm-of-many": E("group_norm", nn.GroupNorm(1, 6), (1, 6, 120, 90)),
    "instance-norm": E("group_norm", nn.InstanceNorm2d(6, eps=1e-3, affine=True)),
    "l2-norm": E("norm divide", lambda x: F.normalize(x, dim=1)),
    "lrn": E("average_pool", nn.LocalResponseNorm(3, 0.01, 0.6, 1.5), onnx="written with a branch"),
    "softmax": E("softmax", nn.Softmax(1)),
    "log-softmax": E("log_softmax", nn.LogSoftmax(1)),
    # reductions
    "mean": E("reduce", lambda x: x.mean((2, 3))),
    "mean-channels": E("reduce", lambda x: x.mean(1)),
    "mean-apart": E("reduce", lambda x: x.mean((1, 3), keepdim=True)),
    "sum": E("reduce", lambda x: x.sum(2)),
    "largest": E("reduce", lambda x: x.amax(1, keepdim=True)),
    "smallest": E("reduce", lambda x: x.amin((1, 2))),
    "max-with-places": E("reduce", lambda x: x.max(3)[0]),
    "variance": E("variance", lambda x: x.var((2, 3))),
    "l1": E("norm", lambda x: x.norm(1, 1)),
    "log-sum-exp": E("log_sum_exp", lambda x: x.logsumexp(1)),
    "arg-max": E("arg_max", lambda x: x.clamp(-0.2, 0.2).argmax(1).float() * 1, opencv="has no ArgMax"),
    "arg-max-kept": E("arg_max", lambda x: x.argmax(2, keepdim=True).float() * 1, opencv="has no ArgMax"),
}  # fmt: skip
BY_ONNX_ALONE = {"local_response_norm"}  # tests/converters/test_import.py


def write_onnx(module, inputs, path, opset=17):
    """Writes a module as PyTorch does, with its constants left for us to fold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"opset_version": opset, "output_names": ["y"], "do_constant_folding": False}
        torch.onnx.export(module, (inputs,), str(path), dynamo=False, **options)


def imports(name, folder):
    """Yields the net of each door, with what PyTorch computes."""
    entry = CASES[name]
    torch.manual_seed(5)
    module = seeded(Case(entry.function, entry.shape)).eval()
    inputs = torch.from_numpy(np.random.default_rng(8).normal(size=entry.shape).astype("f4"))
    with torch.no_grad():
        expected = module(inputs).numpy()
    yield import_module(module, entry.shape, approximate=entry.approximate), inputs, expected
    if not entry.onnx:
        path = str(folder / "m.onnx")
        write_onnx(module, inputs, path)
        yield import_onnx(path, approximate=entry.approximate), inputs, expected


@pytest.mark.parametrize("name", CASES)
def test_both_doors(name, tmp_path):
    entry = CASES[name]
    tolerance = APPROXIMATE if entry.approximate else TOLERANCE
    for net, inputs, expected in imports(name, tmp_path):
        paths = str(tmp_path / "net.prototxt"), str(tmp_path / "net.caffemodel")
        net.write(*paths)
        (blob,) = net.outputs.values()
        found = load_net(*paths)
        with torch.no_grad():
            ours = found({found.input_names[0]: inputs})
        assert list(ours) == [blob]
        assert ours[blob].shape == expected.shape
        assert difference(ours[blob].numpy(), expected).relative < tolerance
        assert bool(net.approximations) == entry.approximate
        if not entry.opencv:
            theirs = cv2.dnn.readNetFromCaffe(*paths)
            theirs.setInput(inputs.numpy())
            layer = [layer for layer in net.param.layer if blob in layer.top][-1]
            answer = theirs.forwardAndRetrieve([layer.name])[0][list(layer.top).index(blob)]
            assert difference(answer, expected).relative < tolerance, "OpenCV"


def test_every_operation_has_a_case():
    assert {word for entry in CASES.values() for word in entry.operations.split()} == set(OPERATIONS) - BY_ONNX_ALONE


def test_approximate_operations_are_refused_unless_asked_for():
    names = {name for name, exactness in OPERATIONS.items() if exactness is Exactness.APPROXIMATE}
    for entry in CASES.values():
        assert entry.approximate == bool(names.intersection(entry.operations.split()))
    with pytest.raises(ConversionError, match="--approximate"):
        import_module(nn.GELU(), (1, 3, 4, 5))


def test_the_errors_of_approximations_are_true():
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    for module, error in ((nn.GELU(), GELU_ERROR), (torch.erf, ERF_ERROR)):
        net = import_module(
            Case(given(module, lambda x, m: m(x)), (1, 1, 1, 240_001)), (1, 1, 1, 240_001), approximate=True
        )
        net.blobs["before"] = [np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)]
        found = run(net, x.float()[None, None, None])[0, 0, 0]
        worst = (found.double() - module(x)).abs().max()
        assert 0.9 * error < worst < error + 1.5e-6  # which float32 rounds by at 12


def run(net, inputs):
    from pyscratchdet.runtime import build_net, copy_weights

    found = build_net(net.param)
    copy_weights(found, net.blobs)
    with torch.no_grad():
        (value,) = found({found.input_names[0]: inputs}).values()
    return value

"""Detection mode against the reference: same values, fewer steps, nothing shared that must not be."""

from __future__ import annotations

import random

import pytest
import torch
from google.protobuf import text_format

from pyscratchdet.errors import NetError
from pyscratchdet.layers.prior_box import PriorBox
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.runtime import Net, OptimizedNet, build_net, load_net, save_weights
from pyscratchdet.solver import Precision

# Relative L2: folding multiplies weights before they are summed up, so float32 rounds in another order (1e-6 and less),
# and this is what DESIGN promises of one layer.
TOLERANCE = 1e-5


def layer(name: str, type_: str, bottoms: str, tops: str, rest: str = "") -> str:
    ends = [f'bottom: "{b}"' for b in bottoms.split()] + [f'top: "{t}"' for t in tops.split()]
    return f'layer {{ name: "{name}" type: "{type_}" {" ".join(ends)} {rest} }}'


def conv(name: str, bottom: str, num: int, rest: str = "kernel_size: 3 pad: 1", type_: str = "Convolution") -> str:
    return layer(name, type_, bottom, name, f"convolution_param {{ num_output: {num} {rest} }}")


def make(*layers: str, shape: tuple[int, ...] = (2, 3, 9, 7), seed: int = 0, phase: str = "TEST") -> Net:
    dims = " ".join(f"dim: {dim}" for dim in shape)
    text = layer("in", "Input", "", "data", f"input_param {{ shape {{ {dims} }} }}") + "\n".join(layers)
    net = build_net(text_format.Parse(text, caffe_pb2.NetParameter()), phase)
    generator = torch.Generator().manual_seed(seed)
    for module in net.layers:
        for role, blob in zip(module.roles, module.blobs, strict=True):
            low, high = {"variance": (0.5, 2.0), "scale_factor": (1.5, 2.5)}.get(role, (-0.5, 0.5))
            with torch.no_grad():
                blob.copy_(torch.rand(blob.shape, generator=generator) * (high - low) + low)
    return net


def picture(net: Net, seed: int = 1) -> torch.Tensor:
    return torch.randn(net.blob_shapes["data"], generator=torch.Generator().manual_seed(seed))


def agree(net: Net, data: torch.Tensor | None = None) -> OptimizedNet:
    """Checks all outputs of the optimised net and returns it."""
    data = picture(net) if data is None else data
    fast = OptimizedNet(net)
    with torch.no_grad():
        expected = net(data.clone())
    found = fast(data.clone())
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        error = (found[name] - value).norm() / value.norm().clamp(min=1e-6)
        assert error <= TOLERANCE, name
    return fast


def steps(fast: OptimizedNet) -> list[str]:
    """What is left: the kind of each step that runs at every call, with a plain layer's type."""
    assert fast._program is not None
    kinds = [(type(step).__name__, step.module.layer_type) for step in fast._program.steps]
    return [type_ if kind == "Step" else kind for kind, type_ in kinds]


BATCH_NORM = layer("bn", "BatchNorm", "c", "c")
SCALE = layer("sc", "Scale", "c", "c", "scale_param { bias_term: true }")
RELU = layer("re", "ReLU", "c", "c")
LEAKY = layer("re", "ReLU", "c", "c", "relu_param { negative_slope: 0.1 }")
TAILS = {
    "batch norm": ([BATCH_NORM], ["Weighted"]),
    "batch norm, scale": ([BATCH_NORM, SCALE], ["Weighted"]),
    "batch norm, scale, relu": ([BATCH_NORM, SCALE, RELU], ["Weighted"]),
    "scale without bias": ([layer("sc", "Scale", "c", "c")], ["Weighted"]),
    "one scale for all": ([layer("sc", "Scale", "c", "c", "scale_param { num_axes: 0 }")], ["Weighted"]),
    "bias": ([layer("bi", "Bias", "c", "c"), RELU], ["Weighted"]),
    "scale along the width": ([layer("sc", "Scale", "c", "c", "scale_param { axis: 3 }")], ["Weighted", "Scale"]),
    "scale of all values": (
        [layer("sc", "Scale", "c", "c", "scale_param { axis: 1 num_axes: -1 }")],
        ["Weighted", "Scale"],
    ),
    "relu, then batch norm": ([RELU, BATCH_NORM, SCALE], ["Weighted", "Affine"]),
    "leaky relu in place": ([SCALE, LEAKY, BATCH_NORM], ["Weighted", "Rectify", "Affine"]),
    "own statistics": (
        [layer("bn", "BatchNorm", "c", "c", "batch_norm_param { use_global_stats: false }")],
        ["Weighted", "BatchNorm"],
    ),
    "dropout": ([layer("dr", "Dropout", "c", "c"), RELU], ["Weighted"]),
}
CONVOLUTIONS = {
    "plain": conv("c", "data", 4),
    "no bias, stride, dilation": conv("c", "data", 4, "bias_term: false kernel_size: 2 stride: 2 dilation: 2"),
    "groups": conv("c", "data", 6, "kernel_h: 1 kernel_w: 3 group: 3"),
    "depthwise": conv("c", "data", 3, "kernel_size: 3", "DepthwiseConvolution"),
    "deconvolution": conv("c", "data", 4, "kernel_size: 3 stride: 2", "Deconvolution"),
    "deconvolution, groups": conv("c", "data", 6, "bias_term: false kernel_size: 2 group: 3", "Deconvolution"),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_what_follows_a_convolution(convolution: str, tail: str) -> None:
    layers, expected = TAILS[tail]
    assert steps(agree(make(CONVOLUTIONS[convolution], *layers))) == expected


def test_statistics_never_counted() -> None:
    net = make(CONVOLUTIONS["plain"], BATCH_NORM, SCALE)
    net.params["bn"][2].zero_()
    agree(net)


def test_a_convolution_with_two_readers_stays_itself() -> None:
    # As conv4_12 of Root-ResNet-34: the heads read what is convolved, not the sum.
    net = make(
        conv("a", "data", 3),
        conv("b", "a", 3),
        layer("sum", "Eltwise", "a b", "sum"),
        layer("bn", "BatchNorm", "sum", "bn"),
        layer("re", "ReLU", "bn", "bn"),
        conv("head", "b", 5),
    )
    assert steps(agree(net)) == ["Weighted", "Weighted", "Eltwise", "Affine", "Weighted"]


SUMS = {
    "later convolution": ("pool c", "", ["Pooling", "Weighted"]),
    "convolution first": ("c pool", "", ["Pooling", "Weighted"]),
    "coefficients": ("c pool", "coeff: 1 coeff: -2", ["Pooling", "Weighted", "Eltwise", "Rectify"]),
    "product": ("c pool", "operation: PROD", ["Pooling", "Weighted", "Eltwise", "Rectify"]),
    "twice the same": ("c c", "", ["Pooling", "Weighted", "Eltwise", "Rectify"]),
}


@pytest.mark.parametrize("case", SUMS)
def test_sums(case: str) -> None:
    bottoms, param, expected = SUMS[case]
    net = make(
        layer("pool", "Pooling", "data", "pool", "pooling_param { pool: MAX kernel_size: 3 pad: 1 }"),
        conv("c", "data", 3),
        layer("sum", "Eltwise", bottoms, "sum", f"eltwise_param {{ {param} }}"),
        layer("re", "ReLU", "sum", "sum"),
    )
    assert steps(agree(net)) == expected


def test_a_sum_waits_for_its_later_bottom() -> None:
    net = make(
        conv("c", "data", 3),
        layer("pool", "Pooling", "data", "pool", "pooling_param { pool: AVE kernel_size: 3 pad: 1 }"),
        layer("sum", "Eltwise", "c pool", "sum"),
    )
    assert steps(agree(net)) == ["Weighted", "Pooling", "Eltwise"]


def test_relu_never_writes_over_what_others_see() -> None:
    data = picture(make(conv("c", "data", 3)))
    before = data.clone()
    net = make(
        layer("re", "ReLU", "data", "re"),
        layer("flat", "Flatten", "data", "flat"),
        layer("re2", "ReLU", "flat", "re2"),
        layer("sum", "Eltwise", "re data", "sum"),
        layer("re3", "ReLU", "sum", "re3"),
        layer("square", "Power", "sum", "square", "power_param { power: 2 }"),
    )
    fast = agree(net, data)
    fast(data)
    assert torch.equal(data, before)
    assert steps(fast).count("Rectify") == 0


def test_silenced_branches_do_not_run() -> None:
    net = make(conv("a", "data", 2), conv("b", "data", 4), layer("si", "Silence", "b", ""))
    assert steps(agree(net)) == ["Weighted"]


def test_outputs_are_the_callers_own() -> None:
    flat = layer("re", "Reshape", "data", "view", "reshape_param { shape { dim: 0 dim: -1 } }")
    net = make(layer("dr", "Dropout", "data", "same"), flat)
    data = picture(net)
    before = data.clone()
    fast = OptimizedNet(net)
    for value in fast(data).values():
        value.zero_()
    assert torch.equal(data, before)
    assert torch.equal(fast(data)["same"], before)


PRIORS = """prior_box_param {
    min_size: 2 max_size: 4 aspect_ratio: 2 flip: true variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2
}"""
DETECTIONS = """detection_output_param {
    num_classes: 3 keep_top_k: 20 confidence_threshold: 0.2 nms_param { nms_threshold: 0.45 top_k: 50 }
}"""


def detector() -> Net:
    def head(source: str, what: str, num: int) -> list[str]:
        name = f"{source}_{what}"
        order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
        return [
            conv(name, source, num),
            layer(f"{name}_perm", "Permute", name, f"{name}_perm", order),
            layer(f"{name}_flat", "Flatten", f"{name}_perm", f"{name}_flat"),
        ]

    backbone = [
        conv("c1", "data", 6, "kernel_size: 3 pad: 1 bias_term: false"),
        layer("bn1", "BatchNorm", "c1", "c1"),
        layer("sc1", "Scale", "c1", "c1", "scale_param { bias_term: true }"),
        layer("re1", "ReLU", "c1", "c1"),
        layer("pool", "Pooling", "c1", "pool", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
        layer("bn2", "BatchNorm", "pool", "bn2"),
        layer("sc2", "Scale", "bn2", "bn2", "scale_param { bias_term: true }"),
        layer("re2", "ReLU", "bn2", "bn2"),
        conv("c2", "bn2", 6, "kernel_size: 3 pad: 1 bias_term: false"),
        layer("sum", "Eltwise", "pool c2", "sum"),
        layer("re3", "ReLU", "sum", "sum"),
        layer("norm", "Normalize", "sum", "norm", "norm_param { across_spatial: false channel_shared: false }"),
        conv("c3", "sum", 8, "kernel_size: 3 stride: 2"),
        layer("re4", "ReLU", "c3", "c3"),
    ]
    heads: list[str] = []
    for source in ("norm", "c3"):
        heads += head(source, "loc", 16) + head(source, "conf", 12)
        heads.append(layer(f"{source}_prior", "PriorBox", f"{source} data", f"{source}_prior", PRIORS))
    joined = [
        layer("loc", "Concat", "norm_loc_flat c3_loc_flat", "loc"),
        layer("conf", "Concat", "norm_conf_flat c3_conf_flat", "conf"),
        layer("prior", "Concat", "norm_prior c3_prior", "prior", "concat_param { axis: 2 }"),
        layer("conf_rows", "Reshape", "conf", "conf_rows", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }"),
        layer("soft", "Softmax", "conf_rows", "soft", "softmax_param { axis: 2 }"),
        layer("soft_flat", "Flatten", "soft", "soft_flat"),
        layer("out", "DetectionOutput", "loc soft_flat prior", "out", DETECTIONS),
    ]  # fmt: skip
    return make(*backbone, *heads, *joined, shape=(1, 3, 14, 17))


def test_a_detector_finds_the_same() -> None:
    net = detector()
    fast = OptimizedNet(net)
    with torch.no_grad():
        expected = net(picture(net))["out"][0, 0]
    found = fast(picture(net))["out"][0, 0]
    assert len(expected) > 5
    assert torch.equal(found[:, :2], expected[:, :2])
    # The promise is 1e-4 for whole nets; this one is small.
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert "PriorBox" not in steps(fast)
    assert steps(fast).count("Concat") == 2


def test_bfloat16_stays_within_the_net() -> None:
    """All but the heads' convolutions and what needs float32 take bfloat16, and outputs are float32."""
    net = detector()
    fast = OptimizedNet(net, torch.bfloat16)
    rows = fast(picture(net))["out"]
    assert rows.dtype == torch.float32
    assert fast._program is not None
    dtypes = {step.module.name: step.dtype for step in fast._program.steps}
    assert {name for name, dtype in dtypes.items() if dtype == torch.bfloat16} == {"c1", "c2", "c3"}
    assert {name for name, dtype in dtypes.items() if dtype is None} >= {"pool", "loc", "conf", "norm_loc_perm"}
    rest = {"bn2", "norm", "norm_loc", "norm_conf", "c3_loc", "c3_conf", "soft", "out"}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == rest
    assert [blob.dtype for blob in net.parameters()] == [torch.float32] * len(list(net.parameters()))


def test_what_bfloat16_costs() -> None:
    net = make(
        conv("c1", "data", 5), layer("re1", "ReLU", "c1", "c1"), conv("c2", "c1", 6), layer("re2", "ReLU", "c2", "c2"),
        conv("c3", "c2", 4),
    )  # fmt: skip
    with torch.no_grad():
        expected = net(picture(net))["c3"]
    found = OptimizedNet(net, torch.bfloat16)(picture(net))["c3"]
    error = float((found - expected).norm() / expected.norm())
    # bfloat16 has 8 bits, so each of two layers rounds its bottom, its weights and its top by up to 2**-9; such errors
    # add up like random steps. Were nothing rounded, the error would be float32's.
    assert 1e-4 < error < 6 * 2**-9
    assert found.dtype == torch.float32


def test_priors_are_made_once_per_input_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    priors = PriorBox.priors
    monkeypatch.setattr(PriorBox, "priors", lambda self, shapes: made.append(shapes[1]) or priors(self, shapes))
    fast = OptimizedNet(detector())
    small, large = torch.ones(1, 3, 14, 17), torch.ones(1, 3, 20, 16)
    for data in (small, small, large, small, large):
        fast(data)
    assert made == [(1, 3, 14, 17)] * 2 + [(1, 3, 20, 16)] * 2


def test_other_shapes_and_batches() -> None:
    net = detector()
    fast = OptimizedNet(net)
    for shape in ((1, 3, 14, 17), (3, 3, 12, 19), (1, 3, 14, 17)):
        data = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            torch.testing.assert_close(fast(data), net(data), rtol=0, atol=TOLERANCE)


def test_new_weights_count_at_the_next_call() -> None:
    net, other = (make(conv("c", "data", 4), BATCH_NORM, SCALE, seed=seed) for seed in (3, 4))
    data, fast = picture(net), OptimizedNet(net)
    first = fast(data)["c"]
    program = fast._program
    fast(data)
    assert fast._program is program
    fast.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fast(data), other(data), rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(fast(data)["c"], first)
    fast.double()
    with torch.no_grad():
        # In float64 nothing is rounded on the way: all that differs is the order of operations.
        torch.testing.assert_close(fast(data.double()), other.double()(data.double()), rtol=1e-12, atol=1e-12)


def test_what_folds_into_an_inner_product() -> None:
    for param, expected in (
        ("num_output: 4", ["Weighted"]),
        ("num_output: 4 transpose: true", ["Weighted"]),
        ("num_output: 9 axis: 3", ["Weighted", "Affine"]),  # channels are axis 1, what it computes is axis 3
    ):
        host = layer("c", "InnerProduct", "data", "c", f"inner_product_param {{ {param} }}")
        assert steps(agree(make(host, BATCH_NORM, SCALE, RELU))) == expected


@pytest.mark.parametrize("seed", range(12))
def test_random_nets(seed: int) -> None:
    """Chains with branches, in place and not, of whatever may be moved."""
    draw = random.Random(seed)
    layers, blobs = [], [("data", 3)]
    for index in range(14):
        bottom, channels = draw.choice(blobs[-3:])
        top = f"b{index}"
        kind = draw.choice(["conv", "conv", "bn", "scale", "bias", "relu", "sum", "pool", "dropout"])
        same = [name for name, number in blobs if number == channels and name != bottom]
        if kind == "conv" or (kind == "sum" and not same):
            channels = draw.choice([3, 4])
            layers.append(conv(top, bottom, channels))
        elif kind == "sum":
            layers.append(layer(top, "Eltwise", f"{bottom} {draw.choice(same)}", top))
        elif kind == "pool":
            layers.append(layer(top, "Pooling", bottom, top, "pooling_param { kernel_size: 3 pad: 1 }"))
        else:
            type_ = {"bn": "BatchNorm", "scale": "Scale", "bias": "Bias", "relu": "ReLU", "dropout": "Dropout"}[kind]
            rest = "scale_param { bias_term: true }" if kind == "scale" else ""
            layers.append(layer(top, type_, bottom, top, rest))
        blobs.append((top, channels))
    agree(make(*layers, seed=seed))


@pytest.mark.parametrize("mode", ["in place", "fast"])
def test_fast_training_gives_the_same_gradients(mode: str) -> None:
    layers = [
        conv("c", "data", 4),
        BATCH_NORM,
        SCALE,
        RELU,
        conv("d", "c", 5),
        layer("re2", "ReLU", "d", "d"),
        layer("sum", "Eltwise", "d e", "sum"),
        layer("re3", "ReLU", "sum", "sum"),
    ]
    layers.insert(4, conv("e", "c", 5))
    reference, fast = make(*layers, phase="TRAIN"), make(*layers, phase="TRAIN")
    if mode == "fast":
        Precision(is_fast=True).prepare(fast, torch.device("cpu"))
        assert fast.params["c"][0].is_contiguous(memory_format=torch.channels_last)
    else:
        fast.work_in_place()
    data = picture(reference)
    for net in (reference, fast):
        net(data)["sum"].square().sum().backward()
    assert {fast.layers[index].name for index in fast._in_place} == {"re", "re2"}
    for name, blobs in reference.params.items():
        for mine, other in zip(blobs, fast.params[name], strict=True):
            # In place: the same operations on the same numbers. channels_last: sums in another order; the bias
            # before a BatchNorm has the gradient 0, so that what is left of it there is rounding alone.
            exact = mode == "in place"
            torch.testing.assert_close(other, mine, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)
            if mine.grad is not None:
                torch.testing.assert_close(other.grad, mine.grad, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-3)


@pytest.mark.parametrize(
    ("channels", "capability", "layout"),
    [
        (200, "AVX512", torch.channels_last),
        (200, "AVX2", torch.contiguous_format),  # there gradients take twice as long in channels_last
        (4, "AVX2", torch.channels_last),
    ],
)
def test_the_layout_of_fast_training(
    channels: int, capability: str, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    net = make(conv("c", "data", channels), conv("d", "c", channels), phase="TRAIN")
    Precision(is_fast=True).prepare(net, torch.device("cpu"))
    assert net.params["d"][0].is_contiguous(memory_format=layout)
    assert net(picture(net))["d"].is_contiguous(memory_format=layout)


def test_load_net_optimizes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    net = make(conv("c", "data", 4), BATCH_NORM, SCALE, RELU)
    save_weights(net, tmp_path / "w.caffemodel")
    text = text_format.MessageToString(caffe_pb2.NetParameter(layer=[module.node.param for module in net.layers]))
    (tmp_path / "net.prototxt").write_text(text)
    fast = load_net(tmp_path / "net.prototxt", tmp_path / "w.caffemodel", optimize=True)
    assert isinstance(fast, OptimizedNet)
    assert fast.state_dict().keys() == net.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(fast(picture(net)), net(picture(net)), rtol=TOLERANCE, atol=TOLERANCE)
        # All blobs remain to be had, from the reference.
        assert torch.equal(fast.forward_blobs(picture(net))["c"], net(picture(net))["c"])


def test_train_nets_are_refused() -> None:
    with pytest.raises(NetError) as error:
        OptimizedNet(make(conv("c", "data", 4), phase="TRAIN"))
    assert error.value.code == "net.optimize"


def test_wrong_inputs_are_refused() -> None:
    fast = OptimizedNet(make(conv("c", "data", 4)))
    with pytest.raises(NetError, match="unknown input"):
        fast({"data": torch.ones(2, 3, 9, 7), "label": torch.ones(1)})

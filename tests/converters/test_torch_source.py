"""Nets as PyTorch source and as exported programs: the same blobs, detections and gradients as in our runtime."""

import ast
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_nets import detector, noise, small_net, write_net

from pyscratchdet import prototxt
from pyscratchdet.boxes.detection import DetectionRule, Predictions, detect
from pyscratchdet.boxes.priors import prior_boxes, prior_sizes
from pyscratchdet.boxes.static_detection import fixed_detections, prior_boxes_blob
from pyscratchdet.cli import main
from pyscratchdet.converters.torch_program import export_program, program_notes
from pyscratchdet.converters.torch_source import module_source, save_source, weights_path
from pyscratchdet.errors import ConversionError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse, to_text
from pyscratchdet.rng import CaffeRandom
from pyscratchdet.runtime import build_net, copy_weights, net_blobs, save_weights

# Other orders of summation in float32, over a whole net: what is promised of a written module.
TOLERANCE = 1e-5
RUNNER = Path(__file__).parent / "standalone_runner.py"
SHAPE = "dim: 2 dim: 4 dim: 9 dim: 8"
INPUT = f'name: "kinds" layer {{ name: "in" type: "Input" top: "data" input_param {{ shape {{ {SHAPE} }} }} }}\n'


def layer(layer_type, settings="", bottoms=("data",), top=None, name=None):
    top = top or layer_type.lower()
    links = "".join(f'bottom: "{bottom}" ' for bottom in bottoms)
    return f'layer {{ name: "{name or top}" type: "{layer_type}" {links} top: "{top}" {settings} }}\n'


def convolution(settings, layer_type="Convolution", top=None):
    return layer(layer_type, f"convolution_param {{ {settings} weight_filler {{ type: 'xavier' }} }}", top=top)


# Kinds of layers by family; every layer reads the picture and is an output, but for what the picture needs first.
FAMILIES = {
    "convolutions": convolution("num_output: 6 kernel_size: 3 pad: 1 stride: 2", top="a")
    + convolution("num_output: 6 kernel_h: 3 kernel_w: 1 pad_h: 2 pad_w: 0 dilation: 2 group: 2", top="b")
    + convolution("num_output: 5 kernel_size: 1 bias_term: false", top="c")
    + convolution("num_output: 4 kernel_size: 3", "DepthwiseConvolution", top="d")
    + convolution("num_output: 6 kernel_size: 4 stride: 2 pad: 1 group: 2", "Deconvolution", top="e")
    + layer("InnerProduct", "inner_product_param { num_output: 5 weight_filler { type: 'xavier' } }"),
    "statistics": layer("BatchNorm", "batch_norm_param { eps: 1e-3 moving_average_fraction: 0.9 }", top="a")
    + layer("Scale", "scale_param { bias_term: true filler { type: 'uniform' } }", ("a",), "b")
    + layer("Scale", "scale_param { axis: 0 num_axes: 2 filler { type: 'uniform' } }", top="c")
    + layer("Bias", "bias_param { axis: 2 filler { type: 'uniform' } }", top="d")
    + layer("Scale", "scale_param { axis: 0 }", ("data", "b"), "e")
    + layer("Bias", "bias_param { axis: 0 }", ("data", "b"), "f")
    + layer("Normalize", "norm_param { scale_filler { type: 'uniform' } channel_shared: false }", top="g")
    + layer("Normalize", "norm_param { across_spatial: true channel_shared: true eps: 1e-3 }", top="h")
    + layer("LRN", "lrn_param { local_size: 3 alpha: 0.2 beta: 0.6 k: 2 }", top="i")
    + layer("LRN", "lrn_param { local_size: 3 alpha: 0.2 norm_region: WITHIN_CHANNEL }", top="j"),
    "activations": layer("ReLU")
    + layer("ReLU", "relu_param { negative_slope: 0.1 }", top="leaky")
    + layer("PReLU")
    + layer("PReLU", "prelu_param { channel_shared: true }", top="shared_slope")
    + "".join(
        map(
            layer,
            ("Sigmoid", "TanH", "AbsVal", "BNLL", "ReLU6", "HardSwish", "ELU", "Swish", "Softmax", "Mish", "SeLu"),
        )
    )
    + layer("Swish", "swish_param { beta: 0.7 }", top="swish_beta")
    + layer("Power", "power_param { scale: 0.3 shift: 2 }", top="power")
    + layer("Power", "power_param { power: 2 }", top="square")
    + layer("Power", "power_param { power: 0 }", top="ones")
    + layer("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.1 }")
    + layer("Log", "log_param { base: 10 shift: 3 }", ("sigmoid",))
    + layer("Clip", "clip_param { min: -0.5 max: 0.5 }")
    + layer("Threshold", "threshold_param { threshold: 0.2 }"),
    "pooling": layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", top="a")
    + layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", top="b")
    + layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 avg_include_pad: false }", top="i")
    + layer("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 2 }", top="c")
    + layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 2 }", top="d")
    + layer("Pooling", "pooling_param { pool: AVE global_pooling: true }", top="e")
    + layer("Pooling", "pooling_param { global_pooling: true }", top="f")
    + layer("Pooling", "pooling_param { kernel_size: 2 stride: 3 round_mode: FLOOR }", top="g")
    + layer("Pooling", "pooling_param { kernel_h: 1 kernel_w: 2 stride_h: 3 stride_w: 5 }", top="h"),
    "shapes": layer("Flatten", top="a")
    + layer("Flatten", "flatten_param { axis: 1 end_axis: 2 }", top="b")
    + layer("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", top="c")
    + layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 8 } }", top="d")
    + layer("Concat", "", ("data", "data"), "e")
    + layer("Concat", "concat_param { axis: 2 }", ("data", "data", "data"), "f")
    + 'layer { name: "g" type: "Slice" bottom: "data" top: "g1" top: "g2" slice_param { axis: 1 slice_point: 1 } }\n'
    + layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", top="small")
    + layer("Crop", "crop_param { axis: 2 offset: 1 offset: 2 }", ("data", "small"), "h")
    + layer("Eltwise", "", ("data", "data"), "i")
    + layer("Eltwise", "eltwise_param { coeff: 2 coeff: -0.5 }", ("h", "small"), "j")
    + layer("Eltwise", "eltwise_param { operation: PROD }", ("h", "small", "j"), "k")
    + layer("Eltwise", "eltwise_param { operation: MAX }", ("h", "small", "k"), "l")
    + layer("Dropout", "dropout_param { dropout_ratio: 0 }", top="m")
    + 'layer { name: "n" type: "Silence" bottom: "m" }\n',
}


def kinds_net(family, phase="TEST"):
    net = build_net(parse(INPUT + FAMILIES[family], caffe_pb2.NetParameter), phase, random=CaffeRandom(3))
    generator = torch.Generator().manual_seed(4)
    for module in net.layers:
        for role, blob in zip(module.roles, module.blobs, strict=True):
            if role in ("bias", "mean", "variance", "scale_factor"):
                blob.data.copy_(torch.rand(blob.shape, generator=generator) + 0.5)
    return net


def data(batch=2, seed=5):
    return torch.randn(batch, 4, 9, 8, generator=torch.Generator().manual_seed(seed))


def loaded(net, folder, **options):
    """Returns the net that its written files make."""
    source = save_source(net, folder / "net.py", **options)
    name = f"written_{folder.name}"
    spec = importlib.util.spec_from_file_location(name, folder / "net.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    assert type(module.load()).__name__ == source.class_name
    return module.load()


def copies(net):
    """Names of the blobs that Split layers add."""
    return {top for module in net.layers if module.layer_type == "Split" for top in module.node.param.top}


def check_blobs(found, expected, net):
    assert set(found) == set(expected) - copies(net)
    for name, blob in found.items():
        assert blob.shape == expected[name].shape, name
        assert torch.linalg.norm(blob - expected[name]) <= TOLERANCE * torch.linalg.norm(expected[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_as_source(family, tmp_path):
    net = kinds_net(family)
    module = loaded(net, tmp_path)
    for batch in (2, 3) if family != "statistics" else (2,):  # the file's axis-0 scale holds one factor per picture
        with torch.no_grad():
            check_blobs(module.forward_blobs(data(batch)), net.forward_blobs(data(batch)), net)
    assert list(module(data())) == net.output_names


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_as_a_program(family):
    net = kinds_net(family)
    program = export_program(net, batch=2 if family == "statistics" else None).module()
    for batch in (1, 3) if family != "statistics" else (2,):
        found = program(data(batch))
        assert set(found) == set(net.output_names)
        with torch.no_grad():
            expected = net.forward_blobs(data(batch))
        check_blobs(found, {name: expected[name] for name in found}, net)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_the_same(family, tmp_path):
    """Gradients of all parameters and of the picture, and what BatchNorm remembers, after a pass in training mode."""
    net = kinds_net(family, "TRAIN")
    module = loaded(kinds_net(family), tmp_path).train()
    inputs = [data(seed=6).requires_grad_() for _ in range(2)]
    for blobs, given in ((net.forward_blobs(inputs[0]), net), (module.forward_blobs(inputs[1]), module)):
        generator = torch.Generator().manual_seed(7)
        weights = {name: torch.randn(blobs[name].shape, generator=generator) for name in net.output_names}
        sum((blobs[name] * weights[name]).sum() for name in net.output_names if blobs[name].requires_grad).backward()
        assert given is net or inputs[1].grad is not None
    ours, theirs = dict(net.named_parameters()), dict(module.named_parameters())
    assert set(ours) == set(theirs)
    pairs = [(ours[name].grad, theirs[name].grad) for name in ours] + [(inputs[0].grad, inputs[1].grad)]
    pairs += [(value, dict(module.named_buffers())[name]) for name, value in net.named_buffers()]
    for mine, other in pairs:
        assert torch.linalg.norm(mine.reshape(other.shape) - other) <= TOLERANCE * torch.linalg.norm(mine)


def test_a_detectors_gradients_are_the_same(tmp_path):
    net = small_net(detector())
    training = build_net(parse(detector(), caffe_pb2.NetParameter), "TRAIN")
    copy_weights(training, net_blobs(net))
    module = loaded(net, tmp_path).train()
    inputs = torch.from_numpy(noise((2, 3, 22, 26))) / 100
    for each in (training, module):
        blobs = each.forward_blobs(inputs)
        (blobs["mbox_loc"].square().mean() + blobs["mbox_conf_flatten"][:, ::3].log().mean()).backward()
    theirs = dict(module.named_parameters())
    for name, parameter in training.named_parameters():
        assert parameter.grad.abs().sum() > 0
        assert torch.linalg.norm(parameter.grad - theirs[name].grad) <= TOLERANCE * torch.linalg.norm(parameter.grad)


RULES = {
    "few": {"keep_top_k": 7, "top_k": 20},
    "all": {"keep_top_k": -1, "top_k": -1, "score_threshold": 0.3, "background": -1},
    "corners": {"code_type": 1, "keep_top_k": 9, "background": 2, "nms_threshold": 0.6},
    "sizes": {"code_type": 3, "plain": True, "keep_top_k": 200, "top_k": 400},
    "nothing": {"score_threshold": 1.0, "keep_top_k": 5},
    "clipped": {"clip": True, "keep_top_k": 30, "nms_threshold": 0.5},
}


@pytest.mark.parametrize("locations", [1, 4])
@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("kind", RULES)
def test_fixed_detections_are_those_of_detect(kind, refined, locations):
    """The same rows bit for bit: greedy suppression by rounds is exact, chains of overlaps included."""
    rule = DetectionRule(**{"num_classes": 4, "background": 0, "code_type": 2, "objectness": 0.4, **RULES[kind]})
    generator = torch.Generator().manual_seed(8)
    corners = torch.rand(53, 2, generator=generator) * 0.7
    priors = torch.cat([corners, corners + 0.1 + torch.rand(53, 2, generator=generator) * 0.5], 1)
    loc = torch.randn(3, 53, locations, 4, generator=generator) * 0.3
    conf = torch.rand(3, 53, 4, generator=generator)
    arm_conf, arm_loc = torch.rand(3, 53, 2, generator=generator), torch.randn(3, 53, 4, generator=generator) * 0.2
    scores = conf.clone()
    if refined:
        scores[arm_conf[..., 1] < rule.objectness] = torch.tensor([1.0, 0, 0, 0])
        if kind == "corners":  # where keep_top_k cuts between equal scores, the original has an order of its own
            arm_conf[..., 1] += rule.objectness
            scores = conf
    expected = detect(
        Predictions(loc, scores, priors, torch.full((53, 4), 0.2), arm_loc if refined else None), rule
    ).table()
    blob = torch.stack([priors.reshape(-1), torch.full((212,), 0.2)])[None]
    arm = [arm_conf.flatten(1), arm_loc.flatten(1)] if refined else []
    rows = fixed_detections(loc.flatten(1), conf.flatten(1), blob, rule, *arm).reshape(3, -1, 7)
    real = rows[..., 1] >= 0
    torch.testing.assert_close(rows[real], expected, rtol=0, atol=0)
    assert (rows[~real] == -1).all()
    assert (real.sort(dim=1, descending=True).values == real).all()  # each picture's rows come first
    assert (len(expected) > 0) == (kind != "nothing")


@pytest.mark.parametrize("step", [None, (16.0, 15.5)])
def test_priors_are_the_layers_own(step):
    sizes = prior_sizes([30.3, 61], [60.7, 99], [1.0, 2.0, 1 / 3])
    expected = prior_boxes(sizes, (5, 7), (83, 111), step, 0.4, True)
    found = prior_boxes_blob(
        torch.zeros(1, 2, 5, 7), (83, 111), tuple(map(tuple, sizes.tolist())), (0.1, 0.1, 0.2, 0.2), step, 0.4, True
    )
    np.testing.assert_array_equal(found[0, 0].reshape(-1, 4).numpy(), expected)
    np.testing.assert_array_equal(found[0, 1, :4].numpy(), np.array([0.1, 0.1, 0.2, 0.2], "f4"))


def narrow(name):
    """Returns a published net with few channels and classes."""
    width = {"width": 0.125} if prototxt.entries()[name].can_widen else {}
    deploy = prototxt.build(name, prototxt.Options(num_classes=4, **width)).deploy
    for each in deploy.layer:
        if each.type in ("Convolution", "Deconvolution") and "mbox" not in each.name and not width:
            each.convolution_param.num_output //= 16
        if each.type == "DetectionOutput":
            each.detection_output_param.ClearField("save_output_param")
            each.detection_output_param.keep_top_k = 50
    return deploy


def seeded_net(deploy):
    sys.path.insert(0, str(RUNNER.parents[2] / "benchmarks"))
    try:
        from seeded import picture, seed_weights
    finally:
        sys.path.pop(0)
    net = build_net(deploy)
    seed_weights(net)
    size = net.blob_shapes["data"][2]
    return net, torch.cat([picture(seed, size) for seed in (1, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd300_vgg16_voc0712", "scratchdet300_rootres18_voc0712"])
def test_in_a_process_without_this_project(name, tmp_path):
    """x.py and x.pt2 as the command writes them need torch and safetensors only, and find what our runtime finds."""
    net, inputs = seeded_net(narrow(name))
    (tmp_path / "deploy.prototxt").write_text(to_text(narrow(name)))
    save_weights(net, tmp_path / "model.caffemodel")
    for target in ("x.py", "x.pt2"):
        command = ["convert", str(tmp_path / "model.caffemodel"), str(tmp_path / target)]
        assert main([*command, "--model", str(tmp_path / "deploy.prototxt")]) == 0
    torch.save(inputs, tmp_path / "data.pt")
    subprocess.run([sys.executable, "-I", RUNNER, tmp_path], check=True, capture_output=True, timeout=300)
    found = torch.load(tmp_path / "out.pt")
    with torch.no_grad():
        expected = net.forward_blobs(inputs)
    check_blobs(found["blobs"], expected, net)
    rows = expected["detection_out"][0, 0]
    assert found["fixed"]["detection_out"].shape == (1, 1, 2 * 50, 7)
    for fixed, wanted in ((found["fixed"], rows), (found["one"], rows[rows[:, 0] == 0])):
        table = fixed["detection_out"][0, 0]
        assert len(wanted) > 10
        torch.testing.assert_close(table[table[:, 1] >= 0], wanted, rtol=0, atol=TOLERANCE)  # values below 2


@pytest.mark.parametrize("line_length", [88, 120])
def test_the_text_is_in_ruffs_form(line_length, tmp_path):
    if shutil.which("ruff", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("ruff is not installed")
    nets = {family: kinds_net(family) for family in FAMILIES} | {"odd": build_net(parse(ODD, caffe_pb2.NetParameter))}
    for name in ("ssd300_vgg16_voc0712", "dsod300_voc0712", "refinedet320_vgg16_voc0712"):
        nets[name] = build_net(narrow(name))
    for name, net in nets.items():
        (tmp_path / f"{name}.py").write_text(module_source(net, facts={"labels": '{"1": "c\\"at", "2": "d\'og"}'}).text)
    ruff = Path(sys.executable).parent / "ruff"
    command = [ruff, "format", "--isolated", "--diff", "--line-length", str(line_length), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([ruff, "check", "--isolated", tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


LONG = "a_very_long_name_of_a_blob_in_a_residual_block/branch_one_of_two/sum"
# Names that Python cannot have, that mean something in the file, or that would end a string.
ODD = (
    'name: "odd \\"\\"\\" net\\\\\\n1" layer { name: "in" type: "Input" top: "self" top: "2/x"'
    " input_param { shape { dim: 1 dim: 2 dim: 3 dim: 3 } } }"
    + convolution("num_output: 2 kernel_size: 1", top="torch").replace('bottom: "data"', 'bottom: "self"')
    + convolution("num_output: 2 kernel_size: 1", top="train").replace('bottom: "data"', 'bottom: "2/x"')
    + layer("Eltwise", "", ("torch", "train"), LONG)
    + layer(
        "Eltwise",
        "",
        (LONG, "train"),
        '\\"; import os #\\n',
        "a/b",
    )
    + layer("ReLU", "", ("torch",), "area", "__init__")
    + layer("Power", "power_param { scale: 0.3 shift: 2 }", (LONG,), f"{LONG}/power")
    + layer("Swish", "swish_param { beta: 0.7 }", (LONG,), f"{LONG}/swish")
    + layer("Exp", "exp_param { base: 2 scale: 0.5 shift: 0.1 }", (LONG,), f"{LONG}/exp")
    + layer("Crop", "crop_param { axis: 2 }", (LONG, "area"), f"{LONG}/crop")
    + layer("Threshold", "", (LONG,), f"{LONG}/threshold")
    + layer("Permute", "permute_param { order: 0 order: 2 }", (LONG,), f"{LONG}/permute")
    + layer("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 2 }", (LONG,), f"{LONG}/pool")
)


def test_odd_names(tmp_path):
    net = build_net(parse(ODD, caffe_pb2.NetParameter))
    module = loaded(net, tmp_path)
    inputs = {"self": torch.randn(2, 2, 3, 3), "2/x": torch.randn(2, 2, 3, 3)}
    with torch.no_grad():
        check_blobs(module.forward_blobs(*inputs.values()), net.forward_blobs(inputs), net)
    text = (tmp_path / "net.py").read_text()
    assert '# "train" in the prototxt' in text
    kinds = {type(node) for node in ast.parse(text).body}
    assert kinds <= {ast.Expr, ast.ImportFrom, ast.Import, ast.Assign, ast.FunctionDef, ast.ClassDef}
    assert "import os" not in {ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)}


def test_what_shares_memory_or_parameters(tmp_path):
    text = INPUT + (
        layer("Flatten", top="flat")
        + layer("ReLU", "", ("flat",), "flat", "in_place")
        + 'layer { name: "p" type: "InnerProduct" bottom: "flat" top: "p" param { name: "w" }'
        + " inner_product_param { num_output: 3 bias_term: false weight_filler { type: 'xavier' } } }\n"
        + 'layer { name: "q" type: "InnerProduct" bottom: "data" top: "q" param { name: "w" } propagate_down: false'
        + " inner_product_param { num_output: 3 bias_term: false weight_filler { type: 'xavier' } } }\n"
    )
    net = build_net(parse(text, caffe_pb2.NetParameter))
    module = loaded(net, tmp_path)
    assert module.p.weight is module.q.weight
    ours, theirs = data().requires_grad_(), data().requires_grad_()
    mine, others = net.forward_blobs(ours), module.forward_blobs(theirs)
    assert (others["data"] >= 0).all()  # Flatten's top is the picture's memory, where ReLU works
    check_blobs(others, mine, net)
    for blobs in (mine, others):
        (blobs["p"].sum() + 2 * blobs["q"].sum()).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(dict(net.named_parameters())["p.weight"].grad, module.p.weight.grad)


@pytest.mark.parametrize("heads", ["boxes", "raw", "fixed"])
def test_other_forms_of_a_detector(heads, tmp_path):
    net = small_net(detector())
    inputs = torch.from_numpy(noise((3, 3, 22, 26))) / 100
    module = loaded(net, tmp_path, heads=heads)
    program = export_program(net, heads=heads).module()
    with torch.no_grad():
        found, exported, blobs = module(inputs), program(inputs), net.forward_blobs(inputs)
    names = {"boxes": ["detection_out_boxes", "detection_out_scores"], "fixed": ["detection_out"]}
    assert list(found) == names.get(heads, ["mbox_loc", "mbox_conf_flatten", "mbox_priorbox"])
    for name, value in exported.items():
        torch.testing.assert_close(value, found[name], rtol=0, atol=TOLERANCE)  # values below 2
        if heads == "raw":
            torch.testing.assert_close(value, blobs[name], rtol=0, atol=TOLERANCE)
    if heads == "boxes":
        assert found["detection_out_boxes"].shape == (3, 2145, 4)
        torch.testing.assert_close(found["detection_out_scores"].flatten(1), blobs["mbox_conf_flatten"])


def test_a_program_is_saved_with_what_it_says_about_itself(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    target = str(tmp_path / "net.pt2")
    options = ["--mean", "1,2,3", "--batch", "2"]
    assert main(["convert", caffemodel, target, "--model", deploy, *options]) == 0
    said = capsys.readouterr().out
    assert "input data (2, 3, 22, 26), float32: blue first (BGR)\n    picture stretched to 22 x 26 " in said
    assert "(value - mean) * scale, mean 1,2,3, scale 1\n  output" in said
    assert "rows of -1 follow each picture's detections" in said
    assert program_notes(target)[0] == "  known to run in torch.export.load, without this project"
    assert str(RUNNER.parents[2]).encode() not in Path(target).read_bytes()  # no paths of this machine


def test_source_by_command(tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path)
    target = tmp_path / "own.py"
    labels = tmp_path / "labels.prototxt"
    labels.write_text("".join(f'item {{ name: "{name}" label: {k} }}' for k, name in enumerate("zabcdef")))
    command = ["convert", caffemodel, str(target), "--model", deploy, "--labelmap", str(labels)]
    assert main([*command, "--mean", "1,2,3", "--rgb"]) == 0
    said = capsys.readouterr().out
    assert str(weights_path(target)) in said
    assert "  Input data (N, 3, 11, 14), float32: red first (RGB)\n" in said
    text = target.read_text()
    assert "Input data (N, 3, 11, 14), float32: red first (RGB)\n  picture stretched to 11 x 14 (height" in text
    assert "  (value - mean) * scale, mean 1,2,3, scale 1\nOutputs: prob\n" in text
    assert "deploy.prototxt and model.caffemodel" in text
    assert ast.literal_eval(text[text.index("LABELS = ") + 9 :].split("\n\n")[0])[1] == "a"
    imports = [ast.unparse(node) for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    assert not [line for line in imports if "pyscratchdet" in line]


@pytest.mark.parametrize(
    ("target", "options", "code"),
    [
        ("x.pt2", ["--heads", "decoded"], "torch.heads"),
        ("x.pt2", ["--opset", "17"], "convert.option"),
        ("x.pt2", ["--half"], "convert.option"),
        ("x.py", ["--batch", "2"], "convert.option"),
        ("x.py", ["--input-picture", "bgr"], "convert.option"),
    ],
)
def test_options_that_do_not_fit_are_refused(target, options, code, tmp_path, capsys):
    deploy, caffemodel = write_net(tmp_path, detector())
    assert main(["convert", caffemodel, str(tmp_path / target), "--model", deploy, *options]) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert not (tmp_path / target).exists()


def test_layers_without_source_are_refused_by_name():
    text = INPUT + layer("MVN")
    with pytest.raises(ConversionError) as caught:
        module_source(build_net(parse(text, caffe_pb2.NetParameter)))
    assert caught.value.code == "torch.unsupported"
    assert "MVN" in str(caught.value)

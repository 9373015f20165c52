"""PyTorch models by name: torchvision's, timm's and the user's own, with their weights and without the network."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from small_nets import noise
from torch import nn

from pyscratchdet.cli import main
from pyscratchdet.converters.compare import difference
from pyscratchdet.converters.torch_models import named_model, parse_shapes, timm_model, torchvision_model
from pyscratchdet.errors import ConversionError, FileError, UsageError, WeightsError
from pyscratchdet.runtime import load_net

OWN = """
from torch import nn


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def failing():
    raise KeyError("no table")


def number():
    return 4


ready = Small()
"""


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was tried"))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's, in the working directory."""
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own_net", None)


@pytest.mark.parametrize(
    ("spelling", "shape"),
    [
        ("torchvision:resnet18", (1, 3, 224, 224)),
        ("torchvision:lraspp_mobilenet_v3_large", (1, 3, 224, 224)),
        ("torchvision:ssd300_vgg16", (1, 3, 300, 300)),
        ("torchvision:ssdlite320_mobilenet_v3_large", (1, 3, 320, 320)),
        ("timm:mobilenetv3_small_050.lamb_in1k", (1, 3, 224, 224)),
        ("timm:tf_efficientnet_b1", (1, 3, 240, 240)),
    ],
)
def test_models_are_built_without_the_network(spelling, shape, no_network):
    model = named_model(spelling)
    assert model.shapes == (shape,)
    assert not model.module.training
    assert model.name == spelling.partition(":")[2]


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"])
def test_other_detectors_are_refused_without_the_network(name, no_network):
    with pytest.raises(ConversionError, match=f"{name} chooses its boxes in Python code"):
        torchvision_model(name)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "hf_hub:a/b", "local-dir:/tmp", "resnet_18"])
def test_timm_takes_its_own_names_only(name, no_network):
    with pytest.raises(UsageError, match=f'timm has no model "{name}"'):
        timm_model(name)


def test_timms_models_say_how_pictures_are_prepared(no_network):
    assert named_model("timm:tf_efficientnet_lite0").mean_bgr == (127.5,) * 3
    assert named_model("torchvision:squeezenet1_1").mean_bgr == pytest.approx((103.53, 116.28, 123.675))


def test_a_missing_timm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConversionError, match=r'pip install "pyscratchdet\[timm\]"'):
        named_model("timm:resnet18")


@pytest.mark.parametrize("name", ["Small", "ready"])
def test_own_module_by_command(name, own, capsys):
    command = f"convert module:own_net:{name} net.caffemodel --prototxt net.prototxt --input 2x3x9x12"
    assert main(command.split()) == 0
    net = load_net("net.prototxt", "net.caffemodel")
    assert net.blob_shapes["data"] == (2, 3, 9, 12)
    made = sys.modules["own_net"].ready.eval()
    if name == "ready":
        inputs = torch.from_numpy(noise((2, 3, 9, 12)))
        with torch.no_grad():
            # One convolution of 27 factors and its BatchNorm, rounded in another order.
            assert difference(next(iter(net(inputs).values())).numpy(), made(inputs).numpy()).relative < 1e-6


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("own_net", UsageError, "the factory is missing"),
        ("own_net:Large", UsageError, 'module "own_net" has no "Large"'),
        ("own_net:number", UsageError, "own_net:number does not make a model"),
        ("own_net:failing", ConversionError, "own_net:failing cannot be made: KeyError: 'no table'"),
        ("no_such_net:Small", ConversionError, "ModuleNotFoundError: No module named 'no_such_net'"),
    ],
)
def test_what_own_code_may_do_wrong(path, error, message, own):
    with pytest.raises(error) as caught:
        named_model(f"module:{path}")
    assert message in str(caught.value)
    assert caught.value.code == "import.factory"


def test_own_module_needs_its_shape(own, capsys):
    line = "convert module:own_net:Small a.caffemodel --prototxt a.prototxt"
    assert main(line.split()) == 2
    assert "--input 1x3x224x224" in capsys.readouterr().err
    assert main(f"{line} --input 1x3x8x8 --size 8".split()) == 2
    assert "--input and --size exclude each other" in capsys.readouterr().err


def test_shapes_of_several_inputs():
    assert parse_shapes("1x3x64x96, 1X10") == ((1, 3, 64, 96), (1, 10))
    for text in ("", "3x", "1x0x3", "1,,2", "axb", "1x-3"):
        with pytest.raises(UsageError, match="--input: not a list of shapes"):
            parse_shapes(text)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_a_file_reach_the_model(ending, prefix, tmp_path):
    module = torchvision_model("resnet18", num_classes=3)
    state = {prefix + key: value for key, value in module.state_dict().items() if "num_batches" not in key}
    path = tmp_path / f"w.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(state, path)
    again = torchvision_model("resnet18", path, num_classes=3)
    torch.testing.assert_close(again.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_bfloat16_becomes_float32(own):
    module = named_model("module:own_net:Small").module
    state = {
        key: value.bfloat16() if value.is_floating_point() else value for key, value in module.state_dict().items()
    }
    save_file(state, own / "w.safetensors")
    again = named_model("module:own_net:Small", own / "w.safetensors").module
    assert torch.equal(again[0].weight, module[0].weight.bfloat16().float())


def test_what_does_not_fit_is_listed(own):
    state = named_model("module:own_net:Small").module.state_dict()
    state["fc.weight"] = state.pop("0.weight")
    state["1.bias"] = torch.zeros(5)
    torch.save(state, own / "w.pth")
    with pytest.raises(ConversionError) as caught:
        named_model("module:own_net:Small", "w.pth")
    assert caught.value.message.endswith(
        "own_net:Small, which has 7 arrays: 1 missing: 0.weight; 1 unexpected: fc.weight; "
        "1 of another shape: 1.bias (5,) instead of (4,)"
    )


def test_weights_run_no_code(own):
    torch.save(nn.Linear(2, 3), own / "w.pth")
    with pytest.raises(WeightsError, match="not a file of plain weights"):
        named_model("module:own_net:Small", "w.pth")
    (own / "w.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(WeightsError, match="damaged safetensors"):
        named_model("module:own_net:Small", "w.safetensors")
    with pytest.raises(FileError):
        named_model("module:own_net:Small", "nowhere.safetensors")

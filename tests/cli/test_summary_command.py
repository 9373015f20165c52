"""`pyscratchdet summary` on a net whose costs are counted by hand."""

import json
import subprocess
import sys

import pytest

from pyscratchdet.cli import command_parser, main
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import plan_net

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_size: 3 pad: 1 stride: 2 } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "left" type: "Convolution" bottom: "conv" top: "left"
        convolution_param { num_output: 7 kernel_size: 1 bias_term: false } }
layer { name: "right" type: "Convolution" bottom: "conv" top: "right"
        convolution_param { num_output: 7 kernel_size: 1 bias_term: false } }
layer { name: "sum" type: "Eltwise" bottom: "left" bottom: "right" top: "sum" }
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "small.prototxt"
    file.write_text(NET)
    return str(file)


def test_costs_counted_by_hand(path):
    cost = net_cost(plan_net(path))
    layers = {layer.name: layer for layer in cost.layers}
    assert list(layers) == ["data", "conv", "norm", "relu", "left", "right", "sum"]
    assert layers["conv"].tops == ((2, 5, 4, 3),)
    assert layers["conv"].num_parameters == 5 * 3 * 9 + 5
    assert layers["conv"].macs == 2 * 5 * 4 * 3 * 3 * 9
    assert layers["norm"].num_parameters == 0
    assert layers["norm"].num_statistics == 5 + 5 + 1
    assert layers["left"].macs == 2 * 7 * 4 * 3 * 5
    assert cost.num_parameters == 140 + 35 + 35
    # float32: images, conv, and three tops of seven channels; what is in place adds nothing.
    assert cost.memory == 4 * (2 * 3 * 8 * 6 + 2 * 5 * 4 * 3 + 3 * 2 * 7 * 4 * 3)
    assert layers["relu"].memory == 0


def test_table(path, capsys):
    assert main(["summary", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "type", "tops", "parameters", "MMACs", "KiB"]
    assert lines[2].split()[:4] == ["conv", "Convolution", "2x5x4x3", "140"]
    assert lines[-1].startswith("7 layers, 210 parameters, 0.005 M multiply-accumulates (0.010 MFLOPs)")


def test_a_blob_of_the_other_phase_is_told_with_it(tmp_path, capsys):
    path = tmp_path / "train.prototxt"
    path.write_text(NET.replace("input_param", "include { phase: TRAIN } input_param"))
    assert main(["summary", str(path)]) == 2
    assert (
        'bottom 0 is "data", which no earlier layer makes in phase TEST; layer "data" makes it in phase TRAIN '
        "(--phase TRAIN, where a command has it) [net.unknown-bottom]"
    ) in capsys.readouterr().err
    assert main(["summary", str(path), "--phase", "train", "--total"]) == 0
    path.write_text(NET.replace('bottom: "data"', 'bottom: "dat"'))
    assert main(["summary", str(path), "--phase", "Train"]) == 2
    assert 'makes in phase TRAIN; did you mean "data"? [net' in capsys.readouterr().err


@pytest.mark.parametrize("command", ["summary", "draw-net", "time", "train", "verify", "view"])
def test_a_phase_is_taken_in_any_case(command):
    _, parser = command_parser(command)
    phase = next(action for action in parser._actions if "--phase" in action.option_strings)
    assert parser._get_value(phase, "train") == "TRAIN"


def test_json_has_the_figures_of_the_table(path, capsys):
    assert main(["summary", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    cost = net_cost(plan_net(path))
    assert found["totals"] == {"layers": 7, "parameters": 210, "macs": cost.macs, "memory": cost.memory}
    conv = found["layers"][1]
    assert (conv["name"], conv["tops"], conv["macs"]) == ("conv", [[2, 5, 4, 3]], 2 * 5 * 4 * 3 * 3 * 9)
    assert main(["summary", path, "--json", "--total"]) == 0
    assert "layers" not in json.loads(capsys.readouterr().out)


def test_another_input(path, capsys):
    assert main(["summary", path, "--input", "16,12", "--total"]) == 0
    assert "7 layers, 210 parameters" in capsys.readouterr().out
    assert main(["summary", path, "--input", "1,3,16,12"]) == 0
    assert "1x5x8x6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "wide"], "--input takes sizes"),
        (["--input", "1,2,3,4,5"], "expected 4 and found 5"),
        (["--input", "0,5"], "--input takes sizes"),
    ],
)
def test_bad_input_sizes(path, arguments, message, capsys):
    assert main(["summary", path, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_missing_file(capsys):
    assert main(["summary", "none.prototxt"]) == 2
    assert "cannot read none.prototxt" in capsys.readouterr().err


def test_no_torch(path):
    script = (
        f"import sys; from pyscratchdet.cli import main; main(['summary', {path!r}]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)

"""`verify --gradients` and `--step`: against our other modes and recordings, and with planted errors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_nets import BODY, NET, noise, small_net

from pyscratchdet.cli import main
from pyscratchdet.runtime import build_net, copy_weights, save_weights

ROOT = Path(__file__).parents[2]
LOSS = BODY.replace(
    'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }',
    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }',
).replace(
    'name: "fc" type: "InnerProduct"', 'name: "fc" type: "InnerProduct" param { lr_mult: 1 } param { lr_mult: 2 }'
)
INPUTS = """name: "small" layer { name: "in" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 2 dim: 3 dim: 11 dim: 14 } shape { dim: 2 } } }"""
DUMMY = """name: "small" layer { name: "in" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 2 dim: 3 dim: 11 dim: 14 } shape { dim: 2 }
    data_filler { type: "uniform" min: -1 max: 1 } data_filler { type: "constant" value: 4 } } }"""
SOLVER = 'net: "{net}" base_lr: 0.02 momentum: 0.9 weight_decay: 0.001 lr_policy: "fixed" random_seed: 3 max_iter: 5'


@pytest.fixture
def files(tmp_path):
    """A train net, a solver, weights and inputs."""
    (tmp_path / "train.prototxt").write_text(INPUTS + LOSS)
    (tmp_path / "solver.prototxt").write_text(SOLVER.format(net=tmp_path / "train.prototxt"))
    save_weights(small_net(), tmp_path / "model.caffemodel")
    np.savez(tmp_path / "in.npz", data=noise((2, 3, 11, 14)) / 100, label=np.array([3.0, 6.0], "f4"))
    return tmp_path


def dump(folder, *options, net="train.prototxt", inputs=("in.npz",)):
    """Records with the script that runs inside an original Caffe; here inside the drop-in."""
    command = [sys.executable, "-m", "pyscratchdet.caffe", str(ROOT / "scripts" / "dump_caffe_blobs.py")]
    arguments = [net, "model.caffemodel", "recorded.npz", *inputs, *options]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def verify(folder, *options, net="train.prototxt"):
    """Returns the status and the comparisons."""
    figures = folder / "v.json"
    figures.unlink(missing_ok=True)
    status = main(
        ["verify", "--model", str(folder / net), "--weights", str(folder / "model.caffemodel"), "--json", str(figures)]
        + [str(folder / option) if option.endswith((".npz", ".prototxt")) else option for option in options]
    )
    return status, json.loads(figures.read_text()) if figures.exists() else []


STEP = ("--phase", "TRAIN", "--gradients", "--step", "solver.prototxt")
WEIGHTS = ["conv1:0", "conv1:1", "bn1:0", "bn1:1", "bn1:2", "scale1:0", "scale1:1", "conv2:0", "side:0", "side:1"]


def test_fast_mode_trains_as_the_exact_one(files, capsys):
    status, (blobs, gradients, updates) = verify(files, "--input", "in.npz", "--against", "fast", *STEP)
    assert status == 0, capsys.readouterr().out
    assert [blob["blob"] for blob in blobs["blobs"]] == ["loss"]
    learned = [f"pdiff:{key}" for key in [*WEIGHTS, "fc:0", "fc:1"] if not key.startswith("bn1")]
    assert sorted(blob["blob"] for blob in gradients["blobs"]) == sorted(learned)
    assert [blob["blob"] for blob in updates["blobs"]] == [*WEIGHTS, "fc:0", "fc:1"]
    for comparison in (gradients, updates):
        for blob in comparison["blobs"]:
            # Layer by layer against whole-net autograd, float32. BatchNorm cancels the bias in front of it.
            assert blob["blob"].endswith("conv1:1") or blob["drift"]["relative"] < 1e-5
    assert "agree on all 9 gradients" in " ".join(capsys.readouterr().out.split())


def test_recording_of_gradients_and_a_step(files, capsys):
    dump(files, "--train", "--gradients", "--step", "solver.prototxt")
    status, (blobs, gradients, updates) = verify(files, "--against", "recorded.npz", *STEP)
    assert status == 0, capsys.readouterr().out
    assert [comparison["what"] for comparison in (blobs, gradients, updates)] == ["blob", "gradient", "update"]
    names = [blob["blob"] for blob in gradients["blobs"]]
    assert names[:4] == ["diff:fc", "pdiff:fc:0", "pdiff:fc:1", "diff:sum"]
    assert "diff:conv1" in names
    assert len(updates["blobs"]) == 12


def test_net_without_loss_goes_backward_from_noise(files, capsys):
    (files / "deploy.prototxt").write_text(NET)
    np.savez(files / "one.npz", data=noise((1, 3, 11, 14)) / 100)
    dump(files, "--gradients", net="deploy.prototxt", inputs=("one.npz",))
    assert "topdiff:prob" in np.load(files / "recorded.npz")
    options = ("--against", "recorded.npz", "fast", "--gradients")
    status, comparisons = verify(files, *options, net="deploy.prototxt")
    assert status == 0, capsys.readouterr().out
    recorded, fast = comparisons[1], comparisons[3]
    assert "diff:data" in [blob["blob"] for blob in recorded["blobs"]]
    # The fast mode sums in another order, forward and backward: what README promises of a whole net.
    assert all(blob["drift"]["relative"] < 1e-4 for blob in fast["blobs"])


def test_data_layers_of_a_recording_become_inputs(files, capsys):
    (files / "train.prototxt").write_text(DUMMY + LOSS)
    dump(files, "--train", "--gradients", "--step", "solver.prototxt", inputs=())
    status, comparisons = verify(files, "--against", "recorded.npz", *STEP)
    assert status == 0, capsys.readouterr().out
    assert all(comparison["blobs"] for comparison in comparisons)


def spoil(folder, key, change):
    arrays = dict(np.load(folder / "recorded.npz"))
    arrays[key] = change(arrays[key])
    np.savez(folder / "recorded.npz", **arrays)


def test_planted_gradient_error_is_found_at_its_layer(files, capsys):
    dump(files, "--train", "--gradients", "--step", "solver.prototxt")
    spoil(files, "pdiff:conv2:0", lambda array: array.transpose(0, 1, 3, 2))
    status, (blobs, gradients, updates) = verify(files, "--against", "recorded.npz", *STEP)
    assert status == 1
    assert blobs["agrees"]
    assert updates["agrees"]
    assert "part at gradient pdiff:conv2:0, layer conv2 (Convolution)" in gradients["verdict"]


def test_planted_rate_is_found_at_its_blob(files):
    """A bias with lr_mult 1 for 2: the weight itself moves by less than a thousandth, its update halves."""
    dump(files, "--train", "--gradients", "--step", "solver.prototxt")
    text = (files / "train.prototxt").read_text().replace("lr_mult: 2", "lr_mult: 1")
    (files / "train.prototxt").write_text(text)
    status, (blobs, gradients, updates) = verify(files, "--against", "recorded.npz", *STEP)
    assert status == 1
    assert blobs["agrees"]
    assert gradients["agrees"]
    assert "part at update fc:1, layer fc (InnerProduct): relative L2 error 5.0e-01" in updates["verdict"]
    assert [blob["blob"] for blob in updates["blobs"] if not blob["agrees"]] == ["fc:1"]


def test_what_has_no_gradients_says_so(files, capsys):
    (files / "deploy.prototxt").write_text(NET)
    assert verify(files, "--against", "opencv", "--gradients", net="deploy.prototxt")[0] == 2
    assert "opencv shows no gradients" in capsys.readouterr().err
    dump(files)
    assert verify(files, "--against", "recorded.npz", "--step", "solver.prototxt")[0] == 2
    assert "shows no solver step" in capsys.readouterr().err
    assert verify(files, "--against", "onnxruntime", "--phase", "TRAIN", "--input", "in.npz")[0] == 2
    assert "verify.phase" in capsys.readouterr().err


RECORDED = ROOT / "tests" / "solver" / "recorded"


@pytest.mark.parametrize("case", ["adam", "nesterov", "rmsprop", "sgd_step_itersize2"])
def test_first_update_of_the_original(tmp_path, case, capsys):
    """Steps that an original Caffe made, in the form that the script writes."""
    steps = dict(np.load(RECORDED / case / "trajectory.npz"))
    first = {key[8:]: array for key, array in steps.items() if key.startswith("param:0:")}
    arrays = {f"before:{key}": array for key, array in first.items()}
    arrays |= {f"after:{key[8:]}": array for key, array in steps.items() if key.startswith("param:1:")}
    number = min(int(key.split(":")[1]) for key in steps if key.startswith("in:"))
    for key in [key for key in steps if key.startswith(f"in:{number}:")]:
        blob = key.rpartition(":")[2]
        arrays[f"in:{blob}"] = arrays[f"step_in:{blob}"] = steps[key]
    arrays["out:loss"] = np.float32(steps["loss"][0])
    np.savez(tmp_path / "recorded.npz", **arrays)
    net = build_net(RECORDED / case / "train.prototxt", "TRAIN")
    layers = dict.fromkeys(key.rpartition(":")[0] for key in first)
    copy_weights(net, {name: [first[f"{name}:{i}"] for i in range(len(net.params[name]))] for name in layers})
    save_weights(net, tmp_path / "model.caffemodel")
    options = ("--against", "recorded.npz", "--phase", "TRAIN", "--step", str(RECORDED / case / "solver.prototxt"))
    status, (blobs, updates) = verify(tmp_path, *options, net=RECORDED / case / "train.prototxt")
    assert status == 0, capsys.readouterr().out
    assert [blob["blob"] for blob in blobs["blobs"]] == ["loss"]
    assert [blob["blob"] for blob in updates["blobs"]] == list(first)
    # Float32 sums of another order; 4e-6 is what rmsprop's division by small roots makes of them.
    assert max(blob["drift"]["relative"] for blob in updates["blobs"]) < 1e-5

"""The commands train, test, time and plot-log, in this process."""

import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from toynet import SOLVER, TRAIN

from pyscratchdet import solver
from pyscratchdet.cli import main
from pyscratchdet.runtime import build_net, save_weights
from pyscratchdet.solver.curves import read_curves

GLOG = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.py:\d+\] ")


def test_train_logs_what_parse_log_reads(toy, tmp_path, capsys):
    log = tmp_path / "logs/run.log"
    path = toy("display: 5 test_iter: 2 test_interval: 10")
    assert main(["train", f"-solver={path}", "--log", str(log), "--log_dir", str(tmp_path / "more")]) == 0
    text = log.read_text()
    assert capsys.readouterr().err == text
    assert [path.read_text() for path in (tmp_path / "more").iterdir()] == [text]
    lines = [line for line in text.splitlines() if GLOG.match(line)]
    # The expressions of Caffe's tools/extra/parse_log.py.
    iterations = [int(m[1]) for line in lines if (m := re.search(r"Iteration (\d+), loss", line))]
    assert iterations == [0, 5, 10, 15, 20]
    rates = [float(m[1]) for line in lines if (m := re.search(r"lr = ([-+]?[0-9]*\.?[0-9]+)", line))]
    assert rates == [0.05, 0.05, 0.05, 0.005]
    assert len([line for line in lines if re.search(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)", line)]) == 4
    assert len([line for line in lines if re.search(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)", line)]) == 3
    assert "" not in text.splitlines()  # an empty line stops parse_log.py
    assert len([line for line in lines if "Solving toy" in line]) == 1
    # Each line names the place in our own sources that logged it.
    for file, number in {re.search(r"(\w+\.py):(\d+)\] ", line).groups() for line in lines}:
        assert "_log." in (Path(solver.__file__).parent / file).read_text().splitlines()[int(number) - 1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_metrics(toy, tmp_path, suffix):
    path = toy("display: 5 test_iter: 2 test_interval: 10")
    metrics = tmp_path / f"run.{suffix}"
    main(["train", "--solver", path, "--metrics", str(metrics)])
    if suffix == "csv":
        rows = list(csv.DictReader(metrics.read_text().splitlines()))
    else:
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [(row["kind"], int(row["iteration"])) for row in rows] == [
        ("test", 0), ("train", 0), ("train", 5), ("test", 10), ("train", 10), ("train", 15), ("test", 20),
    ]  # fmt: skip
    assert float(rows[2]["lr"]) == pytest.approx(0.05, rel=1e-6)  # float32 in the settings
    assert float(rows[2]["grad_norm_std"]) > 0
    curves = read_curves(metrics).series
    assert sorted(curves["loss"]) == [0, 5, 10, 15]
    assert sorted(curves["test0/loss"]) == [0, 10, 20]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_row_that_a_killed_run_did_not_finish_is_dropped(toy, tmp_path, suffix):
    path, metrics = toy("display: 5"), tmp_path / f"run.{suffix}"
    main(["train", "--solver", path, "--metrics", str(metrics)])
    whole = metrics.read_text()
    metrics.write_text(whole[: -len(whole.splitlines()[-1]) // 2])
    main(["train", "--solver", path, "--metrics", str(metrics)])
    assert list(read_curves(metrics).series["loss"]) == [0, 5, 10, 15]
    assert len(metrics.read_text().splitlines()) == len(whole.splitlines()) + 3


@pytest.mark.parametrize("flag", ["iterations=0", "iterations=-3", "keep=-1", "patience=-1", "workers=-1"])
def test_numbers_that_make_no_sense_are_refused(toy, tmp_path, capsys, flag):
    name, _, value = flag.partition("=")
    assert main(["train", "--solver", toy("test_iter: 1 test_interval: 5"), "--gpu", "0,1", f"--{flag}"]) == 2
    least = 1 if name == "iterations" else 0
    assert f"--{name}: too small, expected at least {least} and found {value} [usage.option]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


DATA = """layer { name: "d" type: "Data" top: "x" top: "y" transform_param { crop_size: 5 }
  data_param { %s batch_size: 2 backend: LMDB } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" inner_product_param { num_output: 1 } }
layer { name: "l" type: "EuclideanLoss" bottom: "fc" bottom: "y" top: "l" }
"""


@pytest.mark.parametrize("command", ["train", "time", "test"])
@pytest.mark.parametrize(
    ("source", "message"), [('source: "gone"', "no database at gone"), ("", "no database is named")]
)
def test_a_missing_database_is_told_with_layer_and_file(toy, tmp_path, capsys, command, source, message):
    solver, net = toy(train=DATA % source), tmp_path / "train.prototxt"
    save_weights(build_net(net), tmp_path / "w.caffemodel")
    flags = [f"--solver={solver}"] if command == "train" else [f"--model={net}"]
    flags += [f"--weights={tmp_path}/w.caffemodel"] if command == "test" else []
    assert main([command, *flags]) == 2
    assert f'{net}:1:1: layer "d" (Data): {message}' in capsys.readouterr().err


def test_a_net_that_the_solver_names_is_missing(toy, tmp_path, capsys):
    solver = tmp_path / "there" / "solver.prototxt"
    solver.parent.mkdir()
    (solver.parent / "beside.prototxt").write_text(TRAIN)
    solver.write_text(re.sub('net: "[^"]+"', 'train_net: "beside.prototxt"', Path(toy()).read_text()))
    assert main(["train", f"--solver={solver}"]) == 2
    told = f"{solver}: no file beside.prototxt, which is the solver's train_net; paths in a solver are relative to the"
    assert f"{told} working folder; did you mean {solver.parent}/beside.prototxt?" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "is_told"), [("--workers=2", True), ("--workers=2 --fast", False), ("", False)])
def test_workers_are_for_the_fast_mode(toy, capsys, flags, is_told):
    assert main(["train", "--solver", toy(), "--iterations=1", *flags.split()]) == 0
    assert ("--workers has no effect on reference arithmetic" in capsys.readouterr().err) == is_told


def test_flags_change_the_run(toy, tmp_path, capsys):
    path = toy()
    assert main(["train", "--solver", path, "--iterations=4", "--keep", "1", "--stage", "a,b", "--level=2"]) == 0
    assert [p.name for p in sorted((tmp_path / "out").glob("*.solverstate"))] == ["toy_iter_4.solverstate"]
    assert 'stage: "b"' in capsys.readouterr().err
    assert main(["train", "--solver", path, "--resume", "auto"]) == 0
    assert "Resuming from" in capsys.readouterr().err
    assert (tmp_path / "out/toy_iter_20.solverstate").exists()


def test_a_run_without_a_seed_goes_on_as_it_began(toy, tmp_path):
    solver = SOLVER.replace("random_seed: 3", "")
    path = toy(solver=solver)
    main(["train", "--solver", path])
    whole = (tmp_path / "out/toy_iter_20.caffemodel").read_bytes()
    main(["train", "--solver", path, f"--snapshot={tmp_path}/out/toy_iter_7.solverstate"])
    assert (tmp_path / "out/toy_iter_20.caffemodel").read_bytes() == whole


def bad(toy, tmp_path, case):
    path = toy("type: 'Sgd'") if case == "solver.type" else toy()
    if case == "net.unknown-bottom":
        train = tmp_path / "train.prototxt"
        train.write_text(train.read_text().replace('bottom: "fc1" top: "fc2"', 'bottom: "fc9" top: "fc2"'))
    return {
        "file.read": [f"--solver={tmp_path}/none.prototxt"],
        "train.snapshot": [f"--solver={path}", "--snapshot=a", "--weights=b"],
        "solver.signal-effect": [f"--solver={path}", "--sigint_effect=jump"],
        "train.gpu": [f"--solver={path}", "--gpu=x"],
        "metrics.suffix": [f"--solver={path}", "--metrics=a.txt"],
    }.get(case, [f"--solver={path}"])


@pytest.mark.parametrize(
    "case",
    ["solver.type", "file.read", "train.snapshot", "solver.signal-effect", "train.gpu", "metrics.suffix",
     "net.unknown-bottom"],
)  # fmt: skip
def test_bad_input_ends_with_status_2_and_one_message(toy, tmp_path, capsys, case):
    assert main(["train", *bad(toy, tmp_path, case)]) == 2
    error = capsys.readouterr().err
    assert f"[{case}]" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_test_prints_means(toy, tmp_path, capsys):
    path = toy()
    main(["train", f"--solver={path}"])
    capsys.readouterr()
    arguments = [f"-model={tmp_path}/train.prototxt", f"-weights={tmp_path}/out/toy_iter_20.caffemodel"]
    assert main(["test", *arguments, "-iterations", "3"]) == 0
    text = capsys.readouterr().err
    batches = [float(value) for value in re.findall(r"Batch \d, loss = (\S+)", text)]
    mean = float(re.search(r"\] loss = (\S+) \(\* 1 = \S+ loss\)", text)[1])
    assert len(batches) == 3
    assert mean == pytest.approx(sum(batches) / 3, rel=1e-5)  # six printed digits
    assert "] Use CPU." in text
    assert main(["test", *arguments, "-iterations=0"]) == 2


def test_test_prints_means_of_magnitudes_where_the_net_asks(toy, tmp_path, capsys):
    path = toy(train="debug_info: true " + TRAIN)
    main(["train", f"--solver={path}"])
    assert "[Forward]" not in capsys.readouterr().err  # the solver's own setting goes for its nets
    weights = tmp_path / "out/toy_iter_20.caffemodel"
    assert main(["test", f"-model={tmp_path}/train.prototxt", f"-weights={weights}", "-iterations=2"]) == 0
    text = capsys.readouterr().err
    tops = re.findall(r"\[Forward\] Layer (\w+), top blob (\w+) data: ", text)
    layers = [
        ("x", "x"),
        ("x", "y"),
        ("fc1", "fc1"),
        ("relu1", "fc1"),
        ("drop1", "fc1"),
        ("fc2", "fc2"),
        ("loss", "loss"),
    ]
    assert tops == layers * 2
    assert "[Backward]" not in text


def test_time_names_every_layer(toy, tmp_path, capsys):
    toy()
    assert main(["time", f"--model={tmp_path}/train.prototxt", "--iterations=2"]) == 0
    text = capsys.readouterr().err
    for name in ("x", "fc1", "relu1", "drop1", "fc2", "loss"):
        assert re.search(rf"\] +{name}\tforward: \S+ ms\.", text)
        assert re.search(rf"\] +{name}\tbackward: \S+ ms\.", text)
    assert "Average Forward-Backward:" in text
    order = ["Use CPU.", "Performing Forward", "Initial loss: ", "Performing Backward", "*** Benchmark begins ***"]
    assert sorted(order, key=text.index) == order


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(toy, tmp_path, capsys, suffix):
    # A dollar in a name does not begin mathematics, of which \\x is none.
    log, metrics, figure = tmp_path / "$\\x$.log", tmp_path / "a.csv", tmp_path / f"a.{suffix}"
    path = toy("display: 5 test_iter: 2 test_interval: 10")
    main(["train", f"--solver={path}", f"--log={log}", f"--metrics={metrics}"])
    assert main(["plot-log", str(log), str(metrics), "-o", str(figure), "--title", "$\\x$"]) == 0
    assert figure.read_bytes().startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    (tmp_path / "empty.log").write_text("nothing here\n")
    assert main(["plot-log", str(tmp_path / "empty.log"), "-o", str(figure)]) == 2
    assert main(["plot-log", str(log), "-o", str(tmp_path / "a.doc")]) == 2


def test_curves_of_an_original_log(tmp_path):
    log = tmp_path / "caffe.log"
    log.write_text(
        "I0101 10:00:00.000001    12 solver.cpp:433] Iteration 0, Testing net (#0)\n"
        "I0101 10:00:01.000001    12 solver.cpp:546]     Test net output #0: detection_eval = 0.0125\n"
        "I0101 10:00:02.000001    12 solver.cpp:243] Iteration 0, loss = 20.5\n"
        "I0101 10:00:02.000002    12 solver.cpp:259]     Train net output #0: mbox_loss = 21 (* 1 = 21 loss)\n"
        "I0101 10:00:02.000003    12 sgd_solver.cpp:138] Iteration 0, lr = 1e-05\n"
        "I0101 10:00:09.000001    12 solver.cpp:243] Iteration 10 (1.5 iter/s, 6s/10 iters), loss = nan\n"
    )
    curves = read_curves(log).series
    assert curves["mAP"] == {0: 0.0125}
    assert curves["test0/detection_eval"] == {0: 0.0125}
    assert curves["train/mbox_loss"] == {0: 21}
    assert curves["lr"] == {0: 1e-5}
    assert sorted(curves["loss"]) == [0, 10]


def test_bfloat16_on_the_cpu_learns_alike(toy, tmp_path):
    losses = {}
    for mode in ("--exact", "--bfloat16"):
        metrics = tmp_path / f"{mode}.csv"
        assert main(["train", f"--solver={toy('display: 5')}", mode, "--metrics", str(metrics)]) == 0
        losses[mode] = list(read_curves(metrics).series["loss"].values())
    assert losses["--exact"] != losses["--bfloat16"]
    assert losses["--bfloat16"] == pytest.approx(losses["--exact"], rel=0.02)  # bfloat16 has eight bits


def test_tensorboard_gets_the_same_figures(toy, tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, iteration):
            written.append((name, iteration))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    assert main(["train", f"--solver={toy('display: 10')}", "--tensorboard", str(tmp_path / "board")]) == 0
    assert (written[0], written[-1]) == (str(tmp_path / "board"), "closed")
    assert {("loss", 10), ("lr", 10), ("grad_norm_mean", 10), ("train/loss", 10)} <= set(written)


def test_without_tensorboard_the_run_says_how_to_get_it(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["train", f"--solver={toy()}", "--tensorboard", str(tmp_path / "board")]) == 2
    assert "pyscratchdet[tensorboard]" in capsys.readouterr().err

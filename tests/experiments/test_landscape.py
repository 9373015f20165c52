"""The loss along the gradient, on a net whose loss is known in closed form, and on a detector."""

import csv

import numpy as np
import pytest
import tiny  # noqa: F401
import torch

from pyscratchdet.cli import main
from pyscratchdet.data.shapes import make_shapes
from pyscratchdet.experiments import landscape
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse
from pyscratchdet.solver.solver import Solver

# Loss: (w x - y)^2 / 2 for one number, so gradients and losses along the way are exact.
TOY = """
base_lr: 0.125 lr_policy: "fixed" max_iter: 9 momentum: 0.5 random_seed: 1 solver_mode: CPU
train_net_param {
  layer { name: "data" type: "DummyData" top: "x" top: "y"
    dummy_data_param { shape { dim: 1 dim: 1 } shape { dim: 1 dim: 1 }
      data_filler { type: "constant" value: 2 } data_filler { type: "constant" value: 10 } } }
  layer { name: "w" type: "InnerProduct" bottom: "x" top: "wx"
    inner_product_param { num_output: 1 bias_term: false weight_filler { type: "constant" value: 1 } } }
  layer { name: "loss" type: "EuclideanLoss" bottom: "wx" bottom: "y" top: "loss" }
}
"""


def toy():
    return Solver(parse(TOY, caffe_pb2.SolverParameter))


def test_losses_and_gradients_along_the_way_are_those_of_the_formula():
    first, *_ = landscape.landscape(toy(), 3, 1, factors=(0.5, 4.0))
    weight, gradient = 1.0, 2 * (2 * 1.0 - 10)
    places = [weight - factor * 0.125 * gradient for factor in (0, 0.5, 4)]
    losses = [(2 * place - 10) ** 2 / 2 for place in places]
    assert (first.iteration, first.loss, first.loss_min, first.loss_max) == (0, losses[0], min(losses), max(losses))
    assert first.grad_norm == abs(gradient)
    assert first.gradient_change == 4 * abs(places[2] - weight)
    assert first.smoothness == pytest.approx(4)  # the second derivative, x^2


def test_looking_changes_nothing_of_the_training():
    looked, plain = toy(), toy()
    landscape.landscape(looked, 5, 2)
    plain.step(5)
    assert torch.equal(looked.net.params["w"][0], plain.net.params["w"][0])
    assert looked.smoothed_loss == plain.smoothed_loss


def test_the_command_measures_a_detector_once(tmp_path, monkeypatch, capsys):
    for name, value in {"ITERATIONS": 4, "EVERY": 2}.items():
        monkeypatch.setattr(landscape, name, value)
    data = make_shapes(tmp_path / "shapes", 4, 2, size=64)
    words = ["experiment", "landscape", "--data", str(data), "-o", str(tmp_path / "out")]
    assert main(words) == 0
    paths = [tmp_path / "out" / "landscape" / f"{name}.csv" for name in ("none", "all")]
    assert all(str(path) in capsys.readouterr().out.replace("\n", "") for path in paths[:1])
    for path in paths:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [row["iteration"] for row in rows] == ["0", "2"]
        values = np.array([[float(value) for value in row.values()] for row in rows])
        assert np.isfinite(values).all()
        assert (values[:, 2] <= values[:, 1]).all()
        assert (values[:, 1] <= values[:, 3]).all()
    paths[0].write_text("kept")
    assert main(words) == 0
    assert paths[0].read_text() == "kept"
    assert main([*words, "--iterations", "1"]) == 0
    assert len(paths[0].with_name("none_1.csv").read_text().splitlines()) == 2
    assert paths[0].read_text() == "kept"

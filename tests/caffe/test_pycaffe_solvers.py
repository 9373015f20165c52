"""pycaffe's solvers: what their nets show after a step, and tests that are switched off."""

import numpy as np
import pytest

import pyscratchdet.caffe as caffe

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "target" type: "Input" top: "target" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" param { lr_mult: 1 } param { lr_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "target" top: "loss" }
layer { name: "twice" type: "Power" bottom: "loss" top: "loss" power_param { scale: 2 } include { stage: "odd" } }
"""
SETTINGS = 'lr_policy: "fixed" base_lr: 0.1 max_iter: 3 snapshot_after_train: false random_seed: 3 net: "net.prototxt" '


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)

    def make_solver(settings=""):
        (tmp_path / "solver.prototxt").write_text(SETTINGS + settings)
        solver = caffe.get_solver("solver.prototxt")
        random = np.random.default_rng(2)
        for net in (solver.net, *solver.test_nets):
            for name in net.inputs:
                net.blobs[name].data[...] = random.normal(size=net.blobs[name].shape)
        return solver

    return make_solver


@pytest.mark.parametrize("kind", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_after_a_step_diffs_hold_what_was_subtracted(make, kind):
    momentum = "" if kind in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    solver = make(f'type: "{kind}" {momentum}')
    for _ in range(2):
        before = [blob.data.copy() for blob in solver.net.params["fc"]]
        solver.step(1)
        for old, blob in zip(before, solver.net.params["fc"], strict=True):
            # The difference of two weights near 1 has the rounding of a weight.
            np.testing.assert_allclose(old - blob.data, blob.diff, atol=2e-7)
    assert not solver.net.params["fc"][1].diff.any()
    assert solver.net.params["fc"][0].diff.any()


@pytest.mark.parametrize("evaluation", ["classification", "detection"])
def test_a_test_of_no_passes_is_switched_off(make, evaluation):
    solver = make(f"test_iter: 0 test_interval: 1 eval_type: '{evaluation}' test_compute_loss: true")
    solver.solve()
    assert solver.iter == 3


def test_a_layer_in_place_has_its_own_loss_weight(make):
    make()
    plain, odd = (caffe.Net("net.prototxt", caffe.TRAIN, stages=stages) for stages in ([], ["odd"]))
    assert plain.blob_loss_weights == {"data": 0, "target": 0, "fc": 0, "loss": 1}
    assert odd.blob_loss_weights["loss"] == 0

import math

import numpy as np
import pytest

from pyscratchdet.errors import SolverError
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.solver.policies import POLICIES, LearningRate


def rates(iterations, **settings):
    rate = LearningRate(caffe_pb2.SolverParameter(**settings))
    return [rate(iteration) for iteration in iterations], rate


# The formulas of sgd_solver.cpp's comment, worked out by hand for each case.
CASES = {
    "fixed": ({}, {0: 0.2, 999: 0.2}),
    "step": ({"gamma": 0.5, "stepsize": 10}, {0: 0.2, 9: 0.2, 10: 0.1, 29: 0.05, 30: 0.025}),
    "exp": ({"gamma": 0.9}, {0: 0.2, 3: 0.2 * 0.729}),
    "inv": ({"gamma": 0.1, "power": 0.75}, {0: 0.2, 50: 0.2 * 6**-0.75}),
    "poly": ({"power": 2, "max_iter": 40}, {0: 0.2, 10: 0.2 * 0.5625, 40: 0.0}),
    "multifixed": (
        {"stagelr": [0.01, 0.3, 0.02], "stageiter": [5, 8, 10]},
        {0: 0.01, 5: 0.01, 6: 0.3, 8: 0.3, 9: 0.02, 10: 0.02, 11: 0.02},
    ),
    "sigmoid": ({"gamma": -0.2, "stepsize": 30}, {30: 0.1, 40: 0.2 / (1 + math.exp(2))}),
}


@pytest.mark.parametrize("policy", CASES)
def test_formula(policy):
    settings, expected = CASES[policy]
    found, _ = rates(expected, lr_policy=policy, base_lr=0.2, **settings)
    # float32 settings (gamma 0.9 is 0.89999998) raised to small powers.
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-6, atol=1e-9)


# Intel's and NVIDIA's fields beside a policy's own; the numbers follow from sgd_solver.cpp of each.
RISES = [
    ({"lr_policy": "step", "gamma": 0.5, "stepsize": 4, "warmup_iter": 4, "warmup_start_lr": 0.04},
     {0: 0.04, 1: 0.08, 3: 0.16, 4: 0.1, 8: 0.05}),
    ({"lr_policy": "fixed", "rampup_interval": 4, "rampup_lr": 0.04}, {0: 0.04, 1: 0.05, 2: 0.08, 3: 0.13, 4: 0.2}),
    ({"lr_policy": "fixed", "rampup_interval": 4, "min_lr": 0.02}, {0: 0.02, 1: 0.02, 2: 0.05, 4: 0.2}),
    ({"lr_policy": "poly", "power": 2, "max_iter": 40, "min_lr": 0.04}, {0: 0.2, 10: 0.16 * 0.5625 + 0.04, 40: 0.04}),
    ({"lr_policy": "step", "gamma": 0.1, "stepsize": 2, "min_lr": 0.01}, {0: 0.2, 2: 0.02, 4: 0.01, 6: 0.01}),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "expected"), RISES)
def test_rises_and_floors_of_other_caffes(settings, expected):
    found, _ = rates(expected, base_lr=0.2, **settings)
    np.testing.assert_allclose(found, list(expected.values()), rtol=1e-6)  # float32 settings and results


def test_every_policy_is_covered():
    assert {*CASES, "multistep", "plateau"} == set(POLICIES)


def test_multistep_advances_one_step_per_call_at_most():
    found, rate = rates([4, 5, 100, 101, 102], lr_policy="multistep", base_lr=1, gamma=0.5, stepvalue=[5, 6, 7])
    assert found == [1, 0.5, 0.25, 0.125, 0.125]
    assert rate.current_step == 3


def test_plateau_waits_for_the_window_after_the_last_minimum():
    rate = LearningRate(caffe_pb2.SolverParameter(lr_policy="plateau", base_lr=1, gamma=0.5, plateau_winsize=[3, 2]))
    losses = [5, 4, 4, 4, 4, 4.5, 3, 3, 3, 3]
    assert [rate(i, loss) for i, loss in enumerate(losses)] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert (rate.minimum_loss, rate.iter_last_event, rate.current_step) == (3, 8, 2)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"lr_policy": "multistp"}, "solver.lr-policy"),
        ({}, "solver.lr-policy"),
        ({"lr_policy": "step"}, "solver.stepsize"),
        ({"lr_policy": "poly"}, "solver.max-iter"),
        ({"lr_policy": "poly", "max_iter": 9, "base_lr": 0.1, "min_lr": 0.2}, "solver.min-lr"),
        ({"lr_policy": "multifixed"}, "solver.stages"),
        ({"lr_policy": "multifixed", "stagelr": [0.1, 0.2], "stageiter": [3]}, "solver.stages"),
    ],
)
def test_refusals(settings, code):
    with pytest.raises(SolverError) as caught:
        LearningRate(caffe_pb2.SolverParameter(**settings))
    assert caught.value.code == code


def test_poly_beyond_its_end_is_no_number():
    with pytest.raises(SolverError) as caught:
        rates([12], lr_policy="poly", base_lr=0.1, power=0.5, max_iter=11)
    assert caught.value.code == "solver.rate"

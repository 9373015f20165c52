"""Phase rules, splits, connections, shapes and what gets a gradient, against recordings from the original Caffe."""

import json
from pathlib import Path

import pytest

from pyscratchdet.errors import PyScratchDetError
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.net import plan_backward
from pyscratchdet.proto import caffe_pb2

RECORDED = Path(__file__).parent / "recorded"
RUNS = [
    pytest.param(name, run, id=f"{name}-{run['phase']}-{run['level']}-{'+'.join(run['stages'])}")
    for name, runs in json.loads((RECORDED / "rules.json").read_text()).items()
    for run in runs
]


def plan(name, run):
    phase = caffe_pb2.Phase.Value(run["phase"])
    return plan_net(RECORDED / f"{name}.prototxt", phase, run["level"], run["stages"])


@pytest.mark.parametrize(("name", "run"), [run for run in RUNS if "error" not in run.values[1]])
def test_net_is_built_as_the_original_builds_it(name, run):
    net = plan(name, run)
    graph = net.graph
    names = graph.blob_names
    layers = [
        [
            node.name,
            node.type,
            [names[blob] for blob in node.bottoms],
            [names[blob] for blob in node.tops],
            [list(spec.shape) for spec in layer.blobs],
        ]
        for node, layer in zip(graph.nodes, net.layers, strict=True)
    ]
    assert layers == run["layers"]
    assert [[name, list(shape)] for name, shape in zip(names, net.shapes, strict=True)] == run["blobs"]
    assert [names[blob] for blob in graph.inputs] == run["inputs"]
    assert [names[blob] for blob in graph.outputs] == run["outputs"]


@pytest.mark.parametrize(("name", "run"), [run for run in RUNS if "loss_weights" in run.values[1]])
def test_loss_weights_and_gradient_plan(name, run):
    net = plan(name, run)
    weights = {
        net.graph.blob_names[blob]: weight
        for node in net.graph.nodes
        for blob, weight in zip(node.tops, node.loss_weights, strict=True)
        if weight
    }
    assert weights == run["loss_weights"]
    # The original's log says what it would visit before force_backward makes it visit everything.
    net.graph.param.ClearField("force_backward")
    unforced = plan_backward(net.graph, [len(layer.blobs) for layer in net.layers], lambda layer, bottom: True)
    visited = [node.name for node, needed in zip(net.graph.nodes, unforced.layers, strict=True) if needed]
    assert visited == run["backward"]


def test_force_backward_reaches_every_blob_but_labels():
    net = plan_net(RECORDED / "force_backward.prototxt", caffe_pb2.TRAIN)
    assert all(net.backward.layers)
    assert net.backward.bottoms == [[], [], [True], [True], [True, False]]
    assert net.backward.params == [[], [], [True, True], [True, True], []]


@pytest.mark.parametrize(("name", "run"), [run for run in RUNS if "error" in run.values[1]])
def test_what_the_original_refuses_is_refused_with_a_position(name, run):
    with pytest.raises(PyScratchDetError) as caught:
        plan(name, run)
    assert caught.value.position is not None
    assert caught.value.position.line > 0
    assert caught.value.layer

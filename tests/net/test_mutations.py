"""Damaged nets: each one parses and plans, or ends in one typed error with its place."""

import random
import re
from collections import Counter
from pathlib import Path

import pytest

from pyscratchdet.errors import PyScratchDetError
from pyscratchdet.layers.base import layer_types
from pyscratchdet.layers.plan import plan_net

SOURCES = sorted((Path(__file__).parent / "recorded").glob("[!e]*.prototxt"))  # not the refused ones, err_*
TOKEN = re.compile(r'"[^"]*"|[\w.+-]+|\s+|.')
ANYTHING = ["", "{", "}", ":", "<", "[", ",", "'", '"x"', "-1", "1e99", "nan", "NO_SUCH", "unknown_field: 3", "true"]
NUMBERS = ["0", "1", "-1", "-3", "46341", "65536", "100000", "1000000000", "2147483647", "4294967295", "0.5"]


def mutated(seed):
    """Returns a net with one or two of its tokens changed: mostly for one of the same kind, so that it parses."""
    rng = random.Random(seed)
    tokens = TOKEN.findall(rng.choice(SOURCES).read_text())
    places = [i for i, token in enumerate(tokens) if token.strip()]
    strings = [i for i in places if tokens[i][0] == '"']
    numbers = [i for i in places if tokens[i].lstrip("-").isdecimal()] or places
    types = [i for i in strings if "type" in tokens[max(0, i - 3) : i]]
    for _ in range(rng.randint(1, 2)):
        kind = rng.choice(["number", "number", "name", "name", "type", "drop", "swap", "anything"])
        if kind == "number":
            tokens[rng.choice(numbers)] = rng.choice(NUMBERS)
        elif kind == "name":
            tokens[rng.choice(strings)] = tokens[rng.choice(strings)]
        elif kind == "type":
            tokens[rng.choice(types)] = f'"{rng.choice(sorted(layer_types()))}"'
        elif kind == "drop":
            tokens[rng.choice(places)] = ""
        elif kind == "swap":
            i, j = rng.choice(places), rng.choice(places)
            tokens[i], tokens[j] = tokens[j], tokens[i]
        else:
            tokens[rng.choice(places)] = rng.choice(ANYTHING)
    return "".join(tokens)


def outcome(path):
    """Returns the typed error that a net ends in, or None; anything else goes through."""
    try:
        for phase in (0, 1):
            plan_net(path, phase)
    except PyScratchDetError as error:
        return error
    return None


@pytest.mark.parametrize("part", range(4))
def test_mutated_net_plans_or_names_the_place(part, tmp_path):
    path = tmp_path / "net.prototxt"
    rooms = Counter()
    for seed in range(100 * part, 100 * (part + 1)):
        path.write_text(mutated(seed))
        error = outcome(path)
        rooms[error and error.code.partition(".")[0]] += 1
        if error is not None:
            assert error.position is not None, (seed, str(error))
            assert error.position.path == str(path)
            assert error.position.line > 0, (seed, str(error))
            assert error.layer is not None or error.code.startswith(("prototxt.", "upgrade.")), (seed, str(error))
    assert min(rooms[None], rooms["prototxt"], rooms["net"], rooms["layer"]) >= 3, rooms


def refusal(source, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(source)
    with pytest.raises(PyScratchDetError) as caught:
        plan_net(path)
    return caught.value


INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 9 } } }\n'


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Convolution" convolution_param { num_output: 2000000000 kernel_size: 3 }',
        'type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 pad: 2000000000 }',
        'type: "Pooling" pooling_param { kernel_size: 2147483647 pad: 2147483646 }',
        'type: "Tile" tile_param { tiles: 2147483647 }',
        'type: "InnerProduct" inner_product_param { num_output: 2147483647 }',
        'type: "Im2col" convolution_param { kernel_size: 1 pad: 100000 }',
    ],
)
def test_more_values_than_the_original_counts_are_refused(layer, tmp_path):
    error = refusal(INPUT + f'layer {{ name: "l" bottom: "x" top: "y" {layer} }}', tmp_path)
    assert (error.code, error.layer, error.position.line) == ("layer.count", "l", 2)
    assert error.expected == "at most 2147483647 values"


def test_input_that_is_too_large_or_negative(tmp_path):
    error = refusal('name: "n"\ninput: "x"\ninput_dim: [2147483647, 4, 5, 7]', tmp_path)
    assert (error.code, error.layer, error.position.line) == ("layer.count", "input", 2)
    error = refusal(INPUT.replace("8", "-8"), tmp_path)
    assert (error.code, error.layer, error.position.line) == ("layer.shape", "in", 1)


def test_missing_database_is_an_error_of_its_layer(tmp_path):
    data = f'data_param {{ source: "{tmp_path}/none" batch_size: 2 backend: LMDB }}'
    error = refusal(INPUT + f'layer {{ name: "d" type: "AnnotatedData" top: "p" top: "q" {data} }}', tmp_path)
    assert (error.code, error.layer, error.position.line) == ("data.no-database", "d", 2)


def test_layers_that_wait_for_each_other(tmp_path):
    source = (
        'layer { name: "a" type: "ReLU" bottom: "q" top: "p" }\nlayer { name: "b" type: "ReLU" bottom: "p" top: "q" }'
    )
    error = refusal(source, tmp_path)
    assert (error.code, error.layer, error.position.line) == ("net.unknown-bottom", "a", 1)


def test_reshape_keeps_the_old_shapes_when_a_layer_refuses(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        INPUT
        + 'layer { name: "c" type: "Convolution" bottom: "x" top: "y"\n'
        + "  convolution_param { num_output: 4 kernel_size: 5 } }\n"
        + 'layer { name: "f" type: "InnerProduct" bottom: "y" top: "z" inner_product_param { num_output: 6 } }'
    )
    plan = plan_net(path)
    assert plan.shapes == [(2, 3, 8, 9), (2, 4, 4, 5), (2, 6)]
    plan.reshape({"x": (7, 3, 8, 9)})
    assert plan.shapes == [(7, 3, 8, 9), (7, 4, 4, 5), (7, 6)]
    before = list(plan.shapes), [list(shapes) for shapes in plan.top_shapes]
    for shape in ((2, 3, 4, 9), (2, 3, 9, 9), (2, 5, 8, 9), (2, 3, 2**30, 9)):
        with pytest.raises(PyScratchDetError) as caught:
            plan.reshape({"x": shape})
        assert caught.value.position is not None
        assert (plan.shapes, plan.top_shapes) == before
    with pytest.raises(PyScratchDetError, match='"y" is not an input of the net'):
        plan.reshape({"y": (1, 2)})

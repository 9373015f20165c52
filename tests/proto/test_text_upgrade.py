"""Prototxt text and upgrades: recordings of the original tools, and damaged texts."""

import random
import re
from pathlib import Path

import pytest

from pyscratchdet.errors import PrototxtError
from pyscratchdet.proto import caffe_pb2, text
from pyscratchdet.proto.upgrade import upgrade_net, upgrade_solver

DATA = Path(__file__).parent / "data"
CASES = sorted(path.name.removesuffix(".in.prototxt") for path in DATA.glob("*.in.prototxt"))
WRONG = ["", "{", "}", ":", '"x"', "-1", "1e99", "NO_SUCH", "unknown_field: 3", "[", "true", "'"]


@pytest.mark.parametrize("case", CASES)
def test_upgrade_equals_the_recording(case):
    solver = case.startswith("solver")
    kind = caffe_pb2.SolverParameter if solver else caffe_pb2.NetParameter
    message = text.read(DATA / f"{case}.in.prototxt", kind)
    found = upgrade_solver(message) if solver else upgrade_net(message, [])
    assert text.to_text(found) == (DATA / f"{case}.out.prototxt").read_text()


@pytest.mark.parametrize("seed", range(200))
def test_damaged_text_parses_or_names_its_line(seed):
    rng = random.Random(seed)
    source = (DATA / f"{rng.choice(['v0_classifier', 'v1_params'])}.in.prototxt").read_text()
    tokens = re.findall(r'"[^"]*"|\w+|\s+|.', source)
    place = rng.randrange(len(tokens))
    other = rng.randrange(len(tokens))
    if rng.random() < 0.5:
        tokens[place] = rng.choice(WRONG)
    else:
        tokens[place], tokens[other] = tokens[other], tokens[place]
    error = parse_error("".join(tokens))
    if error is not None:
        assert error.position is not None
        assert error.position.line is not None


def parse_error(source):
    """Returns the error that a text ends in; anything but a PrototxtError goes through."""
    try:
        text.parse(source, caffe_pb2.NetParameter, path="net.prototxt")
    except PrototxtError as error:
        return error
    return None


def test_floats_are_written_as_caffe_writes_them():
    values = [1.0, 0.01, -2.5, 1e-5, 1e6, 16777216.0, 0.1234567]
    net = caffe_pb2.NetParameter()
    for value in values:
        net.layer.add(loss_weight=[value], name="1.0")
    found = re.findall(r"loss_weight: (\S+)", text.to_text(net))
    assert found == ["1", "0.01", "-2.5", "1e-05", "1e+06", "16777216", "0.1234567"]
    assert text.parse(text.to_text(net), caffe_pb2.NetParameter) == net
    blob = caffe_pb2.BlobProto(double_data=[1234567.5, 3.0])
    assert text.to_text(blob) == "double_data: 1234567.5\ndouble_data: 3\n"


def test_locator_finds_the_nested_field_or_its_parent():
    source = 'layer { name: "a" }\nlayer {\n  convolution_param { kernel_size: 3\n    kernel_size: 5 }\n}\n'
    locator = text.Locator(source, "net.prototxt")
    assert locator.position("layer", 1, "convolution_param", 0, "kernel_size", 1).line == 4
    assert locator.position("layer", 1, "convolution_param", 0, "stride", 0).line == 3

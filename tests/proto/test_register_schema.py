"""A user's own caffe.proto, layer types and entry points, in processes of their own: what they add stays there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCHEMA = """syntax = "proto2";
package caffe;
option (origin) = "our fork";
message ScaleByParameter { optional float factor = 1 [default = 2]; optional bool fast = 2 [(hint) = true]; }
message LayerParameter { optional ScaleByParameter scale_by_param = 149; optional string engine = 151; }
message PoolingParameter { optional bool sideways = 13 [default = false]; }
"""
LAYER = """from pyscratchdet.layers import Layer, register
@register("ScaleBy")
class ScaleBy(Layer):
    fork_fields = frozenset({"scale_by_param"})
    def reshape(self, bottoms):
        return [bottoms[0][:1] + (int(self.param.scale_by_param.factor),)]
    def forward(self, bottoms, blobs):
        return [bottoms[0]]
"""
NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 4 } } }
layer { name: "by" type: "ScaleBy" bottom: "data" top: "by" scale_by_param { factor: 7 } %s }
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ours.proto").write_text(SCHEMA)
    (tmp_path / "our_layers.py").write_text(LAYER)
    (tmp_path / "net.prototxt").write_text(NET % "")
    return tmp_path


def run(folder, *words):
    """Runs Python with these arguments in a folder; returns its status and what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def summary(folder, *words):
    return run(folder, "-m", "pyscratchdet", "summary", "net.prototxt", *words)


@pytest.mark.parametrize("module", ["our_layers", "our_layers.py"])
def test_a_schema_and_a_module_serve_a_command(folder, module):
    status, printed = summary(folder, "--schema", "ours.proto", "--import", module)
    assert status == 0, printed
    assert "ScaleBy  3x7" in printed


def test_without_them_the_field_is_unknown(folder):
    status, printed = summary(folder)
    assert (status, 'LayerParameter has no field "scale_by_param"' in printed) == (2, True)
    status, printed = summary(folder, "--schema", "ours.proto")
    assert (status, 'unknown layer type "ScaleBy"' in printed) == (2, True)


def test_a_field_that_the_layer_does_not_declare_is_refused(folder):
    (folder / "net.prototxt").write_text(NET % "pooling_param { sideways: true }")
    status, printed = summary(folder, "--schema", "ours.proto", "--import", "our_layers")
    assert status == 2
    assert "pooling_param.sideways changes results and is not implemented" in printed
    assert "defined by our fork" in printed


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("message LayerParameter { optional float name = 1; }", 'other.proto:1:41: the field "name" of LayerParameter'),
        ("message LayerParameter { optional Missing x = 9; }", 'there is no type "Missing"'),
        ("message A {", "the file ends too early [schema.syntax]"),
    ],
)
def test_a_schema_that_contradicts_is_refused(folder, schema, says):
    (folder / "other.proto").write_text(schema)
    status, printed = summary(folder, "--schema", "other.proto")
    assert (status, says in printed) == (2, True), printed


def test_a_missing_module_is_named(folder):
    status, printed = summary(folder, "--import", "nowhere")
    assert (status, 'there is no module "nowhere"' in printed) == (2, True), printed


def test_in_python(folder):
    code = """
import pyscratchdet
from pyscratchdet.proto import caffe_pb2, text, upgrade, weights
pyscratchdet.register_schema("ours.proto")
pyscratchdet.register_schema("ours.proto")  # once more changes nothing
import our_layers
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto.numbers import binary_dialect
assert plan_net("net.prototxt").shapes[-1] == (3, 7)
net = text.read("net.prototxt", caffe_pb2.NetParameter)
with binary_dialect("ours"):
    weights.write_message("net.bin", net)
    assert weights.read_message("net.bin", caffe_pb2.NetParameter) == net
assert b"\\xaa\\x09\\x05\\x0d" in open("net.bin", "rb").read()  # number 149, 5 bytes, number 1
try:
    open("intel.proto", "w").write("package caffe;")
    pyscratchdet.register_schema("intel.proto")
except pyscratchdet.errors.PrototxtError as error:
    assert error.code == "schema.name"
else:
    raise AssertionError
"""
    status, printed = run(folder, "-c", code)
    assert status == 0, printed


def test_an_entry_point_registers_layer_types(folder):
    (folder / "our_layers-1.dist-info").mkdir()
    (folder / "our_layers-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: our_layers\nVersion: 1\n")
    (folder / "our_layers-1.dist-info" / "entry_points.txt").write_text("[pyscratchdet.layers]\nours = our_layers\n")
    status, printed = summary(folder, "--schema", "ours.proto")
    assert status == 0, printed

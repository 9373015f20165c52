"""The dialects: merged with the base, parsed by name, and refused where nothing computes them."""

import importlib.util
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from pyscratchdet.errors import LayerError, Position, PrototxtError
from pyscratchdet.layers import base, layer_types, register
from pyscratchdet.layers.base import Layer
from pyscratchdet.layers.plan import plan_net, read_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.forks import DIALECTS, UnknownFieldWarning, fork_fields, type_origin
from pyscratchdet.proto.schema import merge, parse_schema
from pyscratchdet.proto.text import parse, to_text, unknown_fields_allowed
from pyscratchdet.runtime import build_net

INPUT = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 3 dim: 9 dim: 7 } } }\n'


def net_error(tmp_path, text):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    net = read_net(path)
    with pytest.raises(PrototxtError) as caught:
        plan_net(net)
    return caught.value


def test_hints_and_neutral_values_pass_with_one_line(tmp_path):
    text = """default_forward_type: FLOAT16, eltwise_mem_sharing: false
layer { name: "c" type: "Convolution" bottom: "d" top: "c" engine: "MKL2017:CAFFE" forward_math: FLOAT
  convolution_param { num_output: 2 engine: MKL2017 conv_algos_override: "1,2,3"; kernel_size: 3 } }
layer { name: "o" type: "Dropout" bottom: "c" top: "o" dropout_param { random_seed: -1 } }
layer { name: "p" type: "Pooling" bottom: "o" top: "p" pooling_param { kernel_size: 2 torch_pooling: 0 engine: X } }
"""
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + text)
    with pytest.warns(UnknownFieldWarning) as caught:
        plan = plan_net(path)
    assert plan.graph.nodes[1].param.engine == "MKL2017:CAFFE"
    assert [str(warning.message) for warning in caught] == [
        f"{path}: passed over fields that change no result: engine",  # a value that no Caffe has
        f"{path}: passed over fields that change no result: conv_algos_override, default_forward_type, "
        "eltwise_mem_sharing, engine, forward_math, random_seed, torch_pooling",
    ]


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize(
    ("field", "says"),
    [
        (
            "pooling_param { avg_include_pad: false }",
            "pooling_param.avg_include_pad changes results and is not implemented",
        ),
        ("dropout_param { scale_train: false }", "expected true and found false; defined by Faster R-CNN and MhLiao"),
        ("transform_param { random_resize_param { min_size: 3 } }", "random_resize_param.min_size changes results"),
        ("convolution_param { weight_filler { scale: 2 } }", "weight_filler.scale changes results"),
        ("loss_param { normalization: PRE_FIXED }", "loss_param.normalization=PRE_FIXED changes results"),
        ("reorg_param { }", "found { }; defined by intel/caffe and eric612/MobileNet-YOLO"),
        ("transform_param { scale_factors: 0.5 scale_factors: 2 }", "found [0.5, 2]; defined by hszhao/PSPNet"),
        ("eltwise_param { coeff_blob: true }", "found true; defined by a Caffe without a public schema"),
        ("inner_product_param { normalize: true }", "inner_product_param.normalize changes results"),
        ("bn_param { slope_filler { value: 2 } }", "bn_param.slope_filler changes results"),
    ],
)
def test_a_field_that_changes_results_is_refused_by_name(tmp_path, field, says, allow):
    layer = f'layer {{ name: "r" type: "ReLU" bottom: "d" top: "r"\n {field} }}'
    with unknown_fields_allowed() if allow else nullcontext():
        error = net_error(tmp_path, INPUT + layer)
    assert (error.code, error.position.line, error.layer) == ("prototxt.fork-field", 3, "r")
    assert says in str(error)


def test_a_field_of_the_net_itself_is_refused_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("pyscratchdet.layers.plan.NET_FORK_FIELDS", frozenset())  # the only one there is, is computed
    error = net_error(tmp_path, f"{INPUT} bn_stats_batch_size: 8")
    assert error.position == Position(str(tmp_path / "net.prototxt"), 2, 2, " bn_stats_batch_size: 8")


def test_layers_that_the_phase_leaves_out_are_not_looked_at(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        INPUT
        + 'layer { name: "i" type: "ImageData" top: "i" include { phase: TRAIN } image_data_param { short_side: 3 } }'
    )
    assert len(plan_net(path).layers) == 1


class Shuffle(Layer):
    """Declares one field of a fork, and one value."""

    fork_fields = frozenset({"reorg_param", "loss_param.normalization=PRE_FIXED"})

    def reshape(self, bottoms):
        return [bottoms[0]]

    def forward(self, bottoms, blobs):
        return [bottoms[0] * self.param.reorg_param.stride]


class Derived(Shuffle):
    fork_fields = frozenset({"pooling_param.torch_pooling"})


@pytest.fixture
def _shuffle_type(monkeypatch):
    monkeypatch.setattr(base, "_TYPES", dict(layer_types()))
    register("DialectTestShuffle")(Derived)


@pytest.mark.usefixtures("_shuffle_type")
def test_a_layer_class_declares_what_it_computes():
    layer = 'layer { name: "s" type: "DialectTestShuffle" bottom: "d" top: "s" %s }'
    declared = "reorg_param { stride: 2 } loss_param { normalization: PRE_FIXED } pooling_param { torch_pooling: true }"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = plan_net(parse(INPUT + layer % declared, caffe_pb2.NetParameter))
        plan_net(parse(INPUT + layer % "reorg_param { }", caffe_pb2.NetParameter))
    assert plan.layers[1].param.reorg_param.stride == 2
    with pytest.raises(PrototxtError, match=r"pooling_param\.avg_include_pad"):
        plan_net(parse(INPUT + layer % "pooling_param { avg_include_pad: false }", caffe_pb2.NetParameter))


def test_a_net_in_memory_is_checked_as_well():
    net = caffe_pb2.NetParameter()
    net.ParseFromString(
        parse(
            INPUT.replace("input_param", "bn_param { eps: 2 } input_param"), caffe_pb2.NetParameter
        ).SerializeToString()
    )
    with pytest.raises(PrototxtError, match=r'layer "d" \(Input\): bn_param.eps changes results'):
        plan_net(net)


def test_every_field_of_a_dialect_is_parsed_by_its_name():
    for message, fields in DIALECTS.fields.items():
        names = caffe_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name
        assert set(fields) <= set(names)
    assert "forward_type" in [found.path for found in fork_fields(caffe_pb2.LayerParameter(forward_type=1))]


def test_origins_come_from_the_dialects():
    assert type_origin("Reorg") == "intel/caffe and eric612/MobileNet-YOLO"
    assert type_origin("DenseCRF") == "hszhao/PSPNet and DeepLab"
    assert type_origin("ReLU") is None
    folder = Path(__file__).parents[2] / "pyscratchdet" / "proto" / "dialects"
    assert sorted(DIALECTS.origins) == sorted(path.stem for path in folder.glob("*.proto"))


LISTS = [
    "transform_param { resize_param { height: 9 } resize_param { height: 8 }\n resize_param { width: 7 } }",
    "transform_param { resize_param: [{ height: 9 }, { height: 8 }, { width: 7 }] }",
    "transform_param { resize_param { height: 9 } resize_param < height: 8 >; mirror: true resize_param { width: 7 } }",
]


@pytest.mark.parametrize("text", LISTS)
def test_a_list_where_the_base_has_one_value(text):
    """eric612/MobileNet-YOLO: the sizes of training in turn, of which the first gives the net's first shapes."""
    param = parse(f"layer {{ {text} }}", caffe_pb2.NetParameter)
    transform = param.layer[0].transform_param
    assert (transform.resize_param.height, [one.width for one in transform.later_values_of_resize_param]) == (9, [0, 7])
    printed = to_text(param)
    assert "later" not in printed
    assert parse(printed, caffe_pb2.NetParameter) == param


@pytest.mark.parametrize(("text", "later"), [("[0]", []), ("[0,1, 3]", [1, 3]), ("0 device_id: 2", [2])])
def test_the_devices_of_a_solver_as_a_list(text, later, tmp_path):
    """yjxiong/caffe: which GPUs train together, what `--gpu` says here."""
    param = parse(f"base_lr: 1 device_id: {text}", caffe_pb2.SolverParameter)
    assert (param.device_id, list(param.later_values_of_device_id)) == (0, later)
    assert [found.is_harmless for found in fork_fields(param)] == [True] * bool(later)


def test_a_second_value_where_no_caffe_has_a_list():
    with pytest.raises(PrototxtError, match="is given twice"):
        parse("layer { name: 'a' name: 'b' }", caffe_pb2.NetParameter)


def test_the_page_is_what_its_script_writes():
    script = Path(__file__).parents[2] / "scripts" / "dialect_page.py"
    spec = importlib.util.spec_from_file_location("dialect_page", script)
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == writer.PAGE.read_text()


# --- merging ---

BASE = """package caffe;
enum Mode { A = 0; B = 1; }
message One { optional int32 a = 1; optional Mode mode = 2; repeated float list = 3; }"""


def merged(*texts):
    """Returns {"Message.field" or "Enum.value": number} of a schema merged with forks, and what they say."""
    own, _ = merge(FileDescriptorProto(package="caffe"), [parse_schema(BASE)])
    schemas = [
        parse_schema(f"package caffe; option block = {index}; {text}", f"fork{index}.proto")
        for index, text in enumerate(texts, 1)
    ]
    file, dialects = merge(own, schemas)
    numbers = {f"{message.name}.{one.name}": one.number for message in file.message_type for one in message.field}
    values = {f"{enum.name}.{one.name}": one.number for enum in file.enum_type for one in enum.value}
    return numbers | values, dialects


def test_a_field_keeps_its_number_unless_that_has_another_meaning():
    numbers, dialects = merged(
        "message One { optional int32 a = 1; optional bool free = 7; optional bool taken = 1; optional bool both = 8;}",
        "message One { optional bool free = 7; optional float other = 8; optional int32 a = 5; }",
        "message One { optional bool free = 9; }",
    )
    assert numbers == {
        "One.a": 1, "One.mode": 2, "One.list": 3, "One.free": 10_000_007, "One.taken": 10_000_001,
        "One.both": 10_000_008, "One.other": 20_000_008, "Mode.A": 0, "Mode.B": 1,
    }  # fmt: skip
    assert dialects.numbers == {
        "fork1": {"One": {7: 10_000_007, 1: 10_000_001, 8: 10_000_008}},
        "fork2": {"One": {7: 10_000_007, 8: 20_000_008, 5: 1}},
        "fork3": {"One": {9: 10_000_007}},
    }
    assert dialects.fields["One"]["free"].dialects == ("fork1", "fork2", "fork3")


def test_values_of_enums_are_merged_by_name():
    numbers, dialects = merged("enum Mode { C = 1; B = 2; D = 4; }")
    assert {name: number for name, number in numbers.items() if name.startswith("Mode")} == {
        "Mode.A": 0, "Mode.B": 1, "Mode.C": 10_000_001, "Mode.D": 4,
    }  # fmt: skip
    assert dialects.enum_numbers == {"fork1": {"Mode": {1: 10_000_001, 2: 1}}}
    assert dialects.values == {"Mode": {"C": ("fork1",), "D": ("fork1",)}}


def test_messages_may_refer_to_one_another_and_to_the_base():
    numbers, _ = merged("message Two { optional One one = 1; optional Mode mode = 2; optional caffe.Two two = 3; }")
    assert numbers["Two.two"] == 3


def test_what_is_said_of_a_field():
    _, dialects = merged(
        """message One { optional bool x = 4 [default = false, (hint) = true];
        optional bool y = 5 [default = true, (changes) = true];
        optional int32 z = 6 [default = 0x10, (neutral) = "3"]; optional float w = 7 [default = -1.50]; }"""
    )
    known = {name: (one.is_hint, one.neutral) for name, one in dialects.fields["One"].items()}
    assert known == {"x": (True, "false"), "y": (False, None), "z": (False, "3"), "w": (False, "-1.5")}


@pytest.mark.parametrize(
    ("text", "code", "line", "says"),
    [
        (
            "message One { optional string a = 1; }",
            "conflict",
            1,
            '"a" of One has another type elsewhere, expected int32',
        ),
        ("message One { optional Nowhere b = 8; }", "type", 1, 'there is no type "Nowhere"'),
        ("message One {\n optional int32 b = x; }", "syntax", 2, "expected a number and found x"),
        ("message One {\n optional int32 b = 0; }", "syntax", 2, "no field has such a number"),
        ("message One { optional int32 b = 8", "syntax", 1, "the file ends too early"),
        ("message One { optional bool b = 8 [default = 1]; }", "syntax", 1, "not a bool, expected true or false"),
        ("message One { optional int32 b = 8 [default = 1.5]; }", "syntax", 1, '"1.5" is not a number'),
        ("message One { optional group G = 8 { } }", "syntax", 1, "groups are not read"),
        ("message One { map<int32, int32> b = 8; }", "syntax", 1, '"map" is not read here'),
        ('import "other.proto";', "syntax", 1, '"import" is not read here'),
        ("message One { } message One { }", "syntax", 1, "One is declared twice"),
        ('syntax = "proto3";', "syntax", 1, "only proto2 is read"),
        ("message M { " * 40, "syntax", 1, "nested too deeply"),
        ('option x = "\\x";', "syntax", 1, "a string with a wrong escape"),
    ],
)
def test_a_wrong_schema_is_refused_where_it_is_wrong(text, code, line, says):
    with pytest.raises(PrototxtError) as caught:
        merged(text)
    assert (caught.value.code, caught.value.position.line) == (f"schema.{code}", line)
    assert says in str(caught.value)


ALL_SYNTAX = """// A comment
syntax = "proto2"; /* another
one */ package caffe;
option optimize_for = SPEED;
message Outer {
  option deprecated = true;
  reserved 100 to 110, 120;
  extensions 1000 to max;
  enum Kind { option deprecated = false; NONE = 0; SOME = 0x10 [deprecated = true]; LESS = -1; }
  message Inner { optional Kind kind = 1 [default = SOME]; required .caffe.Outer.Inner inner = 2; };
  repeated float values = 1 [packed = true];
  optional string name = 2 [default = "a" 'b\\n\\"'];
  optional double wide = 3 [default = 1e-10];
  optional uint64 large = 0x5 [default = 18446744073709551615];
  optional sint32 signed = 010 [default = -7];
  optional Kind other = 7;
  enum Unused { ONLY = 1; }
}
"""


def test_the_reader_agrees_with_the_compiler_of_protobuf(tmp_path):
    compiler = pytest.importorskip("grpc_tools.protoc", reason="the dev extra installs protobuf's compiler")
    source = ALL_SYNTAX
    (tmp_path / "all.proto").write_text(source)
    assert compiler.main(["", f"-I{tmp_path}", f"--descriptor_set_out={tmp_path}/all", "all.proto"]) == 0
    expected = FileDescriptorSet.FromString((tmp_path / "all").read_bytes()).file[0].message_type[0]
    found, _ = merge(FileDescriptorProto(package="caffe"), [parse_schema(f"option block = 1; {source}")])
    for message in (expected, *expected.nested_type):
        for one in message.field:
            one.ClearField("json_name")  # which protobuf makes from the name
            if one.label == one.LABEL_REQUIRED:
                one.label = one.LABEL_OPTIONAL
    for ignored in ("options", "reserved_range", "extension_range"):
        expected.ClearField(ignored)
    for enum in expected.enum_type:
        enum.ClearField("options")
        for value in enum.value:
            value.ClearField("options")
    assert found.message_type[0] == expected


VARIED = "transform_param { %s random_aspect_ratio_param { min_area_ratio: 0.08 } }"


def data_net(transform):
    data = 'data_param { source: "gone" batch_size: 2 shuffle: true }'
    text = f'layer {{ name: "d" type: "Data" top: "d" {transform} {data} }}'
    return text_format.Parse(text, caffe_pb2.NetParameter())


def test_a_net_with_fields_that_change_no_shape_can_be_looked_at_but_does_not_run(caplog):
    net = data_net(VARIED % "crop_size: 7")
    assert plan_net(net).shapes == [(2, 3, 7, 7)]
    says = "only the shapes are known: transform_param.random_aspect_ratio_param.min_area_ratio, data_param.shuffle"
    assert says in caplog.text
    with pytest.raises(PrototxtError) as caught:
        build_net(net)
    assert caught.value.code == "prototxt.fork-field"
    assert "defined by intel/caffe" in str(caught.value)


def test_the_labels_of_yolo_have_room_for_300_objects_in_a_picture():
    """annotated_data_layer.cpp of MobileNet-YOLO, DataLayerSetUp."""
    text = """layer { name: "d" type: "AnnotatedData" top: "data" top: "label" transform_param { resize_param {
      height: 9 width: 7 } } data_param { source: "gone" batch_size: 2 } annotated_data_param { yolo_data_type: 1 } }"""
    net = text_format.Parse(text, caffe_pb2.NetParameter())
    assert plan_net(net).shapes == [(2, 3, 9, 7), (2, 1, 300, 5)]
    with pytest.raises(PrototxtError, match="yolo_data_type"):
        build_net(net)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("new_length: 5 num_segments: 3 modality: FLOW } transform_param { crop_size: 7 is_flow: true", (2, 30, 7, 7)),
        ("num_segments: 3 modality: RGB new_height: 9 new_width: 8", (2, 9, 9, 8)),
        ("new_length: 2 modality: RGB grayscale: true new_height: 9 new_width: 8", (2, 2, 9, 8)),
    ],
)
def test_the_videos_of_tsn_have_shapes(text, shape):
    """video_data_layer.cpp and io.cpp of yjxiong/caffe: 3, 1 or 2 channels a frame, frames, segments."""
    text = (
        'layer { name: "v" type: "VideoData" top: "v" top: "l" video_data_param { source: "gone" batch_size: 2 ' + text
    )
    net = parse(f"{text} }} }}", caffe_pb2.NetParameter)
    assert plan_net(net).shapes == [shape, (2,)]
    with pytest.raises(PrototxtError, match="changes results"):
        build_net(net)


def test_pictures_of_any_size_whose_short_side_is_made_equal_need_a_crop():
    text = 'layer { name: "d" type: "ImageData" top: "d" top: "l" %s image_data_param { source: "gone" new_dim: 256 } }'
    net = parse(text.replace("new_dim", "batch_size: 4 bicubic: true new_dim") % "transform_param { crop_size: 7 }",
                caffe_pb2.NetParameter)  # fmt: skip
    assert plan_net(net).shapes == [(4, 3, 7, 7), (4,)]
    with pytest.raises(LayerError, match="changes the size"):
        plan_net(parse(text % "", caffe_pb2.NetParameter))


def test_the_first_of_several_sizes_gives_the_shapes(caplog):
    text = """layer { name: "d" type: "AnnotatedData" top: "data" data_param { source: "gone" batch_size: 2 }
      transform_param { resize_param { height: 9 width: 7 } resize_param { height: 5 width: 4 } } }"""
    net = parse(text, caffe_pb2.NetParameter)
    assert plan_net(net).shapes == [(2, 3, 9, 7)]
    assert "only the shapes are known: transform_param.resize_param as a list is not computed" in caplog.text
    with pytest.raises(PrototxtError, match="resize_param as a list changes results") as caught:
        build_net(net)
    assert caught.value.hint == "defined by eric612/MobileNet-YOLO"


def test_pictures_of_varied_size_need_a_crop():
    with pytest.raises(LayerError) as caught:
        plan_net(data_net(VARIED % "resize_param { height: 9 width: 9 }"))
    assert caught.value.code == "layer.size"

"""Prototxt text: positions, hints, floats, unknown fields, and that printing and parsing are inverses."""

import re

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from pyscratchdet.errors import PrototxtError
from pyscratchdet.proto import caffe_pb2, text
from pyscratchdet.proto.forks import UnknownFieldWarning


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


def places(source, *ways):
    locator = text.Locator(source, "net.prototxt")
    found = [locator.position(*way) for way in ways]
    return [(position.line, position.column) for position in found]


def test_locator_finds_the_nested_field_or_its_parent():
    source = 'layer { name: "a" }\nlayer {\n  convolution_param { kernel_size: 3\n    kernel_size: 5 }\n}\n'
    way = ("layer", 1, "convolution_param", 0)
    assert places(source, (*way, "kernel_size", 1), (*way, "stride", 0), ("layer", 7)) == [(4, 5), (3, 3), (1, 1)]
    assert text.Locator(source, "p").position("layer", 1).text == "layer {"
    assert text.Locator(source, "p").position("input").line == 0


def test_locator_gives_the_lines_of_a_field():
    source = 'name: "n"\n  layer { name: "a" } layer {\n  name: "}"  # }\n}\ntop: "t"\n'
    locator = text.Locator(source, "p")
    assert locator.lines("layer", 0) == (2, '  layer { name: "a" }')
    assert locator.lines("layer", 1) == (2, 'layer {\n  name: "}"  # }\n}')
    assert locator.lines("layer", 1, "name", 0) == (3, '  name: "}"')
    assert locator.lines("layer", 2) == locator.lines("input", 0) == (0, "")


def test_locator_reads_all_of_the_syntax():
    source = """name: "a" 'b' # c { "
layer { name: "x}" "{" type: 'Input'; input_param: { shape < dim: [1,
 2, 3] >, shape { dim: 4 dim: -5 } } top: ["p", "q"
 "r"] }
layer: [{ name: "y" }, <name: "z" bottom: "a\\"}">]
state { stage: "s" }
"""
    net = text.parse(source, caffe_pb2.NetParameter)
    assert list(net.layer[0].top) == ["p", "qr"]
    shape = ("layer", 0, "input_param", 0, "shape")
    assert places(
        source,
        ("layer", 0, "type", 0),
        (*shape, 0, "dim", 2),
        (*shape, 1, "dim", 1),
        ("layer", 0, "top", 1),
        ("layer", 1, "name", 0),
        ("layer", 2, "bottom", 0),
        ("state", 0, "stage", 0),
    ) == [(2, 24), (2, 62), (3, 26), (3, 38), (5, 11), (5, 35), (6, 9)]


@pytest.mark.parametrize(
    ("source", "place", "code", "says"),
    [
        (
            'name: "n"\nlayer { nam: "a" }',
            (2, 9),
            "unknown-field",
            'no field "nam"; did you mean "name"',
        ),
        ('layer { name: "a"\nlayer { }', (2, 1), "unknown-field", 'is a "}" missing before it?'),
        ('layer {\n name: "a"', (2, 8), "syntax", "the brace of line 1 is not closed"),
        ("layer { }\n}", (2, 1), "syntax", 'is there a "}" too many before it?'),
        ("layer { include {\n phase: TRIAN } }", (2, 9), "unknown-enum", 'expected TRAIN, TEST; did you mean "TRAIN"?'),
        ('layer { name: "a"\n name: "b" }', (2, 8), "twice", '"name" is given twice'),
        ("layer { relu_param { }\n relu_param { } }", (2, 13), "twice", '"relu_param" is given twice'),
        ("force_backward:\n maybe", (2, 2), "syntax", 'Expected "true" or "false"'),
        ("layer { name:\n 3 }", (2, 2), "syntax", "Expected string"),
        ('name: "a', (1, 7), "syntax", "String missing ending quote"),
        ("input_dim: 9999999999", (1, 12), "syntax", "Value out of range"),
        ("input_dim: 1.5", (1, 12), "syntax", "Couldn't parse integer"),
        ("layer { loss_weight: x }", (1, 22), "syntax", "Couldn't parse float"),
        ('name: "\\xff"', (1, 13), "syntax", "can't decode"),
        ("[a.b]: 3", (1, 4), "syntax", "does not have extensions"),
        ('\nname: "a"\x01', (2, 0), "encoding", "control character 0x01"),
        ("\n" + "layer { " * 3000, (2, 807), "depth", "nested too deeply"),
        ("input_dim: 4\n input_dim: 1_0", (2, 13), "syntax", "1_0 is not a number"),
        ("layer { power_param { scale: +5 } }", (1, 30), "syntax", "is not a number"),
        ("input_dim: 0b11", (1, 12), "syntax", "0b11 is not a number"),
    ],
)
def test_error_has_position_line_and_hint(source, place, code, says):
    error = parse_error(source)
    assert (error.code, error.position.path) == (f"prototxt.{code}", "net.prototxt")
    assert (error.position.line, error.position.column) == place
    assert says in str(error)
    assert code == "encoding" or str(error).endswith(source.split("\n")[place[0] - 1].strip())


def test_binary_file_is_called_one(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"layer {\n\xff }")
    with pytest.raises(PrototxtError, match=r"net.prototxt:2: not UTF-8 text; is this a binary file") as caught:
        text.read(path, caffe_pb2.NetParameter)
    assert caught.value.code == "prototxt.encoding"
    path.write_bytes(b"\xef\xbb\xbfname: 'n'")
    assert text.read(path, caffe_pb2.NetParameter).name == "n"


def test_unknown_fields_can_be_passed_over_with_a_warning_each():
    source = 'foo: 3 bar { x: 1 y { z: 2 } }\nlayer { name: "a" foo: [1, 2] relu_param { negative: 2 } }'
    with pytest.warns(UnknownFieldWarning, match="passed over") as caught, text.unknown_fields_allowed():
        net = text.parse(source, caffe_pb2.NetParameter, path="n")
    assert net == caffe_pb2.NetParameter(layer=[{"name": "a", "relu_param": {}}])
    assert [str(warning.message) for warning in caught] == [
        "n: passed over 4 unknown fields; results may differ from those of its own Caffe\n"
        "  line 1: foo: 3\n"
        "  line 1: bar: { x: 1 y { z: 2 } }\n"
        '  line 2: layer "a" (): foo: [1, 2]\n'
        '  line 2: layer "a" (): relu_param.negative: 2'
    ]


def test_the_hint_names_the_option_beside_what_may_be_meant():
    passing = "--allow-unknown (in Python unknown_fields_allowed) passes over it"
    assert parse_error("layer { tip: 3 }").hint == f'did you mean "top"? If it belongs to another Caffe, {passing}'
    assert parse_error("layer { surprise: 3 }").hint == f"if it belongs to another Caffe, {passing}"


def test_an_error_behind_fields_that_are_passed_over_keeps_its_place():
    error = parse_error("layer { relu_param { engine: X }\n debug: true convolution_param { engine: X nam: 3 } }")
    assert (error.code, error.position.line, error.position.column) == ("prototxt.unknown-field", 2, 44)
    error = parse_error("layer { relu_param { engine: X }\n name: 3 }")
    assert (error.code, error.position.line, error.position.column) == ("prototxt.syntax", 2, 8)


def test_a_value_of_engine_that_nobody_knows_is_passed_over():
    passed = []
    with pytest.warns(UnknownFieldWarning) as caught:
        net = text.parse(
            'layer { name: "r" relu_param { engine: X } }', caffe_pb2.NetParameter, path="n", passed_over=passed
        )
    assert net == caffe_pb2.NetParameter(layer=[{"name": "r", "relu_param": {}}])
    assert [str(warning.message) for warning in caught] == ["n: passed over fields that change no result: engine"]
    assert [(entry.field, entry.value, entry.is_harmless) for entry in passed] == [("relu_param.engine", "X", True)]


def strategy(descriptor, depth):
    """Returns a strategy for messages of a type: any of its fields with any value."""
    fields = {}
    for field in descriptor.fields:
        if field.message_type is None:
            if field.enum_type is not None:
                value = st.sampled_from([entry.number for entry in field.enum_type.values])
            else:
                value = st.binary(max_size=6) if field.type == field.TYPE_BYTES else SCALARS[field.cpp_type]
        elif depth:
            value = strategy(field.message_type, depth - 1)
        else:
            continue
        fields[field.name] = st.lists(value, max_size=3) if field.is_repeated else value
    return st.fixed_dictionaries({}, optional=fields) if fields else st.just({})


KIND = caffe_pb2.DESCRIPTOR.message_types_by_name["NetParameter"].fields[0]
SCALARS = {
    KIND.CPPTYPE_BOOL: st.booleans(),
    KIND.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    KIND.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    KIND.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    KIND.CPPTYPE_FLOAT: st.floats(width=32, allow_nan=False),
    KIND.CPPTYPE_DOUBLE: st.floats(allow_nan=False),
    KIND.CPPTYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
}
MESSAGES = st.one_of(
    st.sampled_from(["LayerParameter", "SolverParameter", "V1LayerParameter", "BlobProto", "LabelMap"])
    .map(lambda name: getattr(caffe_pb2, name))
    .flatmap(lambda kind: strategy(kind.DESCRIPTOR, 2).map(lambda fields: kind(**fields)))
)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(MESSAGES)
def test_parse_is_the_inverse_of_print(message):
    written = text.to_text(message)
    assert text.parse(written, type(message)) == message
    # The same text by protobuf's own parser, which knows no list where the base has one value, and the other way round.
    plain = text_format.MessageToString(message)
    if text.LATER not in plain or text.LATER in written:
        assert text_format.Parse(written, type(message)()) == message
    assert text.parse(plain, type(message)) == message


def test_comments_may_be_in_any_encoding(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes('# 卷积 "\nname: "a"  # 层\n'.encode("gbk"))
    assert text.read(path, caffe_pb2.NetParameter).name == "a"
    path.write_bytes('name: "层"'.encode("gbk"))
    with pytest.raises(PrototxtError, match="not UTF-8"):
        text.read(path, caffe_pb2.NetParameter)


def test_a_net_on_one_line_is_not_repeated_for_each_of_its_fields():
    found = []
    with pytest.warns(UnknownFieldWarning), text.unknown_fields_allowed():
        text.parse('name: "n" ' + "strange: 1 " * 5000, caffe_pb2.NetParameter, passed_over=found)
    assert len(found) == 5000
    assert sum(len(one.position.text) for one in found) <= 5000 * 400  # 200 characters on either side
    assert found[40].position.text[200:].startswith("strange: 1 ")
    assert found[40].position.column == 1 + len('name: "n" ') + 40 * len("strange: 1 ")

"""NetSpec, layers and params against nets written out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyscratchdet.caffe import NetSpec, to_proto
from pyscratchdet.caffe import layers as L
from pyscratchdet.caffe import params as P
from pyscratchdet.caffe.net_spec import SpecError, UnknownTop, assign_proto, param_name_dict
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse


def net(text):
    return parse(text, caffe_pb2.NetParameter)


def test_named_and_automatic_names_in_order_of_need():
    n = NetSpec()
    n.data = L.DummyData(shape={"dim": [2, 3, 5, 7]})
    left = L.ReLU(L.BatchNorm(n.data), in_place=True)
    right = L.Convolution(n.data, num_output=3, kernel_size=1)
    n.sum = L.Eltwise(right, left)
    unused = L.ReLU(n.sum)
    assert n.to_proto() == net(
        """
        layer { name: "data" type: "DummyData" top: "data" dummy_data_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }
        layer { name: "Convolution1" type: "Convolution" bottom: "data" top: "Convolution1"
                convolution_param { num_output: 3 kernel_size: 1 } }
        layer { name: "BatchNorm1" type: "BatchNorm" bottom: "data" top: "BatchNorm1" }
        layer { name: "ReLU1" type: "ReLU" bottom: "BatchNorm1" top: "BatchNorm1" }
        layer { name: "sum" type: "Eltwise" bottom: "Convolution1" bottom: "BatchNorm1" top: "sum" }
        """
    )
    assert [layer.name for layer in to_proto(unused).layer][-2:] == ["Eltwise1", "ReLU2"]


def test_several_tops_and_none():
    n = NetSpec()
    n.data, n.label = L.AnnotatedData(name="images", ntop=2, include={"phase": caffe_pb2.TRAIN})
    n.quiet = L.Silence(n.data, n.label, ntop=0)
    made = n.to_proto()
    assert list(made.layer[0].top) == ["data", "label"]
    assert made.layer[0].name == "images"
    assert made.layer[0].include[0].phase == caffe_pb2.TRAIN
    assert made.layer[1].name == "quiet"
    assert list(made.layer[1].bottom) == ["data", "label"]
    assert not made.layer[1].top


def test_silence_never_has_tops():
    top = L.DummyData(shape={"dim": [1]})
    assert not to_proto(L.Silence(top)).layer[1].top


def test_parameter_values():
    data = L.DummyData(shape=caffe_pb2.BlobShape(dim=[4, 6]))
    by_name = L.Pooling(data, pool="AVE", kernel_size=3)
    by_number = L.Pooling(data, pool=P.Pooling.AVE, kernel_size=3)
    assert to_proto(by_name) == to_proto(by_number)
    assert to_proto(by_name).layer[1].pooling_param.pool == caffe_pb2.PoolingParameter.AVE
    conv = to_proto(
        L.Convolution(
            data,
            kernel_size=(3, 5),
            pad=1,
            weight_filler={"type": "xavier"},
            param=[{"lr_mult": 1}, {"lr_mult": 2, "decay_mult": 0}],
            loss_weight=0.5,
            convolution_param={"num_output": 8},
        )
    ).layer[1]
    assert list(conv.convolution_param.kernel_size) == [3, 5]
    assert list(conv.convolution_param.pad) == [1]
    assert conv.convolution_param.num_output == 8
    assert conv.convolution_param.weight_filler.type == "xavier"
    assert [spec.lr_mult for spec in conv.param] == [1, 2]
    assert conv.param[1].HasField("decay_mult")
    assert list(conv.loss_weight) == [0.5]
    assert to_proto(L.Deconvolution(data, num_output=2, kernel_size=4)).layer[1].convolution_param.num_output == 2


def test_empty_values_write_nothing():
    data = L.DummyData(shape={"dim": [1]}, transform_param={})
    assert not to_proto(data).layer[0].HasField("transform_param")
    samplers = to_proto(L.AnnotatedData(annotated_data_param={"batch_sampler": [{}]})).layer[0].annotated_data_param
    assert len(samplers.batch_sampler) == 1


def test_update_changes_a_layer_that_is_there():
    n = NetSpec()
    n.data = L.DummyData(shape={"dim": [1]})
    n.conv = L.Convolution(n.data, num_output=4, kernel_size=1)
    n.update("conv", {"dilation": 2, "num_output": 6})
    param = n.to_proto().layer[1].convolution_param
    assert (param.num_output, list(param.dilation)) == (6, [2])


def test_names_like_a_dictionary():
    n = NetSpec()
    n["a"] = L.DummyData(shape={"dim": [1]})
    n.b = L.ReLU(n["a"])
    assert n.keys() == ["a", "b"]
    assert n.vals() == [n.a, n.b]
    del n["b"]
    assert n.keys()[-1] == "a"
    assert not hasattr(n, "__array__")


def test_deeper_than_the_stack():
    top = L.DummyData(shape={"dim": [1]})
    for _ in range(3000):
        top = L.ReLU(top)
    assert len(to_proto(top).layer) == 3001


def line_of(error, path=__file__):
    assert error.value.position.path == path
    with open(path, encoding="utf-8") as file:
        return file.readlines()[error.value.position.line - 1].strip()


def test_unknown_type_points_at_the_callers_line():
    data = L.DummyData(shape={"dim": [1]})
    with pytest.raises(SpecError, match=r'unknown layer type "Convolutoin"; did you mean "Convolution"\?') as error:
        L.Convolutoin(data)  # here
    assert line_of(error) == "L.Convolutoin(data)  # here"
    assert error.value.code == "spec.type"


def test_unknown_parameter_points_at_the_callers_line():
    data = L.DummyData(shape={"dim": [1]})
    with pytest.raises(SpecError, match=r'Convolution has no parameter "num_outputs"; did you mean "num_output"'):
        L.Convolution(data, num_outputs=3)
    n = NetSpec()
    n.conv = L.Convolution(data, num_output=3)
    with pytest.raises(SpecError, match='did you mean "dilation"') as error:
        n.update("conv", {"dilatoin": 2})
    assert line_of(error) == 'n.update("conv", {"dilatoin": 2})'


def test_wrong_values_point_at_the_layers_line():
    data = L.DummyData(shape={"dim": [1]})
    half = L.Pooling(data, kernel_size=2.5)  # too fine
    with pytest.raises(
        SpecError, match=r'layer "Pooling1" \(Pooling\).*expected a whole number and found 2\.5'
    ) as error:
        to_proto(half)
    assert line_of(error).endswith("# too fine")
    for wrong, message in (
        ({"pool": "MXA"}, 'did you mean "MAX"'),
        ({"pooling_param": {"kernel": 3}}, 'no field "kernel"'),
        ({"pooling_param": 3}, "takes a dict of PoolingParameter"),
        ({"name": 3}, "expected a string"),
        ({"global_pooling": "yes"}, "True or False"),
    ):
        with pytest.raises(SpecError, match=message):
            to_proto(L.Pooling(data, **wrong))


def test_bottoms_must_be_tops():
    with pytest.raises(SpecError, match="not a top of a layer, found str 'data'"):
        L.ReLU("data")


def test_unknown_constants():
    with pytest.raises(SpecError, match='PoolingParameter has no constant "MAXX"; did you mean "MAX"'):
        P.Pooling.MAXX  # noqa: B018
    with pytest.raises(SpecError, match='no parameters called "Poling"; did you mean "Pooling"'):
        P.Poling  # noqa: B018
    n = NetSpec()
    n.data = L.DummyData(shape={"dim": [1]})
    with pytest.raises(UnknownTop, match='no top "dta" yet; did you mean "data"'):
        n.dta  # noqa: B018


def test_registered_types_are_known():
    from pyscratchdet.layers.base import _TYPES, Layer, register

    @register("OwnThing")
    class OwnThing(Layer):
        pass

    try:
        assert to_proto(L.OwnThing(L.DummyData(shape={"dim": [1]}))).layer[1].type == "OwnThing"
    finally:
        del _TYPES["OwnThing"]


def test_param_name_dict():
    names = param_name_dict()
    assert names["InnerProduct"] == "inner_product"
    assert names["HDF5Data"] == "hdf5_data"
    assert "Deconvolution" not in names


def values_of(message):
    """The dict that assign_proto should make the message from."""
    made = {}
    for field, value in message.ListFields():
        if field.message_type:
            made[field.name] = [values_of(item) for item in value] if field.is_repeated else values_of(value)
        else:
            made[field.name] = list(value) if field.is_repeated else value
    return made


NUMBERS = st.integers(0, 2**31 - 1)
FLOATS = st.floats(width=32, allow_nan=False)
PRIOR_BOXES = st.builds(
    caffe_pb2.PriorBoxParameter,
    min_size=st.lists(FLOATS, max_size=3),
    aspect_ratio=st.lists(FLOATS, max_size=3),
    flip=st.none() | st.booleans(),
    clip=st.none() | st.booleans(),
    img_size=st.none() | NUMBERS,
    offset=st.none() | FLOATS,
)
LAYERS = st.builds(
    caffe_pb2.LayerParameter,
    name=st.text(max_size=9),
    loss_weight=st.lists(FLOATS, max_size=2),
    param=st.lists(st.builds(caffe_pb2.ParamSpec, name=st.none() | st.text(max_size=5), lr_mult=FLOATS), max_size=3),
    prior_box_param=st.none() | PRIOR_BOXES.filter(lambda message: message.ByteSize()),
)


@settings(deadline=None)
@given(LAYERS)
def test_assigning_what_a_message_holds_makes_it_again(message):
    made = caffe_pb2.LayerParameter()
    for name, value in values_of(message).items():
        assign_proto(made, name, value)
    assert made == caffe_pb2.LayerParameter.FromString(message.SerializeToString())

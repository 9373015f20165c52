"""Python layers, HDF5Output and Axpy."""

import sys
import types

import h5py
import harness
import numpy as np
import onnx_stub
import pytest
import torch

from pyscratchdet.errors import FileError, LayerError
from pyscratchdet.layers.python_layer import ArrayBlob, UserLayer, python_layers_allowed
from pyscratchdet.proto import caffe_pb2


class Times(UserLayer):
    def setup(self, bottom, top):
        self.value = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.value * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.value * top[0].diff


class ScaleAndSum(UserLayer):
    """top 0 = w * (a + b), top 1 = its sum; counts passes in its second weight."""

    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = 3
        self.blobs.add_blob(2, 1)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
        top[1].reshape()

    def forward(self, bottom, top):
        self.sum = bottom[0].data + bottom[1].data
        top[0].data[...] = self.blobs[0].data[0] * self.sum
        top[1].data[()] = top[0].data.sum()
        self.blobs[1].data[:] += 1

    def backward(self, top, propagate_down, bottom):
        self.seen = list(propagate_down)
        diff = top[0].diff + top[1].diff
        self.blobs[0].diff[0] += (diff * self.sum).sum()
        for blob, wanted in zip(bottom, propagate_down, strict=True):
            if wanted:
                blob.diff[...] = self.blobs[0].data[0] * diff


class Phase(UserLayer):
    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[()] = self.phase


class NoBackward(Times):
    backward = UserLayer.backward


class Raises(Times):
    def setup(self, bottom, top):
        raise RuntimeError("from the user's code")


@pytest.fixture(autouse=True)
def user_module(monkeypatch):
    module = types.ModuleType("user_layers")
    for cls in (Times, ScaleAndSum, Phase, NoBackward, Raises):
        setattr(module, cls.__name__, cls)
    module.NotALayer = dict
    monkeypatch.setitem(sys.modules, "user_layers", module)


def python(name, shapes, tops=("t0",), param_str="", phase=caffe_pb2.TRAIN, module="user_layers", bottoms=None):
    names = bottoms or [f"b{i}" for i in range(len(shapes))]
    blobs = "".join(f' bottom: "{name}"' for name in names) + "".join(f' top: "{top}"' for top in tops)
    param = f'python_param {{ module: "{module}" layer: "{name}" param_str: "{param_str}" }}'
    with python_layers_allowed():
        return harness.make_layer(f'name: "l" type: "Python"{blobs} {param}', shapes, phase)


@pytest.mark.parametrize("bottoms", [["b0"], ["t0"]], ids=["own top", "in place"])
def test_forward_backward(bottoms):
    layer, shapes = python("Times", [(2, 3)], param_str="10", bottoms=bottoms)
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    (top,) = layer.forward([x], [])
    assert shapes == [(2, 3)]
    assert top.tolist() == [[0, 10, 20], [30, 40, 50]]
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
    top.backward(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    assert x.grad.tolist() == [[10, 20, 30], [40, 50, 60]]


def test_new_shape():
    layer, _ = python("Times", [(2, 3)], param_str="2")
    assert layer.reshape([(4, 1, 5)]) == [(4, 1, 5)]
    assert layer.forward([torch.ones(4, 1, 5)], [])[0].shape == (4, 1, 5)


def test_weights_several_tops_and_propagate_down():
    layer, shapes = python("ScaleAndSum", [(2, 3), (2, 3)], tops=("t0", "t1"))
    assert shapes == [(2, 3), ()]
    assert [(spec.shape, spec.value.tolist()) for spec in layer.blobs] == [((1,), [3]), ((2, 1), [[0], [0]])]
    blobs = [torch.tensor(spec.value, requires_grad=k == 0) for k, spec in enumerate(layer.blobs)]
    a, b = torch.arange(6.0).reshape(2, 3).requires_grad_(), torch.ones(2, 3)
    tops = layer.forward([a, b], blobs)
    assert tops[0].tolist() == [[3, 6, 9], [12, 15, 18]]
    assert tops[1].item() == 63
    assert blobs[1].tolist() == [[1], [1]]
    (tops[0].sum() + 2 * tops[1]).backward()
    assert a.grad.tolist() == [[9, 9, 9], [9, 9, 9]]
    assert blobs[0].grad.tolist() == [3 * 21]
    assert layer.user.seen == [True, False]


@pytest.mark.parametrize("phase", [caffe_pb2.TRAIN, caffe_pb2.TEST])
def test_no_bottom_and_phase(phase):
    layer, shapes = python("Phase", [], phase=phase)
    assert shapes == [()]
    assert layer.forward([], [])[0].item() == phase


def test_what_the_user_raises_comes_through():
    with pytest.raises(RuntimeError, match="from the user's code"):
        python("Raises", [(2, 3)])
    layer, _ = python("NoBackward", [(2, 3)], param_str="1")
    (top,) = layer.forward([torch.ones(2, 3, requires_grad=True)], [])
    with pytest.raises(NotImplementedError, match=r"NoBackward\.backward"):
        top.sum().backward()


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("Times", "no_such_module_anywhere", "PYTHONPATH"),
        ("Missing", "user_layers", r"derived from caffe\.Layer"),
        ("NotALayer", "user_layers", r"derived from caffe\.Layer"),
        ("", "user_layers", "needs module and layer"),
    ],
)
def test_class_that_cannot_be_used(name, module, message):
    with pytest.raises(LayerError, match=message) as caught:
        python(name, [(2, 3)], module=module)
    assert caught.value.code == "layer.python"


def test_refused_where_nobody_allowed_it(tmp_path, monkeypatch):
    """The module is not even looked for: importing it would write a file."""
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    text = 'name: "l" type: "Python" top: "t0" python_param { module: "hostile" layer: "Times" }'
    with pytest.raises(LayerError, match=r'"hostile".*--allow-python') as caught:
        harness.make_layer(text, [])
    assert caught.value.code == "layer.python-refused"
    assert "hostile" not in sys.modules
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.py"]


def test_blob():
    blob = ArrayBlob(2, 3)
    blob.data[...] = np.arange(6).reshape(2, 3)
    blob.reshape(4, 1, 2)
    assert blob.data.ravel().tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert (blob.shape, blob.count, blob.num, blob.channels, blob.height, blob.width) == ((4, 1, 2), 8, 4, 1, 2, 1)
    with pytest.raises(AttributeError, match=r"blob\.data\[\.\.\.\]"):
        blob.data = np.zeros(3)


# --- HDF5Output ---


def hdf5_output(path, shapes):
    param = f'hdf5_output_param {{ file_name: "{path}" }}' if path else ""
    return harness.make_layer(f'name: "l" type: "HDF5Output" bottom: "b0" bottom: "b1" {param}', shapes)[0]


def test_hdf5_output(tmp_path):
    path = tmp_path / "out.h5"
    layer = hdf5_output(path, [(2, 3), (2,)])
    data = torch.arange(6.0).reshape(2, 3)
    assert layer.forward([data, torch.tensor([7.0, 8.0])], []) == []
    with h5py.File(path) as file:
        assert {name: file[name].shape for name in file} == {"data": (2, 3, 1, 1), "label": (2, 1, 1, 1)}
        assert file["data"].dtype == np.float32
        assert file["data"][:, :, 0, 0].tolist() == data.tolist()
        assert file["label"][:, 0, 0, 0].tolist() == [7, 8]
    with pytest.raises(LayerError) as caught:
        layer.forward([data, torch.tensor([7.0, 8.0])], [])
    assert caught.value.code == "layer.written"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.h5"]


def test_hdf5_output_is_not_written_unasked(tmp_path, caplog):
    layer = hdf5_output(tmp_path / "out.h5", [(2, 3), (2,)])
    layer.context.writes = False
    for _ in range(2):
        assert layer.forward([torch.ones(2, 3), torch.ones(2)], []) == []
    assert [record.getMessage() for record in caplog.records] == [
        f'layer "l" (HDF5Output): {tmp_path}/out.h5 is not written here'
    ]
    assert list(tmp_path.iterdir()) == []


def test_hdf5_output_refused(tmp_path):
    for path, shapes, code in [("", [(2, 3), (2,)], "file-name"), ("x", [(2, 3), (3,)], "batch")]:
        with pytest.raises(LayerError) as caught:
            hdf5_output(path, shapes)
        assert caught.value.code == f"layer.{code}"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        hdf5_output(tmp_path / "file" / "out.h5", [(2, 3), (2,)]).forward([torch.ones(2, 3), torch.ones(2)], [])


# --- Axpy ---

AXPY = 'name: "l" type: "Axpy" bottom: "b0" bottom: "b1" bottom: "b2" top: "t0"'


@pytest.mark.parametrize("factors", [(2, 3), (2, 3, 1, 1)])
def test_axpy(factors):
    random = np.random.default_rng(4)
    shapes = [factors, (2, 3, 4, 5), (2, 3, 4, 5)]
    a, x, y = arrays = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    layer, tops = harness.make_layer(AXPY, shapes)
    expected = a.reshape(2, 3, 1, 1) * x + y
    assert tops == [x.shape]
    found = layer.forward([torch.from_numpy(array) for array in arrays], [])[0]
    # One multiplication and one addition in float32, fused or not.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(onnx_stub.run(layer, shapes, arrays, [], 17)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ([(2, 3), (2, 3, 4), (2, 3, 4)], "rank"),
        ([(2, 4), (2, 3, 4, 5), (2, 3, 4, 5)], "shape"),
        ([(2, 3), (2, 3, 4, 5), (2, 3, 5, 4)], "shape"),
    ],
)
def test_axpy_refused(shapes, code):
    with pytest.raises(LayerError) as caught:
        harness.make_layer(AXPY, shapes)
    assert caught.value.code == f"layer.{code}"

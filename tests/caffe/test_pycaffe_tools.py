"""pycaffe's io, Classifier, Detector, solvers and coord_map."""

import cv2
import numpy as np
import pytest

import pyscratchdet.caffe as caffe
from pyscratchdet.caffe.coord_map import AxisMismatchException, UndefinedMapException, coord_map_from_to, crop
from pyscratchdet.errors import DataError, LayerError, SolverError, UsageError

DEPLOY = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 6 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { pool: AVE global_pooling: true } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 5 } }
"""
WEIGHT = np.arange(15, dtype=np.float32).reshape(5, 3) / 10


@pytest.fixture
def model(tmp_path):
    """Writes a net that multiplies the mean colour by WEIGHT; returns its two files."""
    path, weights = str(tmp_path / "deploy.prototxt"), str(tmp_path / "net.caffemodel")
    (tmp_path / "deploy.prototxt").write_text(DEPLOY)
    net = caffe.Net(path, caffe.TEST)
    net.params["fc"][0].data[...] = WEIGHT
    net.save(weights)
    return path, weights


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)


def test_transformer_goes_both_ways():
    transformer = caffe.io.Transformer({"data": (1, 3, 4, 6)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([104.0, 117.0, 123.0]))
    transformer.set_input_scale("data", 0.5)
    image = picture(4, 6)
    result = transformer.preprocess("data", image)
    expected = (image[:, :, ::-1].transpose(2, 0, 1) * 255 - np.array([104, 117, 123])[:, None, None]) * 0.5
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)  # float32 at values around 100
    # There and back in float32.
    np.testing.assert_allclose(transformer.deprocess("data", result), image, rtol=1e-5, atol=1e-6)
    assert transformer.preprocess("data", picture(8, 9)).shape == (3, 4, 6)
    for refused in (
        lambda: transformer.set_transpose("data", (1, 0)),
        lambda: transformer.set_channel_swap("data", (1, 0)),
        lambda: transformer.set_mean("data", np.zeros(4)),
        lambda: transformer.set_mean("data", np.zeros((3, 4, 5))),
        lambda: transformer.preprocess("other", image),
    ):
        with pytest.raises(UsageError):
            refused()


def test_pictures_and_messages(tmp_path):
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0, 1] = (255, 0, 51)  # BGR
    cv2.imwrite(str(tmp_path / "a.png"), colours)
    image = caffe.io.load_image(tmp_path / "a.png")
    assert image.shape == (2, 3, 3)
    np.testing.assert_allclose(image[0, 1], [0.2, 0, 1], rtol=1e-6)  # 51 / 255 in float32
    assert caffe.io.load_image(tmp_path / "a.png", color=False).shape == (2, 3, 1)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png"):
        caffe.io.load_image(tmp_path / "b.png")
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((2, 3), 13107, np.uint16))
    # 13107 / 65535 in float32.
    np.testing.assert_allclose(caffe.io.load_image(tmp_path / "deep.png"), np.full((2, 3, 3), 0.2), rtol=1e-6)
    uncompressed = (cv2.IMWRITE_TIFF_COMPRESSION, 1)  # older OpenCVs compress floats with loss
    cv2.imwrite(str(tmp_path / "float.tiff"), np.full((2, 3, 3), 0.75, np.float32), uncompressed)
    np.testing.assert_array_equal(caffe.io.load_image(tmp_path / "float.tiff"), np.full((2, 3, 3), 0.75))
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(caffe.io.blobproto_to_array(caffe.io.array_to_blobproto(array)), array)
    datum = caffe.io.array_to_datum(array.astype(np.uint8), 7)
    assert datum.label == 7
    np.testing.assert_array_equal(caffe.io.datum_to_array(datum), array)
    assert caffe.io.resize_image(image, (5, 4)).shape == (5, 4, 3)


def test_oversample_takes_corners_centre_and_mirrors():
    image = picture(7, 9)
    crops = caffe.io.oversample([image], (4, 6))
    assert crops.shape == (10, 4, 6, 3)
    for number, (top, left) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3), (1, 1)]):
        np.testing.assert_array_equal(crops[number], image[top : top + 4, left : left + 6])
        np.testing.assert_array_equal(crops[number + 5], image[top : top + 4, left : left + 6][:, ::-1])


def test_classifier_averages_crops_or_takes_the_centre(model):
    classifier = caffe.Classifier(*model, image_dims=(7, 9), raw_scale=255, channel_swap=(2, 1, 0))
    images = [picture(7, 9, seed) for seed in range(3)]
    centre = classifier.predict(images, oversample=False)
    expected = [image[1:5, 1:7, ::-1].mean((0, 1)) * 255 @ WEIGHT.T for image in images]
    np.testing.assert_allclose(centre, expected, rtol=1e-5)  # sums of 3 in float32
    crops = [(0, 0), (0, 3), (3, 0), (3, 3), (1, 1)]
    means = [np.mean([image[t : t + 4, left : left + 6].mean((0, 1)) for t, left in crops], 0) for image in images]
    # Means and sums of 3 in float32.
    np.testing.assert_allclose(classifier.predict(images), np.array(means)[:, ::-1] * 255 @ WEIGHT.T, rtol=1e-5)


def test_detector_scores_windows(model, tmp_path):
    image = np.full((8, 12, 3), 100, np.uint8)
    image[:4] = (10, 20, 30)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    detector = caffe.Detector(*model, raw_scale=255)
    found = detector.detect_windows([(str(tmp_path / "a.png"), [(0, 0, 4, 6), (4, 2, 8, 8)])])
    assert [entry["window"] for entry in found] == [(0, 0, 4, 6), (4, 2, 8, 8)]
    np.testing.assert_allclose(found[0]["prediction"], WEIGHT @ [30, 20, 10], rtol=1e-5)  # sums of 3 in float32
    np.testing.assert_allclose(found[1]["prediction"], WEIGHT @ [100, 100, 100], rtol=1e-5)  # sums of 3 in float32
    assert detector.detect_windows([]) == []
    with pytest.raises(UsageError, match="outside the picture"):
        detector.detect_windows([(str(tmp_path / "a.png"), [(9, 0, 12, 6)])])


def test_windows_with_context_show_their_surroundings(tmp_path):
    """R-CNN's rule (Girshick et al. 2014, appendix A): the window fills the input but for a border of context_pad."""
    path, weights = str(tmp_path / "deploy.prototxt"), str(tmp_path / "net.caffemodel")
    (tmp_path / "deploy.prototxt").write_text(DEPLOY.replace("dim: 4 dim: 6", "dim: 12 dim: 12"))
    caffe.Net(path, caffe.TEST).save(weights)
    detector = caffe.Detector(path, weights, mean=np.array([50.0, 60, 70]), raw_scale=100, context_pad=3,
                              channel_swap=(2, 1, 0))  # fmt: skip
    ramp = np.repeat(np.tile(np.arange(40, dtype=np.float32) / 40, (40, 1))[..., None], 3, 2)
    inside = detector.crop(ramp, (10, 12, 21, 23))  # 12 pixels a side; 12 / (12 - 2 * 3) = 2 times that is shown
    steps = np.diff(inside[6, :, 0])
    assert inside.shape == (12, 12, 3)
    # Two pixels of the picture to one of the input; the edges of a resized part repeat.
    np.testing.assert_allclose(steps[1:-1], 2 / 40, rtol=0.1)
    assert abs(inside[6, 3:9, 0].mean() - ramp[0, 12:24, 0].mean()) < 1 / 40  # centred on the window, to a pixel
    corner = detector.crop(ramp, (0, 0, 11, 11))
    # Outside the picture there is the mean, as RGB in 0 to 1, which preprocessing turns into 0.
    np.testing.assert_allclose(corner[0], np.tile([0.7, 0.6, 0.5], (12, 1)), rtol=1e-6)  # one division in float32
    np.testing.assert_allclose(corner[:, 0], np.tile([0.7, 0.6, 0.5], (12, 1)), rtol=1e-6)  # as above
    assert not np.allclose(corner[6, 6], [0.7, 0.6, 0.5])


@pytest.fixture
def solver_file(tmp_path):
    (tmp_path / "net.prototxt").write_text("""
        layer { name: "x" type: "DummyData" top: "x" top: "y" dummy_data_param {
          shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 } data_filler { value: 1 } data_filler { value: -2 } } }
        layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc"
          inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "y" top: "loss" }
    """)

    def write(more=""):
        path = tmp_path / "solver.prototxt"
        folder = str(tmp_path)
        path.write_text(
            f'net: "{folder}/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9 snapshot_prefix: "{folder}/s" '
            f"snapshot_after_train: false test_iter: 1 test_interval: 100 test_initialization: false {more}"
        )
        return str(path)

    return write


def test_solver_steps_by_the_rule(solver_file):
    solver = caffe.get_solver(solver_file())
    weight, bias = (blob.data for blob in solver.net.params["fc"])
    before = weight.copy()
    called = []
    solver.add_callback(lambda: called.append("start"), lambda: called.append(solver.net.params["fc"][1].diff.copy()))
    solver.step(1)
    error = before.sum(1) + 2  # each of four equal items gives a quarter
    np.testing.assert_allclose(called[1], error, rtol=1e-5)  # a difference in float32
    np.testing.assert_allclose(bias, -0.1 * error, rtol=1e-5)  # float32 rounding
    # Float32 rounding.
    np.testing.assert_allclose(weight, before - 0.1 * np.tile(error[:, None], 3), rtol=1e-5, atol=1e-6)
    assert (called[0], solver.iter) == ("start", 1)
    solver.solve()
    assert solver.iter == 9
    assert float(solver.net.blobs["loss"].data) < 0.1


def test_solver_type_by_name_number_or_class(solver_file):
    assert type(caffe.get_solver(solver_file('type: "Adam" momentum: 0.9'))) is caffe.AdamSolver
    assert type(caffe.get_solver(solver_file("solver_type: RMSPROP rms_decay: 0.9"))) is caffe.RMSPropSolver
    assert caffe.NesterovSolver(solver_file("momentum: 0.5")).param.type == "Nesterov"
    with pytest.raises(SolverError, match='unknown solver type "Sgd"'):
        caffe.get_solver(solver_file('type: "Sgd"'))


def test_snapshot_and_restore_go_on_alike(solver_file, tmp_path):
    first = caffe.SGDSolver(solver_file("momentum: 0.9"))
    first.step(3)
    first.snapshot()
    first.step(2)
    second = caffe.SGDSolver(solver_file("momentum: 0.9"))
    second.restore(str(tmp_path / "s_iter_3.solverstate"))
    assert second.iter == 3
    second.step(2)
    for mine, theirs in zip(first.net.params["fc"], second.net.params["fc"], strict=True):
        np.testing.assert_array_equal(mine.data, theirs.data)


def test_test_nets_share_weights(solver_file):
    solver = caffe.SGDSolver(solver_file())
    (test_net,) = solver.test_nets
    test_net.share_with(solver.net)
    solver.step(2)
    np.testing.assert_array_equal(test_net.params["fc"][0].data, solver.net.params["fc"][0].data)
    assert test_net.forward()["loss"] > 0


def test_python_layer_in_a_net(tmp_path, monkeypatch):
    (tmp_path / "my_times.py").write_text("""
import pyscratchdet.caffe as caffe

class Times(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff
""")
    (tmp_path / "net.prototxt").write_text("""
        input: "x" input_shape { dim: 2 dim: 3 } force_backward: true
        layer { name: "t" type: "Python" bottom: "x" top: "y"
          python_param { module: "my_times" layer: "Times" param_str: "2.5" } }
    """)
    monkeypatch.syspath_prepend(tmp_path)
    net = caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    net.blobs["x"].data[...] = 4
    assert net.forward()["y"].tolist() == [[10] * 3] * 2
    assert net.backward(y=np.full((2, 3), 3))["x"].tolist() == [[7.5] * 3] * 2


def test_a_python_layer_that_is_not_python3_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "old_layer.py").write_text("import sys\nprint 'hello'\n")
    (tmp_path / "net.prototxt").write_text("""
        input: "x" input_shape { dim: 2 dim: 3 }
        layer { name: "t" type: "Python" bottom: "x" top: "y" python_param { module: "old_layer" layer: "Old" } }
    """)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LayerError, match=r'cannot import "old_layer": Missing paren.*old_layer\.py:2:1') as caught:
        caffe.Net(str(tmp_path / "net.prototxt"), caffe.TEST)
    assert caught.value.layer == "t"
    assert "python -m pyscratchdet.caffe" in caught.value.hint


def test_crop_finds_the_offset():
    spec = caffe.NetSpec()
    spec.data = caffe.layers.Input(input_param={"shape": {"dim": [1, 2, 20, 18]}})
    spec.conv = caffe.layers.Convolution(spec.data, num_output=3, kernel_size=5, stride=2, pad=10)
    spec.relu = caffe.layers.ReLU(spec.conv)
    spec.up = caffe.layers.Deconvolution(
        spec.relu, convolution_param={"num_output": 3, "kernel_size": 4, "stride": 2, "pad": 0}
    )
    axis, scale, shift = coord_map_from_to(spec.up, spec.data)
    # Down: y = x / 2 + (10 - 2) / 2; up: z = 2 y + 1.5, so x = z - 9.5: no whole number.
    assert (axis, scale.tolist(), shift.tolist()) == (1, [1], [-9.5])
    with pytest.raises(AssertionError, match="noninteger"):
        crop(spec.up, spec.data)
    spec.even = caffe.layers.Deconvolution(
        spec.relu, convolution_param={"num_output": 3, "kernel_size": 3, "stride": 2, "pad": 0}
    )
    spec.cut = crop(spec.even, spec.data)
    (layer,) = [layer for layer in spec.to_proto().layer if layer.type == "Crop"]
    assert (layer.crop_param.axis, list(layer.crop_param.offset)) == (2, [9])
    with pytest.raises(RuntimeError, match="Could not compute map"):
        coord_map_from_to(spec.up, caffe.layers.Input(input_param={}))
    with pytest.raises(UndefinedMapException):
        caffe.coord_map.coord_map(caffe.layers.InnerProduct(spec.data, num_output=3).fn)
    with pytest.raises(AxisMismatchException):
        caffe.coord_map.compose((1, 1, 0), (2, 1, 0))
    with pytest.raises(KeyError, match="kernel_size"):
        caffe.coord_map.coord_map(caffe.layers.Pooling(spec.data, global_pooling=True).fn)


def test_map_looks_no_further_than_the_common_ancestor():
    spec = caffe.NetSpec()
    spec.data = caffe.layers.Input(input_param={"shape": {"dim": [1, 2, 20, 18]}})
    spec.other = caffe.layers.Convolution(spec.data, num_output=3, kernel_size=3, axis=2)
    spec.pool = caffe.layers.Pooling(spec.other, kernel_size=2, stride=2)
    with pytest.raises(AxisMismatchException):
        coord_map_from_to(spec.pool, spec.data)
    axis, scale, shift = coord_map_from_to(spec.other, spec.pool)
    # z = y / 2 - 0.25: the convolution below, along other axes, plays no part.
    assert (axis, scale.tolist(), shift.tolist()) == (1, [0.5], [-0.25])


def test_a_drawing_as_raw_text(tmp_path):
    """BVLC 1.0's draw.py: '.raw' is the text that Graphviz reads."""
    net = caffe.proto.caffe_pb2.NetParameter(layer=[{"name": "a", "type": "Input", "top": ["a"]}])
    caffe.draw.draw_net_to_file(net, str(tmp_path / "net.raw"), "LR", None, True)
    caffe.draw.draw_net_to_file(net, str(tmp_path / "net.dot"), display_lrm=True)
    text = (tmp_path / "net.raw").read_text()
    assert text.startswith("digraph")
    assert text == (tmp_path / "net.dot").read_text()

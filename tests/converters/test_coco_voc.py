"""Picking VOC's classes out of a COCO net's weights."""

import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.converters.coco_voc import COCO_OF_VOC, pick_classes
from pyscratchdet.errors import WeightsError
from pyscratchdet.proto import caffe_pb2


def blob(values):
    values = np.asarray(values, np.float32)
    return caffe_pb2.BlobProto(shape=caffe_pb2.BlobShape(dim=values.shape), data=values.ravel())


def coco_net():
    """Two priors; every channel holds prior * 1000 + class."""
    channels = np.array([prior * 1000 + label for prior in range(2) for label in range(81)], np.float32)
    net = caffe_pb2.NetParameter()
    conv = net.layer.add(name="conv4_mbox_conf", type="Convolution")
    conv.convolution_param.num_output = 162
    conv.blobs.extend([blob(np.broadcast_to(channels[:, None, None, None], (162, 3, 1, 1))), blob(channels)])
    norm = net.layer.add(name="conv4_mbox_conf_bn", type="BatchNorm")
    norm.blobs.extend([blob(channels), blob(channels + 0.5), blob([7.0])])
    loc = net.layer.add(name="conv4_mbox_loc", type="Convolution")
    loc.blobs.append(blob(np.arange(81)))
    return net


def test_rows_are_picked_prior_by_prior():
    net = coco_net()
    assert pick_classes(net) == ["conv4_mbox_conf", "conv4_mbox_conf_bn"]
    expected = [prior * 1000 + label for prior in range(2) for label in COCO_OF_VOC]
    weights, bias = net.layer[0].blobs
    assert list(weights.shape.dim) == [42, 3, 1, 1]
    assert list(weights.data) == [value for value in expected for _ in range(3)]
    assert list(bias.data) == expected
    assert net.layer[0].convolution_param.num_output == 42
    mean, variance, factor = net.layer[1].blobs
    assert list(mean.data) == expected
    assert list(variance.data) == [value + 0.5 for value in expected]
    assert list(factor.data) == [7.0]
    assert list(net.layer[2].blobs[0].data) == list(range(81))


def test_map_has_each_class_once():
    assert len(COCO_OF_VOC) == len(set(COCO_OF_VOC)) == 21
    assert COCO_OF_VOC[0] == 0
    # person is VOC's 15th and COCO's first class, aeroplane VOC's first.
    assert (COCO_OF_VOC[15], COCO_OF_VOC[1]) == (1, 5)


def test_other_nets_are_refused():
    with pytest.raises(WeightsError, match="no confidence layer of 81 classes"):
        pick_classes(caffe_pb2.NetParameter())


def test_command(tmp_path, capsys):
    (tmp_path / "coco.caffemodel").write_bytes(coco_net().SerializeToString())
    target = tmp_path / "voc.caffemodel"
    assert main(["convert", str(tmp_path / "coco.caffemodel"), str(target), "--coco-to-voc"]) == 0
    assert "21 classes in conv4_mbox_conf, conv4_mbox_conf_bn" in capsys.readouterr().out
    net = caffe_pb2.NetParameter.FromString(target.read_bytes())
    assert net.layer[0].blobs[1].shape.dim[0] == 42
    (tmp_path / "text").write_text("no caffemodel")
    assert main(["convert", str(tmp_path / "text"), str(tmp_path / "none"), "--coco-to-voc"]) == 2
    assert main(["convert", str(tmp_path / "missing"), str(tmp_path / "none"), "--coco-to-voc"]) == 2
    assert not (tmp_path / "none").exists()

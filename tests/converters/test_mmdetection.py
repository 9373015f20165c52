"""mmdetection checkpoints by key map: every weight at its place, and what has none is named."""

import numpy as np
import pytest
import torch

import prototxt
from converters.mmdetection import convert_mmdetection
from pyscratchdet.cli import main
from pyscratchdet.errors import ConversionError
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto.text import to_text


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint with random weights under the release's keys, as its modules name them."""
    folder = tmp_path_factory.mktemp("mmdetection")
    deploy = prototxt.build("scratchdet300_mmdet_coco", prototxt.Options(num_classes=3)).deploy
    (folder / "deploy.prototxt").write_text(to_text(deploy))
    generator = torch.Generator().manual_seed(5)
    state, number = {}, -1
    for module in plan_net(deploy).layers:
        name = module.name
        if module.type == "Convolution":
            if "_mbox_loc" in name:
                number += 1
                key = f"bbox_head.reg_convs.{number}.0"
            else:
                key = f"bbox_head.cls_convs.{number}.0" if "_mbox_conf" in name else f"backbone.{name}"
            shape = module.blobs[0].shape
            state[f"{key}.weight"] = torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
            norm = f"{key[:-2]}.1" if "bbox_head" in key else None
        elif module.type == "BatchNorm":
            key = norm if "_mbox_" in name else f"backbone.{name}"
            (channels,) = module.blobs[0].shape
            state[f"{key}.running_mean"] = torch.randn(channels, generator=generator)
            state[f"{key}.running_var"] = torch.rand(channels, generator=generator) + 0.5
            state[f"{key}.weight"] = torch.rand(channels, generator=generator) + 0.5
            state[f"{key}.bias"] = torch.randn(channels, generator=generator)
            state[f"{key}.num_batches_tracked"] = torch.tensor(7)
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, folder / "epoch.pth")
    return folder, state


def test_every_weight_finds_its_place(checkpoint):
    folder, state = checkpoint
    blobs = convert_mmdetection(folder / "epoch.pth", folder / "deploy.prototxt", folder / "w.caffemodel")
    assert {key.split(".")[1] for key in state if key.startswith("bbox_head")} == {"reg_convs", "cls_convs"}
    conv1 = state["backbone.conv1.weight"].numpy()
    np.testing.assert_array_equal(blobs["conv1"][0], conv1[:, [2, 1, 0]])
    np.testing.assert_array_equal(blobs["layer4.2_mbox_conf"][0], state["bbox_head.cls_convs.1.0.weight"].numpy())
    np.testing.assert_array_equal(blobs["layer4.2_mbox_loc_scale"][1], state["bbox_head.reg_convs.1.1.bias"].numpy())
    mean, _, factor = blobs["layer3.0.downsample.1"]
    np.testing.assert_array_equal(mean / factor, state["backbone.layer3.0.downsample.1.running_mean"].numpy())


def test_a_bgr_picture_answers_as_rgb_did(checkpoint):
    folder, state = checkpoint
    blobs = convert_mmdetection(folder / "epoch.pth", folder / "deploy.prototxt", folder / "w.caffemodel")
    bgr = torch.randn(1, 3, 9, 13, generator=torch.Generator().manual_seed(1))
    found = torch.nn.functional.conv2d(bgr, torch.from_numpy(blobs["conv1"][0]), padding=1)
    expected = torch.nn.functional.conv2d(bgr.flip(1), state["backbone.conv1.weight"], padding=1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # another order of summation


def test_what_does_not_fit_is_named(checkpoint, tmp_path):
    folder, state = checkpoint
    less = {key: value for key, value in state.items() if key != "backbone.layer2.1.bn2.running_var"}
    more = {**state, "neck.extra.weight": torch.zeros(2)}
    for content, code in ((less, "mmdetection.missing"), (more, "mmdetection.rest")):
        torch.save({"state_dict": content}, tmp_path / "bad.pth")
        with pytest.raises(ConversionError) as caught:
            convert_mmdetection(tmp_path / "bad.pth", folder / "deploy.prototxt", tmp_path / "w.caffemodel")
        assert caught.value.code == code
        assert not (tmp_path / "w.caffemodel").exists()


def test_by_command(checkpoint, tmp_path):
    folder, _ = checkpoint
    source, target = str(folder / "epoch.pth"), str(tmp_path / "w.caffemodel")
    assert main(["convert", source, target, "--mmdetection", "--model", str(folder / "deploy.prototxt")]) == 0
    assert main(["convert", source, target, "--mmdetection"]) == 2

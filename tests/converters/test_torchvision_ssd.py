"""torchvision's SSDs as Caffe nets: torchvision's own detections after its transform, and OpenCV's."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection import ssd300_vgg16, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD

from pyscratchdet.cli import main
from pyscratchdet.converters.compare import match_detections
from pyscratchdet.converters.imports import import_module, is_proved, picture_noise
from pyscratchdet.errors import ConversionError, UsageError
from pyscratchdet.runtime import load_net

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from seeded import seed_ssd

SCORES = 1e-5  # float32 sums of thousands of products, rounded in another order, behind a softmax
BOXES = 2e-5  # of the picture's width: the same behind exp


class Backbone(nn.Module):
    """Two maps, of 8 x 8 and 4 x 4 for pictures of 32 x 32."""

    out_channels = (6, 10)

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 5, 4, 2), nn.BatchNorm2d(6), nn.ReLU(True))
        self.second = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1), nn.BatchNorm2d(10), nn.ReLU(True))

    def forward(self, x):
        first = self.first(x)
        return {"0": first, "1": self.second(first)}


def pictures(number, size, seed):
    return torch.from_numpy(picture_noise(np.random.default_rng(seed), (number, 3, *size)))


def small_ssd(size=(32, 32), **options):
    anchors = DefaultBoxGenerator([[2], [2, 3]], scales=[0.25, 0.75, 1.0], **options)
    module = SSD(Backbone(), anchors, size, num_classes=4, detections_per_img=40, topk_candidates=30)
    seed_ssd(module, list(pictures(3, size[::-1], 4) / 255))
    return module


def rows_of(found, image, scale):
    """One picture's detections as rows of image, label, score and box."""
    columns = found["labels"], found["scores"], found["boxes"].numpy() / scale
    return np.column_stack([np.full(len(found["labels"]), image), *columns])


def check(module, folder, size, seeds, num_rows):
    """Writes the net; its detections are torchvision's, row by row, and OpenCV agrees."""
    imported = import_module(module, (2, 3, *size))
    files = folder / "net.prototxt", folder / "net.caffemodel"
    comparisons = imported.write(*files)
    assert [comparison.failure for comparison in comparisons] == ["", ""]
    assert is_proved(imported, comparisons), [comparison.verdict() for comparison in comparisons]
    net = load_net(*files)
    for seed in seeds:
        batch = pictures(2, size, seed)
        with torch.no_grad():
            ours = net({"data": batch})["detection_out"].numpy()
            theirs = module(list(batch.flip(1) / 255))  # blue first, 0 to 255: as pictures are read
        scale = np.float32([size[1], size[0], size[1], size[0]])
        rows = np.concatenate([rows_of(one, image, scale) for image, one in enumerate(theirs)])
        found, expected = match_detections(ours, rows)
        assert len(found) == len(rows) == ours.shape[2] >= num_rows
        assert len(np.unique(rows[:, 2].round(5))) > 0.9 * len(rows)  # scores that would show an exchange
        np.testing.assert_allclose(found[:, 2], expected[:, 2], rtol=0, atol=SCORES)
        np.testing.assert_allclose(found[:, 3:], expected[:, 3:], rtol=0, atol=BOXES)
    return imported, net


def test_anchors_that_a_prior_box_gives(tmp_path):
    """Sides of whole pixels, none of them wider than the picture."""
    imported, net = check(small_ssd(clip=False), tmp_path, (32, 32), range(3), 60)
    kinds = [layer.type for layer in imported.net.param.layer if "priorbox" in layer.name]
    assert kinds == ["PriorBox", "PriorBox", "Concat"]
    assert not [note for note in imported.notes if "constants" in note]
    (output,) = (layer for layer in imported.net.param.layer if layer.type == "DetectionOutput")
    assert output.detection_output_param.keep_top_k == 40
    assert output.detection_output_param.nms_param.top_k == 30
    assert net.output_names == ["detection_out"]


@pytest.mark.parametrize(
    ("size", "options"),
    [((32, 32), {}), ((48, 32), {"clip": False}), ((32, 32), {"clip": False, "steps": [5, 9]}), ((36, 36), {})],
)
def test_anchors_that_no_prior_box_gives_are_constants(size, options, tmp_path):
    """Clipped sides, a picture that is not square, and sides that Caffe would truncate."""
    module = small_ssd(size, **options)
    imported, net = check(module, tmp_path, size[::-1], [0], 20)
    constants = [layer for layer in net.plan.layers if layer.name.endswith("_constant")]
    assert bool(constants) == ("steps" not in options)
    assert any("written as a Scale's constants" in note for note in imported.notes) == bool(constants)


def test_what_an_ssd_cannot_be(tmp_path):
    module = small_ssd()
    with pytest.raises(UsageError, match="converted as a whole"):
        import_module(module, (1, 3, 32, 32), outputs=["head"])
    module.transform.fixed_size = None
    with pytest.raises(ConversionError, match="without a fixed size"):
        import_module(module, (1, 3, 32, 32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size", "constants", "spread"),
    [(ssd300_vgg16, (300, 300), "5", 1.5), (ssdlite320_mobilenet_v3_large, (320, 320), "345", 0.4)],
)
def test_torchvision_detectors(make, size, constants, spread, tmp_path):
    module = make(weights=None, weights_backbone=None)
    seed_ssd(module, list(pictures(3, size, 4) / 255), spread=spread)
    imported, _ = check(module, tmp_path, size, [0, 1], 400)
    named = [layer.name for layer in imported.net.param.layer if layer.name.endswith("_constant")]
    assert named == [f"mbox_priorbox_{level}_constant" for level in constants]
    assert ("Normalize" in [layer.type for layer in imported.net.param.layer]) == (make is ssd300_vgg16)


@pytest.mark.slow
def test_by_command_with_weights_and_detect(tmp_path, capsys):
    module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    seed_ssd(module, list(pictures(3, (320, 320), 4) / 255))
    torch.save(module.state_dict(), tmp_path / "ssd.pth")
    files = [str(tmp_path / name) for name in ("ssd.caffemodel", "ssd.prototxt", "ssd.pth")]
    line = [
        "convert",
        "torchvision:ssdlite320_mobilenet_v3_large",
        files[0],
        "--prototxt",
        files[1],
        "--weights",
        files[2],
    ]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "note: the net takes pictures of 320 x 320 as they are read: blue first" in said
    assert "and PyTorch agree on all" in said
    assert "and opencv agree on all" in said

"""RefineDet's multi-scale rules: which sizes are looked at, what each keeps, and how boxes are merged."""

import numpy as np
import pytest

from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.evaluate.multiscale import (
    PASSES_320,
    PASSES_512,
    MultiScaleDetector,
    ScalePass,
    box_vote,
    soft_box_vote,
)


class Recorder:
    """Stands for a detector: finds a fixed set of boxes and writes down how it was asked."""

    confidence_threshold = 0.01

    def __init__(self, size, boxes, fits=lambda size: True):
        self.size, self.boxes, self.asked, self.fits = size, np.array(boxes, np.float32), [], fits

    def detect_at(self, images, size, threshold=0.0, resize_first=True):
        assert not resize_first
        for plain, mirrored in zip(images[::2], images[1::2], strict=True):
            np.testing.assert_array_equal(plain[:, ::-1], mirrored)
        self.asked += [size] * bool(images)
        number = len(self.boxes)
        return [
            ImageDetections(np.ones(number, int), np.full(number, 0.5, np.float32), self.boxes.copy()) for _ in images
        ]


def test_the_passes_of_320():
    recorder = Recorder((320, 320), [(10, 10, 40, 40)])
    image = np.zeros((200, 300, 3), np.uint8)
    MultiScaleDetector(recorder).detect([image])
    # a lying picture gets the short side as height
    assert recorder.asked == [
        (s, s) if i != 1 else (192, 320) for i, s in enumerate((320, 0, 192, 384, 448, 512, 576, 704))
    ]
    recorder.asked.clear()
    MultiScaleDetector(recorder, coco=True).detect([np.zeros((300, 200, 3), np.uint8)])
    assert recorder.asked[1] == (320, 192)
    assert recorder.asked[-1] == (640, 640)
    assert len(recorder.asked) == len(PASSES_320) == 9
    assert len(MultiScaleDetector(Recorder((512, 512), [])).passes) == 6
    assert MultiScaleDetector(Recorder((512, 512), []), coco=True).passes == PASSES_512


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (ScalePass(), [20, 33, 60, 100]),
        (ScalePass(above=32), [33, 60, 100]),  # longer side, borders included, above 32
        (ScalePass(below=61), [20, 33, 60]),
        (ScalePass(below=60), [20, 33]),
    ],
)
def test_each_pass_keeps_its_sizes(step, kept):
    boxes = [(10, 10, 10 + side - 1, 10 + side - 1) for side in (20, 33, 60, 100)]
    recorder = Recorder((300, 300), boxes)
    plain, _ = look(recorder, step, 300, 400)
    sides = plain.boxes_px[:, 2] - plain.boxes_px[:, 0] + 1
    assert sides.tolist() == kept


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (ScalePass(above=32), [(20, 33), (33, 20), (60, 90)]),  # by the longer side
        (ScalePass(below=33), [(20, 33), (33, 20), (15, 30)]),  # by the shorter side
        (ScalePass(above=33, below=61), [(60, 90)]),
    ],
)
def test_sizes_of_boxes_that_are_not_square(step, kept):
    sides = [(20, 33), (33, 20), (15, 30), (60, 90)]
    recorder = Recorder((300, 300), [(10, 10, 10 + width - 1, 10 + height - 1) for width, height in sides])
    for found in look(recorder, step, 300, 400):
        widths, heights = (found.boxes_px[:, 2:] - found.boxes_px[:, :2] + 1).T.astype(int).tolist()
        assert list(zip(widths, heights, strict=True)) == kept


def test_mirrored_boxes_come_back():
    recorder = Recorder((300, 300), [(10, 20, 50, 60)])
    plain, mirrored = look(recorder, ScalePass(), 100, 200)
    np.testing.assert_array_equal(plain.boxes_px, [[10, 20, 50, 60]])
    np.testing.assert_array_equal(mirrored.boxes_px, [[150, 20, 190, 60]])


def test_a_size_that_does_not_fit_gives_way_to_the_nearest():
    """As SSD300, which needs 257 pixels, and as RefineDet, whose sums need multiples of 64."""
    ssd = MultiScaleDetector(Recorder((300, 300), [], lambda size: min(size) >= 257))
    assert ssd.sizes(wide=True)[:4] == [(300, 300), (257, 300), (257, 257), (360, 360)]
    refinedet = Recorder((128, 128), [], lambda size: not (size[0] % 64 or size[1] % 64))
    # 0.6 of 128 is 76, 1.2 is 153, 1.4 is 179, 1.6 is 204, 1.8 is 230, 2.2 is 281
    sides = [size[0] for size in MultiScaleDetector(refinedet).sizes(wide=True)]
    assert sides == [128, 64, 64, 128, 192, 192, 256, 256]
    # RefineDet's own sizes fit
    exact = MultiScaleDetector(Recorder((320, 320), [], refinedet.fits))
    assert [size[1] for size in exact.sizes(wide=False)] == [320, 192, 192, 384, 448, 512, 576, 704]
    tall = MultiScaleDetector(Recorder((60, 100), []))
    assert tall.sizes(wide=True)[:3] == [(60, 100), (36, 100), (36, 60)]
    assert tall.sizes(wide=False)[:3] == [(60, 100), (60, 60), (36, 60)]


def test_lying_and_standing_pictures_in_one_batch():
    recorder = Recorder((300, 300), [(10, 20, 50, 60)])
    pictures = [np.zeros((60, 90, 3), np.uint8), np.zeros((90, 60, 3), np.uint8), np.zeros((50, 90, 3), np.uint8)]
    together = MultiScaleDetector(recorder).detect(pictures)
    assert recorder.asked[1] == (180, 300)
    assert recorder.asked[9] == (300, 180)
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = MultiScaleDetector(recorder).detect([picture])
        np.testing.assert_array_equal(found.boxes_px, alone.boxes_px)


def look(recorder, step, height, width):
    """Returns what a pass keeps of a picture and of its mirror image."""
    one = MultiScaleDetector(recorder, passes=[step])
    return one._look([np.zeros((height, width, 3), np.uint8)], step, one.sizes(wide=True)[0])[0]


def test_voting_by_hand():
    boxes = np.array([[0, 0, 9, 9, 0.6], [1, 0, 10, 9, 0.2], [50, 50, 59, 59, 0.8], [0, 0, 9, 30, 0.5]], np.float32)
    merged = box_vote(boxes)
    # 0 and 1 overlap by 90/110; 3 has 100/310 with 0, so it stays alone
    by_hand = [[50, 50, 59, 59, 0.8], [0.25, 0, 9.25, 9, 0.6], [0, 0, 9, 30, 0.5]]
    np.testing.assert_allclose(merged, by_hand, atol=1e-6)  # a float32 rounding of values below 10
    soft = soft_box_vote(boxes, 0.01)
    # the group's own boxes stay with (1 - overlap) of their score: 0 for the best, 0.2 * 20/110 for the other
    np.testing.assert_array_equal(soft[:3], merged)
    np.testing.assert_allclose(soft[3], [1, 0, 10, 9, 0.2 * (1 - 90 / 110)], atol=1e-7)  # float32 of a score below 1
    assert len(soft) == 4
    assert len(soft_box_vote(boxes, 0.1)) == 3
    np.testing.assert_array_equal(box_vote(boxes[:1]), boxes[:1])


def test_on_a_real_net(detector, picture):
    """Blue and red blocks are still found, once each, near where they are."""
    image = picture((0, 1, 2), (2, 3, 5), height=128, width=192)
    passes = [ScalePass(), ScalePass(short=0.5, above=8), ScalePass(2.0, below=200)]
    detector.size = (32, 32)
    found = MultiScaleDetector(detector, passes=passes).detect([image, image[:0:-1].copy()])
    assert len(found) == 2
    best = found[0].select(found[0].scores > 0.9)
    assert set(best.labels) == {1, 2}
    assert (np.diff(found[0].scores) <= 0).all()
    blue = best.boxes_px[best.labels == 1][0]
    assert 64 <= (blue[0] + blue[2]) / 2 <= 96
    assert 32 <= (blue[1] + blue[3]) / 2 <= 64

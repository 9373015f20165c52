"""What to try next, by what an evaluation's figures show: plain sentences, the most telling ones first.

The limits are rules of thumb. Each sentence names the figures that it is drawn from, so that its reader can judge it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pyscratchdet.errors import counted
from pyscratchdet.evaluate.breakdown import Breakdown
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import ClassResult, VocResult

_FEW_TO_JUDGE = 10  # objects in the test set: one of them is a tenth of the recall
_FEW_TO_LEARN = 100  # training boxes of a class
_BEHIND = 0.1  # AP below the mean of all classes
_NOTHING_FOUND = 0.02  # mAP: below it no class is really found
_RISING = 0.01  # mAP from the last test but one to the last
_FALLEN = 0.03  # mAP from the best test to the last
_HIGH, _LOW = 0.7, 0.5  # of precision and recall
_MOSTLY = 0.4  # of the wrong detections are of one kind
_CAUSES = {
    "background": "add training pictures that show such places, without objects too, and train longer",
    "localisation": "fit the priors to the data (`generate own --fit-priors`), or train longer",
    "class": "check the labels of the classes that are mixed up (the confusion chart), and add pictures of them",
    "both": "check the annotations, and train longer",
    "duplicate": "lower the nms_threshold of the deploy net's DetectionOutput",
}
_KINDS = {
    "background": "lie on the background",
    "localisation": "are on an object but badly placed",
    "class": "have the wrong class",
    "both": "are badly placed and have the wrong class",
    "duplicate": "are second boxes of an object that was found",
}


@dataclass(frozen=True)
class TrainingFigures:
    """What is known of the training, as far as it is.

    Attributes:
        boxes_per_class: {class: number of training boxes}.
        loss: {iteration: training loss}.
        mean_ap: {iteration: mAP of the tests}.
    """

    boxes_per_class: Mapping[str, int] = field(default_factory=dict)
    loss: Mapping[int, float] = field(default_factory=dict)
    mean_ap: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TestFigures:
    """What an evaluation found.

    Attributes:
        result: AP per class.
        by_size: The same for small, medium and large objects (`ap_by_size`).
        counts: Detections by what is wrong with them, and missed objects (`Breakdown.counts`).
        score_threshold: Of the detections that are counted.
        found: The share of the objects that some detection finds, of whatever score.
    """

    __test__ = False  # pytest, this is no test

    result: VocResult
    by_size: Mapping[str, Sequence[ClassResult]]
    counts: Mapping[str, int]
    score_threshold: float
    found: float

    @classmethod
    def of(
        cls,
        truth: GroundTruthTable,
        result: VocResult,
        by_size: Mapping[str, Sequence[ClassResult]],
        outcome: Breakdown,
        score_threshold: float,
    ) -> TestFigures:
        """Gathers the figures of an evaluation.

        Args:
            truth: The set.
            result: VOC result of all detections.
            by_size: Of all detections.
            outcome: Of those from `score_threshold` on.
            score_threshold: See the class.
        """
        counting = ~truth.difficult
        found = float(result.judgement.found[counting].mean()) if counting.any() else math.nan
        return cls(result, by_size, outcome.counts(), score_threshold, found)

    @property
    def wrong(self) -> dict[str, int]:
        """The wrong detections by kind."""
        return {kind: self.counts[kind] for kind in _CAUSES}

    @property
    def precision(self) -> float:
        """The share of the counted detections that is right; nan without any."""
        return _share(self.counts["correct"], sum(self.wrong.values()))

    @property
    def recall(self) -> float:
        """The share of the objects that the counted detections find; nan without any."""
        return _share(self.counts["correct"], self.counts["missed"])


def advise(test: TestFigures, training: TrainingFigures | None = None) -> list[str]:
    """Returns sentences on what to try next; one, if nothing stands out.

    Args:
        test: The evaluation.
        training: The training, as far as it is known.
    """
    training = training or TrainingFigures()
    if test.result.mean_ap < _NOTHING_FOUND:
        return list(_nothing_found(test, training))
    parts = (_course(training), _classes(test, training), _errors(test), _sizes(test), _misses(test), _doubts(test))
    found = [sentence for part in parts for sentence in part]
    mean_ap = f"{test.result.mean_ap:.2f}"
    return found or [f"Nothing stands out (mAP {mean_ap}): more pictures, and then more iterations, are what is left."]


def _nothing_found(test: TestFigures, training: TrainingFigures) -> Iterator[str]:
    yield (
        f"The net finds next to nothing (mAP {test.result.mean_ap:.3f}): are the label map and --mean those of the "
        "training, and do the boxes lie on the objects (`pyscratchdet lmdb show`)?"
    )
    loss = [value for _, value in sorted(training.loss.items())]
    if len(loss) > 1 and not loss[-1] < 0.7 * loss[0]:
        yield (
            f"The loss hardly fell ({loss[0]:.3g} to {loss[-1]:.3g}): try a tenth or three times of the learning rate, "
            "and look at the first iterations."
        )


def _course(training: TrainingFigures) -> Iterator[str]:
    """What the tests during the training tell."""
    tests = sorted(training.mean_ap.items())
    if len(tests) < 2:
        return
    (before, last), values = (tests[-2][1], tests[-1][1]), np.array([value for _, value in tests])
    best = int(values.argmax())
    if best == len(tests) - 1 and last - before > _RISING:
        yield f"mAP was still rising at the end ({before:.2f} to {last:.2f} in the last two tests): train longer."
    loss = sorted(training.loss.items())
    since = [value for iteration, value in loss if iteration >= tests[best][0]]
    if values[best] - last > _FALLEN and len(since) > 1 and since[-1] < since[0]:
        yield (
            f"mAP fell from {values[best]:.2f} at iteration {tests[best][0]} to {last:.2f} while the loss went on "
            "falling: the net learns the training pictures by heart. Use the best snapshot (`train --keep-best`); more "
            "pictures help, longer training does not."
        )


def _classes(test: TestFigures, training: TrainingFigures) -> Iterator[str]:
    """Classes that fall behind and have few boxes to learn from."""
    boxes = training.boxes_per_class
    if len(boxes) < 2:
        return
    usual = float(np.median(list(boxes.values())))
    for one in sorted(test.result.classes, key=lambda one: boxes.get(one.name, 0)):
        number = boxes.get(one.name)
        if number is None or not one.num_pos or not one.ap < test.result.mean_ap - _BEHIND:
            continue
        if number < max(usual / 2, min(usual, _FEW_TO_LEARN)):
            yield (
                f'More pictures of "{one.name}": AP {one.ap:.2f} from '
                f"{counted(number, 'training box', 'training boxes')}, where half of the classes have {usual:.0f} or "
                "more."
            )


def _errors(test: TestFigures) -> Iterator[str]:
    """What most wrong detections have in common."""
    wrong = test.wrong
    total = sum(wrong.values())
    if not (total and test.recall >= _HIGH and test.precision < _LOW):
        return
    kind = max(wrong, key=lambda kind: wrong[kind])
    text = (
        f"It finds {test.recall:.0%} of the objects, but only {test.precision:.0%} of its detections from score "
        f"{test.score_threshold:g} on are right"
    )
    if wrong[kind] < _MOSTLY * total:
        yield f"{text}: show fewer of them with a higher `detect --threshold`, and train longer."
    else:
        yield f"{text}, and {wrong[kind] / total:.0%} of the wrong ones {_KINDS[kind]}: {_CAUSES[kind]}."


def _sizes(test: TestFigures) -> Iterator[str]:
    """Sizes of objects that are found badly."""
    means = {}
    for name, results in test.by_size.items():
        known = [one for one in results if one.num_pos]
        if sum(one.num_pos for one in known) >= _FEW_TO_JUDGE:
            means[name] = float(np.mean([one.ap for one in known]))
    others = [mean for name, mean in means.items() if name != "small"]
    if "small" in means and others and means["small"] < max(others) / 2:
        yield (
            f"Small objects (below 32 x 32 pixels) are found worst, AP {means['small']:.2f} against {max(others):.2f}: "
            "train with a larger input (--size)."
        )
    if {"medium", "large"} <= means.keys() and means["large"] < means["medium"] / 2:
        yield (
            f"Large objects (96 x 96 pixels and more) are found worse than medium ones, AP {means['large']:.2f} "
            f"against {means['medium']:.2f}: fit the priors to the data (`generate own --fit-priors`)."
        )


def _misses(test: TestFigures) -> Iterator[str]:
    """Objects that no detection finds."""
    if test.found < _LOW:
        yield (
            f"{1 - test.found:.0%} of the objects are found at no score: fit the priors to the data (`generate own "
            "--fit-priors`), train longer, and check whether those pictures differ from the training's (report.html)."
        )
    elif test.precision >= _HIGH and test.recall < _LOW:
        yield (
            f"From score {test.score_threshold:g} on {test.precision:.0%} of its detections are right, but they find "
            f"only {test.recall:.0%} of the objects: lower `detect --threshold`, and train longer."
        )


def _doubts(test: TestFigures) -> Iterator[str]:
    """Classes of which the set says little."""
    none = [one.name for one in test.result.classes if not one.num_pos]
    few = [f"{one.name} {one.num_pos}" for one in test.result.classes if 0 < one.num_pos < _FEW_TO_JUDGE]
    if none:
        them = "it" if len(none) == 1 else "them"
        yield f"The test set has no object of {_listed(none)}: nothing is known of {them}."
    if few:
        yield (
            f"The test set has few objects of some classes ({_listed(few)}): their AP may be chance. Test on more "
            "pictures."
        )


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])


def _share(part: int, rest: int) -> float:
    return part / (part + rest) if part + rest else math.nan

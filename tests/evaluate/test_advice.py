"""What `evaluate` says to try next: each sentence where figures call for it, and not where they do not."""

import numpy as np
import pytest

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.evaluate.advice import TestFigures, TrainingFigures, advise
from pyscratchdet.evaluate.breakdown import break_down
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import ClassResult, VocResult, ap_by_size, evaluate_voc

RIGHT = {"correct": 80, "duplicate": 2, "localisation": 2, "class": 2, "both": 2, "background": 2, "missed": 20}


def figures(aps=(0.8, 0.75), objects=(50, 60), sizes=None, found=0.9, **counts):
    """An evaluation with which nothing is wrong, but for what is given."""
    names = ["cat", "dog", "rat", "eel", "emu"]
    classes = [ClassResult(name, ap, number, 99) for name, ap, number in zip(names, aps, objects, strict=False)]
    by_size = {name: [ClassResult("all", ap, number, 9)] for name, (ap, number) in (sizes or {}).items()}
    return TestFigures(VocResult(classes, "11point", 0.5, None), by_size, {**RIGHT, **counts}, 0.3, found)


def test_a_good_detector_is_told_what_is_left():
    assert advise(figures()) == [
        "Nothing stands out (mAP 0.78): more pictures, and then more iterations, are what is left."
    ]


FALLING = {0: 20.0, 500: 6.0, 1000: 4.0, 1500: 3.0}
# Name: figures that call for a sentence, its beginning and a part of it; and figures that do not.
CASES = {
    "nothing found": (
        (figures((0.01, 0.0)),), "The net finds next to nothing (mAP 0.005)", "--mean", (figures((0.03, 0.03)),),
    ),
    "the loss does not fall": (
        (figures((0.01, 0.0)), TrainingFigures(loss={0: 20.0, 500: 19.0})), "The loss hardly fell (20 to 19)", "rate",
        (figures((0.01, 0.0)), TrainingFigures(loss=FALLING)),
    ),
    "a single loss": (
        (figures((0.01, 0.0)), TrainingFigures(loss={500: 19.0, 0: 20.0})), "The loss hardly fell (20 to 19)", "",
        (figures((0.01, 0.0)), TrainingFigures(loss={0: 20.0})),
    ),
    "mAP rises": (
        (figures(), TrainingFigures(mean_ap={500: 0.6, 1000: 0.7, 1500: 0.78})),
        "mAP was still rising at the end (0.70 to 0.78", "train longer",
        (figures(), TrainingFigures(mean_ap={500: 0.6, 1000: 0.78, 1500: 0.785})),
    ),
    "learnt by heart": (
        (figures(), TrainingFigures(loss=FALLING, mean_ap={500: 0.7, 1000: 0.6, 1500: 0.6})),
        "mAP fell from 0.70 at iteration 500 to 0.60 while the loss went on falling", "--keep-best",
        (figures(), TrainingFigures(loss={500: 6.0, 1500: 6.5}, mean_ap={500: 0.7, 1000: 0.6, 1500: 0.6})),
    ),
    "a class with few boxes": (
        (figures((0.8, 0.3)), TrainingFigures({"cat": 400, "dog": 23, "rat": 300})),
        'More pictures of "dog": AP 0.30 from 23 training boxes', "half of the classes have 300 or more",
        (figures((0.8, 0.3)), TrainingFigures({"cat": 400, "dog": 350, "rat": 300})),
    ),
    "few boxes are enough": (
        (figures((0.8, 0.3)), TrainingFigures({"cat": 400, "dog": 1, "rat": 300})),
        'More pictures of "dog": AP 0.30 from 1 training box,', "",
        (figures((0.8, 0.8)), TrainingFigures({"cat": 400, "dog": 1, "rat": 300})),
    ),
    "background": (
        (figures(background=150),), "It finds 80% of the objects, but only 34% of its detections from score 0.3 on",
        "95% of the wrong ones lie on the background: add training pictures", (figures(background=50),),
    ),
    "badly placed": (
        (figures(localisation=150),), "It finds 80%", "badly placed: fit the priors", (figures(localisation=50),),
    ),
    "wrong classes": (
        (figures(**{"class": 150}),), "It finds 80%", "have the wrong class: check the labels",
        (figures(**{"class": 150}, missed=100),),
    ),
    "duplicates": (
        (figures(duplicate=150),), "It finds 80%", "second boxes of an object that was found: lower the nms_threshold",
        (figures(duplicate=9),),
    ),
    "all kinds of errors": (
        (figures(background=40, localisation=40, duplicate=40),), "It finds 80%", "higher `detect --threshold`",
        (figures(background=20, localisation=20, duplicate=20),),
    ),
    "small objects": (
        (figures(sizes={"small": (0.2, 30), "medium": (0.6, 50)}),),
        "Small objects (below 32 x 32 pixels) are found worst, AP 0.20 against 0.60", "--size",
        (figures(sizes={"small": (0.2, 5), "medium": (0.6, 50)}),),
    ),
    "small objects found well enough": (
        (figures(sizes={"small": (0.2, 30), "large": (0.5, 50)}),), "Small objects", "",
        (figures(sizes={"small": (0.4, 30), "large": (0.5, 50)}),),
    ),
    "large objects": (
        (figures(sizes={"medium": (0.6, 30), "large": (0.2, 50)}),), "Large objects (96 x 96", "--fit-priors",
        (figures(sizes={"medium": (0.6, 30), "large": (0.5, 50)}),),
    ),
    "objects never found": (
        (figures(found=0.4, correct=30, missed=70),), "60% of the objects are found at no score", "--fit-priors",
        (figures(found=0.8, correct=70, missed=30),),
    ),
    "unsure": (
        (figures(found=0.9, correct=30, missed=70),), "From score 0.3 on 75% of its detections are right",
        "but they find only 30% of the objects: lower", (figures(found=0.9, correct=60, missed=40),),
    ),
    "classes that the test lacks": (
        (figures((0.8, 0.7, float("nan")), (50, 60, 0)),), "The test set has no object of rat", "nothing is known of",
        (figures((0.8, 0.7, 0.8), (50, 60, 70)),),
    ),
    "classes with few objects to test": (
        (figures((0.8, 0.7), (50, 4)),), "The test set has few objects of some classes (dog 4)", "may be chance",
        (figures((0.8, 0.7), (50, 10)),),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_sentence_comes_where_figures_call_for_it(name):
    called, beginning, part, uncalled = CASES[name]
    assert [beginning in one and part in one for one in advise(*called)].count(True) == 1
    assert not [one for one in advise(*uncalled) if one.startswith(beginning[:25])]


def test_many_classes_are_not_all_listed():
    few = figures((0.8,) * 5, (1,) * 5)
    assert "(cat 1, dog 1, rat 1, eel 1, emu 1)" in advise(few)[0]
    none = TestFigures(VocResult([ClassResult(f"c{k}", float("nan"), 0, 0) for k in range(7)] + few.result.classes[:1],
                                 "area", 0.5, None), {}, RIGHT, 0.3, 0.9)  # fmt: skip
    assert advise(none)[0] == "The test set has no object of c0, c1, c2, c3, c4, ...: nothing is known of them."


def test_figures_of_an_evaluation():
    """Three objects, of which one is difficult; one found, one missed, one on the background."""
    truth = GroundTruthTable(
        ["a"],
        ("cat", "dog"),
        np.array([[100, 90]]),
        [],
        np.array([0, 0, 0]),
        np.array([1, 2, 1]),
        np.array([[0, 0, 40, 30], [50, 50, 80, 85], [60, 0, 90, 30.0]]),
        np.array([False, False, True]),
    )
    found = DetectionTable(np.array([0, 0]), np.array([1, 2]), np.array([0.9, 0.8]),
                           np.array([[0, 0, 40, 31], [0, 60, 30, 89.0]]))  # fmt: skip
    result = evaluate_voc(truth, found)
    test = TestFigures.of(truth, result, ap_by_size(truth, found), break_down(truth, found), 0.3)
    assert (test.precision, test.recall, test.found) == (0.5, 0.5, 0.5)
    assert sum(test.wrong.values()) == 1

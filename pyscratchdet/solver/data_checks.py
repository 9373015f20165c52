"""Compares what nets say about their databases with what is there: test sizes, classes, pictures in both sets.

Each finding is one warning, which says what is right. Records are read, their pictures are not decoded. What a wrong
number of passes does was measured: it moved an mAP from 0.313 to 0.283, and nothing said so.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyscratchdet.boxes.result_files import read_name_sizes
from pyscratchdet.data.database import Database
from pyscratchdet.data.label_map import label_to_name, read_label_map
from pyscratchdet.data.records import annotated_of, record_title
from pyscratchdet.errors import DataError, PyScratchDetError, counted
from pyscratchdet.runtime import LayerModule, Net

MOST_RECORDS = 20_000  # of one database: reading more takes minutes on a slow disk
_NAMED = 5

_log = logging.getLogger(__name__)


def check_test_size(net: Net, num_passes: int) -> None:
    """Warns if a test of detections does not take each picture of its database once, or names another number of them.

    Args:
        net: A test net. Only AnnotatedData layers are looked at.
        num_passes: How many batches the test takes.
    """
    for source, batch_size in _sources(net).items():
        number = _count(source)
        right = -(-number // batch_size)
        if num_passes != right:
            taken = num_passes * batch_size
            what = f"only {taken} of its" if taken < number else f"{taken} pictures, some of them twice, of its"
            _log.warning(
                f"a test of {counted(num_passes, 'batch', 'batches')} of {batch_size} from {source} takes {what} "
                f"{number}, so its mAP is not that of the whole set; right: test_iter (or --iterations) {right}"
            )
        for module in net.layers:
            _check_numbers(module, number, source)


def _check_numbers(module: LayerModule, number: int, source: str) -> None:
    where = f'layer "{module.name}" ({module.layer_type})'
    save = module.layer.param.detection_output_param.save_output_param
    saves = bool(getattr(module.layer, "saves", False))  # only DetectionOutput's
    if saves and save.HasField("num_test_image") and save.num_test_image != number:
        _log.warning(
            f"{where}: num_test_image is {save.num_test_image}, but {source} has {counted(number, 'picture')}, so the "
            f"result files mix up two tests or stay unwritten; right: {number}"
        )
    evaluate = module.layer.param.detection_evaluate_param.name_size_file
    name = save.name_size_file if saves else evaluate
    path = Path(module.layer.context.root) / name
    if name and path.is_file() and (lines := len(read_name_sizes(path))) != number:
        _log.warning(
            f"{where}: {path} has {counted(lines, 'line')}, but {source} has {counted(number, 'picture')}, so pictures "
            "get the names and sizes of others; write it from the list that the database was made from (get-image-size)"
        )


def check_records(train_net: Net, test_nets: Sequence[Net]) -> None:
    """Warns of labels that do not fit the number of classes, of classes never seen, and of pictures in both sets."""
    trained, tested = list(_sources(train_net)), [source for net in test_nets for source in _sources(net)]
    surveys = {source: _survey(source) for source in dict.fromkeys([*trained, *tested])}
    names = _class_names((train_net, *test_nets))
    for source in trained:
        _check_classes(surveys[source], _classes(train_net, "MultiBoxLoss"), names, is_train=True)
    for net in test_nets:
        for source in _sources(net):
            _check_classes(surveys[source], _classes(net, "DetectionEvaluate"), names, is_train=False)
    for source in dict.fromkeys(tested):
        _check_apart([surveys[one] for one in trained], surveys[source])


@dataclass
class RecordSurvey:
    """What one pass over a database found.

    Attributes:
        source: The database.
        boxes: Number of boxes by label.
        records: {digest of a picture's bytes: title of its first record}; empty if there are too many to look at.
    """

    source: str
    boxes: Counter[int] = field(default_factory=Counter)
    records: dict[bytes, str] = field(default_factory=dict)


def _survey(source: str) -> RecordSurvey:
    database, survey = Database(source), RecordSurvey(source)
    if len(database) > MOST_RECORDS:
        _log.info(
            f"{source} has {len(database):,} records; classes and doubles are looked for in up to {MOST_RECORDS:,}"
        )
        return survey
    damaged: list[DataError] = []
    for index, key in enumerate(database.keys):
        title = record_title(key, source)
        try:
            record = annotated_of(database.value(index), title)
        except DataError as error:
            damaged.append(error)
            continue
        survey.records.setdefault(hashlib.blake2b(record.datum.data, digest_size=16).digest(), title)
        for group in record.annotation_group:
            survey.boxes[group.group_label] += len(group.annotation)
    if damaged:
        _log.warning(f"{counted(len(damaged), 'record')} of {source} cannot be read; the first: {damaged[0]}")
    return survey


def _check_classes(
    survey: RecordSurvey, classes: tuple[int, int] | None, names: Mapping[int, str], is_train: bool
) -> None:
    """Checks labels against (num_classes, background_label_id)."""
    if classes is None or not survey.records:
        return
    number, background = classes
    known = set(range(number)) - {background}
    # Nets with two classes see every label of 2 and more as 1, as RefineDet's ARM does.
    seen = {min(label, 1) if number == 2 else label for label, boxes in survey.boxes.items() if boxes}
    if outside := sorted(seen - known):
        boxes = sum(survey.boxes[label] for label in outside)
        _log.warning(
            f"{counted(boxes, 'box', 'boxes')} of {survey.source} {'has' if boxes == 1 else 'have'} "
            f"{_named('label', outside, {})}, but with num_classes: {number} labels go from {min(known, default=0)} to "
            f"{number - 1}{f' and {background} is the background' if background >= 0 else ''}; check the label map "
            "that the database was made with"
        )
    if not is_train:
        return
    if not seen:
        _log.warning(f"no record of {survey.source} has a box, so there is nothing to learn; check the annotations")
    elif missing := sorted(known - seen):
        _log.warning(
            f"no record of {survey.source} has a box of {_named('class', missing, names)} (num_classes: {number}): "
            "what was never seen is never found, and counts as 0 in the mAP; check the label map and the annotations, "
            "or leave it out"
        )


def _check_apart(trained: Sequence[RecordSurvey], tested: RecordSurvey) -> None:
    for survey in trained:
        same = [title for digest, title in tested.records.items() if digest in survey.records]
        if os.path.realpath(survey.source) == os.path.realpath(tested.source):
            _log.warning(
                f"the test reads the training database {tested.source}: its mAP does not tell how new pictures do"
            )
        elif same:
            _log.warning(
                f"{counted(len(same), 'picture')} of {len(tested.records)} in {tested.source} "
                f"{'is' if len(same) == 1 else 'are'} in {survey.source} too, byte for byte, such as {same[0]}: the "
                "mAP is too high for new pictures; split by picture (pyscratchdet lmdb folder --split)"
            )


def _sources(net: Net) -> dict[str, int]:
    """Returns {database: batch size} of the AnnotatedData layers whose database is there."""
    params = [module.layer.param.data_param for module in net.layers if module.layer_type == "AnnotatedData"]
    return {param.source: param.batch_size for param in params if os.path.exists(param.source)}


def _count(source: str) -> int:
    return len(Database(source))


def _classes(net: Net, layer_type: str) -> tuple[int, int] | None:
    """Returns num_classes and background of the layer of a type with most classes; None without one."""
    return max(_class_settings(net, layer_type), default=None)


def _class_settings(net: Net, layer_type: str) -> Iterator[tuple[int, int]]:
    for module in net.layers:
        layer: Any = module.layer
        if module.layer_type != layer_type:
            continue
        if layer_type == "MultiBoxLoss" and not layer.loss_param.map_object_to_agnostic:
            yield layer.loss_param.num_classes, layer.background
        elif layer_type == "DetectionEvaluate":
            yield layer.evaluate_param.num_classes, layer.background


def _class_names(nets: Iterable[Net]) -> dict[int, str]:
    """Returns the names of a label map that a net names, if it can be read: they only adorn messages."""
    for module in (module for net in nets for module in net.layers):
        param = module.layer.param
        name = (
            param.annotated_data_param.label_map_file or param.detection_output_param.save_output_param.label_map_file
        )
        if name:
            try:
                return label_to_name(read_label_map(Path(module.layer.context.root) / name), display=True)
            except PyScratchDetError:
                continue
    return {}


def _named(what: str, labels: Sequence[int], names: Mapping[int, str]) -> str:
    """Returns "class 3 (cat)" or "classes 1, 2, 3, 4, 5 and 7 more"."""
    shown = [f"{label} ({names[label]})" if label in names else str(label) for label in labels[:_NAMED]]
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{what if len(labels) == 1 else plural} {', '.join(shown)}{more}"

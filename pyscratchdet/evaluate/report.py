"""The evaluation as one HTML file: figures, charts, and every picture with ground truth and detections side by side.

The file needs no server and no network: pictures and charts are inside it.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pyscratchdet.detect.media import read_picture
from pyscratchdet.detect.output import encode_jpeg
from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.errors import PyScratchDetError, printable
from pyscratchdet.evaluate import charts
from pyscratchdet.evaluate.breakdown import COUNTED_FROM, KIND_NAMES, KINDS, Breakdown, break_down
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import VocResult, ap_by_size
from pyscratchdet.files import write_bytes, write_text
from pyscratchdet.pages import fill_page

_WORST_KINDS = ("background", "class", "localisation", "both", "duplicate")


@dataclass
class EvaluationReport:
    """What goes onto the page.

    Attributes:
        title: Heading.
        truth: The set.
        detections: All of them; the page shows those above `lowest_score`.
        result: VOC result of them.
        figures: Further numbers for the summary, such as COCO's twelve.
        engine: What ran the net; "" where detections were read.
        advice: What to try next (`advice.advise`).
        score_threshold: Where errors are counted; the page's first filter setting.
        lowest_score: Detections below it are not put on the page.
        max_pictures: How many pictures at most, those with most errors first.
        side: Longer side of the pictures on the page, in pixels.
    """

    title: str
    truth: GroundTruthTable
    detections: DetectionTable
    result: VocResult
    figures: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    advice: Sequence[str] = ()
    score_threshold: float = COUNTED_FROM
    lowest_score: float = 0.1
    max_pictures: int = 300
    side: int = 420


def write_report(report: EvaluationReport, folder: str | os.PathLike[str]) -> Path:
    """Writes `report.html` and its charts as PNG beside it.

    Returns:
        The path of the page.

    Raises:
        FileError: A file cannot be written.
    """
    root = Path(folder)
    shown = report.detections[report.detections.score >= report.score_threshold]
    outcome = break_down(report.truth, shown, report.result.overlap_threshold)
    by_size = ap_by_size(report.truth, report.detections, report.result.metric, report.result.overlap_threshold)
    figures = {
        "ap_per_class": charts.ap_chart(report.result),
        "precision_recall": charts.curves_chart(report.result.classes),
        "ap_by_size": charts.sizes_chart(by_size),
        "errors": charts.errors_chart(outcome, report.truth, shown, report.score_threshold),
        "confusion": charts.confusion_chart(outcome, report.truth.classes, report.score_threshold),
    }
    images = {name: charts.to_png(figure) for name, figure in figures.items()}
    for name, data in images.items():
        write_bytes(root / f"{name}.png", data)
    write_text(root / "report.html", _page(report, outcome, images))
    return root / "report.html"


def _page(report: EvaluationReport, outcome: Breakdown, images: Mapping[str, bytes]) -> str:
    return fill_page(
        __package__,
        "report.html",
        title=report.title,
        cards=_cards(report, outcome),
        advice=report.advice,
        classes=report.result.classes,
        charts={name: _base64(data) for name, data in images.items()},
        data=_page_data(report, outcome),
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _cards(report: EvaluationReport, outcome: Breakdown) -> list[tuple[str, str]]:
    counts = outcome.counts()
    return [
        (f"mAP ({report.result.metric})", f"{report.result.mean_ap:.4f}"),
        *((name, f"{value:.4f}") for name, value in report.figures.items()),
        *([("engine", report.engine)] if report.engine else []),
        ("pictures", str(len(report.truth.names))),
        ("objects", str(int((~report.truth.difficult).sum()))),
        *((name, str(counts[kind])) for kind, name in KIND_NAMES.items()),
        ("score threshold for errors", f"{report.score_threshold:g}"),
    ]


def _page_data(report: EvaluationReport, outcome: Breakdown) -> dict[str, object]:
    used = report.detections[report.detections.score >= report.score_threshold]
    wrong = np.isin(outcome.kind, [KINDS.index(kind) for kind in _WORST_KINDS])
    places = np.concatenate([used.image[wrong], report.truth.image[outcome.missed]])
    errors = np.bincount(places, minlength=len(report.truth.names))
    chosen = np.sort(np.argsort(-errors, kind="stable")[: report.max_pictures])
    shown = report.detections[report.detections.score >= report.lowest_score]
    pictures = [_picture_data(report, int(index), shown) for index in chosen]
    return {
        "classes": [printable(name) for name in report.truth.classes],
        "threshold": report.score_threshold,
        "lowest": report.lowest_score,
        "overlap": report.result.overlap_threshold,
        "total": len(report.truth.names),
        "pictures": [picture for picture in pictures if picture],
    }


def _picture_data(report: EvaluationReport, index: int, shown: DetectionTable) -> dict[str, object] | None:
    try:
        image = read_picture(report.truth.paths[index])
    except PyScratchDetError:
        return None  # result files can be judged without the pictures; the page then shows fewer
    height, width = image.shape[:2]
    factor = report.side / max(height, width)
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    mine, truths = shown.image == index, report.truth.image == index
    return {
        "name": printable(report.truth.names[index]),
        "w": width,
        "h": height,
        "src": f"data:image/jpeg;base64,{_base64(encode_jpeg(image, 80))}",
        "truth": [
            [int(label), int(difficult), *np.round(box, 1).tolist()]
            for label, difficult, box in zip(
                report.truth.label[truths], report.truth.difficult[truths], report.truth.boxes_px[truths], strict=True
            )
        ],
        "found": [
            [int(label), round(float(score), 4), *np.round(box, 1).tolist()]
            for label, score, box in zip(shown.label[mine], shown.score[mine], shown.boxes_px[mine], strict=True)
        ],
    }

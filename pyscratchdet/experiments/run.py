"""One cell with one seed: its files are written, it is trained and tested, and its result is kept.

    FOLDER/table1/bn_all_lr0.05_scratch/seed1/   prototxts, snapshots, training.log, metrics.csv, result.json

Whatever is interrupted goes on from its last snapshot and ends as if it had not been; a result that is there is never
measured again.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

import pyscratchdet
from pyscratchdet.detect.detector import Detector
from pyscratchdet.detect.runner import run_set
from pyscratchdet.errors import DataError, SolverError, counted
from pyscratchdet.evaluate.sets import read_voc_truth
from pyscratchdet.evaluate.voc import ClassResult, ap_by_size, evaluate_voc
from pyscratchdet.experiments import mini
from pyscratchdet.experiments.paper import Cell
from pyscratchdet.experiments.sources import Sources
from pyscratchdet.files import locked_folder, read_bytes, read_json, write_text
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.progress import Manners, mannered
from pyscratchdet.proto import text
from pyscratchdet.prototxt import Recipe
from pyscratchdet.solver.curves import read_curves
from pyscratchdet.solver.launch import TrainSettings, train
from pyscratchdet.solver.snapshot import snapshot_path

RESULT, METRICS = "result.json", "metrics.csv"
_PARTS = ("train", "deploy", "solver")


@dataclass(frozen=True)
class Job:
    """A cell with a seed.

    Attributes:
        cell: What to train and to test.
        seed: Of everything that is drawn.
        root: The folder of all results.
        data: VOC tree with the pictures.
        scale: "mini" or "full".
    """

    cell: Cell
    seed: int
    root: Path
    data: str
    scale: str

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.root / self.cell.name / f"seed{self.seed}"

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"{self.cell.name}, seed {self.seed}"


@dataclass
class Result:
    """What became of a job.

    Attributes:
        cell: The cell's name.
        seed: As given.
        scale: "mini" or "full".
        status: "done", or "diverged": what the paper prints as NAN.
        iterations: Updates made; where it diverged, the iteration whose loss was no number or too large.
        metrics: In percent: "mAP"; "AP <class>"; "mAP_S", "mAP_M", "mAP_L" for objects below 32x32 pixels of the
            picture, below 96x96, and above. Empty where it diverged.
        message: How it diverged.
        seconds: Of training and of testing.
        parameters: Values that the deploy net learns.
        macs: Multiply-accumulates of the deploy net for one picture.
        versions: Of Python and the packages that results depend on.
        device: What it ran on.
        sha256: Of the prototxts and the final weights, by file name.
    """

    cell: str
    seed: int
    scale: str
    status: str
    iterations: int
    metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    macs: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    sha256: dict[str, str] = field(default_factory=dict)


def read_result(folder: Path) -> Result | None:
    """Returns the result in a job's folder, or None if there is none yet.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return Result(**read_json(path, "a result", "experiment.result"))
    except TypeError as error:
        raise DataError(f"{path}: not a result: {error}", code="experiment.result") from error


def run(job: Job, gpu: str = "") -> Result | None:
    """Trains and tests a job, or goes on with it.

    Args:
        job: What to do.
        gpu: Device numbers as `train --gpu` takes them; "" for the CPU.

    Returns:
        The result; None if the training was asked to stop (Ctrl-C, SIGTERM).

    Raises:
        FileError: Another process is at it, or a file cannot be written.
        DataError: The job was begun with other settings.
        PyScratchDetError: Data or a net are not sound.
    """
    if result := read_result(job.folder):
        return result
    with locked_folder(job.folder), mannered(Manners(is_quiet=True)):
        torch.set_num_threads(1)
        sources = mini.sources(job.cell, job.root, job.data)
        recipe = mini.build(job.cell, sources, job.folder, job.seed)
        weights = mini.start(job.cell, recipe, job.root)
        _write(recipe, job.folder)
        return _measured(job, recipe, sources, weights, gpu)


def _write(recipe: Recipe, folder: Path) -> None:
    """Writes the prototxts; those of a job that was begun must be the same."""
    for part in _PARTS:
        path, content = folder / f"{part}.prototxt", text.to_text(getattr(recipe, part))
        if path.exists() and read_bytes(path).decode() != content:
            raise DataError(
                f"{folder} was begun with other settings", code="experiment.settings", hint="give another folder"
            )
        write_text(path, content)


def _measured(job: Job, recipe: Recipe, sources: Sources, weights: Path | None, gpu: str) -> Result | None:
    solver, folder = recipe.solver, job.folder
    settings = TrainSettings(
        str(folder / "solver.prototxt"),
        weights=str(weights or ""),
        resume=True,
        gpu=gpu,
        fast=True,
        workers=0,
        keep=1,
        log=str(folder / "training.log"),
        metrics=str(folder / METRICS),
    )
    result = Result(job.cell.name, job.seed, job.scale, "done", solver.max_iter)
    cost = net_cost(plan_net(recipe.deploy))
    result.parameters, result.macs = cost.num_parameters, cost.macs
    trained = Path(snapshot_path(solver.snapshot_prefix, solver.max_iter, ".caffemodel"))
    try:
        if not trained.exists():
            train(settings)
    except SolverError as error:
        if error.code != "solver.diverged":
            raise
        result.status, result.message, result.iterations = "diverged", str(error), _iteration(error)
    else:
        if not trained.exists():
            return None
        began = time.perf_counter()
        result.metrics = _tested(recipe, trained, sources)
        result.seconds["testing"] = time.perf_counter() - began
    result.seconds["training"] = _training_seconds(folder / METRICS, solver.display)
    result.versions, result.device = _versions(), _device(gpu)
    files = [*(folder / f"{part}.prototxt" for part in _PARTS), *([trained] if result.status == "done" else [])]
    result.sha256 = {path.name: hashlib.sha256(read_bytes(path)).hexdigest() for path in files}
    write_text(folder / RESULT, json.dumps(asdict(result), indent=1) + "\n")
    return result


def _iteration(error: SolverError) -> int:
    found = re.search(r"iteration (\d+)", error.message)
    return int(found[1]) if found else 0


def _tested(recipe: Recipe, weights: Path, sources: Sources) -> dict[str, float]:
    """Returns VOC 2007's average precision on the test set, in percent."""
    detector = Detector(f"{recipe.folder}/deploy.prototxt", weights, sources.label_map)
    truth = read_voc_truth(sources.test, sources.test_set, detector.classes)
    found, _ = run_set(truth.names, truth.paths, detector.detect)
    result = evaluate_voc(truth, found)
    shares = {"mAP": result.mean_ap, **{f"AP {one.name}": one.ap for one in result.classes}}
    shares |= {f"mAP_{size[0].upper()}": _mean(classes) for size, classes in ap_by_size(truth, found).items()}
    return {name: round(100 * share, 4) for name, share in shares.items() if not math.isnan(share)}


def _mean(classes: Sequence[ClassResult]) -> float:
    known = [one.ap for one in classes if one.num_pos]
    return float(np.mean(known)) if known else float("nan")


def _training_seconds(metrics: Path, display: int) -> float:
    """The time of all iterations that count, whatever was done twice after an interruption."""
    seconds = read_curves(metrics).series.get("seconds_per_iteration", {})
    return round(sum(seconds.values()) * display, 3)


def _versions() -> dict[str, str]:
    return {
        "pyscratchdet": pyscratchdet.__version__,
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "NumPy": np.__version__,
        "OpenCV": cv2.__version__,
    }


def _device(gpu: str) -> str:
    if gpu:
        return torch.cuda.get_device_name(int(gpu.split(",")[0]))
    return f"{platform.machine()} CPU, {counted(torch.get_num_threads(), 'thread')}"

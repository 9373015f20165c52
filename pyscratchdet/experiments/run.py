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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch

import pyscratchdet
from pyscratchdet.detect.detector import Detector
from pyscratchdet.detect.runner import Detect, run_set
from pyscratchdet.devices import choose_device, parse_gpus
from pyscratchdet.errors import DataError, SolverError, counted
from pyscratchdet.evaluate.multiscale import MultiScaleDetector
from pyscratchdet.evaluate.sets import read_voc_truth
from pyscratchdet.evaluate.voc import ClassResult, ap_by_size, evaluate_voc
from pyscratchdet.experiments import full, mini, paper
from pyscratchdet.experiments.paper import Cell
from pyscratchdet.experiments.settings import Settings, check, describe, keep
from pyscratchdet.experiments.sources import Sources, one_at_a_time
from pyscratchdet.files import locked_folder, read_bytes, read_json, write_text
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.progress import Manners, mannered
from pyscratchdet.proto import text
from pyscratchdet.prototxt import Recipe
from pyscratchdet.solver.curves import read_curves
from pyscratchdet.solver.launch import TrainSettings, spawn, train
from pyscratchdet.solver.snapshot import snapshot_path

RESULT, METRICS = "result.json", "metrics.csv"
_PARTS = ("train", "deploy", "solver")
_DIVERGED = "solver.diverged"


class Scale(Protocol):
    """A size of the experiments: the modules `mini` and `full`."""

    @property
    def RULE(self) -> int:
        """Changes where what is measured does."""

    @property
    def TRAINING(self) -> Mapping[str, Any]:
        """Fields of `TrainSettings`."""

    def lists(self, cell: Cell, data: str) -> list[tuple[Path, str]]:
        """Returns the (VOC folder, list) pairs that a cell is trained and tested on."""

    def sources(self, cell: Cell, root: Path, data: str) -> Sources:
        """Returns what a cell is trained and tested on; databases are made below `root` unless they are there."""

    def build(
        self, cell: Cell, sources: Sources, folder: Path, seed: int, num_gpus: int, iterations: int | None
    ) -> Recipe:
        """Returns a cell's recipe, whose files will be in `folder`."""

    def start(self, cell: Cell, recipe: Recipe, root: Path) -> Path | None:
        """Returns the weights that a cell starts from; None for from scratch."""


SCALES: dict[str, Scale] = {"full": full, "mini": mini}


@dataclass(frozen=True)
class Job:
    """A cell with a seed.

    Attributes:
        cell: What to train and to test.
        seed: Of everything that is drawn.
        root: The folder of all results.
        data: VOC tree with the pictures.
        scale: "mini" or "full", as in SCALES.
        iterations: Instead of the scale's.
    """

    cell: Cell
    seed: int
    root: Path
    data: str
    scale: str
    iterations: int | None = None

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
        given_iterations: What the job had instead of the scale's iterations; None for nothing.
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
    given_iterations: int | None = None


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


def settings_of(job: Job) -> Settings:
    """Returns what a job has in common with all others in its folder.

    Raises:
        UsageError: The cell cannot be measured at this scale.
        FileError, DataError: A list or an annotation is missing.
    """
    scale = SCALES[job.scale]
    return Settings(job.scale, scale.RULE, describe(scale.lists(job.cell, job.data)))


def prepare(job: Job) -> Sources:
    """Returns what a job is trained and tested on, which is made unless it is there.

    Raises:
        UsageError: The cell cannot be measured at this scale.
        DataError: The folder's results are of other settings.
        FileError, DataError: The pictures given are missing or damaged.
    """
    with one_at_a_time(job.root / ".data"):
        keep(job.root, settings_of(job))
        return SCALES[job.scale].sources(job.cell, job.root, job.data)


def finished(job: Job) -> Result | None:
    """Returns the result that a job has already, or None if there is none yet.

    Raises:
        DataError: It is damaged, or was measured with other settings or another number of iterations.
    """
    result = read_result(job.folder)
    if result is None:
        return None
    check(job.root, settings_of(job))
    if result.given_iterations != job.iterations:
        raise DataError(
            f"{job.folder} was measured with other settings",
            code="experiment.settings",
            expected=_iterations(job.iterations),
            found=_iterations(result.given_iterations),
            hint="give another folder",
        )
    return result


def _iterations(given: int | None) -> str:
    return "no --iterations" if given is None else f"--iterations {given}"


def run(job: Job, gpu: str = "") -> Result | None:
    """Trains and tests a job, or goes on with it.

    Args:
        job: What to do.
        gpu: Device numbers as `train --gpu` takes them; "" for the CPU.

    Returns:
        The result; None if the training was asked to stop (Ctrl-C, SIGTERM).

    Raises:
        FileError: Another process is at it, or a file cannot be written.
        DataError: The job was begun or measured with other settings.
        PyScratchDetError: Data or a net are not sound.
    """
    if result := finished(job):
        return result
    scale, gpus = SCALES[job.scale], parse_gpus(gpu)
    with locked_folder(job.folder), mannered(Manners(is_quiet=True)):
        if job.scale == "mini":  # wherever it runs, it is to compute the same
            torch.set_num_threads(1)
        sources = prepare(job)
        recipe = scale.build(job.cell, sources, job.folder, job.seed, len(gpus), job.iterations)
        if job.cell.weights_of:
            result = run(replace(job, cell=paper.cell(job.cell.weights_of)), gpu)
        else:
            with one_at_a_time(job.root / ".pretraining"):
                weights = scale.start(job.cell, recipe, job.root)
            _write(recipe, job.folder)
            result = _trained(job, recipe, weights, gpus)
        if result is None:
            return None
        result = replace(result, cell=job.cell.name)
        if result.status == "done":
            began = time.perf_counter()
            result.metrics = _tested(job, sources, gpu)
            result.seconds["testing"] = round(time.perf_counter() - began, 3)
        result.versions, result.device = _versions(), _device(gpus)
        write_text(job.folder / RESULT, json.dumps(asdict(result), indent=1) + "\n")
        return result


def _write(recipe: Recipe, folder: Path) -> None:
    """Writes the prototxts; those of a job that was begun must be the same."""
    for part in _PARTS:
        path, content = folder / f"{part}.prototxt", text.to_text(getattr(recipe, part))
        if path.exists() and read_bytes(path).decode() != content:
            raise DataError(
                f"{folder} was begun with other settings", code="experiment.settings", hint="give another folder"
            )
        write_text(path, content)


def _trained(job: Job, recipe: Recipe, weights: Path | None, gpus: Sequence[int]) -> Result | None:
    """Trains, and returns a result that lacks only the test; None where the training was asked to stop."""
    solver, folder = recipe.solver, job.folder
    cost = net_cost(plan_net(recipe.deploy))
    result = Result(job.cell.name, job.seed, "done", solver.max_iter)
    result.given_iterations = job.iterations
    result.parameters, result.macs = cost.num_parameters, cost.macs
    trained = Path(snapshot_path(solver.snapshot_prefix, solver.max_iter, ".caffemodel"))
    if not trained.exists():
        settings = TrainSettings(
            str(folder / "solver.prototxt"),
            weights=str(weights or ""),
            resume=True,
            gpu=",".join(map(str, gpus)),
            keep=1,
            log=str(folder / "training.log"),
            metrics=str(folder / METRICS),
            **SCALES[job.scale].TRAINING,
        )
        result.message = _divergence(settings, gpus, folder)
    if result.message:
        result.status = "diverged"
        found = re.search(r"iteration (\d+)", result.message)
        result.iterations = int(found[1]) if found else 0
    elif not trained.exists():
        return None
    files = [*(folder / f"{part}.prototxt" for part in _PARTS), *([trained] if result.status == "done" else [])]
    result.sha256 = {path.name: hashlib.sha256(read_bytes(path)).hexdigest() for path in files}
    result.seconds["training"] = _training_seconds(folder / METRICS, solver.display)
    return result


def _divergence(settings: TrainSettings, gpus: Sequence[int], folder: Path) -> str:
    """Trains, on several GPUs by torchrun; returns how the loss diverged, "" where it did not.

    Raises:
        SolverError: The processes on several GPUs failed for another reason.
    """
    if len(gpus) <= 1:
        try:
            train(settings)
        except SolverError as error:
            if error.code != _DIVERGED:
                raise
            return str(error)
        return ""
    words = ["--solver", settings.solver, "--resume", "auto", "--keep", str(settings.keep), "--log", settings.log]
    words += ["--metrics", settings.metrics, *(["--weights", settings.weights] if settings.weights else [])]
    words += [*(["--fast"] if settings.fast else []), *(["--workers", "0"] if settings.workers == 0 else [])]
    errors = folder / "training.err"
    with open(errors, "w", encoding="utf-8") as stream:
        status = spawn(gpus, words, stream)
    if not status:
        return ""
    said = [line for line in errors.read_text(errors="replace").splitlines() if line.startswith("pyscratchdet: ")]
    if diverged := [line for line in said if f"[{_DIVERGED}]" in line]:
        return diverged[0].removeprefix("pyscratchdet: ")
    raise SolverError(
        f"{folder}: the training failed", code="experiment.training", found=said[-1:] or f"status {status}",
        hint=f"{errors} has everything that was said",
    )  # fmt: skip


def _tested(job: Job, sources: Sources, gpu: str) -> dict[str, float]:
    """Returns VOC 2007's average precision on the test set, in percent."""
    trained = replace(job, cell=paper.cell(job.cell.weights_of)) if job.cell.weights_of else job
    (weights,) = trained.folder.glob("*.caffemodel")
    device = str(choose_device(gpu))
    detector = Detector(trained.folder / "deploy.prototxt", weights, sources.label_map, device=device)
    truth = read_voc_truth(sources.test, sources.test_set, detector.classes)
    detect: Detect = MultiScaleDetector(detector).detect if job.cell.multiscale else detector.detect
    found, _ = run_set(truth.names, truth.paths, detect)
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


def _device(gpus: Sequence[int]) -> str:
    if gpus:
        return f"{len(gpus)} x {torch.cuda.get_device_name(gpus[0])}"
    return f"{platform.machine()} CPU, {counted(torch.get_num_threads(), 'thread')}"

"""What `experiment run` measured beside what the paper prints: one HTML page, the same as Markdown, and its figures.

The page needs no server and no network: its figures are inside it.
"""

from __future__ import annotations

import base64
import inspect
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyscratchdet.errors import DataError, FileError, counted
from pyscratchdet.evaluate.charts import to_png
from pyscratchdet.experiments import figures, landscape, mini, paper
from pyscratchdet.experiments.rows import MEAN_AP, Row, rows_of
from pyscratchdet.experiments.run import METRICS, Result
from pyscratchdet.experiments.settings import read_settings
from pyscratchdet.files import write_bytes, write_text
from pyscratchdet.pages import fill_page
from pyscratchdet.solver.curves import Curves, read_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = {"mAP_S": "small", "mAP_M": "medium", "mAP_L": "large"}
"""Mean AP by object size, as results have it, and how the page calls it."""
ASK_SIZES = ("table2", "figure3")
"""The experiments that are about small objects."""
_READING = (
    "Percent; mean ± standard deviation over seeds (number of seeds). Differences to the first row have the standard "
    "error that the seeds give."
)
_READING_MINI = (
    "A small net on other pictures finds less than the full one. What can be compared is how far each row is above the "
    "first."
)
_OPTIMISATION = (
    f"thick: the mean over seeds, thin: each seed; (c) is the standard deviation of the norm between two points of the "
    f"curve, averaged over {figures.SMOOTHED} points"
)
LANDSCAPE = "Along the gradient, as Santurkar and others look at it (2018)"
_NETS = {"none": "SSD", "all": "BatchNorm everywhere"}
_FACTORS = ", ".join(f"{factor:g}" for factor in landscape.FACTORS)
_ALONG = (
    f"from the weights of an iteration, {_FACTORS} learning rates along the gradient of the same batch: (a) the least "
    "to the largest loss, (b) how far the gradient moves, (c) the largest ratio of that to the way"
)
_CAPTIONS = {
    "results": "mean AP (%): a bar for the mean over seeds, a dot for each seed; printed values as diamonds",
    "curves": "loss (mean of 10 iterations), L2 norm of the gradient, and its fluctuation; means over seeds",
}


def write_report(folder: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> list[Path]:
    """Writes report.html, report.md and the figures of what was run in a folder.

    Args:
        folder: What `experiment run -o` filled.
        output: Where to write; None for the same folder.

    Returns:
        The paths of the two pages.

    Raises:
        DataError: Nothing was measured there, nobody knows by what settings, or a file is damaged.
        FileError: A file cannot be written.
    """
    root, target = Path(folder), Path(output or folder)
    if not root.is_dir():
        raise FileError(f"there is no folder {root}", code="file.read")
    rows = {name: rows_of(root, name) for name in paper.experiments()}
    tables = {name: table for name, table in rows.items() if any(row.results for row in table)}
    if not tables:
        raise DataError(f"{root} has no results", code="experiment.empty", hint="`experiment run -o` writes them")
    pictures = {name: to_png(figure) for name, figure in _figures(root, tables).items()}
    for name, data in pictures.items():
        write_bytes(target / f"{name}.png", data)
    content = _content(root, tables, pictures)
    pages = {"report.html": {name: base64.b64encode(data).decode() for name, data in pictures.items()}, "report.md": {}}
    for page, inside in pages.items():
        write_text(target / page, fill_page(__package__, page, **content, inside=inside))
    return [target / page for page in pages]


def _figures(root: Path, tables: Mapping[str, Sequence[Row]]) -> dict[str, Figure]:
    drawn = {}
    for name, rows in tables.items():
        drawn[f"{name}_results"] = figures.results_figure(rows, {MEAN_AP: "measured", **_sizes(rows)})
        drawn[f"{name}_curves"] = figures.curves_figure(rows)
    table1 = {row.cell.name: row for row in rows_of(root, "table1")}
    for name, (title, cells) in figures.OPTIMISATION.items():
        lines = {label: list(table1[f"table1/bn_{cell}_scratch"].curves.values()) for cell, label in cells.items()}
        if all(lines.values()):
            drawn[name] = figures.optimisation_figure(title, lines)
    if looked := _landscapes(root):
        drawn["landscape"] = figures.landscape_figure(LANDSCAPE, looked)
    return drawn


def _landscapes(root: Path) -> dict[str, Curves]:
    paths = {_NETS[name]: root / "landscape" / f"{name}.csv" for name in landscape.CELLS}
    return {label: read_curves(path) for label, path in paths.items() if path.exists()}


def _pretraining(root: Path) -> str:
    """The accuracy of the bodies that were trained to classify first; "" if there are none."""
    found = []
    for path in sorted((root / "pretraining").glob(f"*/{METRICS}")):
        if accuracies := read_curves(path).series.get("test0/accuracy"):
            found.append(f"{path.parent.name} {100 * accuracies[max(accuracies)]:.1f}%")
    return ", ".join(found)


def _medians(label: str, run: Curves) -> list[str]:
    """What a net's landscape is in the middle of the training: the medians over its points."""
    series = run.series
    ranges = [high - series["loss_min"][step] for step, high in series["loss_max"].items()]
    known = [ranges, *(list(series[name].values()) for name in figures.LANDSCAPE)]
    return [label, *(f"{statistics.median(values):.3g}" for values in known)]


def _sizes(rows: Sequence[Row]) -> dict[str, str]:
    """The sizes of objects by which the experiment asks, if these were measured."""
    if rows[0].cell.experiment not in ASK_SIZES:
        return {}
    return {size: name for size, name in SIZES.items() if any(row.values(size) for row in rows)}


def _content(root: Path, tables: Mapping[str, Sequence[Row]], pictures: Mapping[str, bytes]) -> dict[str, object]:
    every = {id(result): result for rows in tables.values() for row in rows for result in row.results}
    results = list({(result.cell, result.seed): result for result in every.values()}.values())
    seconds = sum(sum(result.seconds.values()) for result in results)
    settings = read_settings(root)
    is_mini = settings.scale == "mini"
    measured = [row for rows in tables.values() for row in rows]
    return {
        "title": f"The paper of ScratchDet, measured ({settings.scale})",
        "cards": [
            ("cells measured", f"{sum(bool(row.results) for row in measured)} of {len(paper.cells())}"),
            ("runs", str(len(results))),
            ("diverged", str(sum(result.status == "diverged" for result in results))),
            ("hours of computing", f"{seconds / 3600:.2f}"),
        ],
        "rule": inspect.cleandoc(mini.__doc__ or "") if is_mini else "",
        "pictures": settings.pictures,
        "given": sorted({result.given_iterations for result in results if result.given_iterations}),
        "tables": [_table(name, rows, pictures) for name, rows in tables.items()],
        "optimisation": {name: title for name, (title, _) in figures.OPTIMISATION.items() if name in pictures},
        "optimisation_caption": _OPTIMISATION,
        "landscape": LANDSCAPE if "landscape" in pictures else "",
        "landscape_caption": _ALONG,
        "landscape_columns": ["medians", "range of the loss", *figures.LANDSCAPE.values()],
        "landscape_rows": [_medians(label, run) for label, run in _landscapes(root).items()],
        "reading": f"{_READING} {_READING_MINI}" if is_mini else _READING,
        "missing": [title for name, title in paper.experiments().items() if name not in tables],
        "pretraining": _pretraining(root),
        "made_with": sorted({_made_with(result) for result in results}),
        "runs": [_run(result) for result in sorted(results, key=lambda result: (result.cell, result.seed))],
    }


def _table(name: str, rows: Sequence[Row], pictures: Mapping[str, bytes]) -> dict[str, object]:
    sizes = _sizes(rows)
    head = [*rows[0].cell.row, "printed", "measured", "difference", "printed, against first", "measured, against first"]
    columns = [*head, *sizes.values(), "loss at the end", "seconds", "M parameters", "M multiply-adds"]
    return {
        "name": name,
        "title": paper.experiments()[name],
        "num_text": len(rows[0].cell.row),
        "columns": columns,
        "rows": [
            [
                *row.cell.row.values(),
                row.printed or "-",
                measured(row),
                difference(row),
                *against(row, rows[0]),
                *(spread(row.values(size)) or "-" for size in sizes),
                spread(row.final_losses(), 2) or "-",
                *_costs(row),
            ]
            for row in rows
        ],
        "figures": {f"{name}_{kind}": text for kind, text in _CAPTIONS.items() if f"{name}_{kind}" in pictures},
    }


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Returns mean and standard deviation over seeds; "" without values."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f} ({len(values)})" if len(values) > 1 else f"{mean} (1)"


def measured(row: Row) -> str:
    """Returns a row's mean AP over its seeds, with the iterations at which runs diverged."""
    if not row.runs:
        return "not run"
    parts = [spread(row.values())]
    if row.diverged:
        iterations = ", ".join(map(str, row.diverged))
        parts.append(f"NAN at iteration {iterations}")
    if unfinished := len(row.runs) - len(row.results):
        parts.append(f"{counted(unfinished, 'run')} not finished")
    return "; ".join(filter(None, parts))


def difference(row: Row) -> str:
    """Returns measured minus printed, where both are numbers."""
    if not row.values() or not row.printed or row.printed == "NAN":
        return "-"
    return f"{statistics.fmean(row.values()) - float(row.printed):+.1f}"


def against(row: Row, first: Row) -> tuple[str, str]:
    """Returns how far a row is above the table's first one, as printed and as measured.

    The measured one has the standard error that the seeds' spread gives, where both have at least two.
    """
    numbers = [one.printed not in ("", "NAN") for one in (row, first)]
    printed = f"{float(row.printed) - float(first.printed):+.1f}" if all(numbers) and row is not first else "-"
    mine, its = row.values(), first.values()
    if row is first or not mine or not its:
        return printed, "-"
    found = f"{statistics.fmean(mine) - statistics.fmean(its):+.1f}"
    if min(len(mine), len(its)) < 2:
        return printed, found
    error = math.sqrt(sum(statistics.variance(values) / len(values) for values in (mine, its)))
    return printed, f"{found} ± {error:.1f}"


def _costs(row: Row) -> tuple[str, str, str]:
    if not row.results:
        return "-", "-", "-"
    seconds = statistics.fmean(sum(result.seconds.values()) for result in row.results)
    one = row.results[0]
    return f"{seconds:.0f}", f"{one.parameters / 1e6:.3f}", f"{one.macs / 1e6:.1f}"


def _made_with(result: Result) -> str:
    return ", ".join([*(f"{name} {version}" for name, version in result.versions.items()), result.device])


def _run(result: Result) -> list[str]:
    mean = f"{result.metrics[MEAN_AP]:.2f}" if MEAN_AP in result.metrics else "NAN"
    classes = [f"{name[3:]} {value:.1f}" for name, value in result.metrics.items() if name.startswith("AP ")]
    hashes = [f"{name} {digest[:12]}" for name, digest in result.sha256.items() if name.endswith(".prototxt")]
    return [
        result.cell,
        str(result.seed),
        result.status,
        str(result.iterations),
        mean,
        ", ".join(classes) or "-",
        *(f"{result.seconds[part]:.0f}" if part in result.seconds else "-" for part in ("training", "testing")),
        ", ".join(hashes),
    ]

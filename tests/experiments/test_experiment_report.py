"""The report: what stands beside what, and that it is said where nothing was measured."""

import json
import math
import re
import shutil
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.errors import DataError, FileError
from pyscratchdet.experiments import figures, paper, report
from pyscratchdet.experiments.rows import rows_of
from pyscratchdet.experiments.run import Result
from pyscratchdet.experiments.settings import FILE, Settings, keep
from pyscratchdet.solver.curves import Curves

# mAP of each seed; a whole number is the iteration of a divergence, None a run that is not finished.
MEASURED = {
    "table1/bn_none_lr0.001_scratch": [20.0, 22.0, 24.0],
    "table1/bn_head_lr0.001_scratch": [30.0],
    "table1/bn_head_lr0.01_scratch": [31.0, 29.0],
    "table1/bn_none_lr0.01_scratch": [38, 41],
    "table1/bn_backbone_lr0.001_scratch": [40.0, 43],
    "table1/bn_all_lr0.001_scratch": [50.0, None],
    "table2/downsampled_root1x7": [10.0, 12.0],
    "table2/root1x7": [15.0, 15.5],
}


def write_run(folder, name, seed, outcome):
    """Writes what a run leaves."""
    home = folder / name / f"seed{seed}"
    home.mkdir(parents=True)
    end = outcome if isinstance(outcome, int) else 250
    lines = [f"train,{i},{i / 3},{9 * math.exp(-i / 99)},{5 + seed},{2 + (i % 3) / 9}" for i in range(0, end + 1, 5)]
    head = "kind,iteration,seconds,loss,grad_norm_mean,grad_norm_std"
    (home / "metrics.csv").write_text("\n".join([head, *lines]) + "\n")
    if outcome is None:
        return
    result = Result(
        name,
        seed,
        "done",
        250,
        {"mAP": outcome, "AP cat": outcome, "mAP_S": outcome / 4},
        "",
        {"training": 61.4},
    )
    if isinstance(outcome, int):
        result = Result(name, seed, "diverged", outcome, {}, "the loss is nan", {"training": 9.6})
    result.parameters, result.macs = 301234, 20500000
    result.versions, result.device = {"torch": "9.8.7"}, "a <b>CPU</b> | of mine"
    result.sha256 = {"train.prototxt": "ab12" * 16, "net.caffemodel": "cd34" * 16}
    (home / "result.json").write_text(json.dumps(asdict(result)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    keep(folder, Settings("mini", 2, {"VOC2007 trainval": "6 pictures, SHA-256 12ab"}))
    for name, outcomes in MEASURED.items():
        for seed, outcome in enumerate(outcomes, 1):
            write_run(folder, name, seed, outcome)
    (folder / "pretraining" / "vgg16_bn").mkdir(parents=True)
    lines = ["kind,iteration,loss,test0/accuracy", "test,0,,0.25", "train,5,3.5,", "test,10,,0.875"]
    (folder / "pretraining" / "vgg16_bn" / "metrics.csv").write_text("\n".join(lines) + "\n")
    for name, scale in (("none", 3.0), ("all", 1.0)):
        head = "iteration,loss,loss_min,loss_max,grad_norm,gradient_change,smoothness"
        lines = [f"{i},5,{5 - scale},{5 + scale * i / 10},2,{scale * 7},{scale * 11}" for i in (0, 5, 10)]
        (folder / "landscape").mkdir(exist_ok=True)
        (folder / "landscape" / f"{name}.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def pages(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("report")
    report.write_report(folder, output)
    return output


@pytest.fixture(scope="module")
def rows(pages):
    """{first cells of a line: all cells} of the Markdown's tables."""
    lines = (pages / "report.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {" ".join(line[:3]): line for line in cells}


def test_measured_stands_beside_printed(rows):
    assert rows["BatchNorm rate pretraining"][3:8] == [
        "printed", "measured", "difference", "printed, against first", "measured, against first",
    ]  # fmt: skip
    assert rows["none 0.001 no"][3:8] == ["67.6", "22.0 ± 2.0 (3)", "-45.6", "-", "-"]
    assert rows["head 0.001 no"][3:8] == ["71.0", "30.0 (1)", "-41.0", "+3.4", "+8.0"]
    error = math.sqrt(2 / 2 + 4 / 3)
    assert rows["head 0.01 no"][3:8] == ["75.6", "30.0 ± 1.4 (2)", "-45.6", "+8.0", f"+8.0 ± {error:.1f}"]


def test_divergence_is_said_with_its_iteration(rows):
    assert rows["none 0.01 no"][3:8] == ["NAN", "NAN at iteration 38, 41", "-", "-", "-"]
    assert rows["backbone 0.001 no"][4] == "40.0 (1); NAN at iteration 43"


def test_what_is_missing_is_said(rows, pages):
    assert rows["all 0.001 no"][4] == "50.0 (1); 1 run not finished"
    assert rows["all 0.05 no"][3:8] == ["78.7", "not run", "-", "+11.1", "-"]
    text = (pages / "report.md").read_text(encoding="utf-8")
    assert "## No result yet\n\n- DSOD without BatchNorm" in text
    assert "- Table 8" in text


def test_other_iterations_than_the_rules_are_said(folder, pages, tmp_path):
    shutil.copytree(folder, tmp_path / "runs")
    for path in (tmp_path / "runs/table2").glob("*/*/result.json"):
        path.write_text(path.read_text().replace('"given_iterations": null', '"given_iterations": 70'))
    report.write_report(tmp_path / "runs")
    for page, mark in ("report.md", "`"), ("report.html", "<code>"):
        assert f"Run with {mark}--iterations 70" in (tmp_path / "runs" / page).read_text(encoding="utf-8")
        assert "--iterations" not in (pages / page).read_text(encoding="utf-8")


def test_a_cell_of_the_same_net_shows_the_runs_of_the_other(rows, folder):
    table = {row.cell.name: row for row in rows_of(folder, "figure3")}
    assert table["figure3/resnet18"].values() == [10.0, 12.0]
    assert not table["figure3/resnet18a"].runs
    multiscale = {row.cell.name: row for row in rows_of(folder, "table3")}["table3/voc07_multiscale"]
    assert multiscale.cell.weights_of
    assert not multiscale.runs


def test_objects_are_told_apart_by_size_where_the_table_asks(rows):
    assert rows["downsampling root block printed"][7:8] == ["small"]
    assert rows["yes 1: 7x7 73.1"][7] == "2.8 ± 0.4 (2)"
    assert "small" not in rows["BatchNorm rate pretraining"]


def test_the_landscape_is_drawn_and_its_medians_are_given(rows):
    assert rows["SSD 4.5 21"] == ["SSD", "4.5", "21", "33"]  # ranges 3, 4.5, 6
    assert rows["BatchNorm everywhere 1.5 7"] == ["BatchNorm everywhere", "1.5", "7", "11"]


def test_the_loss_at_the_end_is_of_finished_runs_only(rows):
    end = sum(9 * math.exp(-i / 99) for i in range(230, 255, 5)) / 5
    assert rows["none 0.001 no"][8] == f"{end:.2f} ± 0.00 (3)"
    assert rows["all 0.001 no"][8] == f"{end:.2f} (1)"
    assert rows["none 0.01 no"][8] == "-"


def test_cost_versions_seeds_and_hashes(rows, pages):
    assert rows["none 0.001 no"][9:] == ["61", "0.301", "20.5"]
    run = rows["table1/bn_none_lr0.01_scratch 2 diverged"]
    assert run[3:] == ["41", "NAN", "-", "10", "-", "train.prototxt ab12ab12ab12"]
    assert rows["table2/root1x7 2 done"][4:6] == ["15.50", "cat 15.5"]
    for page in ("report.md", "report.html"):
        text = (pages / page).read_text(encoding="utf-8")
        assert "torch 9.8.7, a &lt;b&gt;CPU&lt;/b&gt;" in text
        assert "<b>CPU" not in text
        assert "10 of 67" in text
        assert "they had not seen: vgg16_bn 87.5%." in text


def test_the_rule_of_mini_is_quoted(pages):
    for page in ("report.md", "report.html"):
        assert "One rule makes it, whatever the cell." in (pages / page).read_text(encoding="utf-8")


def test_the_page_is_whole_and_figures_are_drawn(pages):
    html = (pages / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,\w)", html)
    drawn = sorted(path.stem for path in pages.glob("*.png"))
    expected = [f"{name}_{kind}" for name in ("figure3", "table1", "table2") for kind in ("curves", "results")]
    assert drawn == sorted([*expected, "figure1", "landscape"])  # figure 7 lacks the cell with ten times the rate
    assert html.count("data:image/png") == len(drawn)
    for name in drawn:
        assert np.ptp(cv2.imread(str(pages / f"{name}.png"))) > 200
        assert f"]({name}.png)" in (pages / "report.md").read_text(encoding="utf-8")


def test_the_mean_ends_where_the_first_run_does():
    runs = [Curves("a", {"loss": {0: 1.0, 5: 3.0, 10: math.nan}}), Curves("b", {"loss": {0: 3.0, 5: 5.0, 10: 7.0}})]
    steps, values = figures.mean_series(runs, "loss")
    assert (steps.tolist(), values.tolist()) == ([0, 5], [2.0, 4.0])


def test_smoothing_keeps_a_level_and_its_ends():
    steps, values = figures._smoothed(np.arange(20), np.full(20, 3.5), "grad_norm_std")
    assert len(steps) == 20
    assert values == pytest.approx(np.full(20, 3.5))


def test_figures_of_the_optimisation_name_cells_that_are_there():
    names = {cell.name for cell in paper.cells("table1")}
    assert {f"table1/bn_{cell}_scratch" for _, cells in figures.OPTIMISATION.values() for cell in cells} <= names


def test_the_command_writes_beside_the_runs(folder, tmp_path, capsys):
    shutil.copytree(folder / "table2", tmp_path / "table2")
    shutil.copy(folder / FILE, tmp_path)
    assert main(["experiment", "report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"written: {tmp_path}/report.{end}" for end in ("html", "md")]
    assert (tmp_path / "table2_results.png").exists()


def test_nothing_and_damage_are_one_clear_error(tmp_path):
    with pytest.raises(FileError, match="no folder"):
        report.write_report(tmp_path / "none")
    with pytest.raises(DataError, match="no results"):
        report.write_report(tmp_path)
    write_run(tmp_path, "dsod/bn_all", 1, None)
    with pytest.raises(DataError, match="no results"):
        report.write_report(tmp_path)
    (tmp_path / "dsod/bn_all/seed1/result.json").write_text('{"cell": 1')
    with pytest.raises(DataError, match=r"result\.json"):
        report.write_report(tmp_path)

"""The paper's numbers: what the code has is what printed.tsv has, which was typed from the paper, line by line."""

import csv
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pyscratchdet import prototxt
from pyscratchdet.cli import main
from pyscratchdet.errors import UsageError
from pyscratchdet.experiments import paper
from pyscratchdet.prototxt import printed

HERE = Path(__file__).parent
CELLS = paper.cells()
NAMES = {cell.name: cell for cell in CELLS}


def typed():
    """Yields (place, row, metric, value) of each number that was typed from the paper and the poster."""
    with open(HERE / "printed.tsv", encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file, delimiter="\t"):
            metrics, values = line["metrics"].split(), line["values"].split()
            for metric, value in zip(metrics, values, strict=True):
                is_class = re.fullmatch("[a-z]+", metric) and metric != "hours"
                yield line["place"], line["row"], f"AP {metric}" if is_class else metric, value


def test_every_printed_number_is_there_and_no_other():
    ours = Counter(
        (number.place, " ".join(cell.row.values()), number.metric, number.value)
        for cell in CELLS
        for number in cell.printed
    )
    assert ours == Counter(typed())
    assert ours.total() == 286


def test_numbers_of_two_data_sets_in_one_row_are_not_mixed_up():
    """Tables 3 and 5 print VOC 2007 and 2012 side by side; tables 6 and 7 print the same means again."""
    for experiment, table in (("table3", ""), ("table5", "coco_")):
        for year, other in (("07", "table6"), ("12", "table7")):
            for scales in ("", "_multiscale"):
                one, again = NAMES[f"{experiment}/voc{year}{scales}"], NAMES[f"{other}/{table}voc{scales}"]
                values = [[n.value for n in cell.printed if n.metric == "mAP"] for cell in (one, again)]
                assert len(set(values[0] + values[1])) == 1
                assert (one.train, one.test, one.start) == (again.train, again.test, again.start)
                assert f"VOC 20{year} test" == one.test


def test_means_of_the_classes_are_the_printed_means():
    """20 numbers rounded to 0.1: their mean is off by 0.05 at most, and so is the printed one."""
    for cell in [*paper.cells("table6"), *paper.cells("table7")]:
        mean, *classes = [float(number.value) for number in cell.printed]
        assert len(classes) == 20
        assert sum(classes) / 20 == pytest.approx(mean, abs=0.1)


def test_table1_trains_what_its_row_says():
    rates, batchnorm = {}, {"none": (0, 0), "head": (0, 1), "backbone": (1, 0), "all": (1, 1)}
    for cell in paper.cells("table1"):
        recipe = prototxt.build(cell.recipe)
        followed = {layer.bottom[0] for layer in recipe.deploy.layer if layer.type == "BatchNorm"}
        found = tuple(
            int(any(layer.name.endswith(end) and (layer.top[0] in followed) for layer in recipe.deploy.layer))
            for end in ("conv1_1", "_mbox_loc")
        )
        assert found == batchnorm[cell.row["BatchNorm"]], cell
        assert (recipe.weights is not None) == (cell.row["pretraining"] == "yes") == (cell.start == "classifier")
        rates.setdefault(cell.row["rate"], set()).add(paper.schedule(cell)["base_lr"])
    assert rates == {"0.001": {0.001}, "0.01": {0.01}, "0.05": {0.05}}
    assert len(paper.cells("table1")) == 24


def test_table2_trains_what_its_row_says():
    for cell in paper.cells("table2"):
        layers = prototxt.build(cell.recipe).deploy.layer
        end = next(number for number, layer in enumerate(layers) if layer.type == "Pooling")
        root = [layer.convolution_param for layer in layers[:end] if layer.type == "Convolution"]
        side = root[0].kernel_size[0]
        assert cell.row["root block"] == f"{len(root)}: {side}x{side}"
        assert list(root[0].stride) == ([2] if cell.row["downsampling"] == "yes" else [1])


def test_cells_are_trained_by_known_recipes_from_known_cells():
    assert len(NAMES) == len(CELLS) == 67
    for cell in CELLS:
        assert re.fullmatch(r"\w+/[\w.]+", cell.name)
        assert cell.recipe in {*prototxt.entries(), ""}
        assert cell.start in {"scratch", "classifier", *NAMES}
        assert cell.multiscale == cell.row.get("method", "").endswith("+")
        if cell.weights_of:
            other = NAMES[cell.weights_of]
            same_nets = prototxt.entries()[cell.recipe].nets_of == other.recipe
            assert cell.recipe == other.recipe or same_nets
            assert (cell.train, cell.start, cell.settings) == (other.train, other.start, other.settings)
            assert not other.weights_of


def test_what_the_paper_says_of_its_schedules():
    """Sections 4.1, 4.2.2 and 4.4, and footnote 1."""
    voc, coco = paper.schedule(NAMES["table2/root3x3"]), paper.schedule(NAMES["table4/scratchdet300"])
    sgd = {"gamma": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "base_lr": 0.05, "pictures_per_update": 128}
    assert voc == {**sgd, "stepvalue": [45000, 75000, 95000], "max_iter": 100000}
    assert coco == {**sgd, "stepvalue": [150000, 250000, 310000], "max_iter": 320000}
    assert paper.schedule(NAMES["table1/bn_all_lr0.01_pretrained"])["pictures_per_update"] == 32
    assert paper.schedule(NAMES["baselines/bn_none_batch128"])["pictures_per_update"] == 128
    assert paper.schedule(NAMES["faster_rcnn/bn_all"]) == {}


def test_recipes_say_what_is_printed_for_them():
    entries = prototxt.entries()
    assert entries["table1_vgg16_bn_all_lr0.05_scratch"].result == "ScratchDet Table 1: 78.7 mAP on VOC 2007 test"
    assert entries["table1_vgg16_bn_none_lr0.01_scratch"].result == "ScratchDet Table 1: diverges"
    assert entries["table1_vgg16_bn_head_lr0.01_pretrained"].result == "not in the paper"
    assert entries["scratchdet300_rootres34_coco"].result == "ScratchDet Table 4: 32.7 AP on COCO test-dev"
    with pytest.raises(KeyError):
        printed.result("refinedet320_vgg16_coco")


def test_an_unknown_experiment_is_one_clear_error():
    with pytest.raises(UsageError, match='did you mean "table1"'):
        paper.cells("tabel1")


def test_list_as_json_is_the_cells(capsys):
    assert main(["experiment", "list", "table1", "dsod", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in shown] == [cell.name for cell in paper.cells("table1") + paper.cells("dsod")]
    one = next(one for one in shown if one["name"] == "table1/bn_all_lr0.05_scratch")
    assert one["printed"][0] == {"metric": "mAP", "value": "78.7", "place": "Table 1, column 16"}
    assert one["solver"]["base_lr"] == 0.05


def test_list_shows_every_number(capsys):
    assert main(["experiment", "list"]) == 0
    text = capsys.readouterr().out
    for cell in CELLS:
        for number in cell.printed:
            assert re.search(rf"{re.escape(number.metric)} {number.value}.*\({re.escape(number.place)}\)", text)

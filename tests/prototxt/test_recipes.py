"""The recipes: the authors' nets field by field, the written tree, options, and what makes no sense."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from pyscratchdet import prototxt
from pyscratchdet.errors import UsageError
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import parse, read, to_text
from pyscratchdet.prototxt import Options
from pyscratchdet.prototxt.recipe import COCO, VOC0712, Training
from pyscratchdet.prototxt.scratchdet import rootresnet, squeeze_stages

HERE = Path(__file__).parent
NAMES = list(prototxt.entries())
PARTS = dict.fromkeys(("train", "test", "deploy"), caffe_pb2.NetParameter) | {"solver": caffe_pb2.SolverParameter}

# Fields that hold paths: folders differ from machine to machine.
PATHS = {"source", "label_map_file", "name_size_file", "output_directory", "train_net", "test_net", "snapshot_prefix"}


@pytest.fixture(scope="module")
def recipes():
    return {name: prototxt.build(name, Options(folder=f"prototxt/models/{name}")) for name in NAMES}


@pytest.fixture(scope="module")
def texts(recipes):
    return {(name, part): to_text(getattr(recipe, part)) for name, recipe in recipes.items() for part in PARTS}


def digest(message):
    """Hash of all fields but paths and the net's name; floats to six places, as two printers may differ beyond."""
    lines = []

    def walk(part, prefix):
        for field, value in part.ListFields():
            if field.name in PATHS or (field.name == "name" and not prefix):
                continue
            for index, item in enumerate(value if field.is_repeated else [value]):
                key = f"{prefix}{field.name}[{index}]"
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    lines.append(key)
                    walk(item, f"{key}.")
                else:
                    lines.append(f"{key}={round(item, 6) if isinstance(item, float) else item}")

    walk(message, "")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


# Made from the output of the authors' own scripts: recipe, then digests of train, test, deploy and solver.
PUBLISHED = [line.split("\t") for line in (HERE / "published.tsv").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_equal_to_what_the_authors_scripts_write(row, recipes):
    name, *expected = row
    assert [digest(getattr(recipes[name], part)) for part in PARTS] == expected


def test_every_name_is_there():
    wanted = {
        "scratchdet300_rootres34_voc0712",
        "scratchdet300_rootres34_coco",
        "scratchdet300_rootres18_voc0712",
        "scratchdet512_rootres34_coco",
        "ssd300_vgg16_voc0712",
        "ssd300_vgg16_coco",
        "ssd300_vgg16_ilsvrc",
        "ssd300_vgg16_orig_voc0712",
        "ssd300_zf_voc0712",
        "ssd300_resnet101_voc0712",
        "refinedet320_resnet101_coco",
        "refinedet512_resnet101_coco",
        *(f"refinedet{s}_vgg16_{d}" for s in (320, 512) for d in ("voc0712", "voc0712plus", "coco")),
        *(f"refinedet{s}_vgg16_{d}_ft" for s in (320, 512) for d in ("voc0712", "voc0712plus")),
    }
    assert wanted <= set(NAMES)
    # Table 1 has four places of BatchNorm, three rates, two starts; table 2 ten rows; figure 3 four nets.
    assert [sum(name.startswith(start) for name in NAMES) for start in ("table1", "table2", "figure3")] == [24, 10, 4]
    assert {row[0] for row in PUBLISHED} <= set(NAMES)


@pytest.mark.slow
def test_parse_undoes_print(recipes, texts):
    for (name, part), text in texts.items():
        assert parse(text, PARTS[part]) == getattr(recipes[name], part), (name, part)


def test_written_tree_is_what_the_recipes_write(recipes, texts):
    files = {str(path.relative_to(prototxt.MODELS)) for path in prototxt.MODELS.rglob("*") if path.is_file()}
    expected = {prototxt.COSTS}
    for name, recipe in recipes.items():
        other = prototxt.entries()[name].nets_of
        parts = ["solver"] if other else list(PARTS)
        expected |= {f"{name}/{part}.prototxt" for part in parts} | {f"{name}/{name}.sh"}
        assert (prototxt.MODELS / name / f"{name}.sh").read_text(encoding="utf-8") == recipe.job
        for part in parts:
            text = texts[name, part]
            if other:
                text = text.replace(f"models/{name}/train", f"models/{other}/train")
                text = text.replace(f"models/{name}/test", f"models/{other}/test")
            written = (prototxt.MODELS / name / f"{part}.prototxt").read_text(encoding="utf-8")
            assert written == text, f"{name}/{part}: run `python -m pyscratchdet.prototxt`"
    assert files == expected


def test_shared_nets_are_the_same(recipes):
    for name, entry in prototxt.entries().items():
        if entry.nets_of:
            for part in ("train", "test", "deploy"):
                assert digest(getattr(recipes[name], part)) == digest(getattr(recipes[entry.nets_of], part)), name


def test_no_machines_paths(recipes, texts):
    for text in (*texts.values(), *(recipe.job for recipe in recipes.values())):
        assert "HOME" not in text
        assert '"/' not in text


# Parameters that others published for the same nets: SSD300 26.3 M, DSOD300 14.8 M (DSOD's table 4 rounds up).
@pytest.mark.parametrize(
    ("name", "millions"), [("ssd300_vgg16_voc0712", 26.3), ("dsod300_voc0712", 14.7), ("ssd512_vgg16_voc0712", 27.2)]
)
def test_costs_are_the_deploy_nets(name, millions, recipes):
    cost = net_cost(plan_net(recipes[name].deploy))
    assert prototxt.costs()[name] == (cost.num_parameters, cost.macs)
    assert cost.num_parameters / 1e6 == pytest.approx(millions, abs=0.06)  # printed to a tenth


# Sides of the source layers: 38, 19, 10, 5, 3, 1 in SSD; the published Root-ResNet-34 keeps 5 to the end, and where
# Caffe's poolings round up, ZF has 20 and DSOD ends at 2.
SIDES = {
    "ssd300_vgg16_voc0712": [38, 19, 10, 5, 3, 1],
    "ssd300_zf_voc0712": [38, 20, 10, 5, 3, 1],
    "ssd300_resnet101_voc0712": [38, 19, 10, 5, 3, 1],
    "ssd512_vgg16_voc0712": [64, 32, 16, 8, 4, 2, 1],
    "dsod300_voc0712": [38, 19, 10, 5, 3, 2],
    "scratchdet300_rootres34_voc0712": [38, 19, 10, 5, 5, 5],
    "scratchdet512_rootres34_coco": [64, 32, 16, 8, 4, 2, 1],
    "scratchdet300_rootres18_voc0712": [38, 19, 10, 5, 3, 1],
    "scratchdet300_mmdet_coco": [38, 19, 10, 5, 3, 3],
    "scratchdet512_mmdet_coco": [64, 32, 16, 8, 4, 2, 1],
    "figure3_resnet18": [38, 19, 10, 5, 3, 1],
    "figure3_resnet18a": [38, 19, 10, 5, 3, 1],
    "figure3_resnet18b": [38, 19, 10, 5, 3, 1],
    "table2_root5x3": [38, 19, 10, 5, 3, 1],
    "refinedet320_vgg16_voc0712": [40, 20, 10, 5],
    "refinedet512_resnet101_coco": [64, 32, 16, 8],
}


def source_sides(net):
    plan = plan_net(net)
    return [plan.bottom_shapes(index)[0][2] for index, node in enumerate(plan.graph.nodes) if node.type == "PriorBox"]


@pytest.mark.parametrize("name", SIDES)
def test_detection_layers(name, recipes):
    assert source_sides(recipes[name].deploy) == SIDES[name]


# Numbers of priors as SSD's and RefineDet's papers give them.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ssd300_vgg16_voc0712", 8732),
        ("ssd512_vgg16_voc0712", 24564),
        ("refinedet320_vgg16_voc0712", 6375),
        ("refinedet512_vgg16_voc0712", 16320),
        ("table2_root1x7", 8732),
    ],
)
def test_number_of_priors(name, expected, recipes):
    plan = plan_net(recipes[name].deploy)
    blob = "arm_priorbox" if name.startswith("refinedet") else "mbox_priorbox"
    assert plan.shapes[plan.graph.blob_names.index(blob)] == (1, 2, 4 * expected)


@pytest.mark.parametrize("size", [64, 96, 128, 160, 224, 300, 321, 512])
@pytest.mark.parametrize("depth", [18, 34])
def test_root_resnet_at_any_size(depth, size):
    recipe = rootresnet("narrow", depth, size, width=8, head_batchnorm=True, options=Options(num_classes=4))
    sides = source_sides(recipe.deploy)
    assert sides[0] == -(-size // 8)
    assert len(sides) >= 3
    assert recipe.deploy.input_shape[0].dim[2] == size


def test_extra_layers_end_at_one_cell():
    for feature in range(1, 65):
        side = feature
        for _, _, pad, stride in squeeze_stages(feature):
            side = (side + 2 * pad - 3) // stride + 1
        assert side == 1


def test_options_reach_the_files():
    options = Options(
        folder="out/mine",
        num_classes=7,
        train_source="lmdb/train",
        test_source="lmdb/test",
        label_map_file="labels.prototxt",
        name_size_file="sizes.txt",
        num_test_image=90,
        output_directory="",
        batch_size=12,
        gpus=(1, 3),
        base_lr=0.02,
        max_iter=1000,
        weights="start.caffemodel",
        size=160,
        width=0.25,
    )
    recipe = prototxt.build("scratchdet300_rootres18_voc0712", options)
    train, test, solver = recipe.train, recipe.test, recipe.solver
    assert train.layer[0].data_param.source == "lmdb/train"
    assert train.layer[0].data_param.batch_size == 6
    assert train.layer[0].transform_param.resize_param.width == 160
    assert train.layer[-1].multibox_loss_param.num_classes == 7
    assert test.layer[0].data_param.source == "lmdb/test"
    assert test.layer[0].annotated_data_param.label_map_file == "labels.prototxt"
    output = test.layer[-2].detection_output_param
    assert output.num_classes == 7
    assert not output.HasField("save_output_param")
    assert test.layer[-1].detection_evaluate_param.name_size_file == "sizes.txt"
    stem = next(layer for layer in train.layer if layer.name == "stem_1")
    assert stem.convolution_param.num_output == 16
    assert (solver.train_net, solver.snapshot_prefix) == (
        "out/mine/train.prototxt",
        "out/mine/scratchdet300_rootres18_voc0712",
    )
    assert list(solver.test_iter) == [90]
    assert (solver.base_lr, solver.max_iter, solver.test_interval) == (pytest.approx(0.02), 1000, 50)  # float32
    assert list(solver.stepvalue) == [400, 750, 900, 1000]
    assert solver.device_id == 1
    assert recipe.job.splitlines()[2:] == [
        "pyscratchdet train \\",
        "  --solver=out/mine/solver.prototxt \\",
        "  --weights=start.caffemodel \\",
        "  --gpu=1,3 \\",
        '  "$@" 2>&1 | tee -a out/mine/scratchdet300_rootres18_voc0712.log',
    ]


def test_detections_are_written_where_asked():
    output_of = lambda options: prototxt.build("ssd300_zf_voc0712", options).test.layer[-2:]  # noqa: E731
    output, evaluate = output_of(Options(output_directory="found", num_test_image=90, name_size_file="sizes.txt"))
    saved = output.detection_output_param.save_output_param
    assert (saved.output_directory, saved.num_test_image) == ("found/ssd300_zf_voc0712", 90)
    assert saved.name_size_file == evaluate.detection_evaluate_param.name_size_file == "sizes.txt"
    for options in (Options(output_directory="", name_size_file=""), Options(test_source="own")):
        output, evaluate = output_of(options)
        assert not output.detection_output_param.HasField("save_output_param")
        assert not evaluate.detection_evaluate_param.HasField("name_size_file")


def test_batches_are_shared_out_over_devices():
    training = Training(0.1, (), 10, 5, batch_size=64, accum_batch_size=128, gpus=(0, 1, 2, 3))
    assert (training.batch_size_per_device, training.iter_size) == (16, 2)
    alone = Options(gpus=()).training(training)
    assert (alone.batch_size_per_device, alone.iter_size) == (64, 2)
    assert Options(batch_size=30).training(training).iter_size == 1
    summed = Options(batch_size=8, accum_batch_size=36, gpus=(2,)).training(training)
    assert (summed.batch_size_per_device, summed.iter_size) == (8, 5)


def test_cpu_and_scratch():
    recipe = prototxt.build("ssd300_vgg16_voc0712", Options(gpus=(), weights=""))
    assert recipe.solver.solver_mode == caffe_pb2.SolverParameter.CPU
    assert "--gpu" not in recipe.job
    assert "--weights" not in recipe.job


def test_both_schedules_of_the_paper(recipes):
    script, paper = (recipes[f"scratchdet300_rootres34_voc0712{end}"] for end in ("", "_paper"))
    assert list(script.solver.stepvalue) == [40000, 75000, 90000, 100000]
    assert list(paper.solver.stepvalue) == [45000, 75000, 95000]
    assert any(layer.name == "conv4_12_mbox_loc_bn" for layer in paper.train.layer)
    assert all(layer.name != "conv4_12_mbox_loc_bn" for layer in script.train.layer)


@pytest.mark.parametrize(
    ("batchnorm", "backbone", "head"), [("none", 0, 0), ("backbone", 27, 0), ("head", 0, 12), ("all", 27, 12)]
)
def test_table_1_places_of_batchnorm(batchnorm, backbone, head, recipes):
    """27 in the backbone: 15 convolutions, 5 poolings, 7 extra layers (none after the last); 12 in the heads."""
    net = recipes[f"table1_vgg16_bn_{batchnorm}_lr0.01_scratch"].train
    found = [layer.name for layer in net.layer if layer.type == "BatchNorm"]
    assert sum("mbox" not in name for name in found) == backbone
    assert sum("mbox" in name for name in found) == head
    assert not any(layer.type == "Normalize" for layer in net.layer)


def test_dsod_without_batchnorm_has_none(recipes):
    with_, without = (recipes[f"dsod300{end}_voc0712"].train for end in ("", "_nobn"))
    assert sum(layer.type == "BatchNorm" for layer in without.layer) == 0
    count = [sum(layer.type == "Convolution" for layer in net.layer) for net in (with_, without)]
    assert count[0] == count[1]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ssd300_vgg16_voc071", {}, 'did you mean "ssd300_vgg16_voc0712"'),
        ("dsod300_voc0712", {"size": 320}, "has a fixed size"),
        ("ssd300_vgg16_coco", {"width": 0.5}, "has a fixed width"),
        ("refinedet320_vgg16_coco", {"size": 300}, "expected a multiple of 64 and found 300"),
        ("ssd300_vgg16_orig_voc0712", {"batch_size": 8}, "one picture per GPU"),
    ],
)
def test_what_makes_no_sense(name, options, message):
    with pytest.raises(UsageError, match=message):
        prototxt.build(name, Options(**options))


@pytest.mark.parametrize(
    "options", [{"num_classes": 1}, {"batch_size": 0}, {"base_lr": 0.0}, {"max_iter": -1}, {"size": 8}, {"width": 0}]
)
def test_options_too_small(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))} is too small"):
        Options(**options)


def test_no_such_depth():
    with pytest.raises(UsageError, match="expected 18 or 34 and found 50"):
        rootresnet(depth=50)


def test_writing_and_reading(tmp_path):
    recipe = prototxt.build("ssd300_zf_voc0712")
    paths = prototxt.write(recipe, tmp_path / "new" / "zf")
    assert sorted(path.name for path in paths) == sorted(os.listdir(tmp_path / "new" / "zf"))
    assert read(paths[0], caffe_pb2.NetParameter) == recipe.train
    assert os.access(paths[-1], os.X_OK)


def test_data_sets_keep_their_conventions():
    assert VOC0712.use_difficult_gt
    assert not COCO.use_difficult_gt
    assert COCO.force_color


def test_building_imports_no_torch():
    script = "import sys, prototxt; prototxt.build('ssd300_zf_voc0712'); sys.exit('torch' in sys.modules)"
    root = str(Path(prototxt.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": root})

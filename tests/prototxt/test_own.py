"""The recipe for one's own pictures: what is chosen by data and budget, what is written, and what stays as edited."""

import numpy as np
import pytest

from pyscratchdet import prototxt
from pyscratchdet.cli import main
from pyscratchdet.data.figures import DataFigures, SplitFigures
from pyscratchdet.data.own.findings import best_overlaps
from pyscratchdet.errors import DataError
from pyscratchdet.layers.costs import net_cost
from pyscratchdet.layers.plan import plan_net
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.proto.text import read
from pyscratchdet.proto.weights import read_weights
from pyscratchdet.prototxt import Options, own


def figures(side=0.4, pictures=150, classes=("cat", "dog"), spread=1.0, picture_size=(640, 480)):
    """Figures of square boxes whose sides spread around `side`."""
    sides = side * spread ** np.linspace(-1, 1, 2 * pictures)
    boxes = [(round(float(share), 4),) * 2 for share in sides]
    counts = [len(boxes) - 7 * (len(classes) - 1)] + [7] * (len(classes) - 1)
    train = SplitFigures(pictures, len(boxes), counts)
    return DataFigures(list(classes), train, SplitFigures(31, 40, [40 - len(classes) + 1] + [1] * (len(classes) - 1)),
                       picture_size, boxes)  # fmt: skip


def layers(net, kind):
    return [layer for layer in net.layer if layer.type == kind]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    figures().write(tmp_path / "data")
    return tmp_path / "data"


def test_small_boxes_get_a_larger_input():
    recipes = [own.build(figures(side), Options())[0] for side in (0.5, 0.2, 0.01)]
    sides = [recipe.deploy.input_shape[0].dim[-1] for recipe in recipes]
    assert sides[0] < sides[1] < sides[2]


def test_small_pictures_are_not_enlarged():
    recipe, _ = own.build(figures(0.05, picture_size=(160, 120)), Options())
    assert recipe.deploy.input_shape[0].dim[-1] == 160


def test_the_root_has_full_resolution_where_boxes_are_small_and_the_budget_allows_it():
    strides = [
        own.build(figures(side, pictures=40), Options(), minutes)[0].deploy.layer[0].convolution_param.stride[:]
        for side, minutes in ((0.05, 600), (0.05, 5), (0.5, 600))
    ]
    assert strides == [[1], [2], [2]]


def test_the_budget_sets_the_iterations():
    short, usual, long = (
        own.build(figures(pictures=1500), Options(), minutes)[0].solver for minutes in (5, own.MINUTES, 60)
    )
    assert short.max_iter < usual.max_iter < long.max_iter
    assert usual.max_iter == pytest.approx(own.MINUTES / 5 * short.max_iter, rel=0.02)  # they end on a test
    assert usual.max_iter % usual.test_interval == 0


def test_few_pictures_are_not_seen_forever():
    recipe, _ = own.build(figures(pictures=50), Options(), minutes=600)
    assert recipe.solver.max_iter * 8 <= 401 * 50


def test_twice_the_net_gets_half_the_iterations():
    narrow, wide = (own.build(figures(pictures=1500), Options(width=width))[0] for width in (0.25, 0.5))
    macs = [net_cost(plan_net(recipe.deploy)).macs for recipe in (narrow, wide)]
    assert wide.solver.max_iter == pytest.approx(narrow.solver.max_iter * macs[0] / macs[1], rel=0.02)


def test_settings_win():
    options = Options(size=200, width=0.5, batch_size=16, base_lr=0.02, max_iter=300, num_classes=5, weights="a")
    recipe, _ = own.build(figures(), options)
    assert recipe.deploy.input_shape[0].dim[-1] == 200
    assert recipe.deploy.layer[0].convolution_param.num_output == 32
    assert layers(recipe.train, "AnnotatedData")[0].data_param.batch_size == 16
    assert (recipe.solver.base_lr, recipe.solver.max_iter, recipe.weights) == (pytest.approx(0.02), 300, "a")
    assert layers(recipe.train, "MultiBoxLoss")[0].multibox_loss_param.num_classes == 5


def test_starts_from_the_projects_weights_unless_told_otherwise(folder, tmp_path, capsys):
    command = ["generate", "own", "--data", str(folder), "-o", str(tmp_path / "models")]
    assert main(command) == 0
    target = tmp_path / "models" / "own"
    assert list(read(target / "solver.prototxt", caffe_pb2.SolverParameter).weights) == [str(target / own.START.name)]
    assert (target / own.START.name).read_bytes() == own.START.read_bytes()
    assert "--reset-heads" in (target / "own.sh").read_text(encoding="utf-8")
    assert f"starts from {own.START.name}" in capsys.readouterr().out
    for flags, weights in ((["--weights", ""], []), (["--width", "0.5"], []), (["--weights", "mine"], ["mine"])):
        assert main([*command, *flags]) == 0
        assert list(read(target / "solver.prototxt", caffe_pb2.SolverParameter).weights) == weights


def test_the_projects_weights_fit_the_net_and_tell_no_paths():
    stored = own.START.read_bytes()
    assert len(stored) < 5_000_000
    assert not any(word in stored for word in (b"lmdb", b"prototxt", b"/home", b"/tmp"))
    blobs = read_weights(own.START).blobs
    for size in (128, 160, 256):
        layers = plan_net(own.build(figures(), Options(size=size))[0].deploy).layers
        body = [layer for layer in layers if layer.type == "Convolution" and "mbox" not in layer.name]
        shared = [layer for layer in body if layer.name in blobs]
        assert len(shared) >= 26
        for layer in shared:
            assert blobs[layer.name][0].shape == tuple(layer.blobs[0].shape), (size, layer.name)


def test_larger_batches_have_larger_rates_up_to_a_limit():
    rates = [own.build(figures(), Options(batch_size=batch))[0].solver.base_lr for batch in (4, 8, 32, 1024)]
    assert rates[0] < rates[1] < rates[2] == rates[3]


def test_gpus_share_the_batch():
    recipe, _ = own.build(figures(pictures=3000), Options(gpus=(0, 1)))
    assert layers(recipe.train, "AnnotatedData")[0].data_param.batch_size == 32
    assert recipe.solver.solver_mode == caffe_pb2.SolverParameter.GPU
    assert recipe.deploy.input_shape[0].dim[-1] == 300


def test_nothing_of_the_published_schedule_that_hurts_is_left():
    recipe, _ = own.build(figures(), Options())
    assert not recipe.solver.debug_info
    assert recipe.solver.clip_gradients > 0
    for priors in layers(recipe.deploy, "PriorBox"):
        sizes = [*priors.prior_box_param.min_size, *priors.prior_box_param.max_size]
        assert sizes == [int(size) for size in sizes]
    averages = {layer.batch_norm_param.moving_average_fraction for layer in layers(recipe.train, "BatchNorm")}
    assert len(averages) == 1
    fraction = averages.pop()
    assert 10 / recipe.solver.max_iter < 1 - fraction <= 0.05 + 1e-6  # float32
    crops = layers(recipe.train, "AnnotatedData")[0].annotated_data_param.batch_sampler
    assert len(crops) == 7
    assert layers(recipe.train, "AnnotatedData")[0].transform_param.expand_param.max_expand_ratio == 2


@pytest.mark.parametrize("spread", [1.0, 1.3, 2.0])
@pytest.mark.parametrize("side", [0.03, 0.1, 0.4])
def test_fitted_priors_cover_the_boxes_better(side, spread):
    data = figures(side, spread=spread)
    usual, fitted = (own.build(data, Options(), fit_priors=fit)[0] for fit in (False, True))
    means = [best_overlaps(np.array(data.sizes), own.prior_shares(recipe)).mean() for recipe in (usual, fitted)]
    assert means[1] >= means[0]
    for priors in layers(fitted.train, "PriorBox"):
        assert 0 < priors.prior_box_param.min_size[0] < priors.prior_box_param.max_size[0]
    assert layers(fitted.train, "PriorBox") == layers(fitted.test, "PriorBox") == layers(fitted.deploy, "PriorBox")


def test_command_fills_in_the_folders_data(folder, tmp_path, capsys):
    assert main(["generate", "own", "ssd300_vgg16_voc0712", "--data", str(folder), "-o", str(tmp_path / "models")]) == 0
    assert "150 pictures" in capsys.readouterr().out
    for name in ("own", "ssd300_vgg16_voc0712"):
        train = read(tmp_path / "models" / name / "train.prototxt", caffe_pb2.NetParameter)
        data = layers(train, "AnnotatedData")[0]
        assert data.data_param.source == str(folder / "train_lmdb")
        assert data.annotated_data_param.label_map_file == str(folder / "labelmap.prototxt")
        assert layers(train, "MultiBoxLoss")[0].multibox_loss_param.num_classes == 3
        solver = read(tmp_path / "models" / name / "solver.prototxt", caffe_pb2.SolverParameter)
        assert list(solver.test_iter) == [31 if name == "own" else 4]


def test_own_needs_data(tmp_path, capsys):
    assert main(["generate", "own", "-o", str(tmp_path)]) == 2
    assert "generate.data" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "flags", "code"),
    [
        (["own"], ["--minutes", "0"], "recipe.option"),
        (["own"], ["--minutes", "-3"], "recipe.option"),
        (["own"], ["--minutes", "nan"], "recipe.option"),
        (["ssd300_vgg16_voc0712"], ["--minutes", "5"], "generate.own"),
        (["own", "ssd300_vgg16_voc0712"], ["--fit-priors"], "generate.own"),
    ],
)
def test_settings_that_would_be_passed_over_are_refused(folder, tmp_path, capsys, names, flags, code):
    assert main(["generate", *names, "--data", str(folder), "-o", str(tmp_path / "models"), *flags]) == 2
    assert f"[{code}]" in capsys.readouterr().err


def test_pictures_without_boxes_choose_no_net():
    empty = SplitFigures(3, 0, [0])
    with pytest.raises(DataError, match="no boxes"):
        own.build(DataFigures(["cat"], empty, empty, (640, 480), []), Options())


def test_edited_files_stay(folder, tmp_path, capsys):
    command = ["generate", "own", "--data", str(folder), "-o", str(tmp_path / "models")]
    assert main([*command, "--max-iter", "500"]) == 0
    solver = tmp_path / "models" / "own" / "solver.prototxt"
    solver.write_text(solver.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    edited = solver.read_bytes()
    capsys.readouterr()
    assert main([*command, "--max-iter", "700", "--size", "96"]) == 0
    assert solver.read_bytes() == edited
    warning = capsys.readouterr().err
    assert f"{solver} was changed by hand" in warning
    assert read(solver.parent / "deploy.prototxt", caffe_pb2.NetParameter).input_shape[0].dim[-1] == 96
    assert main([*command, "--max-iter", "700", "--redo"]) == 0
    assert read(solver, caffe_pb2.SolverParameter).max_iter == 700
    assert not capsys.readouterr().err


def test_someone_elses_file_of_the_same_name_stays(folder, tmp_path, capsys):
    target = tmp_path / "models" / "own"
    target.mkdir(parents=True)
    (target / "train.prototxt").write_text('name: "mine"\n', encoding="utf-8")
    assert main(["generate", "own", "--data", str(folder), "-o", str(tmp_path / "models")]) == 0
    assert (target / "train.prototxt").read_text(encoding="utf-8") == 'name: "mine"\n'
    assert "train.prototxt was changed by hand" in capsys.readouterr().err


def test_own_is_no_published_recipe():
    assert own.NAME not in prototxt.entries()

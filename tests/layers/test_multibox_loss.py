import detection_cases as cases
import numpy as np
import pytest
import torch

from pyscratchdet.errors import LayerError

BOXES = [[0, 0, 0.4, 0.4], [0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 0.9], [0.6, 0.1, 1, 0.4], [0, 0.7, 0.3, 1]]
SHAPES = [(2, 20), (2, 15), (1, 2, 20), (1, 1, 3, 8)]
CENTER = "num_classes: 3 code_type: CENTER_SIZE"


@pytest.mark.parametrize("name", cases.recorded("MultiBoxLoss"))
def test_recorded(name):
    layer, bottoms, record = cases.load(name)
    shapes, (top,) = cases.run(layer, bottoms)
    assert shapes == [tuple(top.shape)] == [()]
    # A sum of some hundred float32 losses in another order.
    assert top.item() == pytest.approx(float(record["out:t0"]), rel=1e-6)
    top.backward(torch.from_numpy(record["topdiff:t0"]).reshape(()))
    for index in (0, 1):
        want = record[f"diff:b{index}"]
        got = bottoms[index].grad.numpy()
        assert np.array_equal(got != 0, want != 0)
        # float32: differences of probabilities lose digits where they are near 0.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def layer(text=CENTER, more=""):
    return cases.make(f'type: "MultiBoxLoss" {more} multibox_loss_param {{ {text} }}')


def bottoms(label):
    random = torch.Generator().manual_seed(3)
    loc, conf = torch.randn(2, 20, generator=random), torch.randn(2, 15, generator=random)
    rows = torch.tensor(label, dtype=torch.float32).reshape(1, 1, -1, 8)
    return [loc.requires_grad_(), conf.requires_grad_(), cases.prior_blob(BOXES), rows]


def value(made, label):
    return cases.run(made, bottoms(label))[1][0]


TRUTH = [[0, 1, 0, 0.02, 0.02, 0.42, 0.42, 0], [1, 2, 0, 0.5, 0.5, 0.8, 0.8, 0]]


def test_no_objects_no_loss_and_no_gradient():
    given = bottoms([-1] * 8)
    _, (top,) = cases.run(layer(), given)
    top.backward()
    assert top.item() == 0
    assert not given[0].grad.any()
    assert not given[1].grad.any()


def focal_rows(conf, labels, alpha, gamma):
    """Values and gradients of chuanqi305/FocalLoss's focal_loss_layer.cpp, one row (C,) and label after the other."""
    total, diff = 0.0, np.zeros(conf.shape)
    for row, (scores, label) in enumerate(zip(conf, labels, strict=True)):
        p = np.exp(scores) / np.exp(scores).sum()
        true = p[label]
        total -= alpha * (1 - true) ** gamma * np.log(true)
        for c in range(len(p)):
            if c == label:
                diff[row, c] = alpha * (1 - true) ** gamma * (gamma * true * np.log(true) + true - 1)
            else:
                first = (1 - true) ** (gamma - 1) * (-gamma * np.log(true) * true * p[c])
                diff[row, c] = alpha * (first + (1 - true) ** gamma * p[c])
    return total, diff


def test_focal_loss_of_every_prior():
    text = f"{CENTER} mining_type: NONE loc_weight: 0"
    focal = cases.make(f'type: "MultiBoxFocalLoss" focal_loss_param {{ gamma: 1.5 }} multibox_loss_param {{ {text} }}')
    given, plain = bottoms(TRUTH), layer(text)
    _, (top,) = cases.run(focal, given)
    top.backward()
    # Which prior has which label, the plain loss's gradient shows: it is negative at the label alone.
    others = bottoms(TRUTH)
    cases.run(plain, others)[1][0].backward()
    labels = others[1].grad.reshape(-1, 3).argmin(1).numpy()
    assert 0 < (labels > 0).sum() < len(labels)
    conf = given[1].detach().double().reshape(-1, 3).numpy()
    total, diff = focal_rows(conf, labels, 0.25, 1.5)
    matches = focal.matches[1]
    assert top.item() == pytest.approx(total / matches, rel=1e-5)  # a sum of ten float32 numbers
    np.testing.assert_allclose(
        given[1].grad.reshape(-1, 3), diff / matches, rtol=1e-4, atol=1e-7
    )  # differences of shares


@pytest.mark.parametrize("ratio", [0, -1])
def test_no_negatives_are_mined_without_a_positive_ratio(ratio):
    mined = value(layer(f"{CENTER} neg_pos_ratio: {ratio}"), TRUTH).item()
    assert 0 < mined < value(layer(CENTER), TRUTH).item()
    assert mined == value(layer(f"{CENTER} neg_overlap: 0"), TRUTH).item()


def test_propagate_down_leaves_a_part_out():
    flags = "propagate_down: {} propagate_down: {} propagate_down: false propagate_down: false"
    whole, loc, conf = (value(layer(more=flags.format(*f)), TRUTH).item() for f in ("11", "10", "01"))
    assert loc > 0.01
    assert conf > 0.01
    assert whole == pytest.approx(loc + conf, rel=1e-6)  # one float32 addition


def test_the_old_normalize_counts_where_normalization_is_not_given():
    def of(text):
        return value(layer(more=f"loss_param {{ {text} }}"), TRUTH).item()

    assert of("normalize: true") == of("normalization: VALID") == of("")
    assert of("normalize: false") == of("normalization: BATCH_SIZE")
    assert of("normalize: false normalization: NONE") == of("normalization: NONE")
    assert of("normalization: NONE") == pytest.approx(of("normalization: FULL") * 10, rel=1e-6)  # a float32 division


def test_a_second_pass_without_a_backward_pass_gives_the_same():
    made, given = layer(), bottoms(TRUTH)
    first = cases.run(made, given)[1][0]
    assert made.forward(given, [])[0].item() == first.item()


@pytest.mark.parametrize(
    ("text", "more", "code"),
    [
        ("", "", "num-classes"),
        ("num_classes: 0", "", "num-classes"),
        (f"{CENTER} background_label_id: 3", "", "background"),
        (f"{CENTER} background_label_id: 4294967295", "", "background"),
        (f"{CENTER} do_neg_mining: false", "", "mining"),
        (f"{CENTER} mining_type: NONE do_neg_mining: true", "", "mining"),
        (f"{CENTER} share_location: false", "", "share-location"),
        (f"{CENTER} mining_type: HARD_EXAMPLE sample_size: 0", "", "sample-size"),
        (f"{CENTER} map_object_to_agnostic: true", "", "agnostic"),
        (CENTER, "propagate_down: true", "propagate-down"),
    ],
)
def test_rules_at_setup(text, more, code):
    with pytest.raises(LayerError) as caught:
        layer(text, more).setup(SHAPES)
    assert caught.value.code == f"layer.{code}"


@pytest.mark.parametrize(
    ("index", "shape", "code"),
    [
        (0, (2, 24), "num-priors"),
        (1, (2, 16), "num-priors"),
        (1, (3, 15), "batch"),
        (2, (1, 2, 16), "num-priors"),
        (2, (1, 1, 20), "priors"),
        (2, (1, 2, 22), "priors"),
        (3, (1, 1, 3, 7), "label-shape"),
        (4, (2, 8), "num-priors"),
        (5, (2, 16), "num-priors"),
    ],
)
def test_rules_about_shapes(index, shape, code):
    made, shapes = layer(), [*SHAPES, (2, 10), (2, 20)]
    made.setup(shapes)
    assert made.reshape(shapes) == [()]
    shapes[index] = shape
    with pytest.raises(LayerError) as caught:
        made.reshape(shapes)
    assert caught.value.code == f"layer.{code}"
    assert caught.value.expected is not None
    assert caught.value.found is not None


@pytest.mark.parametrize("label", [0, 3, -2])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(LayerError) as caught:
        value(layer(), [[0, label, 0, 0.1, 0.1, 0.4, 0.4, 0]])
    assert caught.value.code == "layer.label"


def test_priors_without_area_or_variance_are_refused():
    made, given = layer(), bottoms(TRUTH)
    for row, place, code in ((0, 2, "priors"), (1, 5, "variance")):
        wrong = given[2].clone()
        wrong[0, row, place] = 0
        with pytest.raises(LayerError) as caught:
            cases.run(made, [*given[:2], wrong, given[3]])
        assert caught.value.code == f"layer.{code}"

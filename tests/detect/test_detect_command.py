"""`pyscratchdet detect`, `evaluate` and `score` on a net whose answers are known."""

import csv
import json
import logging
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest

from pyscratchdet.cli import main
from pyscratchdet.detect.export import ResultWriter, detection_rows, entry_xml, frame_entry
from pyscratchdet.detect.media import Frame, MediaSource
from pyscratchdet.detect.output import encode_jpeg
from pyscratchdet.detect.tables import ImageDetections


def test_every_format(folder, flags, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["detect", str(folder), *flags, "-o", str(out), "--format", "json,voc,coco,csv", "--crops"]) == 0
    printed = capsys.readouterr()
    assert "3 pictures, 3 objects (blue: 2, red: 1)" in printed.out
    assert printed.err.count("warning:") == 2
    assert "2 inputs could not be read" in printed.err

    content = json.loads((out / "detections.json").read_text())
    assert [image["name"] for image in content["images"]] == ["a", "c", "e"]
    assert [len(image["detections"]) for image in content["images"]] == [1, 2, 0]
    first = content["images"][0]["detections"][0]
    assert (first["class"], first["label"], first["box"]) == ("blue", 1, [48.0, 16.0, 72.0, 32.0])
    assert [one["path"].rsplit("/", 1)[1] for one in content["failed"]] == ["b.png", "d.jpg"]

    rows = list(csv.DictReader((out / "detections.csv").read_text().splitlines()))
    found = [(row["path"].rsplit("/", 1)[1], row["class"]) for row in rows]
    assert found == [("a.png", "blue"), ("c.png", "blue"), ("c.png", "red")]
    coco = json.loads((out / "coco.json").read_text())
    assert [(a["image_id"], a["category_id"], a["bbox"]) for a in coco["annotations"]] == [
        (1, 1, [48.0, 16.0, 24.0, 16.0]),
        (2, 1, [0.0, 0.0, 24.0, 16.0]),
        (2, 2, [120.0, 48.0, 24.0, 16.0]),
    ]
    assert [c["name"] for c in coco["categories"]] == ["blue", "red"]
    thing = ElementTree.parse(out / "Annotations" / "a.xml").find("object")
    assert [thing.findtext(f"bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")] == ["48", "16", "72", "32"]

    crop = cv2.imread(str(out / "crops" / "red" / "c_1.jpg"))
    assert crop.shape == (16, 24, 3)
    assert crop[8, 12, 2] > 230
    drawn = cv2.imread(str(out / "a.jpg"))
    assert drawn.shape == (64 * 4, 144 * 4, 3)


def test_xml_coordinates_are_rounded_and_names_are_text(tmp_path):
    """A class, a path or a file name may hold anything; what XML cannot hold is a U+FFFD there."""
    name = "<b>&amp;\x1b\udc80"
    box = np.array([[10.4, 10.6, 20.51, 30.49]], np.float32)
    found = ImageDetections(np.array([1]), np.array([0.5], np.float32), box)
    frame = Frame(MediaSource(f"in/{name}.png", "sub/a", "picture"), size=(40, 60))
    entry = {**frame_entry(frame), "detections": detection_rows(found, {1: name})}
    text = entry_xml(entry)
    root = ElementTree.fromstring(text)
    assert [root.findtext(f"object/bndbox/{tag}") for tag in ("xmin", "ymin", "xmax", "ymax")] == [
        "10",
        "11",
        "21",
        "30",
    ]
    assert root.findtext("object/name") == "<b>&amp;\ufffd\ufffd"
    assert root.findtext("filename") == f"{root.findtext('object/name')}.png"
    assert [root.findtext(f"size/{tag}") for tag in ("width", "height", "depth")] == ["60", "40", "3"]
    assert text.startswith("<annotation>\n\t<filename>")
    results = ResultWriter(tmp_path, {"box": "pixels"}, {1: name}, lambda: [json.dumps(entry).encode()], tuple)
    assert len(results.write(["json", "jsonl", "csv", "coco"])) == 4
    content = json.loads((tmp_path / "detections.json").read_text())
    assert content == {"box": "pixels", "images": [entry], "failed": []}
    assert (tmp_path / "detections.json").read_text() == json.dumps(content, indent=1) + "\n"


@pytest.mark.parametrize("arguments", [["--threshold", "nan"], ["--scale", "inf"]])
def test_numbers_are_finite(flags, arguments, capsys):
    """Every comparison with "nan" is false, so it would find nothing without a word."""
    with pytest.raises(SystemExit) as end:
        main(["detect", "x.png", *flags, *arguments])
    assert end.value.code == 2
    assert f"argument {arguments[0]}: invalid finite value: '{arguments[1]}'" in capsys.readouterr().err


@pytest.mark.parametrize(("height", "width"), [(3, 70000), (1, 65501), (65500, 1)])
def test_pictures_longer_than_jpeg_allows(height, width):
    data = np.frombuffer(encode_jpeg(np.full((height, width, 3), 90, np.uint8)), np.uint8)
    assert max(cv2.imdecode(data, cv2.IMREAD_COLOR).shape) == 65500


def test_names_reach_the_terminal_as_text(folder, flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as on the command line, without pytest's
    (folder / "x.gif").write_bytes(b"GIF89a")
    (folder / "\x1b[2J[b].png").write_bytes(b"no picture")
    labels = (tmp_path / "labels.prototxt").absolute()
    names = ("background", "[/b]\\033[31m../../x", "red")
    items = (f'item {{ name: "{k}" label: {k} display_name: "{name}" }}' for k, name in enumerate(names))
    labels.write_text("\n".join(items))
    model = tmp_path / "net.prototxt"
    output = 'layer { name: "\\033[31mout" type: "HDF5Output" bottom: "loc" bottom: "loc" '
    output += 'hdf5_output_param { file_name: "x.h5" } }'
    model.write_text(Path(flags[1]).read_text() + output)
    arguments = [
        "--model",
        str(model),
        *flags[2:4],
        "--labelmap",
        str(labels),
        *flags[6:],
        "--crops",
        "-o",
        str(tmp_path / "a" / "o"),
    ]
    assert main(["detect", str(folder), *arguments]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "[/b]\\x1b[31m../../x: 2" in out
    assert "\\x1b[2J[b].png" in err
    assert 'pyscratchdet: warning: layer "\\x1b[31mout" (HDF5Output): x.h5 is not written here' in err
    assert "1 file left out, not pictures or videos: 1 .gif" in err
    assert [path.name for path in (tmp_path / "a" / "o" / "crops").iterdir() if path.name != "red"] == [
        "[_b]_[31m.._.._x"
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "in", "labels.prototxt", "net.prototxt"}


def test_filters(folder, flags, tmp_path, capsys):
    assert main(["detect", str(folder), *flags, "-o", str(tmp_path / "o"), "--classes", "red", "--no-draw"]) == 0
    assert "1 object (red: 1)" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"detections.json", "detections.jsonl", "failed.jsonl"}
    assert main(["detect", str(folder), *flags, "-o", str(tmp_path / "o"), "--classes", "rad"]) == 2
    assert 'did you mean "red"?' in capsys.readouterr().err


def test_a_video(flags, tmp_path, capsys):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12, (144, 64))
    for k in range(9):
        frame = np.zeros((64, 144, 3), np.uint8)
        frame[16:32, 24 * (k % 6) : 24 * (k % 6) + 24, 0] = 255
        writer.write(frame)
    writer.release()
    assert main(["detect", str(tmp_path / "clip.avi"), *flags, "-o", str(tmp_path / "o"), "--batch-size", "4"]) == 0
    assert "9 pictures, 9 objects (blue: 9)" in capsys.readouterr().out
    content = json.loads((tmp_path / "o" / "detections.json").read_text())
    assert [image["frame"] for image in content["images"]] == list(range(9))
    assert [image["detections"][0]["box"][0] for image in content["images"]] == [24.0 * (k % 6) for k in range(9)]
    drawn = cv2.VideoCapture(str(tmp_path / "o" / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 9
    assert drawn.get(cv2.CAP_PROP_FPS) == 12
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "clip.mp4",
        "detections.json",
        "detections.jsonl",
    ]


def write_clip(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 12, (144, 64))
    for _ in range(3):
        writer.write(np.zeros((64, 144, 3), np.uint8))
    writer.release()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ("photos -o photos", "photos/a.jpg is one of the inputs"),
        ("photos/a.jpg -o link", "link/a.jpg is one of the inputs"),
        ("photos/a.jpg -o linked", "linked/a.jpg is one of the inputs"),
        ("photos/clip.mp4 -o photos", "photos/clip.mp4 is one of the inputs"),
        ("photos/b.png -o photos", "photos/b.jpg is no file that detect wrote"),
        ("list.txt -o out", "out/list/00000000_a.jpg is no file that detect wrote"),
        ("kit/VOC2007/JPEGImages -o kit/VOC2007 --no-draw --format voc", "VOC2007/Annotations/0.xml is no file that"),
        ("photos/a.jpg -o out --format coco", "out/coco.json is no file that detect wrote"),
        ("photos/a.jpg -o out --format parquet", "out/detections.parquet is no file that detect wrote"),
        ("photos/a.jpg -o out --format voc", "out/failed.jsonl is no file that detect wrote"),
    ],
)  # fmt: skip
def test_a_users_file_is_never_replaced(devkit, flags, picture, tmp_path, monkeypatch, capsys, line, refused):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a.jpg", "photos/b.jpg", "photos/b.png", "out/list/00000000_a.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, picture((0, 1, 2)))
    write_clip("photos/clip.mp4")
    Path("list.txt").write_text("photos/a.jpg\n")
    Path("link").symlink_to("photos")
    Path("linked").mkdir()
    Path("linked/a.jpg").hardlink_to("photos/a.jpg")
    Path("photos/a.jpg").chmod(0o444)
    for name, text in {"coco.json": '{"images": [], "annotations": [{"id": 1}]}\n', "failed.jsonl": "mine\n",
                       "detections.parquet": "PAR1"}.items():  # fmt: skip
        if name.startswith("failed") == line.endswith("voc"):
            (Path("out") / name).write_text(text)
    before = contents(tmp_path)
    assert main(["detect", *line.split(), *flags]) == 2
    error = capsys.readouterr().err
    assert refused in error
    assert "and is not replaced; give another folder with -o [file.exists]" in error
    assert "left out" not in error
    assert contents(tmp_path) == before


def test_a_rerun_replaces_what_it_wrote(folder, flags, tmp_path, capsys):
    """Also where the output folder is inside the inputs, so that the first run's pictures are the second's inputs."""
    write_clip(folder / "clip.avi")
    formats = ["json", "jsonl", "voc", "coco", "csv"]
    try:
        import pyarrow  # noqa: F401

        formats.append("parquet")
    except ImportError:
        pass
    arguments = ["detect", str(folder), *flags, "--crops", "--format", ",".join(formats)]
    for out in (tmp_path / "o", folder / "o"):
        assert main([*arguments, "-o", str(out)]) == 0
        before = contents(out)
        assert main([*arguments, "-o", str(out)]) == 0
        assert contents(out).keys() >= before.keys()
        assert ".tmp" not in capsys.readouterr().err
        if out.parent == tmp_path:
            assert contents(out) == before
    assert cv2.imread(str(tmp_path / "o" / "a.jpg")).shape == (256, 576, 3)
    assert cv2.VideoCapture(str(tmp_path / "o" / "clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_a_refused_run_leaves_an_unfinished_one(folder, flags, picture, tmp_path, monkeypatch):
    arguments = ["detect", str(folder), *flags, "-o", str(tmp_path / "o"), "--resume"]
    monkeypatch.setattr(ResultWriter, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(arguments)
    monkeypatch.undo()
    before = contents(tmp_path / "o" / ".run")
    cv2.imwrite(str(tmp_path / "o" / "mine.jpg"), picture())
    cv2.imwrite(str(tmp_path / "mine.png"), picture())
    assert main(["detect", str(tmp_path / "mine.png"), *flags, "-o", str(tmp_path / "o")]) == 2
    assert contents(tmp_path / "o" / ".run") == before
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        (["--mean", "1,x"], "usage.option"),
        (["--mean", "1,2"], "detect.mean"),
        (["--mean", "1,2,nan"], "usage.option"),
        (["--scale", "0"], "detect.scale"),
        (["--scale", "1e-60"], "detect.scale"),
        (["--size", "0x4"], "usage.option"),
        (["--format", "jsno"], "usage.option"),
        (["--batch-size", "0"], "usage.option"),
        (["--max-frames", "-1"], "usage.option"),
        (["--gpu", "99"], "train.gpu"),
        (["--labelmap", "{tmp}/short.prototxt"], "evaluate.class-count"),
        (["--labelmap", "{tmp}/none.prototxt"], "file.read"),
        (["--weights", "{tmp}/none.caffemodel"], "file.read"),
    ],
)
def test_bad_arguments_end_in_one_message(folder, flags, tmp_path, capsys, extra, code):
    (tmp_path / "short.prototxt").write_text('item { name: "background" label: 0 }')
    extra = [text.replace("{tmp}", str(tmp_path)) for text in extra]
    assert main(["detect", str(folder / "a.png"), *flags, *extra, "-o", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert f"[{code}]" in error
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("--mean 104 117 123", "write --mean 104,117,123; or --mean 104,104,104 if these are cameras"),
        ("--mean 104.0 117.0 123.0", "write --mean 104.0,117.0,123.0; "),
        ("--mean 0 0 0", "write --mean 0,0,0; or --mean 0,0,0 if"),
        ("--size 240 320", "write --size 240x320; or --size 240x240 if"),
    ],
)
def test_numbers_behind_an_option_are_no_cameras(folder, flags, tmp_path, capsys, words, written):
    assert main(["detect", *flags, *words.split(), str(folder), "-o", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert written in error
    assert "[usage.option]" in error
    assert not (tmp_path / "o").exists()


def test_nothing_readable(folder, flags, tmp_path, capsys):
    assert main(["detect", str(folder / "b.png"), str(folder / "d.jpg"), *flags, "-o", str(tmp_path / "o")]) == 2
    assert "detect.nothing-read" in capsys.readouterr().err
    assert main(["detect", str(folder / "b.png"), *flags, "-o", str(tmp_path / "o")]) == 2
    assert "detect.nothing-read" not in capsys.readouterr().err  # its own error says it all
    assert not (tmp_path / "o").exists()


def test_evaluate_voc_writes_results_that_judge_the_same(devkit, flags, tmp_path, capsys):
    arguments = ["evaluate", "voc", "--data", str(devkit), "--metric", "area", "--json"]
    assert main([*arguments, *flags, "-o", str(tmp_path / "o"), "--resume", str(tmp_path / "parts")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["classes"]["blue"] == {"AP": 1.0, "objects": 2, "detections": 2}
    assert figures["classes"]["red"]["AP"] == pytest.approx(2 / 3, abs=1e-12)  # float64 sums
    assert figures["mAP"] == pytest.approx(5 / 6, abs=1e-12)  # likewise
    assert (tmp_path / "o" / "report.html").is_file()
    assert main([*arguments, "--results", str(tmp_path / "o")]) == 0
    assert json.loads(capsys.readouterr().out)["mAP"] == pytest.approx(5 / 6, abs=1e-12)  # likewise
    for more, found in (([], "neither"), ([*flags, "--results", str(tmp_path / "o")], "both")):
        assert main([*arguments, *more]) == 2
        assert f"expected --model and --weights, or --results and found {found}" in capsys.readouterr().err


def test_evaluate_voc_prints_a_table(devkit, flags, capsys):
    assert main(["evaluate", "voc", "--data", str(devkit), *flags, "--multi-scale"]) == 0
    printed, told = capsys.readouterr()
    assert "blue" in printed
    assert "mAP = " in printed
    assert "multi-scale, each also mirrored: 32x48, 19x48, 19x28, 38x57, " in told


def test_a_hostile_tree(devkit, flags, tmp_path, capsys):
    """A class named as a path, markup and mathematics: nothing is written elsewhere, and there is no traceback."""
    for path in (devkit / "VOC2007" / "Annotations").iterdir():
        path.write_text(
            path.read_text().replace("<name>red</name>", "<name>z/../../../x [/b] $y$ &lt;script&gt;</name>")
        )
    labels = devkit / "labelmap.prototxt"
    labels.write_text(
        labels.read_text().replace('display_name: "red"', 'display_name: "z/../../../x [/b] $y$ <script>"')
    )
    before = set(tmp_path.rglob("*"))
    out = tmp_path / "p" / "q" / "r" / "out"
    arguments = ["evaluate", "voc", "--data", str(devkit), *flags[:4], "--labelmap", str(labels), *flags[6:]]
    assert main([*arguments, "-o", str(out)]) == 0
    assert "z/../../../x [/b] $y$ <script>" in capsys.readouterr().out
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.parent for path in new} == {out}
    assert main([*arguments[:4], "--labelmap", str(labels), "--results", str(out)]) == 0


def test_resuming_with_other_weights_of_the_same_name_is_refused(devkit, flags, tmp_path, capsys):
    weights = tmp_path / "net.caffemodel"
    shutil.copy(flags[3], weights)
    arguments = ["evaluate", "voc", "--data", str(devkit), *flags[:3], str(weights), *flags[4:]]
    arguments += ["--resume", str(tmp_path / "parts")]
    assert main(arguments) == 0
    assert main(arguments) == 0
    weights.write_bytes(weights.read_bytes() + b"\x0a\x01x")  # a second name, which wins
    assert main(arguments) == 2
    assert "parts of a run with other settings" in capsys.readouterr().err


def test_evaluate_coco(devkit, flags, tmp_path, capsys):
    from pyscratchdet.evaluate.sets import coco_from_truth, read_voc_truth

    truth = read_voc_truth(devkit / "VOC2007", classes=["blue", "red"])
    (tmp_path / "instances.json").write_text(json.dumps(coco_from_truth(truth)))
    arguments = ["evaluate", "coco", "--data", str(tmp_path / "instances.json"), "--json"]
    pictures = ["--images", str(devkit / "VOC2007" / "JPEGImages")]
    assert main([*arguments, *pictures, *flags, "-o", str(tmp_path / "o")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["classes50"]["blue"] == pytest.approx(1, abs=1e-12)  # a mean of 101 ones
    assert main([*arguments, *pictures, "--results", str(tmp_path / "o" / "detections.json")]) == 0
    assert json.loads(capsys.readouterr().out)["AP"] == figures["AP"]


def test_evaluate_says_it_and_the_page_shows_it(devkit, flags, tmp_path, capsys):
    from pyscratchdet.data.figures import DataFigures, SplitFigures

    data = DataFigures(
        ["blue", "red"], SplitFigures(5, 500, [480, 20]), SplitFigures(4, 5, [3, 2]), (144, 64), [(0.1, 0.2)] * 500
    )
    data.write(devkit)
    (tmp_path / "log.csv").write_text("kind,iteration,loss,mAP\ntrain,0,9,\ntest,10,,0.5\ntest,20,,0.7\n")
    known = ["--train-log", str(tmp_path / "log.csv")]
    arguments = ["evaluate", "voc", "--data", str(devkit), *flags, "-o", str(tmp_path / "o"), *known]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "what to try next: - mAP was still rising at the end (0.50 to 0.70 in the last two tests): train longer."
        in said
    )
    assert '- More pictures of "blue": AP' not in said
    assert '- More pictures of "red": AP 0.64 from 20 training boxes' in said
    page = (tmp_path / "o" / "report.html").read_text()
    assert "<li>mAP was still rising at the end" in page
    assert main([*arguments, "--json"]) == 0
    assert "still rising at the end" in json.loads(capsys.readouterr().out)["advice"][0]
    (devkit / "data.json").write_text("{}")
    assert main(arguments) == 2
    assert "[data.figures]" in capsys.readouterr().err


def test_score_names_the_best(devkit, flags, block_model, tmp_path, capsys):
    from pyscratchdet.runtime import load_net, save_weights

    deploy, weights, _ = block_model
    blind = load_net(str(deploy), str(weights))
    blind.params["conf"][0].detach().zero_()
    save_weights(blind, tmp_path / "net_iter_20.caffemodel")
    shutil.copy(weights, tmp_path / "net_iter_100.caffemodel")
    rest = flags[:2] + flags[4:]
    assert main(["score", str(tmp_path), *rest, "--data", str(devkit), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert [round(value, 4) for value in scores["scores"].values()] == [0.0, round((1 + 7 / 11) / 2, 4)]
    assert scores["best"].endswith("net_iter_100.caffemodel")
    assert main(["score", str(devkit), *rest, "--data", str(devkit)]) == 2
    assert "score.empty-folder" in capsys.readouterr().err


def _rows(name, table):
    """A blob (1, 1, N, W) of constants: concatenated single values."""
    text, rows = "", []
    for i, row in enumerate(table):
        tops = [f"{name}_{i}_{j}" for j in range(len(row))]
        for top, value in zip(tops, row, strict=True):
            text += f'layer {{ name: "{top}" type: "DummyData" top: "{top}" dummy_data_param {{'
            text += f" shape {{ dim: 1 dim: 1 dim: 1 dim: 1 }} data_filler {{ value: {value} }} }} }}\n"
        bottoms = " ".join(f'bottom: "{top}"' for top in tops)
        text += (
            f'layer {{ name: "{name}_{i}" type: "Concat" {bottoms} top: "{name}_{i}" concat_param {{ axis: 3 }} }}\n'
        )
        rows.append(f"{name}_{i}")
    bottoms = " ".join(f'bottom: "{row}"' for row in rows)
    return text + f'layer {{ name: "{name}" type: "Concat" {bottoms} top: "{name}" concat_param {{ axis: 2 }} }}\n'


def test_evaluate_caffe(tmp_path, capsys):
    found = [(0, 1, 0.9, 0.1, 0.1, 0.5, 0.5), (0, 1, 0.8, 0.6, 0.6, 0.9, 0.9), (0, 2, 0.7, 0.2, 0.2, 0.4, 0.4)]
    truth = [(0, 1, 0, 0.1, 0.1, 0.5, 0.5, 0), (0, 1, 0, 0.55, 0.1, 0.9, 0.5, 0), (0, 3, 0, 0.2, 0.2, 0.4, 0.4, 0)]
    net = _rows("det", found) + _rows("gt", truth)
    net += 'layer { name: "e" type: "DetectionEvaluate" bottom: "det" bottom: "gt" top: "eval" include { phase: TEST }'
    net += " detection_evaluate_param { num_classes: 4 background_label_id: 0 overlap_threshold: 0.5 } }"
    (tmp_path / "test.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(
        f'test_net: "{tmp_path}/test.prototxt" train_net: "x" test_iter: 2 test_interval: 5 ap_version: "MaxIntegral"'
    )
    assert main(["evaluate", "caffe", "--solver", str(tmp_path / "solver.prototxt")]) == 0
    # twice the same picture: tp tp fp fp of 4 positives
    expected = "class1: 0.5\nclass2: 0\nMissing true_pos for label: 3\n    Test net output #0: eval = 0.166667\n"
    assert capsys.readouterr().out == expected
    model = ["--model", str(tmp_path / "test.prototxt")]
    assert main(["evaluate", "caffe", *model, "--iterations", "1", "--ap-version", "bogus"]) == 2
    assert "evaluate.ap-version" in capsys.readouterr().err
    assert main(["evaluate", "caffe", *model]) == 2
    assert "--iterations with --model" in capsys.readouterr().err
    assert main(["evaluate", "caffe", "--solver", str(tmp_path / "solver.prototxt"), "--iterations", "0"]) == 2
    assert "--iterations: too small, expected at least 1 and found 0" in capsys.readouterr().err


def test_a_folder_stands_for_the_solvers_snapshots(tmp_path, capsys):
    from pyscratchdet.runtime import build_net, save_weights

    net = _rows("det", [(0, 1, 0.9, 0.1, 0.1, 0.5, 0.5)]) + _rows("gt", [(0, 1, 0, 0.1, 0.1, 0.5, 0.5, 0)])
    net += 'layer { name: "e" type: "DetectionEvaluate" bottom: "det" bottom: "gt" top: "eval" include { phase: TEST }'
    net += " detection_evaluate_param { num_classes: 2 background_label_id: 0 overlap_threshold: 0.5 } }"
    net += 'layer { name: "ip" type: "InnerProduct" bottom: "det" top: "ip" inner_product_param { num_output: 3 } }'
    (tmp_path / "test.prototxt").write_text(net + 'layer { name: "s" type: "Silence" bottom: "ip" }')
    solver, models = tmp_path / "solver.prototxt", tmp_path / "models"
    solver.write_text(f'test_net: "{tmp_path}/test.prototxt" test_iter: 1 snapshot_prefix: "elsewhere/o.n"')
    models.mkdir()
    for name in ("o.n_iter_20", "o.n_iter_0", "o.n_best"):
        save_weights(build_net(str(tmp_path / "test.prototxt"), "TEST"), models / f"{name}.caffemodel")
    others = [str(models / f"{name}.caffemodel") for name in ("other_iter_5", "own_start")]
    for path in others:
        shutil.copy(solver, path)
    command = ["score", "--solver", str(solver)]
    assert main([*command, str(models)]) == 0
    printed = capsys.readouterr()
    assert [line.split()[1] for line in printed.out.splitlines() if "caffemodel" in line] == ["-", "0", "20"]
    warning = "passed over, not being named o.n_iter_<n>.caffemodel or o.n_best.caffemodel: "
    assert warning + ", ".join(others) in printed.err
    assert main([*command, str(models), others[1]]) == 2  # named, so it is read
    assert f"{warning}{others[0]}\n" in capsys.readouterr().err
    for path in models.glob("o.n_*"):
        path.unlink()
    assert main([*command, str(models)]) == 2
    assert "found other_iter_5.caffemodel, own_start.caffemodel; to score other files, name them" in (
        capsys.readouterr().err
    )


def test_evaluate_caffe_wants_an_evaluation_layer(block_model, capsys):
    assert main(["evaluate", "caffe", "--model", str(block_model[0]), "--iterations", "1"]) == 2
    assert "evaluate.no-evaluate-layer" in capsys.readouterr().err


def test_extract_features(block_model, tmp_path, capsys):
    import lmdb

    from pyscratchdet.proto import caffe_pb2

    model = tmp_path / "net.prototxt"
    model.write_text(
        'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 3 dim: 4 dim: 2 dim: 5 }'
        " data_filler { value: 2 } } }\n"
        'layer { name: "p" type: "Power" bottom: "d" top: "p" power_param { power: 2 } }\n'
        'layer { name: "f" type: "Flatten" bottom: "p" top: "f" }'
    )
    first, second = tmp_path / "p_lmdb", tmp_path / "f_lmdb"
    arguments = ["extract-features", str(block_model[1]), str(model)]
    assert main([*arguments, "p,f", f"{first},{second}", "2", "lmdb"]) == 0
    assert "p of 6 pictures" in capsys.readouterr().out
    for path, shape in ((first, (4, 2, 5)), (second, (40, 1, 1))):
        with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin() as transaction:
            records = list(transaction.cursor())
        assert [key for key, _ in records] == [b"%010d" % k for k in range(6)]
        datum = caffe_pb2.Datum.FromString(records[5][1])
        assert (datum.channels, datum.height, datum.width) == shape
        assert list(datum.float_data) == [4.0] * 40
    assert main([*arguments, "q", str(tmp_path / "q"), "1", "lmdb"]) == 2
    assert "features.unknown-blob" in capsys.readouterr().err
    assert main([*arguments, "p,f", str(tmp_path / "q"), "1", "lmdb"]) == 2
    assert "differ in number" in capsys.readouterr().err


def mean_ap(capsys):
    printed, told = capsys.readouterr()
    return json.loads(printed)["mAP"], told


def test_evaluate_own_pictures(devkit, flags, tmp_path, capsys):
    """A devkit as a folder of pictures and XML gives the devkit's figure; so does its data folder."""
    common = [*flags, "--metric", "area", "--json"]
    assert main(["evaluate", "voc", "--data", str(devkit), *common]) == 0
    wanted, _ = mean_ap(capsys)
    own = ["evaluate", "folder", "--pictures", str(devkit), "--annotations", str(devkit)]
    assert main([*own, *common]) == 0
    assert mean_ap(capsys)[0] == wanted
    assert main([*own, *flags[:4], *flags[6:], *common[-3:]]) == 0  # without a label map
    assert mean_ap(capsys)[0] == wanted
    (devkit / "VOC2007/ImageSets/Main/trainval.txt").write_text("0\n")
    (devkit / "VOC2007/ImageSets/Main/test.txt").write_text("1\n2\n3\n")
    assert main(["lmdb", "folder", str(devkit), str(devkit), str(tmp_path / "data")]) == 0
    capsys.readouterr()
    assert main(["evaluate", "voc", "--data", str(devkit), *common]) == 0
    wanted, _ = mean_ap(capsys)
    data = ["evaluate", "folder", "--data", str(tmp_path / "data")]
    assert main([*data, *flags[:4], *flags[6:], *common[-3:], "-o", str(tmp_path / "o")]) == 0
    assert mean_ap(capsys)[0] == pytest.approx(wanted, abs=1e-12)  # printed in full
    assert main([*data, "--results", str(tmp_path / "o"), *common[-3:]]) == 0
    assert mean_ap(capsys)[0] == pytest.approx(wanted, abs=1e-12)  # likewise
    assert main([*data, "--set", "train", *common]) == 0
    capsys.readouterr()
    for wrong in ([], [*data[2:], *own[2:]], own[2:4]):
        assert main(["evaluate", "folder", *wrong, *common]) == 2
        assert "expected --data, or --pictures and --annotations" in capsys.readouterr().err
    (tmp_path / "data" / "test.txt").write_text("one.jpg\n")
    assert main([*data, *common]) == 2
    assert "evaluate.data-folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["voc", "coco", "folder"])
def test_skip_bad_leaves_a_damaged_picture_out_and_names_it(devkit, flags, tmp_path, capsys, kind):
    from pyscratchdet.evaluate.sets import coco_from_truth, read_voc_truth

    pictures, lists = devkit / "VOC2007" / "JPEGImages", devkit / "VOC2007" / "ImageSets" / "Main"

    def arguments(names):
        (lists / "test.txt").write_text("".join(f"{name}\n" for name in names))
        if kind == "folder":
            (tmp_path / "list.txt").write_text("".join(f"{pictures}/{name}.png\n" for name in names))
            return ["--pictures", str(tmp_path / "list.txt"), "--annotations", str(devkit / "VOC2007" / "Annotations")]
        if kind == "voc":
            return ["--data", str(devkit)]
        truth = read_voc_truth(devkit / "VOC2007", classes=["blue", "red"])
        (tmp_path / "instances.json").write_text(json.dumps(coco_from_truth(truth)))
        return ["--data", str(tmp_path / "instances.json"), "--images", str(pictures)]

    figure = "AP" if kind == "coco" else "mAP"
    command = ["evaluate", kind, *flags, "--json"]
    assert main([*command, *arguments("023")]) == 0
    wanted = json.loads(capsys.readouterr().out)[figure]
    whole = arguments("0123")
    data = (pictures / "1.png").read_bytes()
    (pictures / "1.png").write_bytes(data[: len(data) // 2])
    assert main([*command, *whole]) == 2
    assert "1.png" in capsys.readouterr().err
    skipping = [*command, *whole, "--skip_bad", "-o", str(tmp_path / "o")]
    if kind != "folder":
        skipping += ["--resume", str(tmp_path / "parts")]
    for _ in range(2):  # the second time from the finished part
        assert main(skipping) == 0
        printed, told = capsys.readouterr()
        assert json.loads(printed)[figure] == wanted
        assert "1.png: the picture is a truncated" in told if kind == "folder" else "1 picture left out: 1" in told
    if kind == "voc":
        (devkit / "VOC2007/Annotations/1.xml").write_text("<annotation><object>")
        assert main([*command, *whole]) == 2
        assert "1.xml:1:21: not a VOC annotation" in capsys.readouterr().err
        assert main([*command, *whole, "--skip_bad"]) == 0
        printed, told = capsys.readouterr()
        assert json.loads(printed)[figure] == wanted
        assert "1.xml:1:21: not a VOC annotation" in told
    if kind == "folder":
        return
    assert main([*command[:2], *whole, "--json", "--results", str(tmp_path / "o"), "--skip_bad"]) == 2
    assert "--results reads no pictures" in capsys.readouterr().err
    for path in pictures.iterdir():
        path.write_bytes(b"")
    assert main([*command, *whole, "--skip_bad"]) == 2
    assert "no picture can be read" in capsys.readouterr().err

"""What a run says about its databases: numbers that do not fit, classes never seen, pictures in both sets."""

import re
import shutil

import pytest
from toydetector import SQUARE, write_database, write_detector

from pyscratchdet.cli import main
from pyscratchdet.solver import data_checks

OTHER = (2, 0.1, 0.3, 0.5, 0.6)
SIZES = 'name_size_file: "FOLDER/sizes.txt"'
SAVE = """save_output_param { output_directory: "FOLDER/results" output_name_prefix: "p_" output_format: "VOC"
  label_map_file: "FOLDER/labels.prototxt" name_size_file: "FOLDER/sizes.txt" num_test_image: 4 }"""
LABELS = "".join(
    f'item {{ name: "{name}" label: {label} }}\n' for label, name in enumerate(["none", "cat", "dog", "owl"])
)


def warnings(text):
    """The warnings of a log, without glog's prefix, and without those of the original."""
    return re.findall(r"^W\d{4} \S+ +\d+ \S+\] (?!Missing true_pos)(.*)$", text, re.MULTILINE)


@pytest.fixture
def trained(tmp_path, capsys):
    """Trains for two iterations and returns what was warned of."""

    def run(*flags, **settings):
        path = write_detector(tmp_path, **settings)
        assert main(["train", "--solver", path, "--iterations=2", *flags]) == 0
        return warnings(capsys.readouterr().err)

    return run


def test_a_run_whose_numbers_fit_says_nothing(trained):
    assert trained() == []


def test_a_test_size_is_compared_with_the_database(trained, tmp_path):
    only = f"a test of 1 batch of 4 from {tmp_path}/test_lmdb takes only 4 of its 5, so its mAP is not that of the"
    assert trained(passes=1) == [f"{only} whole set; right: test_iter (or --iterations) 2"]
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (found,) = trained(passes=3)
    assert "of 3 batches of 4" in found
    assert "takes 12 pictures, some of them twice, of its 5" in found


@pytest.mark.parametrize("command", ["test", "evaluate", "score"])
def test_other_commands_compare_it_too(trained, tmp_path, capsys, caplog, command):
    trained()
    model = f"{tmp_path}/out/toy_iter_2.caffemodel"
    net, more = f"--model={tmp_path}/test.prototxt", f"--weights={model}"
    arguments = {
        "test": ["test", net, more, "--gpu="],
        "evaluate": ["evaluate", "caffe", net, more],
        "score": ["score", net, model, model],
    }[command]
    main([*arguments, "--iterations=2"])
    assert "a test of" not in capsys.readouterr().err + caplog.text
    main([*arguments, "--iterations=4"])
    error = capsys.readouterr().err + caplog.text  # where no log is kept, pytest takes the warnings of a logger
    assert error.count("a test of 4 batches of 4 from") == 1
    assert "right: test_iter (or --iterations) 2" in error


def test_the_numbers_of_result_files_are_compared_with_the_database(trained, tmp_path):
    sizes = tmp_path / "sizes.txt"
    sizes.write_text("".join(f"{number} 24 32\n" for number in range(4)))
    (tmp_path / "labels.prototxt").write_text(LABELS)
    count, saved, judged = trained(classes=4, sizes=SIZES, save=SAVE, train=((SQUARE, OTHER, (3, *SQUARE[1:])),))
    assert count.startswith('layer "detection_out" (DetectionOutput): num_test_image is 4, but ')
    assert count.endswith("test_lmdb has 5 pictures, so the result files mix up two tests or stay unwritten; right: 5")
    assert saved.startswith(f'layer "detection_out" (DetectionOutput): {sizes} has 4 lines, but ')
    assert judged.startswith(f'layer "detection_eval" (DetectionEvaluate): {sizes} has 4 lines, but ')


def test_classes_that_no_record_holds_are_named(trained, tmp_path):
    (tmp_path / "labels.prototxt").write_text(LABELS)
    (tmp_path / "sizes.txt").write_text("".join(f"{number} 24 32\n" for number in range(5)))
    (found,) = trained(classes=4, train=((SQUARE,), (OTHER,)), save=SAVE.replace("image: 4", "image: 5"))
    assert f"no record of {tmp_path}/train_lmdb has a box of class 3 (owl) (num_classes: 4)" in found


def test_many_classes_are_not_all_named(trained):
    (found,) = trained(classes=21, train=((SQUARE,),))
    assert "of classes 2, 3, 4, 5, 6 and 14 more (num_classes: 21)" in found


def test_a_database_without_boxes_is_named(trained):
    assert any("train_lmdb has a box, so there is nothing to learn" in found for found in trained(train=((), ())))


def test_labels_out_of_range_are_named_before_one_is_met(tmp_path, capsys):
    path = write_detector(tmp_path, classes=3, train=((SQUARE, OTHER), (SQUARE,), ((0, *SQUARE[1:]), (3, *SQUARE[1:]))))
    assert main(["train", "--solver", path, "--iterations=2"]) == 2
    error = capsys.readouterr().err
    (found,) = warnings(error)
    assert f"2 boxes of {tmp_path}/train_lmdb have labels 0, 3, but with num_classes: 3 labels go from 1 to 2" in found
    assert "background class is among the labels" in error


def test_labels_of_the_test_are_looked_at_too(trained, tmp_path):
    (found,) = trained(classes=3, train=((SQUARE, OTHER),), test=((SQUARE, (5, *SQUARE[1:])),) * 5)
    assert f"5 boxes of {tmp_path}/test_lmdb have label 5, but with num_classes: 3" in found


def test_pictures_in_both_sets_are_named(tmp_path, capsys):
    path = write_detector(tmp_path)
    shutil.rmtree(tmp_path / "test_lmdb")
    write_database(tmp_path / "test_lmdb", [[SQUARE]] * 8, seed=1)  # the training pictures and two more
    assert main(["train", "--solver", path, "--iterations=2"]) == 0
    (found,) = warnings(capsys.readouterr().err)
    assert f"6 pictures of 8 in {tmp_path}/test_lmdb are in {tmp_path}/train_lmdb too, byte for byte" in found
    assert 'such as record "00000000_0.png"' in found


def test_a_test_on_the_training_database_is_named(tmp_path, capsys):
    path = write_detector(tmp_path)
    net = tmp_path / "test.prototxt"
    net.write_text(net.read_text().replace("test_lmdb", "train_lmdb"))
    assert main(["train", "--solver", path, "--iterations=2"]) == 0
    (found,) = warnings(capsys.readouterr().err)
    assert found.startswith(f"the test reads the training database {tmp_path}/train_lmdb")


def test_large_databases_are_not_looked_through(trained, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(data_checks, "MOST_RECORDS", 5)
    path = write_detector(tmp_path, classes=3)
    assert main(["train", "--solver", path, "--iterations=2"]) == 0
    error = capsys.readouterr().err
    assert warnings(error) == []
    assert "train_lmdb has 6 records; classes and doubles are looked for in up to 5" in error


def test_a_resumed_run_does_not_look_through_the_records_again(trained, tmp_path, capsys):
    assert len(trained(classes=3)) == 1
    assert main(["train", f"--solver={tmp_path}/solver.prototxt", "--resume=auto", "--iterations=4"]) == 0
    assert warnings(capsys.readouterr().err) == []


def test_damaged_records_are_counted(tmp_path, capsys):
    from pyscratchdet.data.database import Database, new_database

    path = write_detector(tmp_path)
    records = list(Database(tmp_path / "train_lmdb"))
    shutil.rmtree(tmp_path / "train_lmdb")
    with new_database(tmp_path / "train_lmdb") as writer:
        for key, value in records:
            writer.put(key.decode(), b"\xff" if key.startswith(b"00000005") else value)
    main(["train", "--solver", path, "--iterations=1"])
    found = warnings(capsys.readouterr().err)
    assert any("1 record of" in one and 'record "00000005_5.png"' in one for one in found)

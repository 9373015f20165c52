"""The solver's detection evaluation against what the original printed, line by line.

`recorded/detections.npz` holds detections and ground truth of 12 iterations per variant; `recorded/lines.json` the log
lines of an original Caffe per AP version, without glog's prefix, and null where it aborted.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from pyscratchdet.cli import main

RECORDED = Path(__file__).parent / "recorded"
LINES = json.loads((RECORDED / "lines.json").read_text())
SETTINGS = {"difficult": "evaluate_difficult_gt: true", "thr": "overlap_threshold: 0.7"}
NET = """
layer {{ name: "data" type: "HDF5Data" top: "det" top: "gt" hdf5_data_param {{ source: "list.txt" batch_size: 1 }} }}
layer {{ name: "eval" type: "DetectionEvaluate" bottom: "det" bottom: "gt" top: "detection_eval"
  detection_evaluate_param {{ num_classes: 7 background_label_id: 0 {} }} }}
"""


@pytest.mark.parametrize("variant", sorted(LINES))
def test_lines_are_the_originals(variant, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with np.load(RECORDED / "detections.npz") as saved, h5py.File("det.h5", "w") as file:
        for name in ("det", "gt"):
            file[name] = saved[f"{variant}_{name}"]
        iterations = len(file["det"])
    Path("list.txt").write_text("det.h5\n")
    settings = {"evaluate_difficult_gt: false", "overlap_threshold: 0.5"}
    if variant in SETTINGS:
        name = SETTINGS[variant].split(":")[0]
        settings = {one for one in settings if not one.startswith(name)} | {SETTINGS[variant]}
    Path("test.prototxt").write_text(NET.format(" ".join(sorted(settings))))
    command = ["evaluate", "caffe", "--model", "test.prototxt", "--iterations", str(iterations), "--ap-version"]
    for version, lines in LINES[variant].items():
        status = main([*command, version])
        printed = capsys.readouterr()
        if lines is None:
            assert status == 2
            assert "[evaluate.ap-version]" in printed.err
        else:
            assert status == 0
            assert printed.out.splitlines() == (lines or ["detection_eval: no detections"])

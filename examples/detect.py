"""Finds objects in pictures with pyscratchdet: python detect.py PICTURE..."""

import sys
from pathlib import Path

from pyscratchdet import Detector, Preparation

HERE = Path(__file__).parent
MEAN, SCALE, RGB = (104.0, 117.0, 123.0), 1.0, False  # how the net's pictures are prepared

if len(sys.argv) < 2:
    sys.exit(__doc__)
if not (HERE / "labels.txt").exists():
    sys.exit("no labels.txt beside this program: run the copy in a folder that `convert MODEL FOLDER/` wrote")
names = dict(enumerate((HERE / "labels.txt").read_text(encoding="utf-8").splitlines()))
preparation = Preparation(MEAN, SCALE, RGB)
detector = Detector(HERE / "deploy.prototxt", HERE / "model.caffemodel", names, preparation=preparation)
for path in sys.argv[1:]:
    found = detector.detect(path, threshold=0.5)
    for label, score, (xmin, ymin, xmax, ymax) in zip(found.labels, found.scores, found.boxes_px, strict=True):
        print(f"{path}: {names[label]} {score:.2f} at {xmin:.0f}, {ymin:.0f}, {xmax:.0f}, {ymax:.0f}")

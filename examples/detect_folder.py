"""Finds objects in all pictures of a folder, eight at a time, and writes a CSV line for each.

python detect_folder.py deploy.prototxt model.caffemodel labelmap.prototxt photos/ found.csv
"""

import csv
import sys
from pathlib import Path

from pyscratchdet import Detector

if len(sys.argv) != 6:
    sys.exit(__doc__)
model, weights, labelmap, folder, target = sys.argv[1:]
detector = Detector(model, weights, labelmap, batch_size=8)
pictures = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
with open(target, "w", newline="", encoding="utf-8") as file:
    rows = csv.writer(file)
    rows.writerow(["picture", "class", "score", "xmin", "ymin", "xmax", "ymax"])
    for start in range(0, len(pictures), 8):
        batch = pictures[start : start + 8]
        for path, found in zip(batch, detector.detect(batch, threshold=0.3), strict=True):
            for label, score, box in zip(found.labels, found.scores, found.boxes_px, strict=True):
                rows.writerow([path.name, detector.names[label], f"{score:.4f}", *(f"{side:.1f}" for side in box)])
print(f"{target}: {len(pictures)} pictures")

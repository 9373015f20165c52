"""Finds objects in pictures with OpenCV 5, or onnxruntime, and model.onnx: python detect_opencv.py PICTURE..."""

import sys
from pathlib import Path

import cv2

HERE = Path(__file__).parent
WIDTH, HEIGHT = 300, 300  # of the net's input
MEAN, SCALE, RGB = (104.0, 117.0, 123.0), 1.0, False  # how the net's pictures are prepared

if len(sys.argv) < 2:
    sys.exit(__doc__)
if not (HERE / "labels.txt").exists():
    sys.exit("no labels.txt beside this program: run the copy in a folder that `convert MODEL FOLDER/` wrote")
names = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
if cv2.__version__ >= "5":
    net = cv2.dnn.readNetFromONNX(str(HERE / "model.onnx"))
else:
    try:
        import onnxruntime
    except ImportError:
        sys.exit(
            f"this is OpenCV {cv2.__version__}; model.onnx needs OpenCV 5, or onnxruntime: pip install onnxruntime"
        )
    session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])


def detect(blob):
    """Returns rows image, label, score, xmin, ymin, xmax, ymax; corners are shares of the picture's sides."""
    if cv2.__version__ < "5":
        return session.run(None, {session.get_inputs()[0].name: blob})[0].reshape(-1, 7)
    net.setInput(blob)
    return net.forward().reshape(-1, 7)


for path in sys.argv[1:]:
    picture = cv2.imread(path, cv2.IMREAD_COLOR if len(MEAN) == 3 else cv2.IMREAD_GRAYSCALE)
    if picture is None:
        sys.exit(f"{path}: not a picture")
    blob = cv2.dnn.blobFromImage(picture, SCALE, (WIDTH, HEIGHT), MEAN, swapRB=RGB)
    for _, label, score, *box in sorted(detect(blob), key=lambda row: -row[2]):
        if score >= 0.5:
            sides = picture.shape[1::-1] * 2
            corners = (min(max(share, 0), 1) * side for share, side in zip(box, sides, strict=True))
            print(f"{path}: {names[int(label)]} {score:.2f} at {', '.join(f'{corner:.0f}' for corner in corners)}")

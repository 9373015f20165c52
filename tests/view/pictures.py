"""Makes the pictures of docs/view.md: `python tests/view/pictures.py`, from the project's folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import chromium
import cv2
import numpy as np

from pyscratchdet.cli import main

NETS = Path("prototxt/models")
DOCS = Path("docs/pictures")
PICTURES = {
    "view_net.webp": (["ssd300_vgg16_voc0712"], "conv6_2_mbox_priorbox", False),
    "view_against.webp": (["ssd300_vgg16_voc0712", "ssd300_vgg16_coco"], "conv6_2_mbox_conf", True),
}


def make_pictures() -> None:
    """Writes them."""
    chrome = chromium.start()
    with tempfile.TemporaryDirectory() as folder:
        for name, (nets, layer, dark) in PICTURES.items():
            page = Path(folder) / "page.html"
            first, *others = (str(NETS / net / "deploy.prototxt") for net in nets)
            main(["view", first, "-o", str(page), *(word for net in others for word in ("--against", net))])
            chromium.show(chrome, page, layer, 1400, 820, dark)
            picture = cv2.imdecode(np.frombuffer(chrome.get_screenshot_as_png(), np.uint8), cv2.IMREAD_COLOR)
            cv2.imwrite(str(DOCS / name), picture, [cv2.IMWRITE_WEBP_QUALITY, 80])
    chrome.quit()


if __name__ == "__main__":
    make_pictures()

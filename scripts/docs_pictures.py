#!/usr/bin/env python3
"""Make the pictures of the documentation from what `make demo` left.

    python scripts/docs_pictures.py [demo]

Pages are photographed by headless Chromium, which must be installed. Every picture gets at most 256 colours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
# {picture: (page of the demo, width, height)}
PAGES = {
    "report.png": ("evaluation/report.html", 1000, 1250),
    "verify.png": ("verify.html", 1000, 900),
    "data.png": ("lmdb/data.html", 1000, 1100),
}
COLUMNS, ROWS, SIDE, GAP = 4, 2, 232, 8  # of the sheet of detections


def main(demo: Path) -> None:
    """Writes all pictures."""
    for name, (page, width, height) in PAGES.items():
        save(photograph(demo / page, width, height), name)
    with Image.open(demo / "training.png") as plot:
        save(plot.resize((1000, plot.height * 1000 // plot.width)), "training.png")
    save(sheet(sorted((demo / "detections").glob("*.jpg"))), "detections.png")


def photograph(page: Path, width: int, height: int) -> Image.Image:
    """Returns the upper part of a page as Chromium shows it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("docs_pictures.py: needs Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "page.png")
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
        options += [f"--window-size={width},{height}", f"--screenshot={target}", page.resolve().as_uri()]
        subprocess.run([browser, *options], check=True, capture_output=True)
        with Image.open(target) as picture:
            return picture.convert("RGB")


def sheet(paths: list[Path]) -> Image.Image:
    """Returns the first pictures side by side, each with its larger side at `SIDE`."""
    result = Image.new("RGB", (COLUMNS * (SIDE + GAP), ROWS * (SIDE + GAP)), "white")
    for index, path in enumerate(paths[: COLUMNS * ROWS]):
        with Image.open(path) as picture:
            scale = SIDE / max(picture.size)
            part = picture.convert("RGB").resize((round(picture.width * scale), round(picture.height * scale)))
        left, top = index % COLUMNS * (SIDE + GAP), index // COLUMNS * (SIDE + GAP)
        result.paste(part, (left + (SIDE + GAP - part.width) // 2, top + (SIDE + GAP - part.height) // 2))
    return result


def save(picture: Image.Image, name: str) -> None:
    """Writes a picture with a palette, as small as PNG makes it."""
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))

"""`python -m prototxt`: writes models/ anew from the recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

from prototxt import write_tree

if __name__ == "__main__":
    models = Path(__file__).parent / "models"
    shutil.rmtree(models, ignore_errors=True)
    print(f"{len(write_tree(models))} files in {models}")

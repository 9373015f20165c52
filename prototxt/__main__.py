"""`python -m pyscratchdet.prototxt`: writes models/ anew from the recipes."""

from __future__ import annotations

import shutil

from pyscratchdet.prototxt import MODELS, write_tree

if __name__ == "__main__":
    shutil.rmtree(MODELS, ignore_errors=True)
    print(f"{len(write_tree(MODELS))} files in {MODELS}")

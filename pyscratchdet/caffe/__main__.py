"""`python -m pyscratchdet.caffe script.py`: runs a script written for Caffe, unchanged."""

from __future__ import annotations

import sys

from pyscratchdet.caffe.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

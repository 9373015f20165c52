"""`python -m pyscratchdet.caffe script.py`: a script written for Caffe, as it is."""

from __future__ import annotations

import sys

from pyscratchdet.caffe.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

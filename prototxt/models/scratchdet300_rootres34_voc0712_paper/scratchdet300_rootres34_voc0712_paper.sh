#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/scratchdet300_rootres34_voc0712_paper/solver.prototxt \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/scratchdet300_rootres34_voc0712_paper/scratchdet300_rootres34_voc0712_paper.log

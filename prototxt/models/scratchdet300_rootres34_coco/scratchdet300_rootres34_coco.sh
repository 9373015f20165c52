#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/scratchdet300_rootres34_coco/solver.prototxt \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/scratchdet300_rootres34_coco/scratchdet300_rootres34_coco.log

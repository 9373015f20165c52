#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/scratchdet512_mmdet_coco/solver.prototxt \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/scratchdet512_mmdet_coco/scratchdet512_mmdet_coco.log

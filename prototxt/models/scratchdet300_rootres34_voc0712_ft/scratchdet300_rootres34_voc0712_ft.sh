#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/scratchdet300_rootres34_voc0712_ft/solver.prototxt \
  --weights=models/scratchdet300_rootres34_coco/coco_for_voc.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/scratchdet300_rootres34_voc0712_ft/scratchdet300_rootres34_voc0712_ft.log

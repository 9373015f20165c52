#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/scratchdet300_rootres18_voc0712/solver.prototxt \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/scratchdet300_rootres18_voc0712/scratchdet300_rootres18_voc0712.log

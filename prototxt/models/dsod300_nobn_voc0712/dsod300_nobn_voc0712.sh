#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/dsod300_nobn_voc0712/solver.prototxt \
  --gpu=0,1,2,3,4,5,6,7 \
  "$@" 2>&1 | tee -a prototxt/models/dsod300_nobn_voc0712/dsod300_nobn_voc0712.log

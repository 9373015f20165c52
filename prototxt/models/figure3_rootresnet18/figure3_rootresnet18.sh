#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/figure3_rootresnet18/solver.prototxt \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/figure3_rootresnet18/figure3_rootresnet18.log

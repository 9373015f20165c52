#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/ssd300_zf_voc0712/solver.prototxt \
  --weights=models/ZFNet/ZF_conv_reduced.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/ssd300_zf_voc0712/ssd300_zf_voc0712.log

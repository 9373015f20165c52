#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/ssd300_resnet101_voc0712/solver.prototxt \
  --weights=models/ResNet/ResNet-101-model.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/ssd300_resnet101_voc0712/ssd300_resnet101_voc0712.log

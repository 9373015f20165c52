#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/refinedet512_resnet101_coco/solver.prototxt \
  --weights=models/ResNet/ResNet-101-model.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/refinedet512_resnet101_coco/refinedet512_resnet101_coco.log

#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/refinedet320_vgg16_voc0712plus_ft/solver.prototxt \
  --weights=models/refinedet320_vgg16_coco/coco_for_voc.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/refinedet320_vgg16_voc0712plus_ft/refinedet320_vgg16_voc0712plus_ft.log

#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/refinedet512_vgg16_voc0712plus_ft/solver.prototxt \
  --weights=models/refinedet512_vgg16_coco/coco_for_voc.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/refinedet512_vgg16_voc0712plus_ft/refinedet512_vgg16_voc0712plus_ft.log

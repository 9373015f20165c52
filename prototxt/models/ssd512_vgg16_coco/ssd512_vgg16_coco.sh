#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/ssd512_vgg16_coco/solver.prototxt \
  --weights=models/VGGNet/VGG_ILSVRC_16_layers_fc_reduced.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/ssd512_vgg16_coco/ssd512_vgg16_coco.log

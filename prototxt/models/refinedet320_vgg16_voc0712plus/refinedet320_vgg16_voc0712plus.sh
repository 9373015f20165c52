#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/refinedet320_vgg16_voc0712plus/solver.prototxt \
  --weights=models/VGGNet/VGG_ILSVRC_16_layers_fc_reduced.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/refinedet320_vgg16_voc0712plus/refinedet320_vgg16_voc0712plus.log

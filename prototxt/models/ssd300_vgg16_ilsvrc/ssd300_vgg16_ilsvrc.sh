#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/ssd300_vgg16_ilsvrc/solver.prototxt \
  --weights=models/VGGNet/VGG_ILSVRC_16_layers_fc_reduced.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/ssd300_vgg16_ilsvrc/ssd300_vgg16_ilsvrc.log

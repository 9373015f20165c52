#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/ssd300_vgg16_voc0712/solver.prototxt \
  --weights=models/VGGNet/VGG_ILSVRC_16_layers_fc_reduced.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/ssd300_vgg16_voc0712/ssd300_vgg16_voc0712.log

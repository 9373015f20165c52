#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/table1_vgg16_bn_none_lr0.05_pretrained/solver.prototxt \
  --weights=models/VGGNet/VGG_ILSVRC_16_layers_fc_reduced.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/table1_vgg16_bn_none_lr0.05_pretrained/table1_vgg16_bn_none_lr0.05_pretrained.log

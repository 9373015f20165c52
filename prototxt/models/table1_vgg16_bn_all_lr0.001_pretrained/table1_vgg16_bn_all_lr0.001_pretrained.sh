#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/table1_vgg16_bn_all_lr0.001_pretrained/solver.prototxt \
  --weights=models/VGGNet/VGG_16_bn.caffemodel \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/table1_vgg16_bn_all_lr0.001_pretrained/table1_vgg16_bn_all_lr0.001_pretrained.log

#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/table1_vgg16_bn_backbone_lr0.001_scratch/solver.prototxt \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/table1_vgg16_bn_backbone_lr0.001_scratch/table1_vgg16_bn_backbone_lr0.001_scratch.log

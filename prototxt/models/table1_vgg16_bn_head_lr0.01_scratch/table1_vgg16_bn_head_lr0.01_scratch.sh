#!/usr/bin/env bash
set -euo pipefail
pyscratchdet train \
  --solver=prototxt/models/table1_vgg16_bn_head_lr0.01_scratch/solver.prototxt \
  --gpu=0,1,2,3 \
  "$@" 2>&1 | tee -a prototxt/models/table1_vgg16_bn_head_lr0.01_scratch/table1_vgg16_bn_head_lr0.01_scratch.log

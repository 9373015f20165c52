#!/bin/sh
# Computes COCO's twelve figures for a trained detector, at one scale and, with MULTI_SCALE=1, at several (resumable).
#
# usage: scripts/eval_coco.sh DEPLOY CAFFEMODEL INSTANCES_JSON PICTURES [OUTPUT]
# Environment variables: LABELMAP (coco), ENGINE (pycocotools or faster-coco-eval), GPU, MULTI_SCALE.
set -eu
[ $# -ge 4 ] || { sed -n '4,5s/^# //p' "$0" >&2; exit 2; }
model=$1 weights=$2 data=$3 pictures=$4 output=${5:-evaluation}
set -- --model "$model" --weights "$weights" --labelmap "${LABELMAP:-coco}" --data "$data" --images "$pictures" \
    --engine "${ENGINE:-pycocotools}" ${GPU:+--gpu "$GPU"}
pyscratchdet evaluate coco "$@" --resume "$output/parts" --output "$output"
if [ -n "${MULTI_SCALE:-}" ]; then
    pyscratchdet evaluate coco "$@" --multi-scale --resume "$output/multi_scale_parts" --output "$output/multi_scale"
fi

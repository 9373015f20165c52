#!/bin/sh
# Computes the VOC AP of a trained detector, at one scale and, with MULTI_SCALE=1, at several. Run again to continue.
#
# usage: scripts/eval_voc.sh DEPLOY CAFFEMODEL VOCDEVKIT [OUTPUT]
# Environment variables: YEAR (2007), SET (test), METRIC (11point; area for 2012), LABELMAP (voc), GPU, MULTI_SCALE.
set -eu
[ $# -ge 3 ] || { sed -n '4,5s/^# //p' "$0" >&2; exit 2; }
model=$1 weights=$2 data=$3 output=${4:-evaluation}
set -- --model "$model" --weights "$weights" --labelmap "${LABELMAP:-voc}" --data "$data" --year "${YEAR:-2007}" \
    --set "${SET:-test}" --metric "${METRIC:-11point}" ${GPU:+--gpu "$GPU"}
pyscratchdet evaluate voc "$@" --resume "$output/parts" --output "$output"
if [ -n "${MULTI_SCALE:-}" ]; then
    pyscratchdet evaluate voc "$@" --multi-scale --resume "$output/multi_scale_parts" --output "$output/multi_scale"
fi

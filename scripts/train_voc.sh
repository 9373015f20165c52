#!/bin/sh
# Trains a published detector from scratch on PASCAL VOC 2007+2012 trainval and tests it on VOC 2007 test.
# Run it again to continue after a stop. GPUS="" means the CPU.
#
# usage: scripts/train_voc.sh VOCDEVKIT [OUTPUT]
# Environment variables: NET (scratchdet300_rootres34_voc0712), GPUS (0), BATCH, LR, ITERATIONS, KEEP (3), WORKERS.
set -eu
[ $# -ge 1 ] || { sed -n '5,6s/^# //p' "$0" >&2; exit 2; }
data=$1 output=${2:-training/voc}
net=${NET:-scratchdet300_rootres34_voc0712}
labelmap=$output/labelmap_voc.prototxt
mkdir -p "$output"
[ -e "$labelmap" ] || pyscratchdet create-label-map voc "$labelmap"
[ -e "$output/trainval_lmdb" ] ||
    pyscratchdet lmdb voc "$data" "$output/trainval_lmdb" --split trainval --years 2007,2012 --label-map "$labelmap"
[ -e "$output/test_lmdb" ] ||
    pyscratchdet lmdb voc "$data" "$output/test_lmdb" --split test --years 2007 --label-map "$labelmap"
pyscratchdet generate "$net" -o "$output/models" --gpus "${GPUS-0}" \
    --train-source "$output/trainval_lmdb" --test-source "$output/test_lmdb" --label-map-file "$labelmap" \
    --name-size-file "$output/test_lmdb_name_size.txt" --num-test-image 4952 \
    ${BATCH:+--batch-size "$BATCH"} ${LR:+--base-lr "$LR"} ${ITERATIONS:+--max-iter "$ITERATIONS"}
pyscratchdet train --solver "$output/models/$net/solver.prototxt" --resume auto --keep "${KEEP:-3}" \
    --log "$output/$net.log" --metrics "$output/$net.csv" ${GPUS:+--gpu "$GPUS"} ${WORKERS:+--workers "$WORKERS"}
pyscratchdet plot-log "$output/$net.csv" -o "$output/$net.png" --title "$net"

#!/bin/sh
# Trains a published detector from scratch on COCO trainval35k and tests it on minival.
# Run it again to continue after a stop. GPUS="" means the CPU.
#
# usage: scripts/train_coco.sh PICTURES TRAIN_JSON[,MORE_JSON] MINIVAL_JSON MINIVAL_PICTURES [OUTPUT]
# Environment variables: NET (scratchdet300_rootres34_coco), GPUS (0), BATCH, LR, ITERATIONS, KEEP (3), WORKERS,
# NUM_TEST (5000).
set -eu
[ $# -ge 4 ] || { sed -n '5,7s/^# //p' "$0" >&2; exit 2; }
pictures=$1 train=$2 minival=$3 test_pictures=$4 output=${5:-training/coco}
net=${NET:-scratchdet300_rootres34_coco}
mkdir -p "$output"
[ -e "$output/train_lmdb" ] || pyscratchdet lmdb coco "$pictures" "$train" "$output/train_lmdb" --without "$minival"
[ -e "$output/minival_lmdb" ] || pyscratchdet lmdb coco "$test_pictures" "$minival" "$output/minival_lmdb"
pyscratchdet generate "$net" -o "$output/models" --gpus "${GPUS-0}" \
    --train-source "$output/train_lmdb" --test-source "$output/minival_lmdb" \
    --label-map-file "$output/train_lmdb_labelmap.prototxt" --name-size-file "$output/minival_lmdb_name_size.txt" \
    --num-test-image "${NUM_TEST:-5000}" \
    ${BATCH:+--batch-size "$BATCH"} ${LR:+--base-lr "$LR"} ${ITERATIONS:+--max-iter "$ITERATIONS"}
pyscratchdet train --solver "$output/models/$net/solver.prototxt" --resume auto --keep "${KEEP:-3}" \
    --log "$output/$net.log" --metrics "$output/$net.csv" ${GPUS:+--gpu "$GPUS"} ${WORKERS:+--workers "$WORKERS"}
pyscratchdet plot-log "$output/$net.csv" -o "$output/$net.png" --title "$net"

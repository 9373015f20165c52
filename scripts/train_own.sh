#!/bin/sh
# Trains a detector from scratch on your own pictures, laid out like VOC's: Annotations/*.xml, JPEGImages/*.jpg and
# ImageSets/Main/{trainval,test}.txt in VOCDEVKIT/VOC<year>. Run it again to continue after a stop.
#
# usage: scripts/train_own.sh VOCDEVKIT LABELMAP_PROTOTXT NUM_CLASSES NUM_TEST_PICTURES [OUTPUT]
#        NUM_CLASSES includes the background; `pyscratchdet create-label-map` makes a label map.
# Environment variables: NET (scratchdet300_rootres18_voc0712), GPUS (none: the CPU), SIZE (300), WIDTH (1: factor on
# the channels), BATCH (16), LR, ITERATIONS (10000), KEEP (3), WORKERS.
set -eu
[ $# -ge 4 ] || { sed -n '5,8s/^# //p' "$0" >&2; exit 2; }
data=$1 labelmap=$2 classes=$3 num_test=$4 output=${5:-training/own}
net=${NET:-scratchdet300_rootres18_voc0712}
mkdir -p "$output"
for split in trainval test; do
    [ -e "$output/${split}_lmdb" ] ||
        pyscratchdet lmdb voc "$data" "$output/${split}_lmdb" --split "$split" --label-map "$labelmap"
done
pyscratchdet generate "$net" -o "$output/models" --gpus "${GPUS-}" --num-classes "$classes" \
    --train-source "$output/trainval_lmdb" --test-source "$output/test_lmdb" --label-map-file "$labelmap" \
    --name-size-file "$output/test_lmdb_name_size.txt" --num-test-image "$num_test" \
    --size "${SIZE:-300}" --width "${WIDTH:-1}" --batch-size "${BATCH:-16}" --max-iter "${ITERATIONS:-10000}" \
    ${LR:+--base-lr "$LR"}
pyscratchdet train --solver "$output/models/$net/solver.prototxt" --resume auto --keep "${KEEP:-3}" --fast \
    --log "$output/$net.log" --metrics "$output/$net.csv" ${GPUS:+--gpu "$GPUS"} ${WORKERS:+--workers "$WORKERS"}
pyscratchdet plot-log "$output/$net.csv" -o "$output/$net.png" --title "$net"

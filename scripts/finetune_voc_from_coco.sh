#!/bin/sh
# Fine-tunes a COCO detector on PASCAL VOC 2007+2012: picks VOC's 20 classes from its confidence layers, then trains
# (ScratchDet, section 4.5). Run it again to continue after a stop. GPUS="" means the CPU.
#
# usage: scripts/finetune_voc_from_coco.sh COCO_CAFFEMODEL VOCDEVKIT [OUTPUT]
# Environment variables: NET (scratchdet300_rootres34_voc0712_ft), GPUS (0), BATCH, LR, ITERATIONS, KEEP (3), WORKERS.
set -eu
[ $# -ge 2 ] || { sed -n '5,6s/^# //p' "$0" >&2; exit 2; }
coco=$1 data=$2 output=${3:-training/voc_from_coco}
net=${NET:-scratchdet300_rootres34_voc0712_ft}
labelmap=$output/labelmap_voc.prototxt
weights=$output/voc_classes.caffemodel
mkdir -p "$output"
[ -e "$weights" ] || pyscratchdet convert "$coco" "$weights" --coco-to-voc
[ -e "$labelmap" ] || pyscratchdet create-label-map voc "$labelmap"
[ -e "$output/trainval_lmdb" ] ||
    pyscratchdet lmdb voc "$data" "$output/trainval_lmdb" --split trainval --years 2007,2012 --label-map "$labelmap"
[ -e "$output/test_lmdb" ] ||
    pyscratchdet lmdb voc "$data" "$output/test_lmdb" --split test --years 2007 --label-map "$labelmap"
pyscratchdet generate "$net" -o "$output/models" --gpus "${GPUS-0}" --weights "$weights" \
    --train-source "$output/trainval_lmdb" --test-source "$output/test_lmdb" --label-map-file "$labelmap" \
    --name-size-file "$output/test_lmdb_name_size.txt" --num-test-image 4952 \
    ${BATCH:+--batch-size "$BATCH"} ${LR:+--base-lr "$LR"} ${ITERATIONS:+--max-iter "$ITERATIONS"}
pyscratchdet train --solver "$output/models/$net/solver.prototxt" --weights "$weights" --resume auto \
    --keep "${KEEP:-3}" --log "$output/$net.log" --metrics "$output/$net.csv" \
    ${GPUS:+--gpu "$GPUS"} ${WORKERS:+--workers "$WORKERS"}
pyscratchdet plot-log "$output/$net.csv" -o "$output/$net.png" --title "$net"

#!/usr/bin/env bash
# Makes COCO's LMDBs as SSD uses them: trainval35k, minival and, if its json is there, test-dev.
# Usage: create_coco_lmdb.sh COCO OUTPUT [more flags of `pyscratchdet lmdb`]
# COCO holds images/{train2014,val2014,test2015} and annotations/instances_{train,val,minival}2014.json.
set -euo pipefail

coco="${1:?COCO folder}" output="${2:?output folder}"
shift 2
annotations="$coco/annotations"

mkdir -p "$output"
pyscratchdet create-label-map coco "$output/labelmap_coco.prototxt"
make_set() {
    pyscratchdet lmdb coco "$coco/images" "$@" --label-map "$output/labelmap_coco.prototxt"
}
make_set "$annotations/instances_train2014.json,$annotations/instances_val2014.json" "$output/coco_trainval35k_lmdb" \
    --without "$annotations/instances_minival2014.json" "$@"
make_set "$annotations/instances_minival2014.json" "$output/coco_minival_lmdb" --noshuffle "$@"
testdev="$annotations/image_info_test-dev2015.json"
if [[ -f "$testdev" ]]; then
    make_set "$testdev" "$output/coco_testdev_lmdb" --noshuffle "$@"
fi

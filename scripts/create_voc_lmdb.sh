#!/usr/bin/env bash
# Makes LMDBs, lists and sizes of VOC0712 (07+12 trainval; 07 test) or VOC0712Plus (07+12 trainval, 07 test; 12 test).
# Usage: create_voc_lmdb.sh VOCDEVKIT OUTPUT [VOC0712|VOC0712Plus] [more flags of `pyscratchdet lmdb`]
set -euo pipefail

devkit="${1:?VOCdevkit folder}" output="${2:?output folder}" name="${3:-VOC0712}"
shift $(($# < 3 ? $# : 3))
case "$name" in
    VOC0712) train=2007_trainval,2012_trainval test=2007_test ;;
    VOC0712Plus) train=2007_trainval,2007_test,2012_trainval test=2012_test ;;
    *)
        echo "unknown set $name: VOC0712 or VOC0712Plus" >&2
        exit 2
        ;;
esac

mkdir -p "$output"
pyscratchdet create-label-map voc "$output/labelmap_voc.prototxt"
for part in "trainval $train" "test $test"; do
    read -r split lists <<<"$part"
    pyscratchdet lmdb voc "$devkit" "$output/${name}_${split}_lmdb" --split "$lists" \
        --label-map "$output/labelmap_voc.prototxt" "$@"
done

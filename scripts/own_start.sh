#!/usr/bin/env bash
# Trains the weights that `generate own` starts from: shapes made here and the training pictures of BCCD (blood cells,
# 292 pictures, MIT licence), together as one set of nine classes. About 12 minutes of one core.
# Usage: own_start.sh BCCD_FOLDER [OUTPUT]; BCCD_FOLDER has Annotations/, ImageSets/ and JPEGImages/. Run again to go on.
set -euo pipefail

bccd="${1:?folder of BCCD}" output="${2:-training/own_start}"
shapes="$output/shapes/VOCdevkit/VOC2007"
if [ ! -e "$output/pictures" ]; then
    pyscratchdet demo-data "$output/shapes" --images 1200 --test 60 --size 192 --seed 11
    mkdir -p "$output/annotations"
    cp "$shapes"/Annotations/*.xml "$output/annotations"
    cp -r "$shapes/JPEGImages" "$output/pictures"
    while read -r name; do
        cp "$bccd/Annotations/$name.xml" "$output/annotations"
        cp "$bccd/JPEGImages/$name.jpg" "$output/pictures"
    done <"$bccd/ImageSets/Main/trainval.txt"
fi
pyscratchdet lmdb folder "$output/pictures" "$output/annotations" "$output/data" --split 0.96
pyscratchdet generate own --data "$output/data" -o "$output/models" --size 160 --max-iter 2400 --weights "" \
    --test-interval 1200 --snapshot 2400
pyscratchdet train --solver "$output/models/own/solver.prototxt" --resume auto --fast --workers 1 \
    --log "$output/training.log" --metrics "$output/training.csv" 2>"$output/training.err" ||
    { tail -n 20 "$output/training.err" >&2; exit 1; }
# By way of HDF5, which holds values alone: a caffemodel tells the paths of its training.
deploy="$output/models/own/deploy.prototxt"
pyscratchdet convert "$output/models/own/own_iter_2400.caffemodel" "$output/own_start.caffemodel.h5" --model "$deploy"
pyscratchdet convert "$output/own_start.caffemodel.h5" "$output/own_start.caffemodel" --model "$deploy"

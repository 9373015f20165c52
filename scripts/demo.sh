#!/usr/bin/env bash
# The main job end to end, on data made here: data set -> LMDB -> prototxts -> training from scratch -> mAP -> pictures
# -> caffemodel, safetensors, ONNX -> proof. Usage: demo.sh [FOLDER]; what is there already is made anew.
set -euo pipefail

out="${1:-demo}"
net="scratchdet300_rootres18_voc0712"
size=128          # side of the input
width=0.25        # a quarter of the published channels
iterations=700
start=$SECONDS

step() {
    printf '\n\033[1m[%3d s] %s\033[0m\n' "$((SECONDS - start))" "$1"
}

run() {
    printf '$ pyscratchdet %s\n' "$*"
    pyscratchdet "$@"
}

rm -rf "$out"
mkdir -p "$out"
cd "$out"

step "A data set: pictures of shapes with boxes, as a VOCdevkit"
run demo-data data --images 500 --test 100 --size 160 --seed 7

step "AnnotatedDatum LMDBs, as convert_annoset writes them"
for split in trainval test; do
    run lmdb voc data/VOCdevkit "lmdb/$split" --split "$split" --label-map data/labelmap.prototxt
done

step "Prototxts of a narrow Root-ResNet-18 ScratchDet"
run generate "$net" -o models --size "$size" --width "$width" --num-classes 7 \
    --train-source lmdb/trainval --test-source lmdb/test --label-map-file data/labelmap.prototxt \
    --num-test-image 100 --batch-size 16 --max-iter "$iterations" --gpus ""

step "Training from scratch with Caffe's SGD"
run train --solver "models/$net/solver.prototxt" --fast --metrics training.csv --log training.log
run plot-log training.log -o training.png

model="models/$net/deploy.prototxt"
weights="$(ls -t snapshots/*.caffemodel | head -n 1)"
echo "$model $weights"

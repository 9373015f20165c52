#!/usr/bin/env bash
# Trains the zoo's detector of blood cells from scratch (BCCD, 364 photographs of 640x480, three classes, MIT licence),
# the published Root-ResNet-18 at a quarter of its width, and writes what pyscratchdet/detect/zoo/bccd has into OUTPUT/zoo.
# Under an hour of one CPU core; its figures: docs/results/bccd.md.
# Usage: bccd.sh BCCD_FOLDER [OUTPUT]; BCCD_FOLDER has Annotations/, ImageSets/ and JPEGImages/. Run again to continue.
set -euo pipefail

scripts="$(cd "$(dirname "$0")" && pwd)"
data="$(cd "${1:?folder of BCCD}" && pwd)" output="${2:-training/bccd}"
export OMP_NUM_THREADS=1 # wherever it runs, it is to compute the same
net=scratchdet300_rootres18_voc0712
size=256   # side of the input; the paper has 300
width=0.25 # a quarter of the paper's channels
iterations=1600

mkdir -p "$output/VOCdevkit"
cd "$output"
ln -sfn "$data" VOCdevkit/VOC2007

if [ ! -e "models/$net/solver.prototxt" ]; then
    printf 'RBC\nWBC\nPlatelets\n' >names.txt
    pyscratchdet create-label-map names.txt labelmap.prototxt --include_background
    for split in trainval test; do
        pyscratchdet lmdb voc VOCdevkit "${split}_lmdb" --split "$split" --label-map labelmap.prototxt --redo
    done
    pyscratchdet generate "$net" -o models --size "$size" --width "$width" --num-classes 4 --gpus "" \
        --train-source trainval_lmdb --test-source test_lmdb --label-map-file labelmap.prototxt --num-test-image 72 \
        --batch-size 8 --base-lr 0.005 --max-iter "$iterations" --stepvalue 1160,1480 --snapshot 400 --test-interval 400
    python "$scripts/short_run.py" "models/$net"
fi

pyscratchdet train --solver "models/$net/solver.prototxt" --resume auto --fast --workers 1 \
    --log training.log --metrics training.csv 2>training.err || { tail -n 20 training.err >&2; exit 1; }
pyscratchdet plot-log training.csv -o training.png --title "Root-ResNet-18 at a quarter of its width, blood cells"

mkdir -p zoo
cp "models/$net/deploy.prototxt" labelmap.prototxt zoo
# By way of safetensors, which hold values alone: a caffemodel tells the paths of its training.
pyscratchdet convert "models/$net/${net}_iter_$iterations.caffemodel" zoo/bccd.safetensors --model zoo/deploy.prototxt
pyscratchdet convert zoo/bccd.safetensors zoo/bccd.caffemodel --model zoo/deploy.prototxt
pyscratchdet evaluate voc --data VOCdevkit --model zoo/deploy.prototxt --weights zoo/bccd.caffemodel \
    --labelmap labelmap.prototxt -o evaluation

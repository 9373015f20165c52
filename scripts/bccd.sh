#!/usr/bin/env bash
# A real run from scratch on real photographs: blood cells (BCCD, 364 pictures of 640x480, three classes, MIT licence),
# with the published Root-ResNet-18 at a quarter of its width. About an hour on one CPU core.
# Usage: bccd.sh BCCD_FOLDER [OUTPUT]; BCCD_FOLDER has Annotations/, ImageSets/ and JPEGImages/. Run again to continue.
set -euo pipefail

scripts="$(cd "$(dirname "$0")" && pwd)"
data="$(cd "${1:?folder of BCCD}" && pwd)" output="${2:-bccd}"
net=scratchdet300_rootres18_voc0712
size=200   # side of the input; the paper has 300
width=0.25 # a quarter of the paper's channels
iterations=1400

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
        --batch-size 8 --base-lr 0.005 --max-iter "$iterations" --stepvalue 1020,1300 --snapshot 700 --test-interval 200
    python "$scripts/short_run.py" "models/$net"
fi

pyscratchdet train --solver "models/$net/solver.prototxt" --resume auto --fast --workers 1 \
    --log training.log --metrics training.csv 2>training.err || { tail -n 20 training.err >&2; exit 1; }
pyscratchdet plot-log training.csv -o training.png --title "Root-ResNet-18 at a quarter of its width, blood cells"
pyscratchdet evaluate voc --data VOCdevkit --model "models/$net/deploy.prototxt" \
    --weights "models/$net/${net}_iter_$iterations.caffemodel" --labelmap labelmap.prototxt -o evaluation

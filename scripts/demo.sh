#!/usr/bin/env bash
# The main job end to end, on data made here: data set -> LMDB -> prototxts -> training from scratch -> mAP -> pictures
# -> caffemodel, safetensors, ONNX -> proof. Usage: demo.sh [FOLDER]; FOLDER is removed first and made again.
set -euo pipefail

out="${1:-demo}"
start=$SECONDS

step() { printf '\n\033[1m[%3d s] %s\033[0m\n' "$((SECONDS - start))" "$1"; }
run() {
    printf '$ pyscratchdet %s\n' "$*"
    pyscratchdet "$@"
}

rm -rf "$out"
mkdir -p "$out"
cd "$out"

step "A data set: pictures of shapes with boxes, as a VOCdevkit"
run demo-data data --images 2000 --test 100 --size 128 --seed 7

step "AnnotatedDatum LMDBs, as convert_annoset writes them, and a page of figures"
run lmdb folder data/VOCdevkit data/VOCdevkit lmdb 2>data.err || { tail -n 20 data.err >&2; exit 1; }
labelmap=lmdb/labelmap.prototxt

step "Prototxts: the paper's net, and a narrow one for this data, from scratch"
run generate scratchdet300_rootres34_voc0712 -o models
run generate own --data lmdb -o models --gpus "" --weights ""
model=models/own/deploy.prototxt
iterations="$(sed -n 's/^max_iter: //p' models/own/solver.prototxt)"
weights="models/own/own_iter_$iterations.caffemodel"
run summary "$model" --total

step "Training from scratch with Caffe's Adam"
run train --solver models/own/solver.prototxt --fast --keep 3 --log training.log --metrics training.csv 2>training.err ||
    { tail -n 20 training.err >&2; exit 1; }
grep -E 'Iteration [0-9]+, (loss|Testing)|detection_eval' training.log | sed 's/^[^]]*\] //' | tail -n 12
run plot-log training.csv -o training.png --title "Narrow Root-ResNet-18 from scratch"

step "Mean average precision on held-out pictures"
run evaluate folder --data lmdb --model "$model" --weights "$weights" --labelmap "$labelmap" \
    --train-log training.csv -o evaluation

step "Detections drawn into pictures"
head -n 24 data/VOCdevkit/VOC2007/ImageSets/Main/test.txt | sed 's|.*|data/VOCdevkit/VOC2007/JPEGImages/&.jpg|' |
    xargs pyscratchdet detect --model "$model" --weights "$weights" --labelmap "$labelmap" --threshold 0.3 -o detections

step "Weights as safetensors and back; the whole detector as ONNX"
run convert "$weights" model.safetensors --model "$model"
run convert model.safetensors again.caffemodel --model "$model"
cmp "$weights" again.caffemodel && echo "again.caffemodel is the trained caffemodel, byte for byte"
rm again.caffemodel
run convert "$weights" model.onnx --model "$model"

step "Proof: every blob against onnxruntime and OpenCV 4"
first="$(head -n 1 data/VOCdevkit/VOC2007/ImageSets/Main/test.txt)"
run verify --model "$model" --weights "$weights" --input "data/VOCdevkit/VOC2007/JPEGImages/$first.jpg" \
    --against onnxruntime opencv --report verify.html

step "Done"
cat <<EOF
Made in $out/:
  data/VOCdevkit/           the data set          lmdb/               its databases, data.html
  models/                   prototxts, snapshots  training.png        loss, rate, mAP
  evaluation/report.html    mAP, curves, errors   detections/         pictures and json
  model.safetensors, .onnx  the trained detector  verify.html         blob by blob

Try next:
  pyscratchdet train --solver models/own/solver.prototxt --snapshot models/own/own_iter_$iterations.solverstate \
      --iterations $((iterations + 1000))
  pyscratchdet detect --model $model --weights $weights --labelmap $labelmap YOUR_PICTURES
  scripts/train_own.sh YOUR_PICTURES THEIR_ANNOTATIONS
(the first two from within $out/, with .venv/bin in PATH)
EOF

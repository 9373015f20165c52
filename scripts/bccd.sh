#!/usr/bin/env bash
# A real run from scratch on real photographs: blood cells (BCCD, 364 pictures of 640x480, three classes, MIT licence),
# with the published Root-ResNet-18 at a quarter of its width. About an hour on one CPU core.
# Usage: bccd.sh BCCD_FOLDER [OUTPUT]; BCCD_FOLDER has Annotations/, ImageSets/ and JPEGImages/. Run again to go on.
set -euo pipefail

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
    # Changed for a run of an hour: BatchNorm averages that keep up, and crops that leave the cells about their size.
    python - "models/$net" <<'END'
import sys
from pathlib import Path

from pyscratchdet.proto import caffe_pb2, text

folder = Path(sys.argv[1])
for name in ("train", "test", "deploy"):
    net = text.read(folder / f"{name}.prototxt", caffe_pb2.NetParameter)
    for layer in net.layer:
        if layer.type == "BatchNorm":
            layer.batch_norm_param.moving_average_fraction = 0.98
        if layer.type == "AnnotatedData" and name == "train":
            layer.transform_param.expand_param.prob = 0.05
            samplers = layer.annotated_data_param.batch_sampler  # of seven: the whole, crops of overlap 0.7, 0.9
            del samplers[6], samplers[1:4]
            for crop in samplers[1:]:
                crop.sampler.min_scale = 0.6
    text.write(folder / f"{name}.prototxt", net)
solver = text.read(folder / "solver.prototxt", caffe_pb2.SolverParameter)
solver.debug_info = False
solver.random_seed = 1
text.write(folder / "solver.prototxt", solver)
END
fi

pyscratchdet train --solver "models/$net/solver.prototxt" --resume auto --fast --workers 1 \
    --log training.log --metrics training.csv 2>training.err || { tail -n 20 training.err >&2; exit 1; }
pyscratchdet plot-log training.csv -o training.png --title "Root-ResNet-18 at a quarter of its width, blood cells"
pyscratchdet evaluate voc --data VOCdevkit --model "models/$net/deploy.prototxt" \
    --weights "models/$net/${net}_iter_$iterations.caffemodel" --labelmap labelmap.prototxt -o evaluation

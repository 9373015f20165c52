#!/usr/bin/env bash
# ScratchDet's first finding (figures 1 and 7 of the paper) at small scale: the same narrow net from scratch with and
# without BatchNorm in its backbone, each at the paper's base learning rate and at ten times that.
# Usage: bccd_batchnorm.sh [OUTPUT]; OUTPUT is the folder in which bccd.sh made the databases.
set -euo pipefail

cd "${1:-bccd}"
net=scratchdet300_rootres18_voc0712
iterations=200

for rate in 0.001 0.01; do
    for variant in batchnorm plain; do
        name="${variant}_lr$rate"
        pyscratchdet generate "$net" -o "finding/$name" --size 100 --width 0.25 --num-classes 4 --gpus "" \
            --train-source trainval_lmdb --test-source test_lmdb --label-map-file labelmap.prototxt \
            --num-test-image 72 --batch-size 8 --base-lr "$rate" --max-iter "$iterations" --stepvalue "$iterations" \
            --snapshot "$iterations" --test-interval "$iterations"
        # A loss every five iterations, and no test. "plain" loses its BatchNorm layers; the Scale layers stay, so each
        # channel keeps a factor and a bias.
        python - "finding/$name/$net" "$variant" <<'END'
import sys
from pathlib import Path

from pyscratchdet.proto import caffe_pb2, text

folder, variant = Path(sys.argv[1]), sys.argv[2]
net = text.read(folder / "train.prototxt", caffe_pb2.NetParameter)
net.layer[0].transform_param.expand_param.prob = 0.05
if variant == "plain":
    layers, source = [], ""
    for layer in net.layer:
        if layer.type == "BatchNorm":
            source = layer.bottom[0]
            continue
        if source:  # its Scale layer
            layer.bottom[0], source = source, ""
        layers.append(layer)
    net.CopyFrom(caffe_pb2.NetParameter(name=net.name, layer=layers))
text.write(folder / "train.prototxt", net)
solver = text.read(folder / "solver.prototxt", caffe_pb2.SolverParameter)
solver.debug_info = False
solver.display = 5
solver.random_seed = 1
solver.snapshot_after_train = False
for field in ("test_net", "test_iter", "test_interval"):
    solver.ClearField(field)
text.write(folder / "solver.prototxt", solver)
END
        rm -f "finding/$name.csv"
        pyscratchdet train --solver "finding/$name/$net/solver.prototxt" --fast --workers 1 \
            --log "finding/$name.log" --metrics "finding/$name.csv" 2>"finding/$name.err" ||
            tail -n 3 "finding/$name.err"
    done
done
pyscratchdet plot-log finding/{batchnorm,plain}_lr{0.001,0.01}.csv -o finding.png --log-scale \
    --title "BatchNorm and the learning rate, from scratch"

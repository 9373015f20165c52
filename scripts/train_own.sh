#!/usr/bin/env bash
# From a folder of pictures to a detector: data, net, training, evaluation, pictures, files to deploy. Run it again to
# continue after a stop; what is finished is kept, and so is every file that you changed by hand.
#
# usage: scripts/train_own.sh PICTURES ANNOTATIONS [OUTPUT]
#        PICTURES: a folder, a VOCdevkit, or a list. ANNOTATIONS: a folder of VOC XML or YOLO txt, a COCO json, a CSV.
# Environment variables, none needed: MINUTES (12: budget, in minutes of one core of a plain CPU or of one GPU), GPUS
# (none: the CPU), SPLIT (the set's own lists, or 0.8), NET (own; or a name from `pyscratchdet generate --list`), SIZE,
# WIDTH, BATCH, LR, ITERATIONS (chosen by the data), WEIGHTS (the project's own; "": from scratch), PATIENCE (6 of 10 tests), KEEP (2), WORKERS.
set -euo pipefail
[[ $# == [23] ]] || { sed -n '5,9s/^# //p' "$0" >&2; exit 2; }
command -v pyscratchdet >/dev/null || PATH="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH" # which `make demo` built
pictures=$1 annotations=$2 output=${3:-training/own}
net=${NET:-own}
models="$output/models/$net"
start=$SECONDS

# Of a log, what one wants to see while it grows: how long it takes, each test's mAP, warnings.
show() {
    awk '{ text = $0; sub(/^[^]]*\] /, "", text) }
        /^[WE][0-9]/ { print "warning: " text }
        text ~ /^(About|No better|Resuming|Restoring)/ { print text }
        text ~ /^Iteration [0-9]+, Testing/ { iteration = $6 + 0 }
        / detection_eval = / { printf "iteration %d: mAP %.3f\n", iteration, $NF }
        { fflush() }'
}

step() { printf '\n[%3d min] %s\n' "$(((SECONDS - start) / 60))" "$1"; }

step "Data: pairs, classes, split, databases"
pyscratchdet lmdb folder "$pictures" "$annotations" "$output/data" ${SPLIT:+--split "$SPLIT"}

step "Net and schedule"
pyscratchdet generate "$net" --data "$output/data" -o "$output/models" --gpus "${GPUS-}" ${MINUTES:+--minutes "$MINUTES"} \
    ${SIZE:+--size "$SIZE"} ${WIDTH:+--width "$WIDTH"} ${BATCH:+--batch-size "$BATCH"} ${LR:+--base-lr "$LR"} \
    ${ITERATIONS:+--max-iter "$ITERATIONS"} ${WEIGHTS+--weights "$WEIGHTS"}

step "Training"
trap 'echo "stopped; the same line goes on from here"; exit 130' INT
starting=()
! grep -q '^weights:' "$models/solver.prototxt" || starting=(--reset-heads)
pyscratchdet train --solver "$models/solver.prototxt" --resume auto --fast --keep "${KEEP:-2}" --keep-best \
    --patience "${PATIENCE:-6}" --log "$output/training.log" --metrics "$output/training.csv" ${GPUS:+--gpu "$GPUS"} \
    ${WORKERS:+--workers "$WORKERS"} "${starting[@]}" 2>&1 |
    { trap '' INT; tee "$output/training.err" | show; } || # Ctrl-C is for training, which ends with a snapshot
    { tail -n 20 "$output/training.err" >&2; exit 1; }
trap - INT
pyscratchdet plot-log "$output/training.csv" -o "$output/training.png" --title "$net"

deploy="$models/deploy.prototxt" best="$models/${net}_best.caffemodel"
mean="$(sed -n 's/^ *mean_value: //p' "$models/train.prototxt" | paste -sd,)" # as it was trained
step "Evaluation on the test pictures, with the weights of the best test"
pyscratchdet evaluate folder --data "$output/data" --model "$deploy" --weights "$best" \
    --labelmap "$output/data/labelmap.prototxt" --mean "$mean" --skip_bad --train-log "$output/training.csv" \
    -o "$output/evaluation"

step "Detections drawn into test pictures"
mapfile -t shown < <(head -n 24 "$output/data/test.txt")
pyscratchdet detect --model "$deploy" --weights "$best" --labelmap "$output/data/labelmap.prototxt" --mean "$mean" \
    --threshold 0.3 -o "$output/detections" "${shown[@]}"

step "Files to deploy"
pyscratchdet convert "$best" "$output/deploy/" --model "$deploy" --labelmap "$output/data/labelmap.prototxt" \
    --mean "$mean"

step "Done"
cat <<EOF
Made in $output/:
  data/data.html          pictures and boxes               training.png  loss, rate, mAP
  evaluation/report.html  mAP, errors, what to try next    detections/   pictures and json
  models/$net/             prototxts, snapshots, and ${net}_best.caffemodel
  deploy/                 net, weights, ONNX, labels, and two programs that use them
EOF

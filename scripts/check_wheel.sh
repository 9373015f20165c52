#!/usr/bin/env bash
# Builds sdist and wheel into FOLDER, checks both with twine, installs the wheel into a new environment there, and runs
# a dozen commands from it outside the checkout, to show that nothing depends on the checkout.
#
# usage: scripts/check_wheel.sh FOLDER [SITE_PACKAGES]
#        SITE_PACKAGES: an environment's site-packages with the dependencies, instead of downloading them.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '5,6s/^# //p' "$0" >&2; exit 2; }
checkout="$(cd "$(dirname "$0")/.." && pwd)"
mkdir -p "$1"
folder="$(cd "$1" && pwd)"
packages="${2:+$(cd "$2" && pwd)}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/build"
"$work/build/bin/python" -m pip install --quiet build twine
rm -f "$folder"/pyscratchdet-*
"$work/build/bin/python" -m build --outdir "$folder" "$checkout" >"$folder/build.log" 2>&1 ||
    { tail -n 20 "$folder/build.log" >&2; exit 1; }
"$work/build/bin/twine" check --strict "$folder"/pyscratchdet-*
wheel="$(echo "$folder"/pyscratchdet-*.whl)"
tops="$(python3 -c 'import sys, zipfile
print(*sorted({name.split("/")[0] for name in zipfile.ZipFile(sys.argv[1]).namelist() if ".dist-info/" not in name}))' "$wheel")"
[ "$tops" = pyscratchdet ] || { echo "the wheel puts more than one package into an environment: $tops" >&2; exit 1; }

python3 -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet ${packages:+--no-deps} --force-reinstall "${wheel}[verify]"
export PYTHONPATH="$packages" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}"
cd "$work"
"$folder/env/bin/python" - "$folder/env" <<'CHECK'
import sys
import pyscratchdet
from importlib.util import find_spec
assert pyscratchdet.__file__.startswith(sys.argv[1]), pyscratchdet.__file__
assert find_spec("converters") is None and find_spec("prototxt") is None
CHECK

count=0
run() {
    count=$((count + 1))
    printf '%2d. pyscratchdet %s\n' "$count" "$*"
    "$folder/env/bin/pyscratchdet" "$@" >"$work/output.txt" 2>&1 || { cat "$work/output.txt" >&2; exit 1; }
}
net=scratchdet300_rootres18_voc0712
run demo-data data --images 8 --test 4 --size 64 --seed 1
run lmdb voc data/VOCdevkit lmdb/trainval --split trainval --label-map data/labelmap.prototxt
run lmdb voc data/VOCdevkit lmdb/test --split test --label-map data/labelmap.prototxt
run generate "$net" -o models --size 100 --width 0.1 --num-classes 7 --gpus "" --train-source lmdb/trainval \
    --test-source lmdb/test --label-map-file data/labelmap.prototxt --num-test-image 4 --batch-size 2 --base-lr 0.001 \
    --max-iter 2 --stepvalue 2 --snapshot 2 --test-interval 2
deploy="models/$net/deploy.prototxt" weights="models/$net/${net}_iter_2.caffemodel"
run summary "$deploy"
run train --solver "models/$net/solver.prototxt"
run evaluate voc --data data/VOCdevkit --model "$deploy" --weights "$weights" --labelmap data/labelmap.prototxt -o evaluation
run detect --model bccd data/VOCdevkit/VOC2007/JPEGImages -o cells
run detect --model "$deploy" --weights "$weights" data/VOCdevkit/VOC2007/JPEGImages -o detections
run convert "$weights" model.safetensors --model "$deploy"
run convert "$weights" deploy/ --model "$deploy" --labelmap data/labelmap.prototxt
"$folder/env/bin/python" deploy/detect.py data/VOCdevkit/VOC2007/JPEGImages/*.jpg >/dev/null
# Two iterations leave scores that are equal in nearly all digits, and engines may order those as they like: the heads
# are compared, not the rows.
head -n "$(($(grep -n 'name: "detection_out"' "$deploy" | cut -d: -f1) - 2))" "$deploy" >heads.prototxt
run verify --model heads.prototxt --weights "$weights" --against onnxruntime --report verify.html
echo "$count commands of $(basename "$wheel") done"

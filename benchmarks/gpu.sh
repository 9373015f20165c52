#!/usr/bin/env bash
# Everything that waits for a GPU, in one run of at most eight minutes; see gpu.py, which takes the other flags:
#
#   benchmarks/gpu.sh [--wheels FOLDER] [--bccd FOLDER] [--device cuda|cpu] [--small] [--output FILE] [--parts A,B]
#
# It needs what PYTHON (python3) has: where packages lack, they are named, with the line that fetches their wheels on
# another machine, and nothing is run. --wheels FOLDER takes them from a folder, into a temporary one.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
python=${PYTHON:-python3}
needed="torch torchvision numpy google.protobuf:protobuf lmdb cv2:opencv-python-headless h5py rich jinja2 safetensors onnx pytest hypothesis"

lacking() {
    "$python" - $needed <<'PYTHON'
import importlib.util
import sys

for name, _, package in (entry.partition(":") for entry in sys.argv[1:]):
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        print(package or name)
PYTHON
}

arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    --wheels) wheels=${2:?folder of wheels} && shift 2 ;;
    *) arguments+=("$1") && shift ;;
    esac
done
if [ -n "${wheels:-}" ] && [ -n "$(lacking)" ]; then
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" --find-links "$wheels" $(lacking)
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
missing="$(lacking)"
if [ -n "$missing" ]; then
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    printf 'benchmarks/gpu.sh: %s lacks these packages:\n%s\n' "$python" "$missing" >&2
    printf 'fetch them elsewhere, then give --wheels wheels:\n  pip download --no-deps --only-binary=:all: ' >&2
    printf -- '--python-version %s --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 -d wheels %s\n' \
        "$version" "$(echo $missing)" >&2
    exit 2
fi
"$python" "$here/benchmarks/gpu.py" "${arguments[@]}"

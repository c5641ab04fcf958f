#!/bin/sh
# Install a wheel with all that it needs into an empty environment, and run the four lines there, away from the clone.
#
#     sh scripts/try_package.sh DIST [CONSTRAINTS]
#
# DIST: the folder of the wheel. Nothing stays: the environment is in a temporary folder.
set -eu

clone=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(ls "$(cd "$1" && pwd)"/*.whl)
constraints=${2:+$(cd "$(dirname "$2")" && pwd)/$(basename "$2")}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
unset PYTHONPATH

"${PYTHON:-python3}" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install -q ${constraints:+-c "$constraints"} "$wheel"
cp -R "$clone/data" "$place/data"
cd "$place"
PATH="$place/venv/bin:$PATH"
set -x
pip check
ptkit --version
ptkit split data/ --ratio 8:1:1
ptkit normstats train.txt
ptkit train
ptkit viz-weights ckpt.pkl

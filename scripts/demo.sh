#!/bin/sh
# From the digits in data/ to a trained model and pictures of it, in FOLDER: sh scripts/demo.sh [FOLDER]
# Needs ptkit on the PATH. Run again, it trains again and replaces the pictures.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:-demo}/pictures"
cd "${1:-demo}"
data=../data
[ -d "$data/3" ] || data="'$root/data'"

run() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

# ckpt.pkl is a link into the run, or a copy from the newest one where links are impossible.
keep_curves() {
    cp "$(dirname "$(readlink ckpt.pkl || ls -td runs/*/ckpt.pkl | head -n 1)")/curves.png" "pictures/$1-curves.png"
}

run "ptkit split $data/ --ratio 8:1:1"
run "ptkit normstats train.txt"
run "ptkit train"
keep_curves train
run "ptkit viz-weights ckpt.pkl --out pictures"
run "ptkit viz-featuremaps ckpt.pkl $data/3/*.png --out pictures"
run "ptkit confmat ckpt.pkl test.txt --out pictures"
run "ptkit finetune ckpt.pkl"
keep_curves finetune

printf '\nDone: %d pictures in %s\n' "$(ls pictures/*.png | wc -l)" "$(pwd)/pictures"

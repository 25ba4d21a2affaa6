#!/usr/bin/env bash
# The first run on a GPU: benchmarks/gpu/first.sh [--quick] [--list] [--parts NAME...]
# Needs no installation: what the machine lacks may lie in .whl/ as wheels.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/site"
if compgen -G '.whl/*.whl' > /dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$scratch/site" .whl/*.whl ||
    echo 'The wheels in .whl could not be installed; going on without them.'
fi
export PYTHONPATH=$PWD:$PWD/kernels:$scratch/site${PYTHONPATH:+:$PYTHONPATH}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$scratch/triton} # as tests move HOME, where it would be
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if command -v nvidia-smi > /dev/null; then
  nvidia-smi --query-gpu=name,clocks.sm,power.draw,driver_version --format=csv,noheader || true
fi
"$python" -m benchmarks.gpu "$@"

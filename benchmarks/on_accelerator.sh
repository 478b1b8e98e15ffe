#!/usr/bin/env bash
# Everything that a lent accelerator should tell, the most valuable first:
#
#   bash benchmarks/on_accelerator.sh OUT_DIR [--minutes=8] [--rehearse]
#
# Nothing is installed or fetched; what is missing is named. OUT_DIR/accelerator.json
# grows with every row that is measured; then the next runs of experiments/queue.md are
# made in the time that is left, and their rows grow in OUT_DIR/queue.jsonl. MNIST's
# files are looked for in $KD_JAX_DATA/mnist, nets are kept in $KD_JAX_WORK (default
# runs/queue). PYTHON chooses the interpreter. --rehearse runs all of it with tiny
# sizes on whatever there is.
set -euo pipefail
python=${PYTHON:-python3}
case "${1:-}" in -*) echo "error: $1: the first word is the folder" >&2; exit 2 ;; esac
out=${1:?give the folder for what is measured: bash benchmarks/on_accelerator.sh OUT_DIR}
shift
minutes=8 rehearse=
for word in "$@"; do
  case "$word" in
    --minutes=*) minutes=${word#*=}
      [[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || {
        echo "error: $word: must be a number" >&2; exit 2; } ;;
    --rehearse) rehearse=--rehearse ;;
    *) echo "error: $word: must be --minutes=N or --rehearse" >&2; exit 2 ;;
  esac
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
# From the caller's folder, not from the repository's.
for name in KD_JAX_DATA KD_JAX_WORK; do
  if [ -n "${!name:-}" ]; then export "$name=$(realpath -m "${!name}")"; fi
done
case "$python" in */*) python=$(realpath -s "$python") ;; esac
cd "$(dirname "$0")/.."
: > "$out/log.txt"
end=$(($(date +%s) + $("$python" -c "print(round(60 * float('$minutes')))")))
# What is compiled once is compiled for all parts; and torch needs memory too.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(mktemp -d)}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1
export XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONUNBUFFERED=1
export TORCHINDUCTOR_COMPILE_THREADS=4
left() { "$python" -c "print(max(0.1, ($end - $(date +%s)) / 60))"; }

# Measuring gets three quarters of the time, and the queue what that leaves.
"$python" -m benchmarks.accelerator "$out" $rehearse \
  --minutes="$("$python" -c "print(0.75 * $minutes)")" \
  2> >(tee -a "$out/log.txt" >&2) || {
    # 2: something is missing. Otherwise the queue can go on.
    [ $? -ne 2 ] || exit 2
    echo "measuring broke off; what it has is in $out" >&2
  }
if [ -n "$rehearse" ]; then
  "$python" -m experiments.queue --rehearse --out="$out"
else
  # The rows of studies: products in float32, the same bits each time.
  JAX_DEFAULT_MATMUL_PRECISION=float32 \
  XLA_FLAGS="--xla_gpu_deterministic_ops=true ${XLA_FLAGS:-}" \
    "$python" -m experiments.queue --run --whole --out="$out" --minutes="$(left)" \
    2>&1 | tee -a "$out/log.txt"
fi

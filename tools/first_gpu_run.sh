#!/usr/bin/env bash
# The first run on a GPU, within ten minutes: tests, parity with the CPU engine, speed and memory, and for the rest of
# the time a training of ShadowHandOver with 4096 environments.
#
#   tools/first_gpu_run.sh RESULTS [DEVICE] [TRAIN_SECONDS]
#
# DEVICE is cuda:0; with cpu everything is small and only shows that it works. PYTHON chooses the interpreter.
# A step that fails is reported, and the next one begins.
set -uo pipefail
results=${1:?usage: first_gpu_run.sh RESULTS [DEVICE] [TRAIN_SECONDS]} device=${2:-cuda:0} seconds=${3:-180}
mkdir -p "$results"
results=$(cd "$results" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
failed=()
patience=1

step() { # step NAME SECONDS COMMAND...: runs it with a limit; its output goes to RESULTS/NAME.log
    local name=$1 limit=$2 start=$SECONDS
    shift 2
    timeout -s INT -k 30 "$((limit * patience))" "$@" >"$results/$name.log" 2>&1 || failed+=("$name")
    echo "$name: $((SECONDS - start)) s; $(tail -n 1 "$results/$name.log")"
}

if [[ $device == cpu ]]; then
    speed=(worlds=4 substeps=2 envs=4 algos=happo steps=2 iterations=2 sizes=50x10x2)
    compiled=(tasks=HalfCheetah-2x3 repeats=1 num_envs=4)
    train=(sim=warp num_envs=4 max_iterations=2)
    patience=5 # kernels are compiled by the CPU's own compiler
else
    speed=(envs=2048,8192 worlds=2048,8192 substeps=2 steps=50 iterations=2)
    compiled=(tasks=ShadowHandOver repeats=5 num_envs=2048)
    train=(num_envs=4096 max_iterations=100000 eval_frequency=20 eval_envs=256)
fi

step tests 120 "$python" -m pytest -q tests/test_on_a_gpu.py
step parity 60 "$python" benchmarks/parity.py device="$device" out="$results/parity.json"
step speed 150 "$python" benchmarks/gpu.py device="$device" "${speed[@]}" out="$results/gpu.json"
step compiled 60 "$python" benchmarks/compiled.py device="$device" "${compiled[@]}" out="$results/compiled.json"
# The interrupt at the limit saves the run.
step training "$seconds" "$python" train.py task=ShadowHandOver algo=madpo sim_device="$device" \
    runs_dir="$results" experiment=over save_frequency=0 "${train[@]}"

grep -ho '"nan_resets": [0-9]*\|"overflows": [0-9]*' "$results/over/metrics.jsonl" 2>/dev/null |
    awk '{ sum[$1] += $2 } END { for (name in sum) print "training", name, sum[name] }'
((${#failed[@]} == 0)) || echo "ended early or failed: ${failed[*]} (the training ends so at its limit)"

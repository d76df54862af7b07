#!/bin/bash
# A job script for SLURM without submitit: sbatch tools/slurm.sh task=ShadowHandOver algo=madpo seed=3 experiment=over_s3
# Continues by itself when it is queued again: resume=auto and an experiment of its own see to that.
# For several GPUs set PYTHON and add multi_gpu=True; torchrun passes signals on if it is told to:
#   PYTHON=".venv/bin/torchrun --standalone --nproc_per_node=4 --shutdown-timeout=110 \
#           --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1" sbatch tools/slurm.sh multi_gpu=True ...
#SBATCH --job-name=madpo
#SBATCH --time=24:00:00
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log

set -u
cd "${SLURM_SUBMIT_DIR:-.}" || exit 1
settings=("$@" resume=auto)
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then # sbatch --array=0-4: one seed each
    settings+=("seed=$SLURM_ARRAY_TASK_ID" "experiment=${SLURM_JOB_NAME}_s$SLURM_ARRAY_TASK_ID")
fi

${PYTHON:-.venv/bin/python} train.py "${settings[@]}" &
run=$!
# The signal goes to this script only; the run saves and leaves, and is queued again unless it is done.
early=
trap 'early=1; kill -USR1 "$run"' USR1
trap 'kill -TERM "$run"' TERM
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do # a signal ends the waiting, not the run
    code=0
    wait "$run" || code=$?
done
if [ -n "$early" ] && [ "$code" -ne 0 ]; then # SIGUSR1: the time is nearly over
    scontrol requeue "${SLURM_JOB_ID:?}"
fi
exit "$code"

#!/bin/bash
# sbatch examples/cluster/slurm.sh
# Two nodes of eight GPUs, one task per GPU. The job saves 120 seconds before its time limit and
# requeues itself (exit code 75).
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=6 --time=24:00:00
#SBATCH --signal=TERM@120 --requeue --open-mode=append
A="--cfg experiments/crowd_pose/mobilenet/mobile.yaml --superconfig mobile_configs/search-XS.json TRAIN.SAVE_STEPS 500"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MEET=tcp://$first:$((20000 + SLURM_JOB_ID % 10000))
# shellcheck disable=SC2016,SC2086  # each task expands the variables; A is several words
srun --kill-on-bad-exit=0 bash -c 'exec python dist_train.py "$@" --world-size $SLURM_NTASKS \
    --rank $SLURM_PROCID --gpu $SLURM_LOCALID --dist-url $MEET' -- $A
code=$?
if [ $code -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code

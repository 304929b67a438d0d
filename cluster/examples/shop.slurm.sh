#!/usr/bin/env bash
# shop on Slurm: one Ray node per machine, the driver on the first; sbatch THIS_FILE.
# Made by: p5dist submit --render slurm. p5dist must be installed on a file system that all nodes
# share; storage in the job must be on such a file system too, or s3://.
#SBATCH --job-name=p5dist-shop
#SBATCH --nodes=2-8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=7
#SBATCH --mem=64G
#SBATCH --gpus-per-task=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Other users of the machines can reach Ray's ports: Ray refuses requests without the token.
umask 077
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
export RAY_AUTH_TOKEN

job="$SLURM_SUBMIT_DIR/p5dist-$SLURM_JOB_ID.yaml"
cat > "$job" <<'END_OF_JOB'
name: shop
storage: s3://my-bucket/runs
prepare:
  source:
    files: s3://my-bucket/log/*.parquet
    columns:
      user: customer
      item: product
      timestamp: time
model:
  dim: 64
pretrain:
  epochs: 3.0
  batch_size: 1024
scale:
  workers:
    min: 2
    max: 8
  device: cuda
  cpus_per_worker: 6.0
  address: null
END_OF_JOB

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${hosts[0]}"
on_head=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head")
read -r ip _ < <("${on_head[@]}" hostname --ip-address)
address="$ip:$((20000 + SLURM_JOB_ID % 20000))"
temp="/tmp/ray-$SLURM_JOB_ID"
nodes=()
driver=

start_nodes() { # HOW_MANY SRUN_OPTION RAY_OPTION…: Ray nodes that end with this script
  local count="$1" where="$2"
  shift 2
  srun --overlap --nodes="$count" --ntasks="$count" "$where" \
    ray start "$@" --block --temp-dir="$temp" --num-cpus="$SLURM_CPUS_PER_TASK" &
  nodes+=("$!")
}

# shellcheck disable=SC2317 # called by the trap
finish() {
  kill "${nodes[@]}" 2> /dev/null || true
  rm -f "$job"
}
trap finish EXIT
# Before the time limit and when the job is preempted: save a checkpoint, then end.
trap '[ -n "$driver" ] && kill -TERM "$driver"' TERM

start_nodes 1 "--nodelist=$head" --head --node-ip-address="$ip" --port="${address##*:}" \
  --dashboard-host=127.0.0.1
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  start_nodes "$((SLURM_JOB_NUM_NODES - 1))" "--exclude=$head" --address="$address"
fi
"${on_head[@]}" python -m p5dist.submit.wait_for_nodes "$address" "$SLURM_JOB_NUM_NODES"

"${on_head[@]}" p5dist run "$job" scale.address="$address" &
driver=$!
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2> /dev/null; then # the signal ended the wait, not the driver
  code=0
  wait "$driver" || code=$?
fi
if [ "$code" -eq 143 ]; then # stopped with a checkpoint: continues when there is room again
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

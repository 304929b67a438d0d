#!/usr/bin/env bash
# shop on Slurm: one Ray node a machine, the driver on the first; sbatch THIS_FILE.
# Made by: p5dist submit --render slurm. p5dist must be installed on a file system that all nodes
# share; storage in the job must be one too, or s3://.
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

# Other users of the machines reach Ray's ports: whoever has no token is refused.
umask 077
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
export RAY_AUTH_TOKEN

job="$SLURM_SUBMIT_DIR/p5dist-$SLURM_JOB_ID.yaml"
cat > "$job" <<'END_OF_JOB'
name: shop
storage: s3://my-bucket/runs
seed: 1
prepare:
  source:
    files: s3://my-bucket/log/*.parquet
    format: csv
    names: null
    columns:
      user: customer
      item: product
      timestamp: time
      rating: null
      event: null
      context: {}
    timestamp_unit: s
  items: null
  users: null
  events: null
  clean:
    duplicates: drop
    rating_range: null
    time_range: null
    repeat_window: null
    max_user_interactions: null
    min_user_interactions: 1
    min_item_interactions: 1
    keep_rejected: false
  vocabulary:
    of: train
    extend: null
    hashed: null
  split:
    kind: leave_one_out
  session_gap: null
  max_length: null
  longer: windows
  ties: log
  shards: null
  group_rows: null
feed:
  lanes: 64
  max_length: 200
  window: random
  mix: {}
  weight: 1.0
  in_memory: 5000000
  unit_rows: 25600
  read_ahead: 2
model:
  dim: 64
  encoder:
    kind: transformer
    layers: 2
    heads: 2
    ffn_dim: null
    positions: learned
    time_intervals: false
    dropout: 0.2
  inputs:
    rating: false
    event: false
    time_gap: false
    calendar: false
    user_id: false
    user_attributes: false
    item_dropout: 0.0
    id_dropout: 0.0
  item_attributes: []
  user_attributes: []
  cosine_temperature: null
  init_scale: 0.02
pretrain:
  steps: null
  epochs: 3.0
  batch_size: 1024
  tables:
    kind: rowwise_adagrad
    lr: 0.05
    weight_decay: 0.0
  dense:
    lr: 0.001
    betas:
    - 0.9
    - 0.98
    weight_decay: 0.01
    clip_norm: 1.0
  lr_scale:
    tables: 1.0
    encoder: 1.0
    head: 1.0
  schedule:
    kind: cosine
    warmup_steps: 100
    final_fraction: 0.1
  init_from: null
  checkpoint:
    every: 200
    keep: 2
    keep_every: null
    asynchronous: true
    patience_s: 90.0
  log_every: 10
  validation: null
  average: null
  non_finite:
    policy: stop
    budget: 10
  ledger: false
  objective:
    kind: causal
    loss:
      kind: softmax
      label_smoothing: 0.0
finetune: {}
evaluate:
  split: test
  k:
  - 1
  - 5
  - 10
  - 20
  mask_seen: true
  batch_size: 1024
  ranking_from: null
  bootstrap: 1000
recommend:
  k: 20
  mask_seen: true
  batch_size: 1024
  ranking_from: null
report:
  users: 5
scale:
  workers:
    min: 2
    max: 8
    resize_every_s: 60.0
  device: cuda
  cpus_per_worker: 6.0
  actors: null
  address: null
  max_failures: 3
  max_preemptions: null
  sharding: {}
  timeout_s: 120.0
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
# Before the time limit and when the job is taken off its nodes: save a checkpoint, then end.
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
if [ "$code" -eq 143 ]; then # stopped with a checkpoint: goes on when there is room again
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

#!/usr/bin/env bash
# Trains on a TPU VM, of one host or of many: the same command on all of its workers, and again after each preemption. Run it where
# gcloud is, in the folder of the repository:
#
#   export TPU_NAME=specsar ZONE=us-west4-a TYPE=v5litepod-16 VERSION=v2-alpha-tpuv5-lite BUCKET=my-bucket
#   docs/launch/pod.sh create && docs/launch/pod.sh setup
#   docs/launch/pod.sh devices --config specsar_former --config.data.data_dir=shared/data
#   docs/launch/pod.sh train --config specsar_former --workdir shared/runs/a --config.data.data_dir=shared/data
#   docs/launch/pod.sh stop        # from another terminal: SIGTERM, which saves; `train` then ends
#   docs/launch/pod.sh delete
#
# `shared` is the bucket, in the home folder of each worker.
set -euo pipefail
: "${TPU_NAME:?a name for the TPU VM}" "${ZONE:?its zone, such as us-west4-a}"

on_all() {  # runs a command on all workers; ends with the first exit code of theirs that is not 0
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all --command="$1"
}

create() {
  gcloud compute tpus tpu-vm create "$TPU_NAME" --zone="$ZONE" --spot \
    --accelerator-type="${TYPE:?such as v5litepod-16}" --version="${VERSION:?such as v2-alpha-tpuv5-lite}"
}

delete() {
  gcloud compute tpus tpu-vm delete "$TPU_NAME" --zone="$ZONE" --quiet
}

setup() {  # Python, this package and the bucket, on all workers
  local wheels=build/wheels wheel
  rm -rf "$wheels"
  python3 -m pip wheel --quiet --no-deps --wheel-dir "$wheels" .
  wheel=$(cd "$wheels" && echo specsar_jax-*.whl)
  gcloud compute tpus tpu-vm scp "$wheels/$wheel" "$TPU_NAME:" --zone="$ZONE" --worker=all
  # The image's own Python is older than 3.11.
  on_all "set -e
    curl -LsSf https://astral.sh/uv/install.sh | sh
    ~/.local/bin/uv venv --clear --python 3.12 ~/venv
    ~/.local/bin/uv pip install --python ~/venv/bin/python \"specsar_jax[tpu] @ file://\$HOME/$wheel\""
  on_all "set -e
    release=gcsfuse-\$(lsb_release -c -s)
    curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc > /dev/null
    echo \"deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt \$release main\" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null
    sudo apt-get update -qq && sudo apt-get install -qq -y gcsfuse
    mkdir -p ~/shared
    mountpoint -q ~/shared || gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 ${BUCKET:?} ~/shared"
}

command_line() {  # a command of ours with its arguments, for a shell at the other end
  local module=$1 arguments=""
  shift
  [ $# -eq 0 ] || arguments=$(printf ' %q' "$@")
  echo "cd ~ && exec ~/venv/bin/python -m $module --distributed$arguments"
}

train() {
  local code
  while true; do
    code=0
    on_all "$(command_line specsar_jax.train "$@")" || code=$?
    case $code in
      0) return 0 ;;
      2) return 2 ;;  # wrong input, which no new start mends
    esac
    if [ "$(state)" = READY ]; then
      echo "ended with $code, and the TPU VM is there: not a preemption" >&2
      return "$code"
    fi
    echo "the TPU VM is gone; made anew, the run goes on" >&2
    delete || true
    until create; do sleep 300; done
    setup
  done
}

state() {
  gcloud compute tpus tpu-vm describe "$TPU_NAME" --zone="$ZONE" --format='value(state)' || echo GONE
}

case ${1:-} in
  create | setup | delete | state) "$1" ;;
  devices) shift && on_all "$(command_line specsar_jax.devices "$@")" ;;
  train) shift && train "$@" ;;
  stop) on_all "pkill -TERM -f '[s]pecsar_jax.train'" ;;
  *)
    echo "usage: $0 create | setup | devices FLAGS | train FLAGS | stop | state | delete" >&2
    exit 2
    ;;
esac

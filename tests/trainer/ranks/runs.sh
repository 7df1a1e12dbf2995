# What the tests of whole runs on many ranks share: a tiny run, and the numbers that it left. Sourced.
#
#   SCRIPT SOURCE_TREE NIBBLE MPIRUN ...
# shellcheck source=tests/launch/check.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/check.sh"
nibble=$2
# As a user starts it, with the mpirun that CMake has found.
mpirun=$root/launch/mpirun
PATH=$(dirname "$3"):$PATH
# As root in a container, more ranks than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none ASAN_OPTIONS=detect_leaks=0 OMP_WAIT_POLICY=passive

# The same text for ever: documents fall to validation by a hash.
seq 1 90000 >"$work/text.txt"
expect_status 0 "$nibble" tokenize "$work/text.txt" --split-documents 4KiB --validation 5% \
  --output "$work/train.h5" --validation-output "$work/validation.h5"
# settings STEPS SAVE_EVERY
settings() {
  cat >"$work/run.yaml" <<YAML
model: {width: 48, layers: 3, heads: 4, ffn: 96}
data: {train: $work/train.h5, validation: $work/validation.h5, sequence: 32}
batch: {tokens: 512, micro: 2, lanes: 4}
steps: $1
optimizer: {learning_rate: 3e-3}
validation: {every: 50, tokens: 1000}
run: {threads: 1, checkpoint: {every: $2, keep: 2}}
YAML
}

# train RANKS DIRECTORY [ARGUMENT ...]: the command that trains there.
train() {
  local ranks=$1 directory=$2
  shift 2
  "$mpirun" -np "$ranks" "$nibble" train "$work/run.yaml" --set "run.directory=$work/$directory" "$@"
}

# start LOG RANKS DIRECTORY [ARGUMENT ...]: the same in the background, `launched` is mpirun's process id.
start() {
  local log=$1 ranks=$2 directory=$3
  shift 3
  "$mpirun" -np "$ranks" "$nibble" train "$work/run.yaml" --set "run.directory=$work/$directory" "$@" >>"$log" 2>&1 &
  launched=$!
}

# rows DIRECTORY: how many its metrics have.
rows() { cat "$work/$1/metrics.jsonl" 2>/dev/null | wc -l; }

# numbers DIRECTORY: step, losses and norm of every row, to the last digit.
numbers() {
  local key row
  while read -r row; do
    for key in step loss gradient_norm validation_loss; do
      [[ $row =~ [{,]\"$key\":([^,}]*) ]] && printf '%s=%s ' "$key" "${BASH_REMATCH[1]}"
    done
    echo
  done <"$work/$1/metrics.jsonl"
}

# expect_same_numbers DIRECTORY OTHER
expect_same_numbers() {
  checks=$((checks + 1))
  diff <(numbers "$1") <(numbers "$2") >"$work/difference" && [[ -s $work/$1/metrics.jsonl ]] && return
  failures=$((failures + 1))
  printf 'FAILED: the rows of %s and %s differ:\n' "$1" "$2"
  head -n 6 "$work/difference"
}

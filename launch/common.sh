# shellcheck shell=bash
# What the commands in launch/ share: messages, the phase clock, and how many jobs a build may use.
#
# Sourced, never run. Not for anything that only one command needs.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Colour only where a person looks on.
# shellcheck disable=SC2034 # used by the commands
if [[ -t 1 && -t 2 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
  bold=$'\e[1m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
  bold='' red='' green='' plain=''
fi

say() { printf '%s\n' "$*"; }
heading() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

# fail EXIT_CODE WHAT [MORE LINES...]: exit codes are those of the program (README, "When something is wrong").
fail() {
  local code=$1
  shift
  {
    printf '%serror:%s %s\n' "$red" "$plain" "$1"
    shift
    (($# == 0)) || printf '  %s\n' "$@"
  } >&2
  exit "$code"
}

# Seconds as "1 min 05 s".
duration() { if (($1 < 60)); then printf '%d s' "$1"; else printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); fi; }

# Compile jobs: one for each core, but no more than memory holds (1.5 GiB each: what the largest sources need).
build_jobs() {
  local cores kib by_memory
  cores=$(nproc)
  kib=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
  by_memory=$((${kib:-0} / 1572864))
  ((by_memory >= 1)) || by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}

# For CUDAARCHS: the GPUs at hand, else one kind, so that kernels are compiled at all; each takes three minutes of a core.
gpu_architectures() {
  local found
  found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u |
    awk '$1 >= 90 { printf "%s%sa-real", sep, $1; sep = ";" }')
  say "${found:-90a-real}"
}

# build PRESET [TARGET...]: configures once more, so that a changed CMakeLists.txt or a new file is seen.
build() {
  local preset=$1 jobs ccache=() targets=()
  shift
  jobs=$(build_jobs)
  ! command -v ccache >/dev/null || ccache=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros} # else what has precompiled headers is never found
  export CUDAARCHS=${CUDAARCHS:-$(gpu_architectures)}
  (($# == 0)) || targets=(--target "$@")
  (cd "$root" && cmake --preset "$preset" "${ccache[@]}") || return
  (cd "$root" && NINJA_STATUS='[%f/%t, %es] ' cmake --build --preset "$preset" --parallel "$jobs" "${targets[@]}")
}

# shellcheck shell=bash
# What the tests in this folder share: a place to write, and checks that say what they saw.
#
# Sourced with the source tree as the first argument. A test ends with `finish`.
set -uo pipefail
# shellcheck disable=SC2034 # used by the tests
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
checks=0 failures=0

# expect_status WANTED COMMAND...: stdout and stderr of the command are left in $work/out.
expect_status() {
  local wanted=$1 seen=0
  shift
  "$@" >"$work/out" 2>&1 </dev/null || seen=$?
  checks=$((checks + 1))
  ((seen == wanted)) && return
  failures=$((failures + 1))
  printf 'FAILED: exit code %d, wanted %d: %s\n' "$seen" "$wanted" "$*"
  sed 's/^/    /' "$work/out"
}

# expect_output TEXT / expect_no_output TEXT: of the last expect_status.
expect_output() {
  checks=$((checks + 1))
  grep -qF -- "$1" "$work/out" && return
  failures=$((failures + 1))
  printf 'FAILED: no "%s" in\n' "$1"
  sed 's/^/    /' "$work/out"
}
expect_no_output() {
  checks=$((checks + 1))
  grep -qF -- "$1" "$work/out" || return 0
  failures=$((failures + 1))
  printf 'FAILED: "%s" in\n' "$1"
  sed 's/^/    /' "$work/out"
}

finish() {
  printf '%d checks, %d failures\n' "$checks" "$failures"
  ((checks > 0 && failures == 0))
}

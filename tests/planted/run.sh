#!/usr/bin/env bash
# Switches off one safeguard after another (src/planted.rs has the list) and runs tests until one of
# them fails. Prints a table: which safeguard, who noticed, at the how-manieth crash image.
#
#   bash tests/planted/run.sh              all of them; README.md has the table of such a run
#   bash tests/planted/run.sh NAME...      these
#   bash tests/planted/run.sh --known      each by the test that the table in README.md names, no other
#   KVS_PLANTED_SECONDS=n                  begins no new one after n seconds, and says which are left out
#   KVS_PLANTED_SUITES="crash faults"      these suites, in this order
#
# Ends with 1 if one was not noticed. The suites are built once: which safeguard is off is decided when
# they run. What is not of this workspace is shared with other builds in the same target directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

table=tests/planted/README.md
by_table=
if [ "${1:-}" = --known ]; then
  by_table=1
  shift
fi
read -ra suites <<<"${KVS_PLANTED_SUITES:-crash faults model levels compaction damage expiry poison}"
# Each of them is to be noticed by what runs by default, or by less.
export KVS_MODEL_CASES=${KVS_MODEL_CASES:-60} KVS_CRASH_IMAGES=${KVS_CRASH_IMAGES:-3000}
export RUST_BACKTRACE=0
target=${CARGO_TARGET_DIR:-$PWD/target}
logs=$target/planted
mkdir -p "$logs"

mapfile -t known < <(sed -n 's/^\/\/! | `\([a-z_]*\)` |.*/\1/p' src/planted.rs)
names=("$@")
[ ${#names[@]} -gt 0 ] || names=("${known[@]}")
for name in "${names[@]}"; do
  [[ " ${known[*]} " == *" $name "* ]] || { echo "there is no planted bug $name" >&2; exit 2; }
done

# What of the table is wanted, and only the suites that it takes.
known_by() { sed -n "s/^| \`$1\` | \`\([a-z]*\)::\([a-z0-9_]*\)\`.*/\1 \2/p" "$table"; }
if [ -n "$by_table" ]; then
  mapfile -t suites < <(for name in "${names[@]}"; do known_by "$name"; done | cut -d' ' -f1 | sort -u)
fi

arguments=()
for suite in "${suites[@]}"; do arguments+=(--test "$suite"); done
if ! built=$(RUSTC_WORKSPACE_WRAPPER=$PWD/tests/planted/rustc \
  cargo test --no-default-features --no-run "${arguments[@]}" 2>&1); then
  echo "$built" >&2
  exit 2
fi
declare -A program
for suite in "${suites[@]}"; do
  program[$suite]=$(sed -n "s/^ *Executable tests\/$suite.rs (\(.*\))$/\1/p" <<<"$built")
  [ -n "${program[$suite]}" ] || { echo "no program for $suite in: $built" >&2; exit 2; }
done

# All tests of a suite, the random ones last: what always does the same is to notice first.
tests_of() {
  local all
  all=$("${program[$1]}" --list --format terse | sed -n 's/: test$//p')
  grep -v as_many_images <<<"$all" || true
  grep as_many_images <<<"$all" || true
}

# True if the test fails with the safeguard off.
notices() {
  local name=$1 suite=$2 test=$3 status=0
  log=$logs/$name.log
  KVS_PLANTED=$name timeout 300 "${program[$suite]}" --exact "$test" </dev/null >"$log" 2>&1 ||
    status=$?
  how=
  [ $status -ne 124 ] || how=" (it hangs)"
  [ $status -ne 0 ]
}

started=$SECONDS
unnoticed=() left=()
echo "| safeguard switched off | noticed by | crash images until then | seconds |"
echo "|---|---|---|---|"
for name in "${names[@]}"; do
  if [ $((SECONDS - started)) -ge "${KVS_PLANTED_SECONDS:-1000000}" ]; then
    left+=("$name")
    continue
  fi
  from=$SECONDS by=
  if [ -n "$by_table" ]; then
    candidates=$(known_by "$name")
  else
    candidates=$(for suite in "${suites[@]}"; do tests_of "$suite" | sed "s/^/$suite /"; done)
  fi
  while read -r suite test; do
    [ -n "$suite" ] || continue
    if notices "$name" "$suite" "$test"; then
      by="\`$suite::$test\`$how"
      break
    fi
  done <<<"$candidates"
  images=
  [ -z "$by" ] || images=$(sed -n 's/^ *image number \([0-9]*\) of .*/\1/p' "$log" | head -1)
  [ -n "$by" ] || unnoticed+=("$name")
  echo "| \`$name\` | ${by:-NOBODY} | ${images:-–} | $((SECONDS - from)) |"
done
[ ${#left[@]} -eq 0 ] || echo "left out for want of time: ${left[*]}"
[ ${#unnoticed[@]} -eq 0 ] || { echo "not noticed: ${unnoticed[*]}" >&2; exit 1; }

#!/usr/bin/env bash
# Runs the tour of the README, command for command, in a lab of its own, and checks what it shows; then what the README
# suggests to break.
set -euo pipefail
cd "$(dirname "$0")/.."
lab="demo-$$"
section() { sed -n "/^<!-- $1 -->$/,/^<!-- end of $1 -->$/s/^ *\(swarmctl .*\)$/\1/p" README.md | sed 's/ *#.*//'; }
fail() { printf 'demo: FAILED: %s\n' "$*" >&2; exit 1; }
trap 'swarmctl lab down --name "$lab" >/dev/null 2>&1 || true' EXIT
# A command that ends well after Ctrl-C, as `service create` does, would not stop this script.
trap 'exit 130' INT

# The same command, in this run's own lab.
run() {
  printf '\n$ %s\n' "$1"
  mapfile -t words < <(xargs -n1 printf '%s\n' <<<"${1/swarmctl lab /swarmctl lab --name $lab }")
  "${words[@]}" </dev/null || fail "$1"
}

# Calls the service until thirty calls in a row are answered, by three replicas on this many hosts.
answered_on() {
  local call="$1" hosts="$2" answers deadline=$((SECONDS + 60))
  until answers=$(for _ in $(seq 30); do run "$call" || exit 1; done 2>/dev/null) &&
    [ "$(sed -n 's/^task: //p' <<<"$answers" | sort -u | wc -l)" = 3 ] &&
    [ "$(sed -n 's/^host: //p' <<<"$answers" | sort -u | wc -l)" = "$hosts" ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "not answered by 3 replicas on $hosts hosts: $answers"
  done
  printf 'thirty calls were answered by\n'
  sed -n 's/^\(task\|host\): //p' <<<"$answers" | paste - - | sort | uniq -c
}

mapfile -t tour < <(section tour)
mapfile -t breakages < <(section breakages)
[ "${#tour[@]}" -ge 8 ] && [ "${#breakages[@]}" = 3 ] || fail "the README's tour was not found"
for command in "${tour[@]::${#tour[@]}-1}"; do
  run "$command"
  call="$command"
done
answered_on "$call" 3
hosts=3
for command in "${breakages[@]}"; do
  run "$command"
  case "$command" in *kill*) hosts=2 ;; esac
  answered_on "$call" "$hosts"
done
run "${tour[-1]}"
swarmctl lab ls | grep -q "^$lab " && fail "the lab is still there"
printf '\ndemo: all held\n'

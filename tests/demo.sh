#!/usr/bin/env bash
# Runs the tour of the README, command for command, in a lab of its own, and checks what it shows.
set -euo pipefail
cd "$(dirname "$0")/.."
lab="demo-$$"
tour() { awk '/^<!-- tour -->$/{on=1;next} /^<!-- end of tour -->$/{on=0} on' README.md | sed -n 's/^ *\(swarmctl .*\)$/\1/p' | sed 's/ *#.*//'; }
cleanup() { swarmctl lab down --name "$lab" >/dev/null 2>&1 || true; }
trap cleanup EXIT
fail() { printf 'demo: FAILED: %s\n' "$*" >&2; exit 1; }

[ "$(tour | wc -l)" -ge 8 ] || fail "the README's tour was not found"
while IFS= read -r command; do
  printf '\n$ %s\n' "$command"
  # The same command, in this run's own lab.
  mapfile -t words < <(xargs -n1 printf '%s\n' <<<"${command/swarmctl lab /swarmctl lab --name $lab }")
  case "$command" in
    *curl*)
      answers=$(for _ in $(seq 30); do "${words[@]}" </dev/null; done)
      printf '%s\n' "$answers" | head -n 6
      replicas=$(sed -n 's/^task: //p' <<<"$answers" | sort | uniq -c)
      printf 'thirty such calls were answered by\n%s\n' "$replicas"
      [ "$(wc -l <<<"$replicas")" = 3 ] || fail "not every replica answered"
      [ "$(sed -n 's/^host: //p' <<<"$answers" | sort -u | wc -l)" = 3 ] || fail "not every host answered"
      ;;
    *) "${words[@]}" </dev/null || fail "$command" ;;
  esac
done < <(tour)
swarmctl lab ls | grep -q "^$lab " && fail "the lab is still there"
printf '\ndemo: all held\n'

# shellcheck shell=bash
# For the scripts beside it: runs named steps, counts them, and prints what failed and the count as the last lines.

steps_passed=0
steps_failed=0
failed_steps=()
# Lines about one failed check that are told again at the end, where a long log is looked at first.
readonly FAULTS_TOLD=10

# step NAME COMMAND...: a step fails if its command does; the ones after it run all the same.
step() {
    local name=$1 began=$SECONDS output to told
    shift
    output=$(mktemp)
    printf '\n== %s\n' "$name"
    # Not "if command": that would switch errexit off inside of it.
    set +e
    exec {to}> >(exec tee "$output")
    local tee=$!
    (
        exec >&"$to" 2>&1 {to}>&-
        set -e
        "$@"
    )
    local code=$?
    exec {to}>&-
    # Not for good: whatever runs on holds the pipe open.
    timeout 10 tail --pid="$tee" -s 0.1 -f /dev/null
    set -e
    if ((code == 0)); then
        steps_passed=$((steps_passed + 1))
        printf -- '-- %s: passed (%d s)\n' "$name" $((SECONDS - began))
    else
        steps_failed=$((steps_failed + 1))
        told=$(faults "$output")
        failed_steps+=("$name${told:+$'\n'$told}")
        printf -- '-- %s: FAILED (exit code %d)\n' "$name" "$code"
    fi
    rm -f "$output"
}

# faults FILE: the lines in which checks, nextest and cargo say what failed.
faults() {
    sed -nE 's/^ *(FAIL|TRY [0-9]+ FAIL|error[:[])/    \1/p' "$1" | tail -n "$FAULTS_TOLD"
}

# finish: which steps failed, with what they said of it, and the last line; the exit code is 0 only if something passed
# and nothing failed.
finish() {
    echo
    ((steps_failed == 0)) || printf 'FAILED: %s\n' "${failed_steps[@]}"
    printf '%d passed, %d failed\n' "$steps_passed" "$steps_failed"
    ((steps_passed > 0 && steps_failed == 0))
}

# shellcheck shell=bash
# For the scripts beside it: runs named steps, counts them, and prints what failed and the count as the last lines.

steps_passed=0
steps_failed=0
failed_steps=()
flaky_steps=()
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
        ! grep --quiet '^ *FLAKY ' "$output" || flaky_steps+=("$name"$'\n'"$(faults "$output")")
    else
        steps_failed=$((steps_failed + 1))
        told=$(faults "$output")
        # What nobody has foreseen ends with the words of whoever met it.
        failed_steps+=("$name"$'\n'"${told:-$(tail -n "$FAULTS_TOLD" "$output" | sed 's/^/    /')}")
        printf -- '-- %s: FAILED (exit code %d)\n' "$name" "$code"
    fi
    rm -f "$output"
}

# again COMMAND...: for checks with real programs, which wait for the kernel's timers and for programs beside them on
# machines that are shared, and for what the network brings. One that passes only when it is tried again is told of as
# FLAKY, which wants mending.
again() {
    set +e
    (
        set -e
        "$@"
    )
    local code=$?
    set -e
    ((code != 0)) || return 0
    printf 'FLAKY (exit code %d), tried again: %s\n' "$code" "$*"
    "$@"
}

# faults FILE: the lines in which checks, nextest and cargo say what failed.
faults() {
    sed -nE 's/^ *(FAIL|FLAKY|TRY [0-9]+ FAIL|error[:[])/    \1/p' "$1" | tail -n "$FAULTS_TOLD"
}

# finish: which steps failed or were flaky, with what they said of it, and the last line; the exit code is 0 only if
# something passed and nothing failed.
finish() {
    echo
    ((${#flaky_steps[@]} == 0)) || printf 'FLAKY: %s\n' "${flaky_steps[@]}"
    ((steps_failed == 0)) || printf 'FAILED: %s\n' "${failed_steps[@]}"
    printf '%d passed, %d failed\n' "$steps_passed" "$steps_failed"
    ((steps_passed > 0 && steps_failed == 0))
}

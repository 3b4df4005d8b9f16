# shellcheck shell=bash
# For the scripts beside it: runs named steps, counts them, and prints the count as the last line.

steps_passed=0
steps_failed=0
failed_steps=()

# step NAME COMMAND...: a step fails if its command does; the ones after it run all the same.
step() {
    local name=$1 began=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    # Not "if command": that would switch errexit off inside of it.
    set +e
    (
        set -e
        "$@"
    )
    local code=$?
    set -e
    if ((code == 0)); then
        steps_passed=$((steps_passed + 1))
        printf -- '-- %s: passed (%d s)\n' "$name" $((SECONDS - began))
    else
        steps_failed=$((steps_failed + 1))
        failed_steps+=("$name")
        printf -- '-- %s: FAILED (exit code %d)\n' "$name" "$code"
    fi
}

# finish: which steps failed, a line each, and the last line; the exit code is 0 only if something passed and nothing
# failed.
finish() {
    echo
    ((steps_failed == 0)) || printf 'FAILED: %s\n' "${failed_steps[@]}"
    printf '%d passed, %d failed\n' "$steps_passed" "$steps_failed"
    ((steps_passed > 0 && steps_failed == 0))
}

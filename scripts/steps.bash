# Sourced by the test scripts: runs named steps one after the other, each with its time, and goes on after a failure, so
# that one run shows all of them.

steps_failed=()
steps_began=$EPOCHREALTIME

# seconds_since EPOCHREALTIME: prints the seconds that have passed.
seconds_since() {
    awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.1f", to - from }'
}

# step NAME COMMAND [ARGUMENT]...: runs the command; STEP_TIMEOUT, where set, bounds it in seconds.
step() {
    local name=$1 began=$EPOCHREALTIME status=0 bound=()
    shift
    [[ ! ${STEP_TIMEOUT:-} ]] || bound=(timeout --kill-after=10 "$STEP_TIMEOUT")
    printf '\n==> %s\n' "$name"
    "${bound[@]}" "$@" || status=$?
    if ((status == 0)); then
        printf '==> %s: ok, %s s\n' "$name" "$(seconds_since "$began")"
    else
        steps_failed+=("$name")
        printf '==> %s: FAILED with status %d, %s s\n' "$name" "$status" "$(seconds_since "$began")"
    fi
}

# finish WHAT: prints the result of all steps and exits with 1 if any failed.
finish() {
    if ((${#steps_failed[@]} == 0)); then
        printf '\n%s: all steps ok, %s s\n' "$1" "$(seconds_since "$steps_began")"
        exit 0
    fi
    printf '\n%s: %d failed, %s s\n' "$1" "${#steps_failed[@]}" "$(seconds_since "$steps_began")"
    printf '  %s\n' "${steps_failed[@]}"
    exit 1
}

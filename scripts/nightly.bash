# shellcheck shell=bash
# For the scripts beside it: rustup's nightly toolchain with the components that a script needs.

# need_nightly COMPONENT...
need_nightly() {
    local -a components=()
    local component
    for component in "$@"; do
        components+=(--component "$component")
    done
    local command="rustup toolchain install nightly --profile minimal ${components[*]}"
    command -v rustup >/dev/null || wanted "rustup, for its nightly toolchain" "https://rustup.rs, then $command"
    local installed
    installed=$(rustup component list --toolchain nightly --installed 2>/dev/null) || installed=
    for component in rustc "$@"; do
        [[ $installed == *"$component"* ]] && continue
        echo "installing with rustup: nightly, $*"
        rustup toolchain install nightly --profile minimal --no-self-update "${components[@]}" ||
            wanted "the nightly toolchain with $*" "$command"
        return
    done
}

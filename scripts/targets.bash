# shellcheck shell=bash
# For the scripts beside it: which triples there are, and where their binaries lie.

# What a release holds.
readonly MAIN_TARGETS=(
    mips-unknown-linux-musl
    mipsel-unknown-linux-musl
    armv7-unknown-linux-musleabihf
    aarch64-unknown-linux-musl
    x86_64-unknown-linux-musl
)
# For the rarer architectures of OpenWrt; built when asked for.
readonly RARE_TARGETS=(
    armv5te-unknown-linux-musleabi
    arm-unknown-linux-musleabihf
    armv7-unknown-linux-musleabi
    i586-unknown-linux-musl
    riscv64gc-unknown-linux-musl
)

# Prints the triples that the arguments mean, one a line.
targets_named() {
    local word
    for word in "$@"; do
        case " ${MAIN_TARGETS[*]} ${RARE_TARGETS[*]} " in
            *" $word "*) echo "$word" ;;
            *)
                case $word in
                    all) printf '%s\n' "${MAIN_TARGETS[@]}" ;;
                    rare) printf '%s\n' "${RARE_TARGETS[@]}" ;;
                    *)
                        echo "no such target: $word; there are: all rare ${MAIN_TARGETS[*]} ${RARE_TARGETS[*]}" >&2
                        return 64
                        ;;
                esac
                ;;
        esac
    done
}

# names_for TRIPLE NAME...: those of the builds that there are for it, a line each. The TLS library takes for granted what
# i586 lacks, SSE2.
names_for() {
    local triple=$1 name
    shift
    for name in "$@"; do
        [[ $triple == i586-* && $name == mtg-tls ]] || echo "$name"
    done
}

# binary_of TRIPLE [NAME]
binary_of() {
    echo "target/appliance/$1/${2:-mtg}"
}

# The date that everything we pack carries: that of the last commit, or of the beginning of 2026 outside of git.
source_date_epoch() {
    echo "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}"
}

# The version in Cargo.toml.
cargo_version() {
    sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' Cargo.toml
}

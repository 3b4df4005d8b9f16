# shellcheck shell=bash
# For the scripts beside it: installs Debian packages, or fails with the command that a person has to run.

as_root() {
    if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# wanted WHAT COMMAND: fails with the command that a person has to run.
wanted() {
    echo "missing: $1; install it with: $2" >&2
    return 1
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@"
}

# install_packages PACKAGE...: says so, and takes a list of packages that is there and fresh enough as it is.
install_packages() {
    local command="apt-get update && apt-get install $*"
    command -v apt-get >/dev/null || wanted "$*" "$command, or your system's own way"
    ((EUID == 0)) || command -v sudo >/dev/null || wanted "$*" "$command (as root)"
    echo "installing with apt: $*"
    apt_install "$@" || { as_root apt-get update --quiet && apt_install "$@"; } || wanted "$*" "$command"
}

# need_packages "COMMAND PACKAGE"...: installs the packages whose commands are missing.
need_packages() {
    local pair
    local -a missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%% *}" >/dev/null || missing+=("${pair#* }")
    done
    ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}

# shellcheck shell=bash
# For the scripts beside it: how to run a binary for another processor on this one.

# The processor that qemu plays; as poor as the poorest device, so that an instruction too many shows.
cpu_of() {
    case $1 in
        # The default has a floating-point unit, and routers have none.
        mips-*) echo mips 24Kc ;;
        mipsel-*) echo mipsel 24Kc ;;
        # No NEON, no hardware division.
        armv7-*) echo arm cortex-a9,neon=off ;;
        arm-*) echo arm arm1176 ;;
        armv5te-*) echo arm arm926 ;;
        aarch64-*) echo aarch64 cortex-a53 ;;
        # The first with CMOV, which hmac wants.
        i586-*) echo i386 pentium2 ;;
        riscv64gc-*) echo riscv64 rv64 ;;
        x86_64-*) echo x86_64 Nehalem ;;
    esac
}

# runner_of TRIPLE [NAME]: makes a script that runs the triple's binary on this machine, and prints its path.
runner_of() {
    local triple=$1 name=${2:-mtg} processor model runner
    runner=target/appliance/$triple/run-$name
    read -r processor model <<<"$(cpu_of "$triple")"
    if [[ $processor == "$(uname -m)" ]]; then
        printf '#!/bin/sh\nexec "%s" "$@"\n' "$PWD/$(binary_of "$triple" "$name")" >"$runner"
    else
        printf '#!/bin/sh\nexec qemu-%s-static -cpu %s "%s" "$@"\n' \
            "$processor" "$model" "$PWD/$(binary_of "$triple" "$name")" >"$runner"
    fi
    chmod +x "$runner"
    echo "$runner"
}

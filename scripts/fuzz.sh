#!/usr/bin/env bash
# Runs the fuzz targets under libFuzzer, two at a time: a coverage-guided search for bytes that make
# the disk engine, the readers of what becomes an image, the NBD server or a network panic, hang or eat memory. Needs a C++ compiler; the stable Rust
# toolchain will do.
#
#   scripts/fuzz.sh [seconds per target, 60] [target ...]
#
# What is found worth keeping collects in target/fuzz/corpus, what breaks in target/fuzz/artifacts;
# fuzz/corpus stays as it is. A failed target is repeated by target/fuzz/.../TARGET ARTIFACT.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-60}
shift || true
host=$(rustc -vV | sed -n 's/^host: //p')
root=${CARGO_TARGET_DIR:-target}/fuzz
programs=$root/$host/release

main() {
    command -v c++ > /dev/null || {
        echo "fuzz: libFuzzer is C++, and no compiler is there: apt-get install g++" >&2
        exit 1
    }
    build
    local targets=("$@")
    ((${#targets[@]})) || mapfile -t targets < <(cd fuzz/src/bin && printf '%s\n' *.rs | sed 's/\.rs$//')
    export -f fuzz
    export seconds root programs
    printf '%s\0' "${targets[@]}" | xargs --null --max-args=1 --max-procs=2 bash -c 'fuzz "$1"' fuzz
}

# What cargo-fuzz asks of the compiler, without what needs a nightly one. The host is named so that
# only the targets are instrumented, and no build script.
build() {
    local flags=(
        -Cpasses=sancov-module
        -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
        -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares
        -Cdebug-assertions
        --cfg fuzzing
    )
    RUSTFLAGS="${flags[*]}" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo build --release --locked --quiet --package ireko-fuzz --features libfuzzer \
        --target "$host" --target-dir "$root"
}

fuzz() {
    local target=$1 corpus=$root/corpus/$1 artifacts=$root/artifacts/$1/ log=$root/$1.log
    mkdir -p "$corpus" "$artifacts"
    # Forking goes on after a find; one process at a time says more.
    if "$programs/$target" "$corpus" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=4096 \
        -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$artifacts" -print_final_stats=1 &> "$log"; then
        printf '%-16s %s\n' "$target" "$(grep ' cov: ' "$log" | tail -1 | cut -f 2-)"
    else
        printf '%-16s FAILED; the end of %s:\n' "$target" "$log"
        tail -30 "$log"
        return 1
    fi
}

main "$@"

#!/usr/bin/env bash
# Installs what this machine lacks, with apt: what running needs (`run`), or also what the tests
# (`test`) or the benchmarks (`bench`) need. Says nothing new and asks no network where all is
# there. As another user than root it prints the one line to run, and fails.
#
#   scripts/install-deps.sh [run|test|bench]
set -euo pipefail

run_packages=(e2fsprogs ovmf qemu-system-x86 qemu-utils)
test_packages=(
    7zip busybox-static cpio docker-compose dosfstools fdisk fio iproute2 jq libnbd-bin libvhdi-utils
    libvirt0 libxml2-utils memtest86+ mmdebstrap mtools openssh-client python3 python3-libvhdi
    python3-venv skopeo umoci unzip xz-utils zip
)
bench_packages=(fio time)
# mmdebstrap makes a root file system without being root by means of it.
((EUID == 0)) || test_packages+=(uidmap)

main() {
    local wanted=("${run_packages[@]}")
    case "${1:-run}" in
        run) ;;
        test) wanted+=("${test_packages[@]}") ;;
        bench) wanted+=("${bench_packages[@]}") ;;
        *) fail "usage: install-deps.sh [run|test|bench]" ;;
    esac
    require_supported_system

    local missing=()
    for package in "${wanted[@]}"; do
        [[ -n $(installed_version "$package") ]] || missing+=("$package")
    done
    if ((${#missing[@]} == 0)) && one_qemu_version; then
        return
    fi
    if ((EUID != 0)); then
        print_cure "${missing[@]}"
        exit 1
    fi
    install "${missing[@]}"
}

require_supported_system() {
    command -v apt-get > /dev/null ||
        fail "this needs apt; elsewhere install QEMU 7.2 or later with qemu-img, OVMF, and e2fsprogs, by hand"
    # shellcheck source=/dev/null
    . /etc/os-release
    case "${ID:-}" in
        debian) local oldest=12 ;;
        ubuntu) local oldest=24.04 ;;
        *) return ;;
    esac
    # Debian's testing and unstable have no version.
    dpkg --compare-versions "${VERSION_ID:-999}" ge "$oldest" ||
        fail "${PRETTY_NAME:-$ID} is too old: $ID $oldest or later is needed"
}

installed_version() {
    # An unknown package is the answer "not installed", not a failure.
    dpkg-query --show --showformat '${db:Status-Status} ${Version}' "$1" 2> /dev/null |
        sed -n 's/^installed //p' || true
}

# qemu-utils newer than qemu-system-x86 (from backports, say) holds libraries that the other
# replaces: apt then takes one away to install the other.
one_qemu_version() {
    [[ $(installed_version qemu-utils) == "$(installed_version qemu-system-x86)" ]]
}

# Every package once; QEMU's two at the version apt would install the emulator at.
apt_arguments() {
    local version package
    version=$(apt-cache policy qemu-system-x86 | sed -n 's/^  Candidate: //p')
    for package in "$@"; do
        case "$package" in qemu-*) ;; *) echo "$package" ;; esac
    done | sort --unique
    if ! one_qemu_version || [[ -z $(installed_version qemu-utils) ]]; then
        # Without package lists no version is known; apt then chooses.
        case "$version" in '' | '(none)') version= ;; *) version="=$version" ;; esac
        printf '%s\n' "qemu-system-x86$version" "qemu-utils$version"
    fi
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    local apt=(apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 --quiet=2)
    # A source that does not answer need not be the one that is wanted.
    "${apt[@]}" update >&2 || echo "install-deps: some package lists could not be read" >&2
    local arguments
    mapfile -t arguments < <(apt_arguments "$@")
    echo "install-deps: installing ${arguments[*]}" >&2
    "${apt[@]}" install --yes --no-install-recommends --allow-downgrades "${arguments[@]}" >&2
    one_qemu_version || fail "qemu-system-x86 and qemu-utils are of different versions"
}

print_cure() {
    local arguments
    mapfile -t arguments < <(apt_arguments "$@")
    {
        echo "Some packages are missing. Run this, then try again:"
        echo
        echo "  sudo apt-get update && sudo apt-get install --no-install-recommends --allow-downgrades ${arguments[*]}"
        echo
    } >&2
}

fail() {
    echo "install-deps: $*" >&2
    exit 1
}

main "$@"

#!/usr/bin/env bash
# The main job from end to end in a temporary root: create, run, enter, commit, run the new image,
# tree, clean up. Prints the time of each step; leaves nothing behind.
#
#   scripts/demo.sh path/to/ireko
set -euo pipefail

ireko=$(realpath "${1:?usage: demo.sh path/to/ireko}")

main() {
    IREKO_ROOT=$(mktemp -d "${TMPDIR:-/tmp}/ireko-demo-XXXXXX")
    export IREKO_ROOT
    trap clean_up EXIT
    trap 'exit 130' INT TERM

    say "A root for this demonstration: $IREKO_ROOT"
    step "the first run makes the base image" run --rm base echo "hello from a virtual machine"
    step "create a container"                 create --name first base true
    step "run one in the background"          run -d --name web base sleep 1000
    step "enter it and change its disk"       exec web sh -c 'echo "made in web" > /greeting; cat /greeting'
    step "see what runs"                      ps
    step "commit it while it runs"            commit web web-image
    step "run the new image"                  run --rm web-image cat /greeting
    step "a child of the child"               run --name api web-image sh -c 'echo "made in api" >> /greeting'
    step "commit it stopped"                  commit api api-image
    step "run that"                           run --rm api-image cat /greeting
    step "the tree"                           tree
    step "remove the containers"              rm -f first web api
    step "remove the images"                  rmi api-image web-image
    step "what is left"                       tree
    step "end the daemon"                     daemon stop
    say "Done: every step above succeeded."
}

# step TITLE ARGUMENT... runs `ireko ARGUMENT...` and prints how long it took.
step() {
    local title=$1 begun ended
    shift
    say "$(printf '\n── %s\n   $ ireko%s' "$title" "$(quoted "$@")")"
    begun=${EPOCHREALTIME/[.,]/}
    "$ireko" "$@" < /dev/null | sed 's/^/   /'
    ended=${EPOCHREALTIME/[.,]/}
    say "   ($(((ended - begun) / 1000)) ms)"
}

# The words as a person would type them.
quoted() {
    local word
    for word; do
        if [[ $word =~ ^[[:alnum:]/._-]+$ ]]; then printf ' %s' "$word"; else printf ' %s' "${word@Q}"; fi
    done
}

clean_up() {
    local status=$?
    if ((status != 0)); then
        say "The demonstration failed. \`ireko doctor\` tells what this machine lacks."
        "$ireko" ps --all --quiet 2> /dev/null | xargs --no-run-if-empty "$ireko" rm -f > /dev/null 2>&1 || true
        "$ireko" daemon stop > /dev/null 2>&1 || true
    fi
    rm -rf "$IREKO_ROOT"
    exit "$status"
}

say() {
    printf '%s\n' "$*"
}

main

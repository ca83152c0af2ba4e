#!/bin/sh
# Makes the CA in /ca, and for each directory under /nodes the data directory of the node that it is
# called after, with what the operator may do from there. What is there already is left alone, so the
# container that runs this can be started again and again.
#
#   WEFT_CLUSTER   the cluster's name
#   WEFT_GRANTS    words "holder target contract", one capability a line
set -eu

B=/busybox
mark=.set-up

# Done is what has its mark: it is written last, so a step that was cut short is made again.
if ! [ -e /ca/$mark ]; then
    # Half a CA is no CA, and no node can have been issued by it yet.
    $B rm -rf /ca/*
    /weft ca init --dir /ca --cluster "$WEFT_CLUSTER"
    : >/ca/$mark
fi

for data in /nodes/*; do
    node=${data##*/}
    if [ -e "$data/$mark" ]; then
        echo "$node is set up already"
        continue
    fi
    $B chmod 0700 "$data"
    /weft ca node "$node" --dir /ca --out "$data"
    echo "$WEFT_GRANTS" | while read -r holder target contract; do
        [ -z "$holder" ] && continue
        /weft grant "$holder" "$target" --contract "$contract" --ca /ca --to "$data"
    done
    : >"$data/$mark"
done

#!/bin/sh
# Builds the static binary and prepares target/static/image, from which deploy/Dockerfile makes images.
#
# Needs Rust, a C compiler, and busybox-static for the container that sets a cluster up (BUSYBOX names
# another static busybox). Other flags than those of a usual build would rebuild everything each time
# the two alternate, hence a target directory of its own.
set -eu
cd "$(dirname "$0")/.."

machine=$(uname -m)
triple=$machine-unknown-linux-gnu
image=target/static/image

# The flag must not reach build scripts and proc macros: naming the target keeps it from them.
RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release \
    --target "$triple" --target-dir target/static --bin weft

busybox=${BUSYBOX:-$(command -v busybox || true)}
if [ -z "$busybox" ] || ldd "$busybox" >/dev/null 2>&1; then
    echo "no static busybox: install busybox-static, or name one with BUSYBOX" >&2
    exit 1
fi

# Made anew, so that nothing old gets into an image.
rm -rf "$image"
mkdir -p "$image/empty"
cp "target/static/$triple/release/weft" "$image/weft"
cp "$busybox" "$image/busybox"
strip --strip-debug "$image/weft"
ls -l "$image"

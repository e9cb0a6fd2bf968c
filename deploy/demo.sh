#!/usr/bin/env bash
# Builds fedpaint and runs a federation of three synthetic hospitals on this machine.
#
#   deploy/demo.sh [--data DIR [--label-scheme S]] [--rounds N] [--out DIR] [--keep]
#
# --data DIR   take DIR/<site>/<patient>/... as the sites' scans instead of making synthetic ones
# --label-scheme S  what its labels mean: brats2021, brats2023, brats_post or lesion (the default)
# --rounds N   how many rounds to train
# --out DIR    where the model, the inpainted scan and panel.png go
# --keep       keep the working folder: configs, certificates, logs, every model
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
case " $* " in
*" --help "* | *" -h "*)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
# The whole workspace at once, so that the tests share this build.
cargo build --release --workspace --locked --manifest-path "$root/Cargo.toml"
target=${CARGO_TARGET_DIR:-$root/target}
exec "$target/release/fedpaint-demo" "$@"

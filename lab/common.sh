# Sourced by the commands of this folder: finds the project, and cargo also where sudo has reset the PATH.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export EDGEPLEX_ROOT="$root"

if ! command -v cargo >/dev/null 2>&1; then
    home=$([ -n "${SUDO_USER:-}" ] && getent passwd "$SUDO_USER" | cut -d: -f6 || true)
    for dir in ${home:+"$home/.cargo/bin"} /root/.cargo/bin /usr/local/cargo/bin /usr/local/bin; do
        if [ -x "$dir/cargo" ]; then
            PATH="$dir:$PATH"
            # rustup's cargo finds its toolchains by the home of the one who installed it.
            case "$dir" in */.cargo/bin) [ -d "${dir%/.cargo/bin}/.rustup" ] && export RUSTUP_HOME="${RUSTUP_HOME:-${dir%/.cargo/bin}/.rustup}" ;; esac
            [ -d /usr/local/rustup ] && [ "$dir" = /usr/local/cargo/bin ] && export RUSTUP_HOME="${RUSTUP_HOME:-/usr/local/rustup}"
            break
        fi
    done
    command -v cargo >/dev/null 2>&1 || { echo "cargo is not found: install Rust first (https://rustup.rs)" >&2; exit 1; }
fi
export PATH="$PATH:/usr/sbin:/sbin"

need_root() {
    [ "$(id -u)" = 0 ] || { echo "$0 needs root: sudo $0" >&2; exit 1; }
}

# Builds what the lab runs; quick when nothing has changed.
build() {
    (cd "$root" && cargo build --release --locked --workspace "$@")
}

runner() {
    exec "${CARGO_TARGET_DIR:-$root/target}/release/edgeplex-lab" "$@"
}

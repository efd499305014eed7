#!/usr/bin/env bash
# See that the system libraries that Qt needs under X11, and Xvfb for the tests, are there.
# Silent when nothing is missing. As root on Debian or Ubuntu it installs them; otherwise it prints the command.
# Never fails: without them everything but the windows works, and the tests of windows say what they lack.
set -euo pipefail
cd "$(dirname "$0")/.."

[ "$(uname -s)" = Linux ] || exit 0

known=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null || true)
missing=()
while read -r library package; do
    case "$library" in '' | '#'*) continue ;; esac
    case "$known" in *"$library"*) ;; *) missing+=("$package") ;; esac
done <src/napari_tessera/session/doctor/qt_libraries.txt
command -v xvfb-run >/dev/null || missing+=(xvfb)
command -v xauth >/dev/null || missing+=(xauth)

[ ${#missing[@]} -gt 0 ] || exit 0

install_all() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

if ! command -v apt-get >/dev/null; then
    echo "Qt's windows need system libraries; Debian's names of the missing packages: ${missing[*]}" >&2
elif [ "$(id -u)" -eq 0 ]; then
    echo "Installing system libraries for Qt: ${missing[*]}"
    install_all >/dev/null || echo "That failed. Try: apt-get install ${missing[*]}" >&2
else
    echo "Qt's windows need system libraries. Install them with:" >&2
    echo "  sudo apt-get install ${missing[*]}" >&2
fi

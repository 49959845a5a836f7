#!/bin/sh
# Installs Ollama as a systemd service with Ollama's own installer. Run it as root.
#   install-ollama.sh [--what-if | --undo]
# The installer is fetched to a file first, so that a broken transfer runs nothing.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
for argument in "$@"; do
  if ! read_flag "$argument"; then
    echo "usage: $0 [--what-if | --undo]" >&2
    exit 2
  fi
done
require_root

source=https://ollama.com/install.sh
unit=$root/etc/systemd/system/ollama.service
# What somebody else installed is not ours to remove.
mark=$root/usr/local/share/rfctl/ollama-installed

if [ "$undo" = yes ]; then
  if [ ! -e "$mark" ]; then
    echo "This script did not install Ollama here: nothing is removed."
    exit 0
  fi
  if has_systemd; then
    live systemctl disable --now ollama
  fi
  run rm -rf "$unit" "$root/usr/local/bin/ollama" "$root/usr/local/lib/ollama" "$mark"
  if has_systemd; then
    live systemctl daemon-reload
  fi
  echo "The models in /usr/share/ollama are still there."
  exit 0
fi
if [ -e "$unit" ]; then
  echo "Ollama is already here."
  exit 0
fi
file=$(mktemp)
trap 'rm -f "$file"' EXIT
live curl -fsSL --proto '=https' --retry 3 -o "$file" "$source"
echo "Ollama's installer, by rfctl" | write_file "$mark"
live sh "$file"
if [ -z "$root" ] && [ "$what_if" = no ] && [ ! -e "$unit" ]; then
  echo "Ollama is here, but not as a service: systemd does not run. Turn it on, then run this again." >&2
  exit 1
fi

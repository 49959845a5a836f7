#!/bin/sh
# Prepares a Linux host for `rfctl stack`: vm.max_map_count and, where Ollama is, the address on which it listens:
# Docker's bridge, which containers reach and the network does not. Run it as root, after Docker and Ollama.
#   install-host.sh [--what-if | --undo]
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

sysctl_file=$root/etc/sysctl.d/99-rfctl.conf
override=$root/etc/systemd/system/ollama.service.d/rfctl.conf
# The same address for `ollama` and `rfctl` in every login shell.
profile=$root/etc/profile.d/rfctl-ollama.sh
has_ollama=no
[ ! -e "$root/etc/systemd/system/ollama.service" ] || has_ollama=yes

if [ "$undo" = yes ]; then
  run rm -f "$sysctl_file" "$override" "$profile"
else
  bridge=172.17.0.1
  if [ -z "$root" ]; then
    found=$(ip -4 -o addr show docker0 2>/dev/null | sed -n 's/.* inet \([0-9.]*\).*/\1/p' | head -n 1)
    bridge=${found:-$bridge}
  fi
  run mkdir -p "$root/etc/sysctl.d"
  run cp "$here/99-rfctl.conf" "$sysctl_file"
  if [ "$has_ollama" = yes ]; then
    sed "s/172\.17\.0\.1/$bridge/" "$here/ollama-override.conf" | write_file "$override"
    echo "export OLLAMA_HOST=$bridge:11434" | write_file "$profile"
    echo "Open a new shell: ollama and rfctl find Ollama at $bridge:11434 then."
  fi
fi
live sysctl --system
if has_systemd; then
  live systemctl daemon-reload
  if [ "$has_ollama" = yes ]; then
    live systemctl restart ollama
  fi
fi

#!/bin/sh
# Prepares a Linux host for `rfctl stack`: vm.max_map_count, and the systemd drop-in of Ollama where Ollama is.
#   install-host.sh [--what-if] [--undo]
# Docker itself comes from your distribution or from docs.docker.com/engine/install; `rfctl doctor` checks it.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=${RFCTL_INSTALL_ROOT:-}
what_if=no
undo=no
for argument in "$@"; do
  case $argument in
    --what-if) what_if=yes ;;
    --undo) undo=yes ;;
    *)
      echo "usage: $0 [--what-if] [--undo]" >&2
      exit 2
      ;;
  esac
done

run() {
  if [ "$what_if" = yes ]; then
    echo "would run: $*"
  else
    "$@"
  fi
}

# On the running system only: an image that is being built has no sysctl and no systemd.
live() {
  if [ -z "$root" ]; then
    run "$@"
  fi
}

sysctl_file=$root/etc/sysctl.d/99-rfctl.conf
ollama_folder=$root/etc/systemd/system/ollama.service.d
if [ "$undo" = yes ]; then
  run rm -f "$sysctl_file" "$ollama_folder/rfctl.conf"
else
  run mkdir -p "$root/etc/sysctl.d"
  run cp "$here/99-rfctl.conf" "$sysctl_file"
  if [ -e "$root/etc/systemd/system/ollama.service" ]; then
    run mkdir -p "$ollama_folder"
    run cp "$here/ollama-override.conf" "$ollama_folder/rfctl.conf"
  fi
fi
live sysctl --system
if [ -d "$root/run/systemd/system" ]; then
  live systemctl daemon-reload
  if [ -e "$root/etc/systemd/system/ollama.service" ]; then
    live systemctl restart ollama
  fi
fi

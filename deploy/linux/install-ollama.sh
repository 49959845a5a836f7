#!/bin/sh
# Installs Ollama as a systemd service with Ollama's own installer. Run it as root.
#   install-ollama.sh [--what-if | --undo]
# The installer is fetched to a file first, so that a broken transfer runs nothing.
set -eu

root=${RFCTL_INSTALL_ROOT:-}
source=https://ollama.com/install.sh
case ${1:-} in
  --what-if)
    echo "would run: $source"
    exit 0
    ;;
  --undo)
    if [ -z "$root" ]; then
      systemctl disable --now ollama || true
    fi
    rm -f "$root/etc/systemd/system/ollama.service" "$root/usr/local/bin/ollama"
    echo "The models in /usr/share/ollama are still there."
    exit 0
    ;;
  '') ;;
  *)
    echo "usage: $0 [--what-if | --undo]" >&2
    exit 2
    ;;
esac
if command -v ollama >/dev/null 2>&1 && [ -e "$root/etc/systemd/system/ollama.service" ]; then
  echo "Ollama is already here."
  exit 0
fi
file=$(mktemp)
trap 'rm -f "$file"' EXIT
curl -fsSL --proto '=https' -o "$file" "$source"
sh "$file"

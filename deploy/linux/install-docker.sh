#!/bin/sh
# Installs the Docker engine with Compose from Docker's own repository (Debian, Ubuntu and what descends from
# them), also inside a WSL distribution. Run it as root.
#   install-docker.sh [--what-if | --undo] [--mirror URL]
# --mirror: another server of the same packages, for places that the first one is far from
set -eu

root=${RFCTL_INSTALL_ROOT:-}
what_if=no
undo=no
mirror=https://download.docker.com
while [ $# -gt 0 ]; do
  case $1 in
    --what-if) what_if=yes ;;
    --undo) undo=yes ;;
    --mirror)
      shift
      mirror=${1:?--mirror needs a URL}
      ;;
    *)
      echo "usage: $0 [--what-if | --undo] [--mirror URL]" >&2
      exit 2
      ;;
  esac
  shift
done

run() {
  if [ "$what_if" = yes ]; then
    echo "would run: $*"
  else
    "$@"
  fi
}

# On the running system only: an image that is being built gets its files, nothing is started.
live() {
  if [ -z "$root" ]; then
    run "$@"
  elif [ "$what_if" = yes ]; then
    echo "would run: $*"
  fi
}

key=$root/etc/apt/keyrings/docker.asc
list=$root/etc/apt/sources.list.d/rfctl-docker.list
packages="docker-ce docker-ce-cli containerd.io docker-buildx-plugin docker-compose-plugin"

if [ "$undo" = yes ]; then
  # shellcheck disable=SC2086  # several words on purpose
  live apt-get remove -y $packages
  run rm -f "$list" "$key"
  echo "The images and volumes in /var/lib/docker are still there."
  exit 0
fi

# shellcheck source=/dev/null
. "$root/etc/os-release"
case "$ID ${ID_LIKE:-}" in
  *ubuntu*) family=ubuntu release=${UBUNTU_CODENAME:-$VERSION_CODENAME} ;;
  *debian*) family=debian release=$VERSION_CODENAME ;;
  *)
    echo "This script knows Debian and Ubuntu only; see docs.docker.com/engine/install" >&2
    exit 1
    ;;
esac
if [ -z "$root" ] && command -v docker >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
  echo "Docker with Compose is already here."
  exit 0
fi

write_list() {
  architecture=$(dpkg --print-architecture)
  printf 'deb [arch=%s signed-by=/etc/apt/keyrings/docker.asc] %s/linux/%s %s stable\n' \
    "$architecture" "$mirror" "$family" "$release" >"$list"
}

live apt-get update
live apt-get install -y ca-certificates curl
run mkdir -p "$root/etc/apt/keyrings" "$root/etc/apt/sources.list.d"
live curl -fsSL --proto '=https' -o "$key" "$mirror/linux/$family/gpg"
run write_list
live apt-get update
# shellcheck disable=SC2086  # several words on purpose
live apt-get install -y $packages
if [ -d "$root/run/systemd/system" ]; then
  live systemctl enable --now docker
fi
# The person behind sudo may use the engine from the next login on.
if [ -n "${SUDO_USER:-}" ]; then
  live usermod -aG docker "$SUDO_USER"
fi

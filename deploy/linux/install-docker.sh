#!/bin/sh
# Installs the Docker engine with Compose from Docker's own repository, also inside a WSL distribution. Run it as
# root. Debian, Ubuntu and what descends from them; Fedora; RHEL, CentOS, Rocky, AlmaLinux; openEuler (with the
# packages for RHEL 9, because Docker makes none for it).
#   install-docker.sh [--what-if | --undo] [--mirror URL]
# --mirror: another server of the same packages, for places that the first one is far from
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
mirror=https://download.docker.com
while [ $# -gt 0 ]; do
  if ! read_flag "$1"; then
    if [ "$1" != --mirror ] || [ $# -lt 2 ]; then
      echo "usage: $0 [--what-if | --undo] [--mirror URL]" >&2
      exit 2
    fi
    mirror=${2%/}
    shift
  fi
  shift
done
require_root

key=$root/etc/apt/keyrings/rfctl-docker.asc
list=$root/etc/apt/sources.list.d/rfctl-docker.list
repo=$root/etc/yum.repos.d/rfctl-docker.repo
packages="docker-ce docker-ce-cli containerd.io docker-buildx-plugin docker-compose-plugin"
manager=dnf
command -v dnf >/dev/null 2>&1 || manager=yum

if [ "$undo" = yes ]; then
  if [ ! -e "$list" ] && [ ! -e "$repo" ]; then
    echo "This script did not install Docker here: nothing is removed."
    exit 0
  fi
  # shellcheck disable=SC2086  # several words on purpose
  if [ -e "$list" ]; then
    live apt-get remove -y $packages
  else
    live "$manager" remove -y $packages
  fi
  run rm -f "$list" "$key" "$repo"
  echo "The images and volumes in /var/lib/docker are still there."
  exit 0
fi

# shellcheck source=/dev/null
. "$root/etc/os-release"
case " $ID ${ID_LIKE:-} " in
  *" ubuntu "*) system=apt family=ubuntu release=${UBUNTU_CODENAME:-$VERSION_CODENAME} ;;
  *" debian "*) system=apt family=debian release=$VERSION_CODENAME ;;
  *" openEuler "*) system=rpm family=centos release=9 ;;
  *" rhel "* | *" centos "*) system=rpm family=centos release=${VERSION_ID%%.*} ;;
  *" fedora "*) system=rpm family=fedora release=$VERSION_ID ;;
  *)
    echo "This script does not know $ID; see docs.docker.com/engine/install" >&2
    exit 1
    ;;
esac

# A failing update with our list in place would break every later one.
update_lists() {
  if ! apt-get update; then
    rm -f "$list" "$key"
    echo "Docker has no packages for $family $release at $mirror, or the server does not answer." >&2
    exit 1
  fi
}

install_with_apt() {
  live apt-get update
  live apt-get install -y ca-certificates curl
  run mkdir -p "$root/etc/apt/keyrings"
  live curl -fsSL --proto '=https' --retry 3 -o "$key" "$mirror/linux/$family/gpg"
  printf 'deb [arch=%s signed-by=/etc/apt/keyrings/rfctl-docker.asc] %s/linux/%s %s stable\n' \
    "$(dpkg --print-architecture)" "$mirror" "$family" "$release" | write_file "$list"
  live update_lists
  # shellcheck disable=SC2086  # several words on purpose
  live apt-get install -y $packages
}

install_with_rpm() {
  write_file "$repo" <<EOF
[rfctl-docker]
name=Docker CE for $family $release
baseurl=$mirror/linux/$family/$release/\$basearch/stable
enabled=1
gpgcheck=1
gpgkey=$mirror/linux/$family/gpg
EOF
  # shellcheck disable=SC2086  # several words on purpose
  live "$manager" install -y $packages
}

# In WSL, `docker` may be Docker Desktop's client on the Windows drive: the engine is what counts.
if [ -z "$root" ] && command -v dockerd >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then
  echo "Docker with Compose is already here."
else
  "install_with_$system"
fi
if has_systemd; then
  live systemctl enable --now docker
fi
# Whoever works here may use the engine from the next login on: the person behind sudo, in WSL the first account.
person=${SUDO_USER:-}
if [ -z "$person" ] && grep -qi microsoft /proc/sys/kernel/osrelease 2>/dev/null; then
  person=$(getent passwd 1000 | cut -d: -f1)
fi
if [ -n "$person" ]; then
  live usermod -aG docker "$person"
fi

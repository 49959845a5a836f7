# shellcheck shell=sh disable=SC2034
# What the scripts of this folder share; they load it. RFCTL_INSTALL_ROOT: a folder to write files into instead
# of the running system, where then nothing is installed, started or stopped (an image, or a test).

root=${RFCTL_INSTALL_ROOT:-}
what_if=no
undo=no

# The two options that every script has; fails for any other word.
read_flag() {
  case $1 in
    --what-if) what_if=yes ;;
    --undo) undo=yes ;;
    *) return 1 ;;
  esac
}

run() {
  if [ "$what_if" = yes ]; then
    echo "would run: $*"
  else
    "$@"
  fi
}

# On the running system only.
live() {
  if [ -z "$root" ] || [ "$what_if" = yes ]; then
    run "$@"
  fi
}

require_root() {
  if [ -z "$root" ] && [ "$what_if" = no ] && [ "$(id -u)" != 0 ]; then
    echo "This needs root: sudo sh $0" >&2
    exit 1
  fi
}

has_systemd() {
  [ -d "$root/run/systemd/system" ]
}

# Standard input becomes the file; --what-if only names it.
write_file() {
  if [ "$what_if" = yes ]; then
    echo "would write: $1"
    cat >/dev/null
  else
    mkdir -p "$(dirname -- "$1")"
    cat >"$1"
  fi
}

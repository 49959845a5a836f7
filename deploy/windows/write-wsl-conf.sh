#!/bin/sh
# Puts a finished /etc/wsl.conf in place; rfctl merges it on the other side, so that comments and keys stay.
#   write-wsl-conf.sh [--what-if | --undo] [TEXT-IN-BASE64]
set -eu

file=${RFCTL_INSTALL_ROOT:-}/etc/wsl.conf
backup=$file.rfctl-backup
new=$file.rfctl-new
case ${1:-} in
  --undo)
    if [ -s "$backup" ]; then
      mv "$backup" "$file"
    elif [ -e "$backup" ]; then
      rm -f "$file" "$backup"
    fi
    exit 0
    ;;
  --what-if)
    printf %s "$2" | base64 -d | diff -u "$file" - || true
    exit 0
    ;;
esac
printf %s "$1" | base64 -d >"$new"
if [ ! -e "$backup" ]; then
  if [ -e "$file" ]; then cp -p "$file" "$backup"; else : >"$backup"; fi
fi
mv "$new" "$file"

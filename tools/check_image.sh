#!/bin/sh
# Builds the image of docker/Dockerfile, runs it and asks its engine; a few minutes, so not a part of `make test`.
# usage: tools/check_image.sh [options of docker build, such as --build-arg PYTHON=image --network host]
set -eu
cd "$(dirname "$0")/.."
docker build "$@" -f docker/Dockerfile -t rfctl:check .
name=rfctl-check-$$
# Without a network: the engine needs none.
docker run -d --name "$name" --network none rfctl:check >/dev/null
trap 'docker rm -f -v "$name" >/dev/null' EXIT INT TERM
tries=60
until [ "$(docker inspect -f '{{.State.Health.Status}}' "$name")" = healthy ]; do
  tries=$((tries - 1))
  if [ "$tries" = 0 ]; then
    docker logs "$name"
    echo "not healthy within 60 s" >&2
    exit 1
  fi
  sleep 1
done
ask="import urllib.request as r; print(r.urlopen('http://127.0.0.1:11434/api/version', timeout=5).read().decode())"
docker exec "$name" python3 -c "$ask"
user=$(docker exec "$name" id -u)
if [ "$user" = 0 ]; then
  echo "it runs as root" >&2
  exit 1
fi
docker exec "$name" rfctl doctor --only engine
size=$(docker image inspect -f '{{.Size}}' rfctl:check)
echo "user $user, $((size / 1000000)) MB"

#!/bin/sh
# Build the control image without a container daemon, and run the demo and a worker's health in it:
#   docker/try-control.sh [OPTION OF `buildah build`…]
# For root, with buildah and debootstrap (apt-get install buildah debootstrap). The base is made from
# Debian's packages, where no registry of images is needed, and stands for the image that the
# Dockerfile names. Options are for a network with its own ways, such as a configuration of pip:
#   docker/try-control.sh --secret id=pip,src=/etc/pip.conf --volume /etc/ssl/certs:/etc/ssl/certs:ro
# It takes some minutes and 25 GB of disk, most of it for torch, and removes all of it at the end.
set -eu
cd "$(dirname "$0")/.."
for tool in buildah debootstrap; do
    command -v "$tool" > /dev/null || { echo "$tool is missing: apt-get install $tool" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "only root may do this" >&2; exit 2; }

work=$(mktemp -d -p "${TMPDIR:-/var/tmp}" pneumoq-image-XXXXXX)
# A storage of its own: no image of this machine is seen or touched.
CONTAINERS_STORAGE_CONF=$work/storage.conf
export CONTAINERS_STORAGE_CONF
printf '[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' \
    "$work" "$work" > "$CONTAINERS_STORAGE_CONF"
remove() {
    buildah rm --all > /dev/null 2>&1 || true
    buildah rmi --all --force > /dev/null 2>&1 || true
    rm -rf "$work"
}
trap remove EXIT
trap 'exit 130' INT TERM

echo "== a base of Debian's packages"
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
    "${SUITE:-bookworm}" "$work/base" > "$work/debootstrap.log" \
    || { tail -n 20 "$work/debootstrap.log" >&2; exit 1; }
container=$(buildah from scratch)
buildah add --quiet "$container" "$work/base" / > /dev/null
buildah commit --quiet "$container" localhost/base:1 > /dev/null
buildah rm "$container" > /dev/null
rm -rf "$work/base"

echo "== the image"
buildah build --isolation chroot --format docker --layers --build-arg BASE=localhost/base:1 \
    --build-arg EXTRAS=postgres,train --tag localhost/control:1 \
    --file docker/control.Dockerfile "$@" .

echo "== what runs in it"
container=$(buildah from localhost/control:1)
run() { buildah run --isolation chroot "$container" -- "$@"; }
run sh -c 'test "$(id -u)" = 10001 && ! touch /opt/pneumoq/x 2> /dev/null'
run python /opt/pneumoq/healthy.py 2> /dev/null && { echo "healthy without a worker" >&2; exit 1; }
run pneumoq demo
# The demo's home has a schema and a model; its workers have ended, so this is the only one.
run sh -c '
    export PNEUMOQ_HOME=$PWD/pneumoq-demo/home
    pneumoq up --no-train > up.log 2>&1 & up=$!
    for second in $(seq 60); do
        python /opt/pneumoq/healthy.py 2> /dev/null && break
        test "$second" -lt 60 || { cat up.log; exit 1; }
        sleep 1
    done
    sleep 5
    python /opt/pneumoq/healthy.py && python /opt/pneumoq/healthy.py beat
    kill "$up" && wait "$up"
    ! python /opt/pneumoq/healthy.py 2> /dev/null'
echo "== the control image was built, ran the demo, and tells whether its worker is there"

#!/bin/sh
# Starts OpenVPN with a configuration in VPN_DIR, written anew from the database before.
#
#   openvpn.sh [NAME]     NAME: the configuration, server.conf without a choice
#
# Waits for the database for about five minutes, then ends with a failure: whoever started it does so again. Where the
# files are there from before, `authorise --write-only` does with them.
set -eu

name=${1:-server.conf}
: "${VPN_DIR:?VPN_DIR: found nothing, expected the folder that the authorisation agent writes to}"
wait_s=${OPENVPN_RETRY_S:-5}
tries=60

case $name in
    */* | .* | "") echo "openvpn.sh: found $name, expected the name of a file in $VPN_DIR" >&2 && exit 2 ;;
esac
tun=${OPENVPN_TUN:-/dev/net/tun}
if [ ! -c "$tun" ]; then
    echo "openvpn.sh: found no $tun; give the container that device, and load the module tun on its computer" >&2
    exit 2
fi

until python manage.py authorise --write-only; do
    tries=$((tries - 1))
    if [ "$tries" -eq 0 ]; then
        echo "openvpn.sh: what OpenVPN needs could not be written; the reason is above" >&2
        exit 1
    fi
    sleep "$wait_s"
done
exec openvpn --config "$VPN_DIR/$name"

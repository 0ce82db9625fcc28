#!/bin/sh
# Starts OpenVPN as soon as the authorisation agent has written what it reads to VPN_DIR.
#
#   openvpn.sh [NAME]     NAME: the configuration, server.conf without a choice
#
# So this container has neither a secret nor a way to the database. It waits for five minutes, then ends with a failure,
# and whoever started it does so again.
set -eu

name=${1:-server.conf}
: "${VPN_DIR:?found nothing, expected the folder that the authorisation agent writes to}"
tries=${OPENVPN_TRIES:-300}

case $name in
    */* | .* | "")
        echo "openvpn.sh: found $name, expected the name of a file in $VPN_DIR" >&2
        exit 2
        ;;
esac
tun=${OPENVPN_TUN:-/dev/net/tun}
if [ ! -c "$tun" ]; then
    echo "openvpn.sh: found no $tun; give the container that device, and load the module tun on its computer" >&2
    exit 2
fi

# The last of them is written last.
lacks() {
    for file in "$name" ca.crt server.crt server.key tls-crypt-v2.key crl.pem ccd; do
        if [ ! -e "$VPN_DIR/$file" ]; then
            echo "$file"
            return 0
        fi
    done
    return 1
}

while lacking=$(lacks); do
    tries=$((tries - 1))
    if [ "$tries" -le 0 ]; then
        echo "openvpn.sh: found no $lacking in $VPN_DIR; look at the authorisation agent, which writes it" >&2
        exit 1
    fi
    sleep 1
done

# OpenVPN reads its certificate and configuration now and never again: whoever asks until when it is good must look at
# these, as the agent renews the others. What changes between here and there is told of too early, never too late.
keep() {
    { cp -f "$VPN_DIR/$1" "$VPN_DIR/.$2.new" && mv -f "$VPN_DIR/.$2.new" "$VPN_DIR/$2"; } ||
        echo "openvpn.sh: cannot write $VPN_DIR/$2; nobody is told when OpenVPN must start again" >&2
}
case $name in
    server.conf) loaded=loaded ;;
    server-tcp.conf) loaded=loaded-tcp ;;
    *) loaded= ;;
esac
if [ -n "$loaded" ]; then
    keep server.crt "$loaded.crt"
    keep "$name" "$loaded.conf"
fi
exec openvpn --config "$VPN_DIR/$name"

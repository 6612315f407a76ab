#!/bin/bash
# Makes this network namespace answer for every address of FLEET_RANGE, then becomes the command given.
#   FLEET_ADDRESS (with prefix length), FLEET_RANGE, GATEWAY
set -euo pipefail
for _ in $(seq 600); do # the cable is plugged in from outside
  [ -e /proc/sys/net/ipv4/conf/eth0 ] && break
  sleep 0.05
done
ip link set lo up
ip address add "$FLEET_ADDRESS" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
ip route add local "$FLEET_RANGE" dev lo
exec "$@"

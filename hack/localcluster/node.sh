#!/bin/bash
# The first process of a node, in its own network, pid, mount and uts namespaces: when it dies, everything of the node
# dies at once, as if the power were cut. Everything it needs to know comes by environment:
#   NODE_NAME, NODE_ADDRESS (with prefix length), GATEWAY, NODE_DISK (the node's directory), BINARIES, PAUSE_ARCHIVE
set -euo pipefail

hostname "$NODE_NAME"

# Default paths, private disks: whatever a component or a pod expects at its usual place is there.
mount --make-rprivate /
declare -A disks=(
  [kubelet]=/var/lib/kubelet [containerd]=/var/lib/containerd [run]=/run/containerd [cni]=/var/lib/cni
  [config/cni]=/etc/cni/net.d [log/pods]=/var/log/pods [log/containers]=/var/log/containers
  [cache]=/var/lib/warmfleet/cache
)
for name in "${!disks[@]}"; do
  mkdir -p "$NODE_DISK/$name" "${disks[$name]}"
  mount --bind "$NODE_DISK/$name" "${disks[$name]}"
done
mkdir -p /run/netns
mount -t tmpfs none /run/netns
mount -t tmpfs -o mode=1777 none /dev/shm # memory of the node's own: it ends with the power
rm -rf /run/containerd/* # sockets and task state of before the power cut
mount --make-rshared /   # pods that ask for mount propagation get it, within this node

# The cable is plugged in from outside.
for _ in $(seq 600); do
  [ -e /proc/sys/net/ipv4/conf/eth0 ] && break
  sleep 0.05
done
ip link set lo up
ip address add "$NODE_ADDRESS" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
echo 1 > /proc/sys/net/ipv4/ip_forward

keep_running() {
  local name=$1
  shift
  while :; do
    "$@" >> "$NODE_DISK/log/$name.log" 2>&1 || echo "exited with $?" >> "$NODE_DISK/log/$name.log"
    sleep 1
  done
}

keep_running containerd containerd --config "$NODE_DISK/config/containerd.toml" &
keep_running kube-proxy "$BINARIES/kube-proxy" --config "$NODE_DISK/config/kube-proxy.json" &
until ctr version > /dev/null 2>&1; do sleep 0.05; done
if [ -z "$(ctr -n k8s.io images ls -q name==warmfleet.dev/local/pause:1)" ]; then
  ctr -n k8s.io images import "$PAUSE_ARCHIVE" >> "$NODE_DISK/log/import.log" 2>&1
fi
keep_running kubelet "$BINARIES/kubelet" --config "$NODE_DISK/config/kubelet.json" \
  --kubeconfig "$NODE_DISK/config/kubelet.kubeconfig" --hostname-override "$NODE_NAME" --node-ip "${NODE_ADDRESS%/*}"

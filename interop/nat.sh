#!/usr/bin/env bash
# nat.sh up|down PREFIX : three network namespaces. PREFIX-net is the internet (homeservers, DNS, the caller); PREFIX-box is a
# router with MASQUERADE and no port forwarded; PREFIX-office is the company's network behind it (bridge, PBX, phone).
#   PREFIX-net 198.51.100.0/24 -- PREFIX-box -- 192.168.77.0/24 PREFIX-office
set -euo pipefail
action=$1 p=$2
down() { for n in net box office; do ip netns del "$p-$n" 2>/dev/null || true; done; }
case $action in
  down) down ;;
  up)
    down
    for n in net box office; do ip netns add "$p-$n"; ip -n "$p-$n" link set lo up; done
    ip -n "$p-net" link add wan type veth peer name wan netns "$p-box"
    ip -n "$p-office" link add lan type veth peer name lan netns "$p-box"
    ip -n "$p-box" addr add 198.51.100.1/24 dev wan
    ip -n "$p-box" addr add 192.168.77.1/24 dev lan
    for a in 53 11 12 21; do ip -n "$p-net" addr add "198.51.100.$a/24" dev wan; done
    for a in 1 2 3; do ip -n "$p-office" addr add "192.168.77.10$a/24" dev lan; done
    ip -n "$p-net" link set wan up; ip -n "$p-box" link set wan up
    ip -n "$p-office" link set lan up; ip -n "$p-box" link set lan up
    ip -n "$p-office" route add default via 192.168.77.1
    # The internet has no route to the office: what comes back comes through the mapping or not at all.
    ip netns exec "$p-box" sysctl -q -w net.ipv4.ip_forward=1
    ip netns exec "$p-box" iptables -t nat -A POSTROUTING -o wan -j MASQUERADE
    ip netns exec "$p-box" iptables -A FORWARD -i wan -m state --state NEW -j DROP
    ;;
  *) echo "nat.sh up|down PREFIX" >&2; exit 2 ;;
esac

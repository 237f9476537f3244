#!/usr/bin/env bash
# nsd.sh FOLDER ADDRESS (NAME HOST ANCHOR)... : NSD in the foreground on ADDRESS:5300, serving zones that BIND's tools
# signed; writes FOLDER/anchor.key with the keys of all of them.
set -euo pipefail
folder=$(cd "$1" && pwd); address=$2; shift 2
command -v nsd >/dev/null && command -v dnssec-signzone >/dev/null || {
  echo "NSD or dnssec-signzone is missing; run: bash interop/install.sh nsd" >&2; exit 1; }
cd "$folder"
: > anchor.key
cat > nsd.conf <<CONF
server:
  ip-address: $address@5300
  username: ""
  chroot: ""
  zonesdir: "$folder"
  pidfile: "$folder/nsd.pid"
  xfrdfile: "$folder/xfrd.state"
  zonelistfile: "$folder/zone.list"
  server-count: 1
remote-control:
  control-enable: no
CONF
while [ $# -ge 3 ]; do
  name=$1 host=$2 anchor=$3; shift 3
  cat > "$name.zone" <<ZONE
\$ORIGIN $name.
\$TTL 300
@ SOA ns.$name. hostmaster.$name. 1 3600 600 86400 300
@ NS ns.$name.
ns A $address
hs A $host
_ahoy TXT "$anchor"
ZONE
  dnssec-keygen -q -a ECDSAP256SHA256 -f KSK "$name" >/dev/null
  dnssec-keygen -q -a ECDSAP256SHA256 "$name" >/dev/null
  dnssec-signzone -q -S -o "$name" -f "$name.signed" "$name.zone" >/dev/null
  # Every key of the zone: an anchor in the form of DNSKEY lines replaces the zone's key set.
  grep -hv '^;' K"$name".*.key >> anchor.key
  printf 'zone:\n  name: %s\n  zonefile: %s.signed\n' "$name" "$name" >> nsd.conf
done
echo ready
exec nsd -d -c nsd.conf

#!/usr/bin/env bash
# asterisk.sh RUN_FOLDER : Asterisk 22 in the foreground, configured from interop/asterisk. Environment: IP, BRIDGE,
# PHONE (addresses), TRANSPORT (udp), DIRECT_MEDIA (no), QUALIFY (0).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$1
system="${XDG_CACHE_HOME:-$HOME/.cache}/ahoy/peers/asterisk"
[ -e "$system/.complete" ] || { echo "Asterisk is missing; run: bash interop/install.sh asterisk" >&2; exit 1; }
mkdir -p "$root"/{etc,lib/keys,spool,run,log,data}
root=$(cd "$root" && pwd)
transport=${TRANSPORT:-udp}
for file in "$here"/asterisk/*.conf; do
  sed -e "s#@ROOT@#$root#g" -e "s#@SYSTEM@#$system#g" -e "s#@IP@#$IP#g" -e "s#@BRIDGE@#$BRIDGE#g" \
    -e "s#@@PHONE@#@$PHONE#g" -e "s#@PHONE@#$PHONE#g" -e "s#@TRANSPORT@#$transport#g" \
    -e "s#@TRANSPORT_PARAM@#$([ "$transport" = udp ] || echo "\\\\;transport=$transport")#g" \
    -e "s#@DIRECT_MEDIA@#${DIRECT_MEDIA:-no}#g" -e "s#@QUALIFY@#${QUALIFY:-0}#g" "$file" > "$root/etc/$(basename "$file")"
done
ln -sfn "$system/usr/share/asterisk/documentation" "$root/data/documentation"
libraries="$system/usr/lib/x86_64-linux-gnu"
command=("$libraries/ld-linux-x86-64.so.2" --library-path "$libraries:$libraries/asterisk" "$system/usr/sbin/asterisk" -f -C "$root/etc/asterisk.conf")
exec "${command[@]}"

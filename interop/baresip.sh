#!/usr/bin/env bash
# baresip.sh FOLDER ADDRESS PBX NUMBER IN.wav : baresip registers at PBX as 6001, dials NUMBER, plays IN.wav and writes what it
# hears to FOLDER/heard/*-dec.wav; runs until it is stopped.
set -euo pipefail
folder=$1 address=$2 pbx=$3 number=$4 play=$5
command -v baresip >/dev/null || { echo "baresip is missing; run: bash interop/install.sh baresip" >&2; exit 1; }
mkdir -p "$folder/heard"
modules=$(dirname "$(find /usr/lib -path '*baresip/modules/g711.so' | head -n 1)")
cat > "$folder/config" <<CONF
poll_method epoll
sip_listen $address:0
net_interface $address
audio_player aufile,$folder/heard/player.wav
audio_source aufile,$play
ausrc_srate 8000
auplay_srate 8000
ausrc_channels 1
auplay_channels 1
rtp_ports 31000-31999
module_path $modules
module g711.so
module aufile.so
module sndfile.so
snd_path $folder/heard
module_tmp uuid.so
module_tmp account.so
module_app menu.so
CONF
echo "<sip:6001@$pbx:5060>;auth_user=6001;auth_pass=pw6001;regint=60;audio_codecs=PCMA/8000/1" > "$folder/accounts"
: > "$folder/contacts"
exec baresip -f "$folder" -e "/dial sip:$number@$pbx:5060"

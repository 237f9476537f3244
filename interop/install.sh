#!/usr/bin/env bash
# Installs the peers named on the command line: asterisk nsd netns baresip sipp cargo-deny.
# Asterisk 22 is not in Debian stable: it is unpacked from Debian unstable into a folder of its own, with a
# package state of its own, so that the machine's packages stay as they are. Everything else is a package.
set -euo pipefail

cache="${XDG_CACHE_HOME:-$HOME/.cache}/ahoy/peers"
mkdir -p "$cache"

say() { echo "install: $*" >&2; }

need_packages() { # command package...
  local command=$1; shift
  command -v "$command" >/dev/null 2>&1 && return
  [ "$(id -u)" = 0 ] || { say "missing '$command'; run: sudo apt-get install -y --no-install-recommends $*"; exit 1; }
  say "installing $*"
  [ -n "${updated:-}" ] || { apt-get -q update >/dev/null; updated=1; }
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >/dev/null
}

# A private apt: downloads packages and their dependencies from unstable, unpacks them below $1.
unpack_from_unstable() {
  local prefix=$1; shift
  local state="$prefix.apt" mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
  [ -n "$mirror" ] || { say "no Debian mirror is configured on this machine"; exit 1; }
  rm -rf "$prefix" "$state"
  mkdir -p "$prefix" "$state"/{lists/partial,archives/partial,etc/preferences.d,etc/apt.conf.d}
  : > "$state/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" > "$state/sources.list"
  cat > "$state/apt.conf" <<CONF
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
Binary::apt-get::APT::Keep-Downloaded-Packages "true";
Dir::Etc "$state/etc";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$state";
Dir::State::status "$state/status";
Dir::Cache "$state";
CONF
  APT_CONFIG="$state/apt.conf" apt-get -q update >/dev/null
  APT_CONFIG="$state/apt.conf" apt-get -q -y --download-only install "$@" >/dev/null
  # The packages expect a merged /usr.
  local folder
  for folder in bin sbin lib lib64; do
    mkdir -p "$prefix/usr/$folder"
    ln -sfn "usr/$folder" "$prefix/$folder"
  done
  local package
  for package in "$state"/archives/*.deb; do dpkg-deb -x "$package" "$prefix"; done
  rm -rf "$state" "$prefix"/usr/share/{doc,man,locale,info}
}

asterisk() {
  [ -e "$cache/asterisk/.complete" ] && return
  say "unpacking Asterisk 22 from Debian unstable"
  unpack_from_unstable "$cache/asterisk" asterisk
  touch "$cache/asterisk/.complete"
}

for peer in "$@"; do
  case $peer in
    asterisk) asterisk ;;
    nsd) need_packages nsd nsd; need_packages dnssec-signzone bind9-utils ;;
    netns) need_packages ip iproute2; need_packages iptables iptables ;;
    baresip) need_packages baresip baresip-core ;;
    sipp) need_packages sipp sip-tester ;;
    cargo-deny)
      command -v cargo-deny >/dev/null 2>&1 || [ -x "$cache/tools/bin/cargo-deny" ] || {
        say "building cargo-deny (once)"
        CARGO_TARGET_DIR="$cache/tools/target" cargo install -q cargo-deny --locked --root "$cache/tools"
        rm -rf "$cache/tools/target"
      } ;;
    *) say "unknown peer '$peer'"; exit 2 ;;
  esac
done

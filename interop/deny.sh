#!/usr/bin/env bash
# Licences, advisories, sources and duplicates. The advisory database is a git repository that a closed network
# cannot reach: then the other three are checked and the omission is said.
set -euo pipefail
export PATH="${XDG_CACHE_HOME:-$HOME/.cache}/ahoy/peers/tools/bin:$PATH"
cargo deny --all-features check licenses bans sources
cargo deny --all-features check advisories || {
  [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ] && ls "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs"/* >/dev/null 2>&1 && exit 1
  echo "deny: the advisory database could not be fetched; advisories were not checked" >&2
}

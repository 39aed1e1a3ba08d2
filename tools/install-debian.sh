#!/usr/bin/env bash
# Installs the Debian packages that are named and missing. Where it can't (another system, not root) it says so and leaves
# it to the tests to do without; in CI that is a failure.
set -euo pipefail

missing=()
for package in "$@"; do
  status=$(dpkg-query --show --showformat '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ $status == ii* ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi
if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}"
  exit 0
fi
echo "missing, and not installed without root on Debian: ${missing[*]}" >&2
[[ -z ${CI:-} ]]

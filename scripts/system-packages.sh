#!/usr/bin/env bash
# Containment tools that are not Python packages: gVisor (runsc) and bubblewrap. Installs them where this is a Debian
# system and we are root; elsewhere says what is missing. The farm runs without them, with weaker containment.
set -u
missing=()
command -v runsc >/dev/null || missing+=(runsc)
command -v bwrap >/dev/null || missing+=(bubblewrap)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]} (Debian packages)"
    apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 && exit 0
    { apt-get update -qq && apt-get install -y -qq "${missing[@]}"; } >/dev/null 2>&1 && exit 0
fi
echo "not installed: ${missing[*]}. Sandboxes will run with weaker containment; to strengthen it, install the" \
    "Debian packages ${missing[*]} (or gVisor's own release) and run this again."
exit 0

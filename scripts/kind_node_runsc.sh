#!/usr/bin/env bash
# Makes gVisor's runsc a runtime of the containerd of a kind node, beside those that it has. kind_up.sh runs it in the
# node. The table's name depends on the version of the node's own file: a table of another version is not read, or takes
# the place of all the tables that kind wrote. A node that knows runsc is left alone; so is one that would not know it.
set -euo pipefail
config=${1:-/etc/containerd/config.toml}

knows_runsc() { [[ $(containerd --config "$1" config dump) == *containerd.runtimes.runsc]* ]]; }

if knows_runsc "$config"; then exit 0; fi
case $(sed -nE '/^version *=/{s/[^0-9]*([0-9]+).*/\1/p;q}' "$config") in
    '' | 1 | 2) plugin=io.containerd.grpc.v1.cri ;;
    *) plugin=io.containerd.cri.v1.runtime ;;
esac
cp -p "$config" "$config.new"
printf '\n[plugins."%s".containerd.runtimes.runsc]\n  runtime_type = "io.containerd.runsc.v1"\n' "$plugin" >>"$config.new"
if ! knows_runsc "$config.new"; then
    rm "$config.new"
    echo "$(containerd --version) does not take runsc from $config: it stays as it was" >&2
    exit 1
fi
mv "$config.new" "$config"
systemctl restart containerd

#!/usr/bin/env bash
# A farm on this machine in one command: a kind cluster, the images, the chart, and a first SynthesisRun and TrainingRun.
# Needs docker, kind, kubectl and helm. With gVisor's runsc and containerd-shim-runsc-v1 on PATH its nodes run sandboxes
# in gVisor; without them, in the default runtime, which this script says. Safe to run again: it goes on where it was.
# The cluster's kubeconfig is build/kind-CLUSTER.kubeconfig; yours, and its current context, are not touched.
# CLUSTER=astra NAMESPACE=astra-system TAG=dev scripts/kind_up.sh
set -euo pipefail
cd "$(dirname "$0")/.."
cluster=${CLUSTER:-astra} namespace=${NAMESPACE:-astra-system} tag=${TAG:-dev}
python=${PYTHON:-.venv/bin/python}
mkdir -p build
export KUBECONFIG=$PWD/build/kind-$cluster.kubeconfig KIND_EXPERIMENTAL_PROVIDER=docker

say() { echo "kind-up: $*"; }
for tool in docker kind kubectl helm; do
    command -v "$tool" >/dev/null || { say "$tool is not on PATH: install it and run this again"; exit 2; }
done
docker info >/dev/null 2>&1 || { say "no Docker engine answers: start it, or choose one (docker context use), and run this again"; exit 2; }

gvisor=
if command -v runsc >/dev/null && command -v containerd-shim-runsc-v1 >/dev/null; then gvisor=1; fi

if ! kind get clusters 2>/dev/null | grep -x "$cluster" >/dev/null; then
    say "creating the cluster $cluster"
    kind create cluster --name "$cluster" --kubeconfig "$KUBECONFIG" --wait 120s
else
    kind export kubeconfig --name "$cluster" --kubeconfig "$KUBECONFIG"
fi

if [ -n "$gvisor" ]; then
    say "gVisor into the nodes"
    for node in $(kind get nodes --name "$cluster"); do
        for program in runsc containerd-shim-runsc-v1; do
            docker cp -q -L "$(command -v $program)" "$node:/usr/local/bin/$program"
        done
        docker exec -i "$node" bash -s <scripts/kind_node_runsc.sh
    done
    kubectl wait --for=condition=Ready node --all --timeout=120s
else
    say "no runsc and containerd-shim-runsc-v1 on PATH: sandboxes will share the node's kernel. Do not run code that you do not trust."
fi

say "images (minutes, the first time)"
"$python" images/build.py docker sandbox operator synth trainer --tag "$tag" \
    ${PIP_EXTRA_INDEX_URL:+--build-arg "PIP_EXTRA_INDEX_URL=$PIP_EXTRA_INDEX_URL"}
for name in sandbox operator synth trainer; do
    kind load docker-image --name "$cluster" "astra-farm-$name:$tag"
done

say "chart"
runtime=(--set runtimeClass.name=)
if [ -n "$gvisor" ]; then runtime=(--set runtimeClass.name=gvisor --set runtimeClass.create=true); fi
helm upgrade --install farm helm/astra-farm --namespace "$namespace" --create-namespace --wait --timeout 10m \
    --set images.tag="$tag" --set images.pullPolicy=Never --set operator.verifierReplicas=1 "${runtime[@]}"
kubectl -n "$namespace" rollout status statefulset/verify-farm-astra-farm-operator-sandbox --timeout=10m
helm test farm --namespace "$namespace"

say "a first SynthesisRun"
kubectl create namespace lab --dry-run=client -o yaml | kubectl apply -f -
kubectl -n lab apply --server-side -f examples/synthesis/small.yaml
kubectl -n lab wait --for=condition=Complete synth --all --timeout=15m
say "a first TrainingRun"
run=examples/train-tiny.yaml
if [ -n "$gvisor" ]; then
    kubectl -n lab apply --server-side -f $run
else
    kubectl patch --local -f $run --type merge -p '{"spec":{"sandboxes":{"runtimeClassName":""}}}' -o yaml |
        kubectl -n lab apply --server-side -f -
fi
kubectl -n lab get astra
say "done. Watch the run: KUBECONFIG=$KUBECONFIG kubectl -n lab get train -w    Remove all: kind delete cluster --name $cluster --kubeconfig $KUBECONFIG"

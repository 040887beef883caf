#!/usr/bin/env bash
# Writes deploy/simple-ebpf-cni.yaml, the one file for a cluster, from deploy/agent.
#
# usage: scripts/manifest.sh [KUBECTL]
set -euo pipefail
cd "$(dirname "$0")/.."
rendered=$("${1:-kubectl}" kustomize deploy/agent)
{
    printf '# The network of a cluster: docs/deploy.md. scripts/manifest.sh writes this file from deploy/agent,\n'
    printf '# which has the reasons as comments.\n'
    printf '%s\n' "$rendered"
} >deploy/simple-ebpf-cni.yaml

//go:build programs

// Package containerd lists the programs of the runtime, and a portmap that knows CNI 1.1.0, because
// this runtime calls STATUS. The module is separate, because it needs other versions of the modules
// that Kubernetes needs too.
package containerd

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
	_ "github.com/containernetworking/plugins/plugins/meta/portmap"
)

// Package network builds the [sig-network] tests of Kubernetes as a program of their own. The whole
// e2e.test contains storage drivers and cloud providers, and takes several times longer to build.
package network

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/test/e2e/common"
	_ "k8s.io/kubernetes/test/e2e/common/network"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	"k8s.io/kubernetes/test/e2e/framework/node"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	_ "k8s.io/kubernetes/test/e2e/network"
	manifests "k8s.io/kubernetes/test/e2e/testing-manifests"
	"k8s.io/kubernetes/test/utils/image"
	netutils "k8s.io/utils/net"
)

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	// As the option of e2e.test: the cluster takes the names of the images from it.
	if framework.TestContext.ListImages {
		for _, entry := range image.GetImageConfigs() {
			fmt.Println(entry.GetE2EImage())
		}
		os.Exit(0)
	}
	testfiles.AddFileSource(manifests.GetE2ETestingManifestsFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

// Each test process determines the address family and the number of nodes, which some tests read.
var _ = ginkgo.SynchronizedBeforeSuite(
	func(context.Context) []byte { return nil },
	func(ctx context.Context, _ []byte) {
		common.CurrentSuite = common.E2E
		client, err := framework.LoadClientset()
		framework.ExpectNoError(err)
		api, err := client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
		framework.ExpectNoError(err)
		framework.TestContext.IPFamily = "ipv4"
		if netutils.IsIPv6String(api.Spec.ClusterIP) {
			framework.TestContext.IPFamily = "ipv6"
		}
		nodes, err := node.GetReadySchedulableNodes(ctx, client)
		framework.ExpectNoError(err)
		framework.TestContext.CloudConfig.NumNodes = len(nodes.Items)
	},
)

func TestKubernetes(t *testing.T) {
	gomega.RegisterFailHandler(framework.Fail)
	suite, reporter := framework.CreateGinkgoConfig()
	// A focus also matches this name, so it must not contain the label of a group.
	ginkgo.RunSpecs(t, "Kubernetes", suite, reporter)
}

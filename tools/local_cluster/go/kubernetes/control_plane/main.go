// Command control-plane is a Kubernetes control plane in one program: the data store and the three servers that the
// tests need. Its first argument names the one to run; the others are that one's own flags.
package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

var servers = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
}

func main() {
	if len(os.Args) < 2 {
		refuse("no program named")
	}
	name := os.Args[1]
	os.Args = os.Args[1:] // each program reads its flags after its own name
	if os.Getenv("CONTROL_PLANE_LIFELINE") == "stdin" {
		go endWithInput()
	}
	if name == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	server, known := servers[name]
	if !known {
		refuse("unknown program " + name)
	}
	os.Exit(cli.Run(server()))
}

// refuse says which programs there are, and ends with the code for wrong usage.
func refuse(reason string) {
	names := []string{"etcd"}
	for name := range servers {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "control-plane: %s; one of %s must come first\n", reason, strings.Join(names, ", "))
	os.Exit(2)
}

// endWithInput ends this program when its standard input does: a pipe that the one who started it holds open, and
// that the system closes however that one ends.
func endWithInput() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(1)
}

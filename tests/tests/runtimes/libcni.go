// Calls the plugins of a configuration list by the CNI project's own library, with the variables that `cnitool` has:
// libcni add|check|del DIRECTORY NAME NETNS. The container's id is the last part of NETNS. Prints ADD's result.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: libcni add|check|del DIRECTORY NAME NETNS")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(verb, directory, name, namespace string) error {
	list, err := libcni.LoadConfList(directory, name)
	if err != nil {
		return err
	}
	container := &libcni.RuntimeConf{ContainerID: filepath.Base(namespace), NetNS: namespace, IfName: "eth0"}
	for _, pair := range strings.Split(os.Getenv("CNI_ARGS"), ";") {
		if key, value, found := strings.Cut(pair, "="); found {
			container.Args = append(container.Args, [2]string{key, value})
		}
	}
	if text := os.Getenv("CAP_ARGS"); text != "" {
		if err := json.Unmarshal([]byte(text), &container.CapabilityArgs); err != nil {
			return err
		}
	}
	cni, ctx := libcni.NewCNIConfig(filepath.SplitList(os.Getenv("CNI_PATH")), nil), context.Background()
	if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
		return err
	}
	switch verb {
	case "add":
		result, err := cni.AddNetworkList(ctx, list, container)
		if err != nil {
			return err
		}
		// As the newest version that the library knows: it has understood all of it.
		current, err := types.NewResultFromResult(result)
		if err != nil {
			return err
		}
		return current.Print()
	case "check":
		return cni.CheckNetworkList(ctx, list, container)
	case "del":
		return cni.DelNetworkList(ctx, list, container)
	}
	return fmt.Errorf("unknown verb %s", verb)
}

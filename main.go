//go:debug containermaxprocs=0

// Onewake puts one command, or one directory of CGI programs, behind a web
// server: each request wakes one process, whose output is the answer.
//
// The same binary is two processes. The monitor owns the socket and starts
// commands; the core reads from the network and may do nothing else. See
// docs/onewake.8.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/core"
	"github.com/onewake/onewake/internal/monitor"
)

// version is set when a release is linked.
var version = "devel"

func main() {
	if len(os.Args) == 1 && os.Args[0] == core.Name {
		os.Exit(core.Run())
	}
	cfg, action, err := cli.Parse(os.Args[1:])
	switch action {
	case cli.Version:
		fmt.Printf("onewake %s %s %s/%s\n", cli.Release(version), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	case cli.Check:
		err = cli.CheckStart(context.Background(), cfg, err, os.Stdout)
	case cli.Run:
		if err == nil {
			os.Exit(cli.ExitStatus(monitor.Run(cfg, cli.Release(version))))
		}
	}
	cli.Report(os.Stderr, err)
	os.Exit(cli.ExitStatus(err))
}

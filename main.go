//go:debug containermaxprocs=0

// Onewake runs a command, or a directory of CGI programs, behind a web server. Each
// request starts one process, and its output is the answer.
//
// The same binary runs as two processes. The monitor owns the sockets and starts
// commands. The core reads from the network and has no other rights. See
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

// version is set by the linker for a release.
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

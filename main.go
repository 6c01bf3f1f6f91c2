//go:debug containermaxprocs=0

// Onewake puts one command behind a web server: each request wakes one
// process, whose output is the answer.
//
// The same binary is two processes. The monitor (monitor.go) owns the socket
// and starts the command; the core (core.go) reads from the network and may do
// nothing else. See docs/onewake.8.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/sock"
)

// Exit statuses, of sysexits(3).
const (
	statusOK     = 0
	statusUsage  = 64 // the command line cannot be understood
	statusInUse  = 69 // somebody else serves at the address
	statusOS     = 71 // the system refused something
	statusNoPerm = 77 // not permitted
	statusConfig = 78 // the configuration cannot work
)

// version is set when a release is linked.
var version = "devel"

func main() {
	if len(os.Args) == 1 && os.Args[0] == coreName {
		os.Exit(runCore())
	}
	o, err := parseOptions(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(statusOK)
	case err != nil && o == nil:
		os.Exit(report(err))
	case o.version:
		fmt.Printf("onewake %s %s %s/%s\n", versionString(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		os.Exit(statusOK)
	case o.check:
		os.Exit(report(check(os.Stdout, o, err)))
	case err != nil:
		os.Exit(report(err))
	}
	if err := runMonitor(o); err != nil {
		os.Exit(report(err))
	}
}

// versionString is the linked version, or what Go knows of the build.
func versionString() string {
	if version != "devel" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" && bi.Main.Version != "(devel)" {
		return bi.Main.Version
	}
	return version
}

// report prints an error and gives the exit status. A standard error that nobody
// reads is not waited for: a service manager waits for our end, to start us
// again.
func report(err error) int {
	printed := make(chan struct{})
	go func() {
		printErrors(os.Stderr, err)
		close(printed)
	}()
	select {
	case <-printed:
	case <-time.After(time.Second):
	}
	return exitStatus(err)
}

// printErrors prints each error on a line of its own.
func printErrors(w io.Writer, err error) {
	for _, e := range flatten(err) {
		fmt.Fprintf(w, "onewake: %v\n", e)
	}
}

// flatten takes collections of errors apart.
func flatten(err error) []error {
	var m *multierror.Error
	if errors.As(err, &m) {
		var all []error
		for _, e := range m.Errors {
			all = append(all, flatten(e)...)
		}
		return all
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// exitStatus maps an error to a status, the one place that does. Of several
// the one that must be mended first counts.
func exitStatus(err error) int {
	var usage usageError
	var config configError
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &usage), errors.Is(err, sock.ErrBadAddr):
		return statusUsage
	case errors.As(err, &config), errors.Is(err, sock.ErrUnsafeDir), errors.Is(err, sock.ErrNotSocket),
		errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return statusConfig
	case errors.Is(err, fs.ErrPermission):
		return statusNoPerm
	case errors.Is(err, sock.ErrInUse):
		return statusInUse
	}
	return statusOS
}

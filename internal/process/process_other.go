//go:build !freebsd && !linux

package process

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

var errUnsupported = fmt.Errorf("processes: %w", sandbox.ErrUnsupported)

type poller struct{}

func (*poller) open() error                     { return errUnsupported }
func (*poller) add(int) error                   { return errUnsupported }
func (*poller) remove(int)                      {}
func (*poller) process(int, int) error          { return errUnsupported }
func (*poller) wait(time.Duration, *Loop) error { return errUnsupported }

const waitOptions = unix.WNOHANG

func hasExited(int) bool        { return true }
func openHandle(int) int        { return -1 }
func pipe(*[2]int) error        { return errUnsupported }
func limitEnd(int, bool) error  { return errUnsupported }
func descendants() []descendant { return nil }

func start(*Command, ...uintptr) (pid, handle int, err error) { return 0, -1, errUnsupported }
func (*Supervisor) reapLeftovers(int) bool                    { return false }
func signalLeftovers(int, unix.Signal)                        {}

const (
	sysSigaction, sysSigprocmask, sigSetmask, sigsetSize = 0, 0, 0, 0
	maxSignal, firstRealTime                             = 0, 1
)

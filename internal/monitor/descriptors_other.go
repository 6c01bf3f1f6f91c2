//go:build !freebsd && !linux

package monitor

// closeOnExec: nothing is started here, see package process.
func closeOnExec() {}

//go:build !freebsd && !linux

package monitor

// closeOnExec does nothing: package process starts nothing on this system.
func closeOnExec() {}

//go:build !freebsd && !linux

package sandbox

func childUntraceable() error { return Untraceable() }

//go:build linux && !confine

package sandbox

func enter() error { return ErrUnsupported }

//go:build !freebsd && !linux

package sandbox

func limit(int, Rights) error { return ErrUnsupported }

func enter() error { return ErrUnsupported }

func untraceable() error { return ErrUnsupported }

func acquireReaper() error { return ErrUnsupported }

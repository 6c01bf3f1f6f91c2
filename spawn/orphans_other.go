//go:build !freebsd && !linux

package spawn

const hasReaper = false

func hasChild(int) bool { return false }

func children() []int { return nil }

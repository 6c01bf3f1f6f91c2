//go:build stress

package e2e

import (
	"strconv"
	"testing"
)

// resident returns the resident memory of a process in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	n, err := strconv.Atoi(psField(pid, "rss"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

//go:build linux

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// These are helpers for the tests of docs/reliability.md. Tests that take long,
// load the machine or measure time are in stress_*_test.go.

// childrenOf lists the children of a process, including zombies.
func childrenOf(pid int) (pids []int) {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
		for _, w := range strings.Fields(string(b)) {
			n, _ := strconv.Atoi(w)
			pids = append(pids, n)
		}
	}
	return pids
}

// settled waits until the monitor has no child but its core and no more
// descriptors than before.
func (s *server) settled(before int) {
	s.t.Helper()
	eventually(s.t, "no child of the monitor but its core", func() bool { return len(childrenOf(s.pid)) == 1 })
	eventually(s.t, fmt.Sprintf("as many descriptors in the monitor as before (%d)", before), func() bool {
		return len(descriptors(s.t, s.pid)) <= before
	})
}

// executes reports whether a process runs the program that is at path now.
func executes(pid int, path string) bool {
	a, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

const noLimit = 1 << 40

// setLimit sets a soft limit of the monitor or the core, at most to the hard
// limit.
func (s *server) setLimit(pid, resource int, soft uint64) {
	s.t.Helper()
	if s.cred != nil {
		as(s.t, s.cred, "limit", fmt.Sprint(pid), fmt.Sprint(resource), fmt.Sprint(soft))
		return
	}
	var r unix.Rlimit
	err := unix.Prlimit(pid, resource, nil, &r)
	if err == nil {
		r.Cur = min(soft, r.Max)
		err = unix.Prlimit(pid, resource, &r, nil)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

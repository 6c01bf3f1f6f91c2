//go:build linux

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What the tests of docs/reliability.md have in common. Those that take long,
// load the machine or look at the clock are in stress_*_test.go.

// childrenOf lists the children of a process, zombies included.
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

// settled waits until the monitor has no child but its core, dead or alive, and
// no more open than it had.
func (s *server) settled(before int) {
	s.t.Helper()
	eventually(s.t, "no child of the monitor but its core", func() bool { return len(childrenOf(s.pid)) == 1 })
	eventually(s.t, fmt.Sprintf("as many descriptors in the monitor as before (%d)", before), func() bool {
		return len(descriptors(s.t, s.pid)) <= before
	})
}

// executes tells whether a process runs the program that is at path now.
func executes(pid int, path string) bool {
	a, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

const noLimit = 1 << 40

// setLimit sets a soft limit of the monitor or the core, at most as high as the
// hard one.
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

package spawn

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

const hasReaper = true

// hasChild tells whether a group holds a child of ours, dead or alive; nothing
// is reaped.
func hasChild(pgid int) bool {
	for {
		err := unix.Waitid(unix.P_PGID, pgid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}

// ended: every process has a pidfd to watch.
func ended(int) bool { return true }

// children lists our children. The kernel keeps them by thread (proc(5),
// /proc/PID/task/TID/children); nothing is found without CONFIG_PROC_CHILDREN.
func children() []int {
	var pids []int
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, w := range bytes.Fields(b) {
			if pid, err := strconv.Atoi(string(w)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

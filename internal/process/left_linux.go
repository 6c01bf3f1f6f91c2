package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// left reaps what is dead in the process group of a command that has been
// reaped, and tells whether a child of ours is alive in it: as long as one is,
// the number is nobody else's.
func (s *Supervisor) left(pgid int) bool {
	for {
		pid, err := peek(unix.P_PGID, pgid)
		if err != nil {
			return false
		}
		if pid == 0 {
			return true
		}
		// One that others wait for has moved here, and is theirs to reap.
		if g := s.groups[pid]; g != nil && !g.reaped {
			return true
		}
		reap(pid)
	}
}

func signalLeft(pgid int, sig unix.Signal) { unix.Kill(-pgid, sig) }

// peek gives a dead child of those that waitid(2) finds, which is not reaped; 0
// if there are only live ones, and an error if there are none.
func peek(idType, id int) (int, error) {
	var info unix.Siginfo
	err := unix.Waitid(idType, id, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	// si_pid begins the union behind three integers, which is aligned to a
	// pointer (sigaction(2)).
	const word = unsafe.Sizeof(uintptr(0))
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), (12+word-1)&^(word-1)))), err
}

// children lists our children. The kernel keeps them by thread (proc(5),
// /proc/PID/task/TID/children); nothing is found without CONFIG_PROC_CHILDREN.
func children() (list []child) {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, w := range bytes.Fields(b) {
			pid, err := strconv.Atoi(string(w))
			if err != nil {
				continue
			}
			pgid, _ := unix.Getpgid(pid)
			list = append(list, child{pid, pgid})
		}
	}
	return list
}

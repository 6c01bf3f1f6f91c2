//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// These functions use /proc. Only root can read all about monitor and core.

// isGone reports whether a process has exited; it may be a zombie.
func isGone(pid int) bool {
	state := processState(pid)
	return state == "" || state == "Z" || state == "X"
}

func isStopped(pid int) bool { return strings.EqualFold(processState(pid), "T") }

func processState(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if i := bytes.LastIndexByte(b, ')'); err == nil && i > 0 && len(b) > i+2 {
		return string(b[i+2 : i+3])
	}
	return ""
}

// descriptors returns the open descriptors of a process, "0 /dev/null" and so
// on.
func descriptors(t *testing.T, pid int) (list []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		list = append(list, e.Name()+" "+to)
	}
	slices.SortFunc(list, func(a, b string) int {
		var m, n int
		fmt.Sscan(a, &m)
		fmt.Sscan(b, &n)
		return m - n
	})
	return list
}

// environment returns the initial environment of a process.
func environment(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const trueProgram = "/bin/true"

// ignoredSignals returns the signals that this process ignores, and the mask of
// blocked signals.
func ignoredSignals() (ignored []int, mask string) {
	// Read the status of this thread: another one may be in pthread_create(3),
	// which blocks all signals.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b, _ := os.ReadFile("/proc/thread-self/status")
	for line := range strings.Lines(string(b)) {
		switch f := strings.Fields(line); f[0] {
		case "SigBlk:":
			mask = f[1]
		case "SigIgn:":
			n, _ := strconv.ParseUint(f[1], 16, 64)
			for sig := range 64 {
				if n&(1<<sig) != 0 {
					ignored = append(ignored, sig+1)
				}
			}
		}
	}
	return ignored, mask
}

// spyMethods are ways to look into another process of the same user.
var spyMethods = []spyMethod{
	{"ptrace", func(pid int) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.PtraceAttach(pid); err != nil {
			return err
		}
		unix.Wait4(pid, nil, 0, nil)
		return unix.PtraceDetach(pid)
	}},
	{"mem", func(pid int) error {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
		if err == nil {
			f.Close()
		}
		return err
	}},
	{"environ", func(pid int) error {
		_, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return err
	}},
	{"fd", func(pid int) error {
		_, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		return err
	}},
	{"pidfd_getfd", func(pid int) error {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		defer unix.Close(pidfd)
		fd, err := unix.PidfdGetfd(pidfd, 0, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}},
	{"process_vm_readv", func(pid int) error {
		var b [1]byte
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(1)
		// The kernel checks the permission before the address.
		_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 1, Len: 1}}, 0)
		if err == unix.EFAULT {
			err = nil
		}
		return err
	}},
}

// hasSandbox reports whether -sandbox on confines the core here.
const hasSandbox = false

//go:build stress && linux

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Without descriptors, requests that cannot be served are refused, no request
// gets the answer of another one, and no restart is necessary.
func TestStressFewDescriptors(t *testing.T) {
	storm(t)
	needRoot(t, "it sets the limits of processes that are closed to their own user")
	for _, whose := range []string{"monitor", "core", "both"} {
		t.Run(whose, func(t *testing.T) {
			s := start(t, "-access-log=false", "-max-procs", "16", "-max-conns", "200", "--", script(t, newDir(t, nil), "echo", echoText))
			s.errorsExpected = true
			tr := newTraffic(t, s.addr)
			tr.sleep, tr.size, tr.pause = "0.02", 128<<10, time.Millisecond
			load := func(d time.Duration) {
				tr.quit = make(chan struct{})
				tr.add(20, fresh)
				tr.add(20, slow)
				tr.add(10, keeping)
				tr.add(5, upload)
				time.Sleep(d)
				tr.end()
			}
			load(300 * time.Millisecond)
			tr.none(lost, wrong, busy, notConnected)
			before := usageOf(t, s.pid)
			for pid, name := range map[int]string{s.pid: "monitor", s.core: "core"} {
				if whose == name || whose == "both" {
					// The core keeps some connections and has few descriptors
					// left for pipes.
					s.setLimit(pid, unix.RLIMIT_NOFILE, uint64(before.descriptors+map[string]int{"monitor": 4, "core": 40}[name]))
				}
			}
			load(count(500*time.Millisecond, 1500*time.Millisecond))
			tr.none(lost, wrong, notConnected)
			c := tr.counts()
			s.setLimit(s.pid, unix.RLIMIT_NOFILE, noLimit)
			s.setLimit(s.core, unix.RLIMIT_NOFILE, noLimit)
			tr.mu.Lock()
			tr.others = nil
			tr.mu.Unlock()
			load(300 * time.Millisecond)
			tr.none(lost, wrong, busy, notConnected)
			if st := s.status(); st["restarts"] != "0" {
				t.Errorf("the core was started again: %v", st)
			}
			t.Logf("%d answered, %d times 503 for lack of descriptors; %d records say so", c[answered], c[busy],
				len(s.find("command cannot be started"))+len(s.find("cannot accept")))
			s.settled(before.descriptors)
			s.stop()
		})
	}
}

// A small limit on open files is sufficient for -max-conns connections.
func TestStressSmallDescriptorLimit(t *testing.T) {
	storm(t)
	s := launch{shell: "ulimit -n 128", args: []string{"-access-log=false", "-max-procs", "4", "-max-conns", "64", "--",
		script(t, newDir(t, nil), "echo", echoText)}}.start(t)
	tr := newTraffic(t, s.addr)
	tr.sleep, tr.size = "0.05", 128<<10
	tr.add(200, fresh)
	tr.add(10, slow)
	tr.add(5, upload)
	time.Sleep(count(500*time.Millisecond, 1500*time.Millisecond))
	tr.end()
	tr.none(lost, wrong, busy, notConnected)
	t.Logf("%d clients at 128 descriptors: %d answered, none lost", 215, tr.counts()[answered])
	s.stop()
}

// Without memory only the command fails.
func TestStressNoMemoryForTheCommand(t *testing.T) {
	storm(t)
	needRoot(t, "it sets the limits of a process that is closed to its own user")
	dir := newDir(t, nil)
	s := start(t, "--", script(t, dir, "greedy", `
[ "$PATH_INFO" = /small ] && ulimit -v 100
exec `+need(t, "head", "coreutils")+` -c 5 /dev/zero`))
	s.get("/").want(t, 200, "\x00\x00\x00\x00\x00")
	s.get("/small").wantStatus(t, 500)
	if r := s.await("command failed"); !strings.HasPrefix(r["exit"], "signal ") {
		t.Errorf("%v, want a death by a signal", r)
	}
	s.get("/").want(t, 200, "\x00\x00\x00\x00\x00")
	if !raceEnabled {
		// Not even execve(2) succeeds. The monitor itself needs no memory here.
		s.setLimit(s.pid, unix.RLIMIT_AS, 64<<10)
		a := s.get("/")
		s.setLimit(s.pid, unix.RLIMIT_AS, noLimit)
		a.wantStatus(t, 500)
		if r := s.awaitN(2, "command failed"); !strings.HasPrefix(r["exit"], "signal ") {
			t.Errorf("%v, want a death by a signal", r)
		}
	}
	s.get("/").want(t, 200, "\x00\x00\x00\x00\x00")
	if r := s.status()["restarts"]; r != "0" {
		t.Errorf("%s cores started again", r)
	}
	s.stop()
}

// memoryGroup makes a control group with a limit on memory (cgroups(7), version
// 2).
func memoryGroup(t *testing.T, bytes int) string {
	t.Helper()
	needRoot(t, "it makes a control group")
	has := func(root string) bool {
		b, _ := os.ReadFile(root + "/cgroup.controllers")
		return slices.Contains(strings.Fields(string(b)), "memory")
	}
	root := "/sys/fs/cgroup"
	if !has(root) {
		root = newDir(t, nil)
		if err := unix.Mount("none", root, "cgroup2", 0, ""); err != nil {
			t.Skip("no control groups of version 2: ", err)
		}
		t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
		if !has(root) {
			t.Skip("the control groups of version 2 have no memory controller here")
		}
	}
	if err := os.WriteFile(root+"/cgroup.subtree_control", []byte("+memory"), 0o644); err != nil {
		t.Skip("no control group can be given a limit here: ", err)
	}
	dir, err := os.MkdirTemp(root, "onewake-test-")
	if err != nil {
		t.Skip("no control group can be made here: ", err)
	}
	t.Cleanup(func() { syscall.Rmdir(dir) })
	if err := os.WriteFile(dir+"/memory.max", []byte(strconv.Itoa(bytes)), 0o644); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(dir+"/memory.swap.max", []byte("0"), 0o644) // not everywhere
	return dir
}

// Only the command dies when the kernel kills it for lack of memory in its
// control group.
func TestStressNoMemoryInTheGroup(t *testing.T) {
	storm(t)
	group := memoryGroup(t, 32<<20)
	s := start(t, "-max-procs", "4", "--", script(t, newDir(t, nil), "greedy", `
[ "$PATH_INFO" = /greedy ] || exec echo fine
echo $$ >"`+group+`/cgroup.procs" || exit 3
exec tail /dev/zero`))
	before := usageOf(t, s.pid)
	const n = 3
	for i := range n {
		s.get("/greedy").wantStatus(t, 500)
		if r := s.awaitN(i+1, "command failed"); r["exit"] != "signal 9" {
			t.Errorf("%v, want signal 9", r)
		}
		s.get("/").want(t, 200, "fine\n")
	}
	b, _ := os.ReadFile(group + "/memory.events")
	if !strings.Contains(string(b), fmt.Sprintf("\noom_kill %d\n", n)) {
		t.Errorf("the kernel says %q, want %d killed", b, n)
	}
	if r := s.status()["restarts"]; r != "0" {
		t.Errorf("%s cores started again", r)
	}
	s.settled(before.descriptors)
	s.stop()
}

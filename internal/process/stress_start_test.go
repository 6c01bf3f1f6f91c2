//go:build stress && (linux || freebsd)

package process

import (
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStressStarts: 20,000 starts, every tenth of which fails, leak nothing.
func TestStressStarts(t *testing.T) {
	n := 20000
	if os.Getenv("ONEWAKE_STRESS_SHORT") != "" {
		n = 2000
	}
	r := newRig(t, options)
	works := &Command{Path: program(t, "true"), Args: []string{"true"}, Dir: "/"}
	fails := &Command{Path: "/nonexistent", Args: []string{"true"}, Dir: "/"}
	starts := func(n int) (fds, heap int) {
		for i := range n {
			c := &command{r: r, exits: make(chan exit, 1)}
			cmd := works
			if i%10 == 9 {
				cmd = fails
			}
			var ends []int
			var err error
			r.do(func() { c.g, ends, err = r.sup.Start(cmd, StdinPipe, c) })
			closeAll(ends...)
			switch {
			case cmd == fails && err != unix.ENOENT, cmd == works && err != nil:
				t.Fatal(err)
			case cmd == fails:
			default:
				if e := c.exited(); e.status != 0 || !e.empty {
					t.Fatalf("%+v", e)
				}
			}
		}
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return descriptors(t), int(m.HeapAlloc)
	}
	fds, heap := starts(n / 20)
	fdsAfter, heapAfter := starts(n)
	t.Logf("%d starts: %d descriptors, then %d; %d bytes of heap, then %d", n, fds, fdsAfter, heap, heapAfter)
	if fdsAfter > fds || heapAfter > heap+256<<10 {
		t.Error("something leaks")
	}
	r.do(func() {
		if list := descendants(); len(list) != 0 || len(r.loop.procs) != 0 || len(r.sup.groups) != 0 {
			t.Errorf("left: descendants %v, %d watched, %d groups", list, len(r.loop.procs), len(r.sup.groups))
		}
	})
}

// TestStressStartCost: what a start costs the parent, which has 6 MiB of heap in
// use, beside syscall.ForkExec. The two take turns; medians are shown.
func TestStressStartCost(t *testing.T) {
	rounds := 10
	if os.Getenv("ONEWAKE_STRESS_SHORT") != "" {
		rounds = 2
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := DefaultSignals(); err != nil {
		t.Fatal(err)
	}
	heap := make([]byte, 6<<20)
	for i := 0; i < len(heap); i += 4096 {
		heap[i]++
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	files := []uintptr{uintptr(null), uintptr(null), uintptr(null)}
	cmd := &Command{Path: program(t, "true"), Args: []string{"true"}, Dir: "/"}
	forkExec := func(c *Command, files ...uintptr) (pid, handle int, err error) {
		sys := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		pid, err = syscall.ForkExec(c.Path, c.Args, &syscall.ProcAttr{Dir: c.Dir, Env: c.Env, Files: files, Sys: sys})
		return pid, -1, err
	}
	var ours, theirs cost
	for range rounds {
		for range 20 { // in a row: a fork makes pages fault later too
			ours.measure(t, start, cmd, files)
		}
		for range 20 {
			theirs.measure(t, forkExec, cmd, files)
		}
	}
	ours.log(t, "this package")
	theirs.log(t, "syscall.ForkExec")
	runtime.KeepAlive(heap)
}

// cost is that of some starts: the parent's CPU time and page faults, and the
// time from the start to the exit.
type cost struct {
	cpu, wall []time.Duration
	faults    int64
}

func (c *cost) measure(t *testing.T, start func(*Command, ...uintptr) (int, int, error), cmd *Command, files []uintptr) {
	var before, after unix.Rusage
	began := time.Now()
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	pid, handle, err := start(cmd, files...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	closeAll(handle)
	c.wall = append(c.wall, time.Since(began))
	c.cpu = append(c.cpu, time.Duration(after.Utime.Nano()-before.Utime.Nano()+after.Stime.Nano()-before.Stime.Nano()))
	c.faults += int64(after.Minflt - before.Minflt)
}

func (c *cost) log(t *testing.T, name string) {
	median := func(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }
	t.Logf("%s: %v of own CPU, %.1f page faults, %v to the exit", name, median(c.cpu), float64(c.faults)/float64(len(c.cpu)), median(c.wall))
}

//go:build linux || freebsd

package monitor

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	coreprocess "github.com/onewake/onewake/internal/core"
	"github.com/onewake/onewake/internal/looptest"
	"github.com/onewake/onewake/internal/process"
)

// TestMain runs a fake core if the monitor under test has started this binary as a
// core. The first -param in its configuration is the name of its role.
func TestMain(m *testing.M) {
	if os.Args[0] == coreprocess.Name {
		os.Exit(fakeCore())
	}
	os.Exit(m.Run())
}

func fakeCore() int {
	c, err := control.NewClient(os.NewFile(coreprocess.Control, "control"))
	if err != nil {
		return 1
	}
	b, err := c.Config()
	setup := new(coreprocess.Setup)
	if err == nil {
		err = json.Unmarshal(b, setup)
	}
	if err != nil {
		return 1
	}
	c.OnRetire, c.OnStop = func() {}, func() { os.Exit(0) }
	return roles[setup.Param[0]](c, setup)
}

// roles are the fake cores.
var roles = map[string]func(*control.Client, *coreprocess.Setup) int{
	// Never ready, but sends heartbeats.
	"not ready": func(c *control.Client, _ *coreprocess.Setup) int {
		sendHeartbeats(c)
		return 1
	},
	// Works, but does not exit after it has retired.
	"honest":       honest,
	"forks":        func(c *control.Client, s *coreprocess.Setup) int { return forks(c, s, false) },
	"forks setsid": func(c *control.Client, s *coreprocess.Setup) int { return forks(c, s, true) },
}

func honest(c *control.Client, _ *coreprocess.Setup) int {
	c.Ready("test")
	go sendHeartbeats(c)
	c.Run()
	return 1
}

// forks starts a process with inherited descriptors, and writes its pid to a file
// in the directory of the second -param.
func forks(c *control.Client, setup *coreprocess.Setup, setsid bool) int {
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "trap '' TERM HUP; sleep 1000"}, &syscall.ProcAttr{
		Dir: "/", Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: setsid},
	})
	if err == nil {
		err = os.WriteFile(setup.Param[1]+"/pid", []byte(strconv.Itoa(pid)), 0o600)
	}
	if err != nil {
		return 1
	}
	return honest(c, setup)
}

func sendHeartbeats(c *control.Client) {
	for c.Push(control.Stats{}) == nil {
		time.Sleep(looptest.Soon)
	}
}

// rig is a monitor without listeners.
type rig struct {
	*monitor
	t    *testing.T
	text looptest.Log
}

// times never expire, except the delay before a restart.
var times = cli.Times{Heartbeat: looptest.Never, Ready: looptest.Never, Retired: looptest.Never, Backoff: looptest.Soon}

// newRig starts a monitor and a fake core.
func newRig(t *testing.T, role string, times cli.Times, args ...string) *rig {
	t.Helper()
	r := &rig{t: t}
	r.monitor = &monitor{
		Config:    &cli.Config{Command: []string{"sh"}, Path: "/bin/sh", Param: append([]string{role}, args...), MaxProcs: 1, Timeout: looptest.Soon, KillAfter: looptest.Soon, Drain: looptest.Never, Times: times},
		startTime: time.Now(), exe: os.Args[0], cores: make(map[int]*core),
		log: slog.New(slog.NewTextHandler(&r.text, nil)),
	}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := process.DefaultSignals()
		if err == nil {
			err = r.assemble()
		}
		if err == nil {
			err = r.startCore()
		}
		ready <- err
		if err == nil {
			if err := r.loop.Run(); err != nil {
				panic(err)
			}
		}
		close(ready)
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.loop.Post(r.killAll)
		select {
		case <-ready:
		case <-time.After(looptest.Bound):
			t.Error("the monitor does not stop")
		}
	})
	return r
}

// do calls f on the loop.
func (r *rig) do(f func()) { looptest.Do(r.loop.Post, f) }

// awaitCore waits until a core serves, and returns its pid.
func (r *rig) awaitCore() (pid int) {
	r.t.Helper()
	looptest.Eventually(r.t, "a core serves", func() (ok bool) {
		r.do(func() {
			if ok = r.current != nil && r.current.state == serving; ok {
				pid = r.current.pid
			}
		})
		return ok
	})
	return pid
}

// awaitLog waits for a record.
func (r *rig) awaitLog(format string, args ...any) {
	r.t.Helper()
	text := fmt.Sprintf(format, args...)
	looptest.Eventually(r.t, "log record "+text, func() bool { return strings.Contains(r.text.String(), text) })
}

// awaitReaped waits until a process has exited and been reaped.
func awaitReaped(t *testing.T, pid int) {
	t.Helper()
	looptest.Eventually(t, fmt.Sprintf("process %d is reaped", pid), func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
}

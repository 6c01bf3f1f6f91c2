//go:build linux || freebsd

package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	coreprocess "github.com/onewake/onewake/internal/core"
	"github.com/onewake/onewake/internal/process"
)

// TestMain is also the cores that tests start: the first -param that they are
// told says which.
func TestMain(m *testing.M) {
	if os.Args[0] == coreprocess.Name {
		os.Exit(poseAsCore())
	}
	os.Exit(m.Run())
}

// bound ends a test that waits for what does not come, never is for times that
// must not pass during a test, and soon for those that must.
const (
	bound = 60 * time.Second
	never = time.Hour
	soon  = 10 * time.Millisecond
)

// plans are what a core can do once it has its configuration.
var plans = map[string]func(*control.Client, *coreprocess.Setup) int{}

// poseAsCore is a core that does as it is told.
func poseAsCore() int {
	c, err := control.NewClient(os.NewFile(coreprocess.Control, "control"))
	if err != nil {
		return 1
	}
	b, err := c.Config()
	set := new(coreprocess.Setup)
	if err == nil {
		err = json.Unmarshal(b, set)
	}
	if err != nil {
		return 1
	}
	c.OnRetire, c.OnStop = func() {}, func() { os.Exit(0) }
	return plans[set.Param[0]](c, set)
}

// beat has a core show again and again that it is alive.
func beat(c *control.Client) {
	for c.Push(control.Stats{}) == nil {
		time.Sleep(soon)
	}
}

func init() {
	// honest does what the monitor says, but for a retirement.
	plans["honest"] = func(c *control.Client, _ *coreprocess.Setup) int {
		c.Ready("test")
		go beat(c)
		c.Run()
		return 1
	}
	// early beats, and is never ready.
	plans["early"] = func(c *control.Client, _ *coreprocess.Setup) int {
		beat(c)
		return 1
	}
}

func init() {
	// forks leaves a process that holds all of its descriptors, and tells its
	// number in its directory.
	for _, plan := range []string{"forks ", "forks setsid"} {
		plans[plan] = func(c *control.Client, set *coreprocess.Setup) int {
			pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "trap '' TERM HUP; sleep 1000"}, &syscall.ProcAttr{
				Dir: "/", Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: plan == "forks setsid"},
			})
			if err == nil {
				err = os.WriteFile(set.Param[1]+"/pid", []byte(strconv.Itoa(pid)), 0o600)
			}
			if err != nil {
				return 1
			}
			return plans["honest"](c, set)
		}
	}
}

// alone runs f in a process of its own: a monitor's children are those of its
// whole process.
func alone(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if os.Getenv("OW_ALONE") == t.Name() {
		f(t)
		return
	}
	t.Parallel()
	only := "^" + strings.ReplaceAll(regexp.QuoteMeta(t.Name()), "/", "$/^") + "$"
	cmd := exec.Command(os.Args[0], "-test.run="+only, "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "OW_ALONE="+t.Name())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// rig is a monitor without listeners, on a loop of its own.
type rig struct {
	*monitor
	t *testing.T

	mu   sync.Mutex
	text bytes.Buffer
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// times are those of most tests: nothing happens by itself.
var times = cli.Times{Heartbeat: never, Ready: never, Retired: never, Backoff: soon}

// newRig starts a monitor, and a core that follows a plan.
func newRig(t *testing.T, plan string, times cli.Times, args ...string) *rig {
	t.Helper()
	r := &rig{t: t}
	r.monitor = &monitor{
		Config:    &cli.Config{Command: []string{"sh"}, Path: "/bin/sh", Param: append([]string{plan}, args...), MaxProcs: 1, Timeout: soon, KillAfter: soon, Drain: never, Times: times},
		startTime: time.Now(), exe: os.Args[0], cores: make(map[int]*core),
		log: slog.New(slog.NewTextHandler(r, nil)),
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
		case <-time.After(bound):
			t.Error("the monitor does not end")
		}
	})
	return r
}

// do calls f on the loop.
func (r *rig) do(f func()) {
	done := make(chan struct{})
	r.loop.Post(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(bound):
		panic("the loop is stuck")
	}
}

// until waits for something that the loop knows.
func (r *rig) until(what string, f func() bool) {
	r.t.Helper()
	eventually(r.t, what+"\n"+r.logged(), func() (ok bool) {
		r.do(func() { ok = f() })
		return ok
	})
}

// serving waits until a core serves, and gives its number.
func (r *rig) serving() (pid int) {
	r.t.Helper()
	r.until("a core that serves", func() bool {
		if r.current == nil || r.current.state != serving {
			return false
		}
		pid = r.current.pid
		return true
	})
	return pid
}

// says waits for a record.
func (r *rig) says(format string, args ...any) {
	r.t.Helper()
	text := fmt.Sprintf(format, args...)
	eventually(r.t, "record "+text, func() bool { return strings.Contains(r.logged(), text) })
}

// eventually waits for a condition that nothing tells of.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// gone waits for a process to be away, its zombie included.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d to be gone", pid), func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
}

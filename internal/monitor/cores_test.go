//go:build linux || freebsd

package monitor

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/looptest"
)

// TestSuspend checks that a core is not killed after the whole machine was
// suspended.
func TestSuspend(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		times := times
		times.Heartbeat = 500 * time.Millisecond
		r := newRig(t, "honest", times)
		pid := r.awaitCore()
		r.do(func() {
			unix.Kill(pid, unix.SIGSTOP)
			looptest.Eventually(t, "the core is stopped", func() bool { return stopped(t, pid) })
			r.current.peer.Drain()
			time.Sleep(2 * maxMissed * times.Heartbeat) // suspends the loop
			unix.Kill(pid, unix.SIGCONT)
		})
		r.do(func() {})
		if r.awaitCore() != pid || strings.Contains(r.text.String(), "unresponsive") {
			t.Errorf("the core was killed: %s", r.text.String())
		}
	})
}

// TestUnresponsive checks that a core is killed after some missed heartbeats.
func TestUnresponsive(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		times := times
		times.Heartbeat = 100 * time.Millisecond
		r := newRig(t, "honest", times)
		pid := r.awaitCore()
		unix.Kill(pid, unix.SIGSTOP)
		r.awaitLog(`msg="core is unresponsive" core=%d`, pid)
		awaitReaped(t, pid)
		if r.awaitCore() == pid {
			t.Error("the core was not replaced")
		}
	})
}

// TestNotReady checks that a core that does not become ready is killed, although it
// sends heartbeats.
func TestNotReady(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, "honest", times)
		old := r.awaitCore()
		r.do(func() {
			r.Param, r.Times.Ready = []string{"not ready"}, 100*time.Millisecond
			r.reload()
		})
		r.awaitLog(`msg="reload failed, the old core stays" core=%d`, old)
		r.do(func() {
			r.Param, r.Times.Ready = []string{"honest"}, looptest.Never
			r.reload()
		})
		r.awaitLog(`msg="core replaced"`)
	})
}

// TestCoreForks checks that the children of a core are killed with it, even if no
// command has been started.
func TestCoreForks(t *testing.T) {
	for _, role := range []string{"forks", "forks setsid"} {
		t.Run(role, func(t *testing.T) {
			looptest.Alone(t, func(t *testing.T) {
				dir := t.TempDir()
				r := newRig(t, role, times, dir)
				pid := r.awaitCore()
				b, err := os.ReadFile(dir + "/pid")
				if err != nil {
					t.Fatal(err)
				}
				child, _ := strconv.Atoi(string(b))
				if err := unix.Kill(child, 0); err != nil {
					t.Fatalf("child %q: %v", b, err)
				}
				unix.Kill(pid, unix.SIGKILL)
				awaitReaped(t, child)
				if r.awaitCore() == pid {
					t.Error("the core was not replaced")
				}
			})
		})
	}
}

// TestRetireAfterKill checks that a killed core does not change its state.
func TestRetireAfterKill(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, "honest", times)
		r.awaitCore()
		r.do(func() {
			c := r.current
			r.kill(c)
			r.retire(c)
			if c.state != dead || c.retired != nil {
				t.Errorf("state %d, timer %v", c.state, c.retired)
			}
		})
	})
}

// TestRetiredCore checks that a replaced core is killed if it does not exit.
func TestRetiredCore(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		times := times
		times.Retired = looptest.Soon
		r := newRig(t, "honest", times)
		old := r.awaitCore()
		r.do(r.reload)
		r.awaitLog(`msg="core replaced"`)
		r.awaitLog(`msg="retired core does not exit" core=%d`, old)
		awaitReaped(t, old)
	})
}

// stopped reports whether a process is stopped by a signal.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(state), "T")
}

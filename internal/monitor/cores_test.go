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
)

// TestPause: heartbeats that are missing since the whole machine stood still are
// not missed by the core.
func TestPause(t *testing.T) {
	alone(t, func(t *testing.T) {
		times := times
		times.Heartbeat = 500 * time.Millisecond
		r := newRig(t, "honest", times)
		pid := r.serving()
		unix.Kill(pid, unix.SIGSTOP)
		eventually(t, "the core to stop", func() bool { return stopped(t, pid) })
		r.do(func() {
			r.current.peer.Drain()                      // what it had said
			time.Sleep(2 * maxMissed * times.Heartbeat) // it is the loop that stands still
			unix.Kill(pid, unix.SIGCONT)
		})
		r.do(func() {})
		if r.serving() != pid || strings.Contains(r.logged(), "unresponsive") {
			t.Errorf("the core was killed: %s", r.logged())
		}
	})
}

// TestStuck: a core that has missed some heartbeats in a row is killed.
func TestStuck(t *testing.T) {
	alone(t, func(t *testing.T) {
		times := times
		times.Heartbeat = 100 * time.Millisecond
		r := newRig(t, "honest", times)
		pid := r.serving()
		unix.Kill(pid, unix.SIGSTOP)
		r.says(`msg="core is unresponsive" core=%d`, pid)
		gone(t, pid)
		if r.serving() == pid {
			t.Error("it is still there")
		}
	})
}

// TestBeatsWithoutBeingReady: a core that is not ready in time is killed, whatever
// it says.
func TestBeatsWithoutBeingReady(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, "honest", times)
		old := r.serving()
		r.do(func() {
			r.Param, r.Times.Ready = []string{"early"}, 100*time.Millisecond
			r.reload()
		})
		r.says(`msg="reload failed, the old core stays" core=%d`, old)
		r.do(func() {
			r.Param, r.Times.Ready = []string{"honest"}, never
			r.reload()
		})
		r.says(`msg="core replaced"`)
	})
}

// TestCoreForks: what a core has started ends with it, also where no command has
// been started that has strays looked for.
func TestCoreForks(t *testing.T) {
	for _, setsid := range []string{"", "setsid"} {
		t.Run("forks "+setsid, func(t *testing.T) {
			alone(t, func(t *testing.T) {
				dir := t.TempDir()
				r := newRig(t, "forks "+setsid, times, dir)
				pid := r.serving()
				b, err := os.ReadFile(dir + "/pid")
				if err != nil {
					t.Fatal(err)
				}
				child, _ := strconv.Atoi(string(b))
				if err := unix.Kill(child, 0); err != nil {
					t.Fatalf("child %q: %v", b, err)
				}
				unix.Kill(pid, unix.SIGKILL)
				gone(t, child)
				if r.serving() == pid {
					t.Error("it is still there")
				}
			})
		})
	}
}

// TestDeadIsDead: one that has been told to die is nothing else any more.
func TestDeadIsDead(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, "honest", times)
		r.serving()
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

// TestRetiredCoreEnds: one that has been replaced and goes on is killed in the
// end.
func TestRetiredCoreEnds(t *testing.T) {
	alone(t, func(t *testing.T) {
		times := times
		times.Retired = soon
		r := newRig(t, "honest", times)
		old := r.serving()
		r.do(r.reload)
		r.says(`msg="core replaced"`)
		r.says(`msg="retired core does not exit" core=%d`, old)
		gone(t, old)
	})
}

// stopped tells whether a signal has stopped a process.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.HasPrefix(string(state), "T")
}

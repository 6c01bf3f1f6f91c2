//go:build stress && (freebsd || linux)

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// envShort asks for one short turn of each storm, without a look at the clock.
const envShort = "ONEWAKE_STRESS_SHORT"

func short() bool { return testing.Short() || os.Getenv(envShort) == "1" }

// storm begins a stress test and says what its failure may mean.
func storm(t *testing.T) {
	t.Helper()
	if short() {
		t.Log("one short turn: nothing is asserted about time, rate or memory")
		return
	}
	t.Log("this may fail because the machine is slow or busy: times, rates and sizes are asserted, see docs/reliability.md")
}

// off reports a figure that is not as it should be. In a short turn, figures
// mean nothing.
func off(t *testing.T, format string, args ...any) {
	t.Helper()
	if !short() {
		t.Errorf(format, args...)
	}
}

// count is how often something is done, or how long: once in a short turn, and
// as docs/reliability.md says.
func count[T int | time.Duration](quick, full T) T {
	if short() {
		return quick
	}
	return full
}

// unconnected waits until a core has no connection, and so no more open than it
// had without one. What it counts itself, it tells every 10 s only.
func (s *server) unconnected(core, without int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("as many descriptors in the core as without connections (%d)", without), func() bool {
		return len(descriptors(s.t, core)) <= without
	})
}

// lastCounters gives the status record with what the core has counted to its
// end. A reload ends one that has no connection, and it tells its counters then.
func (s *server) lastCounters() record {
	s.t.Helper()
	core := s.currentCore()
	s.signal(syscall.SIGHUP)
	s.await("core replaced", "old", strconv.Itoa(core))
	eventually(s.t, "the end of the former core", func() bool { return isReaped(core) })
	return s.status()
}

// isReaped tells whether the parent of a process knows of its end.
func isReaped(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

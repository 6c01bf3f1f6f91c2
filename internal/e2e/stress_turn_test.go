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

// envShort requests a short turn of each stress test, without looking at the
// time.
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

// off reports an unexpected figure. In a short turn figures are not checked.
func off(t *testing.T, format string, args ...any) {
	t.Helper()
	if !short() {
		t.Errorf(format, args...)
	}
}

// count returns how often or how long something is done: once in a short turn,
// otherwise as docs/reliability.md says.
func count[T int | time.Duration](quick, full T) T {
	if short() {
		return quick
	}
	return full
}

// unconnected waits until a core has no connection, by its descriptors. The
// core sends its counters only every 10 s.
func (s *server) unconnected(core, without int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("as many descriptors in the core as without connections (%d)", without), func() bool {
		return len(descriptors(s.t, core)) <= without
	})
}

// lastCounters returns the status record with the final counters of the core. A
// reload makes a core without connections exit, and it then sends its counters.
func (s *server) lastCounters() record {
	s.t.Helper()
	core := s.currentCore()
	s.signal(syscall.SIGHUP)
	s.await("core replaced", "old", strconv.Itoa(core))
	eventually(s.t, "the end of the former core", func() bool { return isReaped(core) })
	return s.status()
}

// isReaped reports whether the parent of a process has waited for it.
func isReaped(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

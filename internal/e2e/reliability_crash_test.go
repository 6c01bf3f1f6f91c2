//go:build linux

package e2e

import (
	"syscall"
	"testing"
)

// What a dead core had running is killed where asking does not help.
func TestCoreCrashEndsCommands(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `trap '' TERM; echo $$ >told; read x <go`, "-dir", m.dir, "-kill-after", "1ms")
	s.troubles = true
	dial(t, s.addr).send("%s", get11("/"))
	pids := m.pids(1)
	syscall.Kill(s.core, syscall.SIGKILL)
	awaitGone(t, pids...)
	s.stop()
}

// A stop ends in good order, whatever the commands do.
func TestStopWhateverTheCommandDoes(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `case $PATH_INFO in
/ignores) trap '' TERM INT HUP; echo $$ >told;;
/stops) echo $$ >told; kill -STOP $$;;
/group) (trap '' TERM; read x <go) & echo $! >told;;
/leaves) setsid sh -c 'trap "" TERM; echo $$ >told; read x <go' &
esac
read x <go`, "-dir", m.dir, "-max-procs", "4", "-drain", "1ms", "-kill-after", "1ms")
	var pids []int
	for _, path := range []string{"/ignores", "/stops", "/group", "/leaves"} {
		dial(t, s.addr).send("%s", get11(path))
		pids = append(pids, m.pids(1)...)
	}
	s.stop()
	for _, pid := range pids {
		if !isGone(pid) {
			t.Errorf("process %d outlives the service", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Nor does a stop depend on the core.
func TestStopWithoutTheCore(t *testing.T) {
	t.Parallel()
	s := start(t, "-drain", "1ms", "-kill-after", "1ms")
	s.troubles = true
	stopProcess(t, s.core)
	s.stop()
}

//go:build linux

package e2e

import (
	"syscall"
	"testing"
)

// Whatever a command does, it and its process group are terminated when its
// client disconnects. Processes that have left the group are terminated with
// the service at the latest.
func TestHostileCommand(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `case $PATH_INFO in
/ignores) trap '' TERM; echo $$ >told;;
/stops) echo $$ >told; kill -STOP $$;;
/closes) exec <&- >&- 2>&-; echo $$ >told;;
/grandchild) (trap '' TERM HUP; read x <go) & echo $! >told;;
/group) set -m; (trap '' TERM HUP; read x <go) & echo $! >told;;
/leaves) setsid sh -c 'trap "" TERM HUP; echo $$ >told; read x <go' &;;
/kills) kill -KILL 0;;
/honest) exit;;
esac
read x <go`, "-dir", m.dir, "-max-procs", "8", "-timeout", "10m", "-kill-after", "1ms")
	var conns []*conn
	var pids, strays []int
	paths := []string{"/ignores", "/stops", "/closes", "/grandchild", "/group", "/leaves"}
	for _, path := range paths {
		conns = append(conns, dial(t, s.addr).send("%s", get11(path)))
		if pid := m.pids(1)[0]; inOwnGroup(pid) && (path == "/group" || path == "/leaves") {
			strays = append(strays, pid)
		} else {
			pids = append(pids, pid)
		}
	}
	s.get("/kills").wantStatus(t, 500)
	for _, c := range conns {
		c.Close()
	}
	awaitGone(t, pids...)
	for _, path := range paths {
		s.await("request", "target", path, "ended", "client gone")
	}
	s.get("/honest").want(t, 200, "")
	eventually(t, "no child but the core and those", func() bool { return len(childrenOf(s.pid)) == 1+len(strays) })

	dial(t, s.addr).send("%s", get11("/ignores"))
	pids = m.pids(1)
	s.errorsExpected = true
	syscall.Kill(s.core, syscall.SIGKILL)
	awaitGone(t, pids...)
	s.stop()
	awaitGone(t, strays...)
}

func inOwnGroup(pid int) bool {
	pgid, err := syscall.Getpgid(pid)
	return err == nil && pgid == pid
}

// Children that the monitor has inherited from the program before it are
// reaped. So is an orphan of a command while another request runs.
func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := launch{shell: "cd " + m.dir + "; (read x <go) & echo $! >told", args: append([]string{"-dir", m.dir}, sh(`
[ $PATH_INFO = /long ] && { echo $$ >told; read x <go; exit; }
(setsid true &) </dev/null >/dev/null 2>&1`)...)}.start(t)
	inherited := m.pids(1)
	m.release(1)
	awaitGone(t, inherited...)
	long := dial(t, s.addr).send("%s", get11("/long"))
	m.pids(1)
	s.get("/").want(t, 200, "")
	eventually(t, "no child but the core and the long one", func() bool { return len(childrenOf(s.pid)) == 2 })
	m.release(1)
	long.answer("GET").want(t, 200, "")
	s.stop()
}

//go:build stress && linux

package e2e

import (
	"os"
	"strconv"
	"syscall"
	"testing"
)

// What cores that a reload has replaced have served is in the status line: as
// soon as it is logged, while they live and when they are gone.
func TestLifeReloadCounts(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := shell(t, `[ "$PATH_INFO" = / ] || while ! test -e ".$PATH_INFO"; do sleep .02; done; echo done`, "-dir", dir)
	served := 0
	wantServed := func(when string) {
		t.Helper()
		if st := s.status(); st["served"] != strconv.Itoa(served) || st["trouble"] != "" {
			t.Errorf("%s: %v, want served=%d", when, st, served)
		}
	}
	reload := func(n int) (old int) {
		t.Helper()
		s.signal(syscall.SIGHUP)
		old, _ = strconv.Atoi(s.awaitN(n, "core replaced")["old"])
		return old
	}
	const reloads = 10
	for i := range reloads {
		s.get("/").want(t, 200, "done\n")
		served++
		s.awaitN(served, "request")
		old := reload(i + 1)
		wantServed("core just replaced")
		awaitGone(t, old)
		wantServed("core gone")
	}
	first, last := dial(t, s.addr), dial(t, s.addr)
	first.send("%s", get11("/first"))
	last.send("%s", get11("/last"))
	eventually(t, "two that run", func() bool { return s.status()["running"] == "2" })
	old := reload(reloads + 1)
	wantServed("replaced core at work")
	syscall.Kill(old, syscall.SIGSTOP)
	if st := s.status(); st["trouble"] != "replaced core does not answer" {
		t.Errorf("replaced core stopped: %v", st)
	}
	syscall.Kill(old, syscall.SIGCONT)
	os.WriteFile(dir+"/first", nil, 0o644)
	first.answer("GET").want(t, 200, "done\n")
	served++
	s.awaitN(served, "request")
	wantServed("replaced core still at work")
	os.WriteFile(dir+"/last", nil, 0o644)
	last.answer("GET").want(t, 200, "done\n")
	served++
	s.awaitN(served, "request")
	awaitGone(t, old)
	wantServed("its last request")
	s.stop()
}

//go:build stress && linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Reloads lose no request, whatever binary is on disk.
func TestStressReloadUnderLoad(t *testing.T) {
	storm(t)
	needRoot(t, "it looks at which program the core executes")
	bin := ownBinary(t)
	newer := filepath.Join(newDir(t, nil), "newer")
	if err := build(newer, "main.version=0.1-newer"); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(newDir(t, nil), "other")
	if err := build(other, "github.com/onewake/onewake/internal/control.Version=other"); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(underTest)
	if err != nil {
		t.Fatal(err)
	}
	foreign := append([]byte(nil), good...)
	foreign[18], foreign[19] = 0xf7, 0xff // e_machine: an unknown machine

	s := launch{bin: bin, args: []string{"-access-log=false", "-max-procs", "32", "--", script(t, newDir(t, nil), "echo", echoText)}}.start(t)
	s.errorsExpected = true
	put := func(content []byte, mode os.FileMode) {
		t.Helper()
		if err := writeProgram(bin, content, mode); err != nil {
			t.Fatal(err)
		}
	}
	before := usageOf(t, s.pid)
	tr := newTraffic(t, s.addr)
	tr.pause = 20 * time.Millisecond
	tr.add(24, fresh)
	tr.add(24, keeping)
	tr.add(10, slow)
	tr.add(6, upload)

	replaced := 0
	reload := func() {
		t.Helper()
		s.signal(syscall.SIGHUP)
		replaced++
		s.awaitN(replaced, "core replaced")
	}
	failed := 0
	fails := func(name, record string, kv ...string) {
		t.Helper()
		core := s.currentCore()
		n := len(s.find(record, kv...))
		s.signal(syscall.SIGHUP)
		failed++
		s.awaitN(failed, "reload failed, the old core stays")
		if len(s.find(record, kv...)) == n {
			t.Errorf("%s: no record %q %q says why", name, record, kv)
		}
		if now := s.currentCore(); now != core {
			t.Errorf("%s: core %d serves, not %d as before", name, now, core)
		}
	}

	n := count(5, 50)
	for i := range n {
		if i == n/2 {
			if err := copyFile(bin, newer, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		reload()
		time.Sleep(10 * time.Millisecond)
	}
	if core := s.currentCore(); !executes(core, bin) {
		t.Errorf("core %d does not execute the newer binary", core)
	}

	put(good[:len(good)/3], 0o755)
	s.signal(syscall.SIGHUP) // the error depends on the kernel
	failed++
	s.awaitN(failed, "reload failed, the old core stays")
	put(foreign, 0o755)
	fails("another machine's", "reload failed, the old core stays")
	if r := s.find("reload failed, the old core stays"); !strings.Contains(r[len(r)-1]["error"], "exec format error") {
		t.Errorf("%v, want an exec format error", r[len(r)-1])
	}
	put([]byte("#!/bin/sh\nexit 3\n"), 0o755)
	fails("exits at once", "core died", "exit", "exit 3")
	put(good, 0o644)
	fails("not executable", "reload failed, the old core stays")
	os.Remove(bin)
	fails("no binary", "reload failed, the old core stays")
	if err := copyFile(bin, other, 0o755); err != nil {
		t.Fatal(err)
	}
	fails("other control version", "core speaks another control version")
	if !short() {
		put([]byte("#!/bin/sh\nexec sleep 100\n"), 0o755)
		fails("never ready", "core was not ready in time")
	}
	put(good, 0o755)
	reload()

	tr.end()
	tr.none(lost, wrong, busy, notConnected)
	t.Logf("%d reloads, %d failed ones: %v answered, by client %v", replaced, failed, tr.counts()[answered], tr.count)
	s.settled(before.descriptors)
	s.stop()
}

// The same behind nginx, which has kept connections to the old core.
func TestStressReloadBehindNginx(t *testing.T) {
	storm(t)
	s, addr := front(t, "unix", "-access-log=false", "-max-procs", "32", "--", script(t, newDir(t, nil), "echo", echoText))
	tr := newTraffic(t, "tcp:"+addr)
	tr.behind, tr.pause = true, 20*time.Millisecond
	tr.add(24, fresh)
	tr.add(24, keeping)
	tr.add(10, slow)
	tr.add(6, upload)
	n := count(5, 50)
	for i := range n {
		s.signal(syscall.SIGHUP)
		s.awaitN(i+1, "core replaced")
		time.Sleep(10 * time.Millisecond)
	}
	tr.end()
	tr.none(lost, wrong, busy, notConnected)
	t.Logf("%d reloads: %v answered, by client %v", n, tr.counts()[answered], tr.count)
	s.stop()
}

// Two servers take turns on one path. The next one waits for the lock, and
// serves while the previous one finishes its answers.
func TestStressRestartUnderLoad(t *testing.T) {
	storm(t)
	dir := newDir(t, nil)
	echo := script(t, newDir(t, nil), "echo", echoText)
	l := launch{dir: dir, args: []string{"-access-log=false", "-max-procs", "16", "--", echo}}
	s := l.start(t)
	tr := newTraffic(t, s.addr)
	tr.pause = 20 * time.Millisecond
	tr.add(8, fresh)
	tr.add(8, slow)

	// This client looks for moments when nobody listens.
	var gaps []time.Duration
	var mu sync.Mutex
	addr := s.addr
	tr.wg.Go(func() {
		var since time.Time
		for !tr.over() {
			c, err := dialErr(addr)
			now := time.Now()
			switch {
			case err == nil:
				c.Close()
				if !since.IsZero() {
					mu.Lock()
					gaps = append(gaps, now.Sub(since))
					mu.Unlock()
					since = time.Time{}
				}
			case since.IsZero():
				since = now
			}
			time.Sleep(200 * time.Microsecond)
		}
	})

	drained := 0
	n := count(3, 50)
	for range n {
		next := l.begin(t)
		time.Sleep(50 * time.Millisecond)
		if len(next.find("start")) > 0 {
			t.Fatal("two servers on one path")
		}
		s.signal(syscall.SIGTERM)
		next.await("start")
		if len(s.find("stopped")) == 0 {
			drained++
		}
		if st := s.wait(); st != statusOK {
			t.Errorf("exit status %d", st)
		}
		s = next
	}
	tr.end()
	tr.none(lost, wrong, busy)
	for _, a := range tr.others {
		if !strings.Contains(a.what, "refused") && !strings.Contains(a.what, "no such file") {
			t.Errorf("%v: %s", a.outcome, a.what)
		}
	}
	m := median(gaps)
	t.Logf("%d restarts, %d of them while the former still answered: %d answered, none lost; %d gaps seen, median %v, longest %v",
		n, drained, tr.counts()[answered], len(gaps), m, append(gaps, 0)[max(len(gaps)-1, 0)])
	if drained < n/2 {
		off(t, "only %d of %d servers served while the former still answered", drained, n)
	}
	if m > time.Second {
		off(t, "the median gap is %v", m)
	}
	s.stop()
}

//go:build freebsd || linux

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The life of monitor, core and socket file, from start to stop, whichever way
// it goes.

func TestLifeKillMonitor(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			work := newDir(t, cred)
			dir := newDir(t, cred)
			l := launch{cred: cred, dir: dir, args: append([]string{"-dir", work},
				sh(`sleep 100 & echo $! >child; echo $$ >leader; wait`)...)}
			s := l.start(t)
			s.troubles = true
			c := dial(t, s.addr)
			c.send("%s", get11("/"))
			leader := readPID(t, work+"/leader")
			child := readPID(t, work+"/child")
			syscall.Kill(s.pid, syscall.SIGKILL)
			s.wait()
			awaitGone(t, s.core, leader)
			if !c.cutWithoutAnswer() {
				t.Error("an answer from a core without a monitor")
			}
			// The child is not the monitor's own: the system ends it only
			// where it tells grandchildren too, so that the test does.
			defer syscall.Kill(child, syscall.SIGKILL)
			if _, err := os.Lstat(s.path); err != nil {
				t.Errorf("the socket file after kill -9: %v", err)
			}
			os.Remove(work + "/leader")
			began := time.Now()
			s = l.start(t)
			t.Logf("the next one started within %v", time.Since(began).Round(time.Millisecond))
			c = dial(t, s.addr)
			c.send("%s", get11("/"))
			readPID(t, work+"/leader")
			c.Close()
			s.stop()
		})
	}
}

func TestLifeKillCore(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			work := newDir(t, cred)
			s := launch{cred: cred, args: append([]string{"-dir", work}, sh(`case $PATH_INFO in
/long) sleep 100 & echo $! >child; echo $$ >leader; wait;;
*) echo quick;; esac`)...)}.start(t)
			s.troubles = true
			before, _ := os.Lstat(s.path)
			idle := dial(t, s.addr)
			idle.send("%s", text11("GET", "/"))
			idle.answer("GET").want(t, 200, "quick\n")
			long := dial(t, s.addr)
			long.send("%s", get11("/long"))
			leader, child := readPID(t, work+"/leader"), readPID(t, work+"/child")
			for i := range 3 {
				old := s.currentCore()
				// The core stops, so that clients pile up in the backlog.
				stopProcess(t, old)
				var waiting []*conn
				for range 10 {
					c := dial(t, s.addr)
					c.send("%s", get11("/"))
					waiting = append(waiting, c)
				}
				syscall.Kill(old, syscall.SIGKILL)
				for _, c := range waiting {
					c.answer("GET").want(t, 200, "quick\n")
				}
				s.await("core died", "core", strconv.Itoa(old), "status", "signal 9")
				if i == 0 {
					awaitGone(t, leader, child)
					if !long.cutWithoutAnswer() || !idle.cutWithoutAnswer() {
						t.Error("bytes from a core that was killed")
					}
				}
			}
			if after, _ := os.Lstat(s.path); !os.SameFile(before, after) {
				t.Error("the socket has been made anew after a mere crash")
			}
			if r := s.status(); r["restarts"] != "3" {
				t.Errorf("status record %v", r)
			}
			s.stop()
		})
	}
}

func TestLifeDrain(t *testing.T) {
	t.Parallel()
	work := newDir(t, nil)
	slow := `echo $$ >"leader${QUERY_STRING}"; while ! test -e go; do sleep .02; done; echo done`
	t.Run("running and queued requests finish", func(t *testing.T) {
		s := shell(t, slow, "-dir", work, "-max-procs", "2")
		idle := dial(t, s.addr)
		var conns []*conn
		for i := range 4 {
			c := dial(t, s.addr)
			// Two run, two are queued; half of the connections are to be kept.
			if i%2 == 0 {
				c.send("%s", text11("GET", fmt.Sprintf("/?%d", i)))
			} else {
				c.send("%s", get11(fmt.Sprintf("/?%d", i)))
			}
			conns = append(conns, c)
		}
		eventually(t, "two running, two queued", func() bool {
			r := s.status()
			return r["running"] == "2" && r["queued"] == "2"
		})
		s.signal(syscall.SIGTERM)
		s.await("stop")
		eventually(t, "the socket file is gone", func() bool {
			_, err := os.Lstat(s.path)
			return os.IsNotExist(err)
		})
		if _, err := dialErr(s.addr); err == nil {
			t.Error("a connection after the stop began")
		}
		// The address is free for a successor before the drain is over.
		next := launch{dir: s.dir, args: []string{"--", "/bin/echo", "next"}}.start(t)
		next.get("/").want(t, 200, "next\n")
		os.WriteFile(work+"/go", nil, 0o644)
		for _, c := range conns {
			c.answer("GET").want(t, 200, "done\n")
			c.closed()
		}
		idle.closed()
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
		next.get("/").want(t, 200, "next\n")
		next.stop()
	})
	t.Run("what does not finish is ended", func(t *testing.T) {
		os.Remove(work + "/go")
		s := shell(t, slow, "-dir", work, "-drain", "300ms")
		c := dial(t, s.addr)
		c.send("%s", get11("/?5"))
		pid := readPID(t, work+"/leader5")
		began := time.Now()
		s.stop()
		if d := time.Since(began); d < 300*time.Millisecond || d > 4*time.Second {
			t.Errorf("stopped after %v", d)
		}
		awaitGone(t, pid)
		s.await("drain time is over, what still runs is ended", "running", "1")
	})
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run("a second "+sig.String()+" ends at once", func(t *testing.T) {
			s := shell(t, `trap '' TERM; echo $$ >leader7; sleep 100 & echo $! >child; wait; while :; do sleep 1; done`, "-dir", work)
			os.Remove(work + "/leader7")
			os.Remove(work + "/child")
			c := dial(t, s.addr)
			c.send("%s", get11("/"))
			pid, child := readPID(t, work+"/leader7"), readPID(t, work+"/child")
			s.signal(sig)
			s.await("stop")
			time.Sleep(50 * time.Millisecond)
			began := time.Now()
			s.stop()
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("stopped after %v", d)
			}
			s.await("stop at once")
			awaitGone(t, pid, child)
		})
	}
	t.Run("clients in the backlog are answered", func(t *testing.T) {
		s := shell(t, `echo quick`)
		stopProcess(t, s.core)
		var conns []*conn
		for range 5 {
			c := dial(t, s.addr)
			c.send("%s", get11("/"))
			conns = append(conns, c)
		}
		s.signal(syscall.SIGTERM)
		s.await("stop")
		syscall.Kill(s.core, syscall.SIGCONT)
		for _, c := range conns {
			c.answer("GET").want(t, 200, "quick\n")
		}
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
	})
}

// What a stop asks to end has the time of -kill-after for that, all of its
// group, and nothing is started any more.
func TestLifeDrainOver(t *testing.T) {
	t.Parallel()
	t.Run("a group may clean up", func(t *testing.T) {
		work := newDir(t, nil)
		s := shell(t, `(trap 'sleep .4; echo >clean; exit' TERM; echo >ready; while :; do sleep .05; done) &
while ! test -e ready; do sleep .02; done; echo $$ >leader; wait`, "-dir", work, "-drain", "200ms", "-kill-after", "8s")
		dial(t, s.addr).send("%s", get11("/"))
		readPID(t, work+"/leader")
		began := time.Now()
		s.stop()
		t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
		if _, err := os.Stat(work + "/clean"); err != nil {
			t.Errorf("killed before it could clean up: %v", err)
		}
	})
	t.Run("nothing is started", func(t *testing.T) {
		work := newDir(t, nil)
		s := shell(t, `echo $$ >>ran; exec sleep 30`, "-dir", work, "-drain", "300ms", "-kill-after", "8s", "-max-procs", "1")
		var conns []*conn
		for range 4 {
			conns = append(conns, dial(t, s.addr).send("%s", get11("/")))
		}
		eventually(t, "one running, three queued", func() bool {
			r := s.status()
			return r["running"] == "1" && r["queued"] == "3"
		})
		began := time.Now()
		s.signal(syscall.SIGTERM)
		refused := 0
		for _, c := range conns {
			if a, err := c.tryAnswer("GET"); err == nil && a.status == 503 && a.header.Get("Retry-After") != "" {
				refused++
			}
		}
		if refused != 3 {
			t.Errorf("%d of 3 that were queued were told 503", refused)
		}
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
		if d := time.Since(began); d > 7*time.Second {
			t.Errorf("stopped after %v", d)
		}
		if b, _ := os.ReadFile(work + "/ran"); strings.Count(string(b), "\n") != 1 {
			t.Errorf("commands have run: %q", b)
		}
	})
}

// Clients that are gone before a stop lets them in do no harm to those behind.
func TestLifeStopGoneClients(t *testing.T) {
	t.Parallel()
	s := shell(t, `echo quick`, "-listen", "tcp4:127.0.0.1:0", "-max-conns", "1")
	kept := dial(t, s.addr).send("%s", text11("GET", "/"))
	kept.answer("GET").want(t, 200, "quick\n") // it has the only place
	for range 5 {
		c := dial(t, s.addr)
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close() // by a reset
	}
	waiting := dial(t, s.addr).send("%s", get11("/"))
	time.Sleep(50 * time.Millisecond)
	s.signal(syscall.SIGTERM)
	waiting.answer("GET").want(t, 200, "quick\n")
	if st := s.wait(); st != 0 {
		t.Errorf("exit status %d", st)
	}
}

// Listeners that wait do not take each other's place.
func TestLifeFewConns(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := start(t, "-max-conns", "1", "-listen", "unix:"+dir+"/a", "-listen", "unix:"+dir+"/b", "-listen", "unix:"+dir+"/c", "--", "/bin/echo", "hello")
	for range 3 {
		for _, name := range []string{"a", "b", "c"} {
			s.addr = "unix:" + dir + "/" + name
			s.get("/").want(t, 200, "hello\n")
		}
	}
	s.stop()
}

// A reload replaces the core and loses no request: neither of clients that
// keep their connection, nor of those that do not, nor one that runs.
func TestLifeReload(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			work := newDir(t, nil)
			flags := []string{"-dir", work}
			if network == "tcp" {
				flags = append(flags, "-listen", "tcp4:127.0.0.1:0")
			}
			s := shell(t, `case $PATH_INFO in /long) echo $$ >leader; while ! test -e go; do sleep .02; done; echo long;; *) echo quick;; esac`, flags...)
			long := dial(t, s.addr)
			long.send("%s", get11("/long"))
			readPID(t, work+"/leader")
			var stop atomic.Bool
			var answered, reconnected atomic.Int64
			var wg sync.WaitGroup
			for i := range 6 {
				keep := i < 3
				wg.Go(func() {
					var c *conn
					for !stop.Load() {
						if c == nil {
							c = dial(t, s.addr)
							reconnected.Add(1)
						}
						raw := text11("GET", "/")
						if !keep {
							raw = get11("/")
						}
						c.SetDeadline(time.Now().Add(patience))
						c.trySend(raw)
						a, err := c.tryAnswer("GET")
						if err != nil || a.status != 200 || a.body != "quick\n" || a.err != nil {
							t.Errorf("lost (keep-alive %v): %v, %v", keep, a, err)
							return
						}
						answered.Add(1)
						if !keep || a.close {
							c.Close()
							c = nil
						}
					}
					if c != nil {
						c.Close() // an old core would wait for its next request
					}
				})
			}
			const reloads = 5
			cores := map[int]bool{s.core: true}
			for i := range reloads {
				time.Sleep(50 * time.Millisecond)
				s.signal(syscall.SIGHUP)
				r := s.awaitN(i+1, "core replaced")
				n, _ := strconv.Atoi(r["core"])
				cores[n] = true
			}
			time.Sleep(50 * time.Millisecond)
			stop.Store(true)
			wg.Wait()
			if len(cores) != reloads+1 {
				t.Errorf("cores %v", cores)
			}
			os.WriteFile(work+"/go", nil, 0o644)
			long.answer("GET").want(t, 200, "long\n")
			now := s.currentCore()
			for pid := range cores {
				if pid != now {
					awaitGone(t, pid)
				}
			}
			t.Logf("%d requests answered on %d connections during %d reloads", answered.Load(), reconnected.Load(), reloads)
			if r := s.status(); r["restarts"] != "0" {
				t.Errorf("status record %v", r)
			}
			s.stop()
		})
	}
}

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

// A reload takes the binary that is on disk by then; one that speaks another
// control version, or is not ready in time, is ended and the old core stays.
func TestLifeReloadBinary(t *testing.T) {
	t.Parallel()
	if os.Getenv(envBinary) != "" {
		t.Skip("binaries are built by the first pass")
	}
	dir := newDir(t, nil)
	bin := filepath.Join(dir, "onewake")
	if err := copyFile(bin, underTest, 0o755); err != nil {
		t.Fatal(err)
	}
	s := launch{bin: bin, args: []string{"--", "/bin/echo", "hello"}}.start(t)
	s.troubles = true
	old := s.core

	other := filepath.Join(dir, "other")
	if err := build(other, "github.com/onewake/onewake/spawn.Version=other"); err != nil {
		t.Fatal(err)
	}
	os.Rename(other, bin)
	s.signal(syscall.SIGHUP)
	s.await("core speaks another control version")
	s.await("reload failed, the old core stays", "core", strconv.Itoa(old))
	s.get("/").want(t, 200, "hello\n")

	script(t, dir, "onewake", "exec sleep 100\n")
	s.signal(syscall.SIGHUP)
	began := time.Now()
	s.await("core is not ready in time")
	if d := time.Since(began); d < 4*time.Second || d > 8*time.Second {
		t.Errorf("given up after %v, want 5s", d)
	}
	s.awaitN(2, "reload failed, the old core stays")
	s.get("/").want(t, 200, "hello\n")

	os.Remove(bin)
	s.signal(syscall.SIGHUP)
	s.awaitN(3, "reload failed, the old core stays")
	s.get("/").want(t, 200, "hello\n")
	if now := s.currentCore(); now != old {
		t.Errorf("core %d serves, want %d", now, old)
	}

	if err := copyFile(bin, underTest, 0o755); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGHUP)
	s.await("core replaced")
	s.get("/").want(t, 200, "hello\n")
	s.stop()
}

// A core that cannot start three times in a row: exit 71, with the reason, and
// no socket file is left.
func TestLifeCoreCannotStart(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	bin := filepath.Join(dir, "onewake")
	for _, tt := range []struct {
		name, text, reason string
	}{
		{"ends at once", "#!/bin/sh\nexit 9\n", "exit 9"},
		{"is no program", "#!/nonexistent\n", "no such file"},
		{"is killed", "#!/bin/sh\nkill -9 $$\n", "signal 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := copyFile(bin, underTest, 0o755); err != nil {
				t.Fatal(err)
			}
			s := launch{bin: bin, args: []string{"--", "/bin/echo", "hello"}}.start(t)
			s.troubles = true
			if err := writeProgram(bin, []byte(tt.text), 0o755); err != nil {
				t.Fatal(err)
			}
			syscall.Kill(s.core, syscall.SIGKILL)
			if st := s.wait(); st != statusOS {
				t.Errorf("exit status %d, want %d", st, statusOS)
			}
			text := s.logText()
			if !strings.Contains(text, "onewake: ") || !strings.Contains(text, tt.reason) {
				t.Errorf("no reason in %s", text)
			}
			if _, err := os.Lstat(s.path); err == nil {
				t.Error("the socket file is left")
			}
		})
	}
}

func TestLifeSignals(t *testing.T) {
	t.Parallel()
	s := shell(t, `echo $PPID; kill -TERM $PPID 2>/dev/null; sleep .1; echo done`)
	t.Run("status", func(t *testing.T) {
		for range 3 {
			r := s.status()
			for _, k := range []string{"uptime", "served", "running", "queued", "refused", "restarts", "core"} {
				if r[k] == "" {
					t.Errorf("no %s in %v", k, r)
				}
			}
		}
	})
	t.Run("the core ignores what is for the monitor", func(t *testing.T) {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGPIPE} {
			syscall.Kill(s.core, sig)
		}
		time.Sleep(50 * time.Millisecond)
		if now := s.currentCore(); now != s.core {
			t.Errorf("core %d serves, want %d", now, s.core)
		}
	})
	t.Run("SIGPIPE does not kill the monitor", func(t *testing.T) {
		s.signal(syscall.SIGPIPE)
		time.Sleep(50 * time.Millisecond)
		s.status()
	})
	t.Run("a command that signals its parent stops the service in good order", func(t *testing.T) {
		a := s.get("/")
		a.want(t, 200, fmt.Sprintf("%d\ndone\n", s.pid))
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
	})
}

// A stderr that nobody reads any more, or at all, ends or stops nothing.
func TestLifeDeafLog(t *testing.T) {
	t.Parallel()
	t.Run("closed", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		dir := newDir(t, nil)
		cmd := startWithLog(t, w, "-listen", "unix:"+dir+"/s", "--", "/bin/echo", "hello")
		w.Close()
		addr := "unix:" + dir + "/s"
		awaitServing(t, addr)
		r.Close()
		for range 20 {
			c := dial(t, addr)
			c.send("%s", get11("/"))
			c.answer("GET").want(t, 200, "hello\n")
		}
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("after a stop: %v", err)
		}
	})
	t.Run("full, and the service cannot go on", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		dir := newDir(t, nil)
		bin := filepath.Join(dir, "onewake")
		if err := copyFile(bin, underTest, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bin, "-listen", "unix:"+dir+"/s", "--", "/bin/echo", "hello")
		cmd.Dir, cmd.Stderr = "/", w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		t.Cleanup(func() { cmd.Process.Kill(); <-ended })
		core := 0
		for in := bufio.NewScanner(r); core == 0 && in.Scan(); {
			if rec, ok := parseRecord(in.Text()); ok && rec["msg"] == "start" {
				core, _ = strconv.Atoi(rec["core"])
			}
		}
		if core == 0 {
			t.Fatal("no start record")
		}
		// Full is what takes no more: the descriptor is onewake's, and is not
		// made one that does not block.
		var filled atomic.Int64
		go func() {
			for {
				n, err := w.Write(make([]byte, 512))
				if err != nil {
					return
				}
				filled.Add(int64(n))
			}
		}()
		for last := int64(-1); last < filled.Load(); time.Sleep(100 * time.Millisecond) {
			last = filled.Load()
		}
		if err := writeProgram(bin, []byte("#!/bin/sh\nexit 9\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		syscall.Kill(core, syscall.SIGKILL)
		select {
		case <-ended:
			if st := cmd.ProcessState.ExitCode(); st != statusOS {
				t.Errorf("exit status %d, want %d", st, statusOS)
			}
		case <-time.After(patience):
			t.Errorf("not ended within %v", patience)
		}
	})
	t.Run("full", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		dir := newDir(t, nil)
		cmd := startWithLog(t, w, "-listen", "unix:"+dir+"/s")
		w.Close()
		addr := "unix:" + dir + "/s"
		awaitServing(t, addr)
		c := dial(t, addr)
		raw := text11("GET", "/"+strings.Repeat("x", 1500))
		for range 3000 { // of 1.5 KiB each: far more than pipe and queue hold
			c.SetDeadline(time.Now().Add(patience))
			c.trySend(raw)
			if a, err := c.tryAnswer("GET"); err != nil || a.status != 200 {
				t.Fatalf("%v, %v", a, err)
			}
		}
		// Whoever reads again learns how much was lost.
		text := make(chan string)
		go func() {
			var b strings.Builder
			buf := make([]byte, 64<<10)
			for {
				n, err := r.Read(buf)
				b.Write(buf[:n])
				if err != nil {
					text <- b.String()
					return
				}
			}
		}()
		time.Sleep(100 * time.Millisecond)
		c.SetDeadline(time.Now().Add(patience))
		c.trySend(get11("/"))
		c.answer("GET").wantStatus(t, 200)
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("after a stop: %v", err)
		}
		all := <-text
		for line := range strings.Lines(all) {
			if _, ok := parseRecord(strings.TrimSuffix(line, "\n")); !ok || len(line) > 2048 {
				t.Errorf("a broken record of %d bytes: %.200q", len(line), line)
			}
		}
		if !strings.Contains(all, "log records dropped") {
			t.Errorf("no count of dropped records among %d lines", strings.Count(all, "\n"))
		}
	})
}

// Nothing that a command has started outlives its request for long, whether it
// stays in its group or leaves it.
func TestLifeLeftovers(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			work := newDir(t, cred)
			path, err := self()
			if err != nil {
				t.Fatal(err)
			}
			s := launch{cred: cred, args: append([]string{"-dir", work, "-kill-after", "500ms"}, sh(`
sleep 100 >/dev/null 2>&1 & echo $! >plain
(trap '' TERM; echo >ready; while :; do sleep .1; done) >/dev/null 2>&1 & echo $! >stubborn
`+envRole+`=escape '`+path+`' "$PWD/escapee"
while ! test -e ready -a -s escapee; do sleep .02; done
echo done`)...)}.start(t)
			s.get("/").want(t, 200, "done\n")
			began := time.Now()
			pids := []int{readPID(t, work+"/plain"), readPID(t, work+"/stubborn"), readPID(t, work+"/escapee")}
			awaitGone(t, pids...)
			t.Logf("plain, stubborn and escaped ones (%v) were gone after %v", pids, time.Since(began).Round(time.Millisecond))
			if d := time.Since(began); d > 3*time.Second {
				t.Errorf("gone after %v", d)
			}
			s.stop()
		})
	}
	t.Run("one that holds stdout", func(t *testing.T) {
		work := newDir(t, nil)
		s := shell(t, `(trap '' TERM; echo $$ >leader; while :; do sleep .1; done) & echo $! >holder; sleep .05; echo answer`, "-dir", work, "-kill-after", "1s")
		began := time.Now()
		s.get("/").want(t, 200, "answer\n")
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("answered after %v, want a grace of 1s", d)
		}
		s.stop()
		awaitGone(t, readPID(t, work+"/holder"))
	})
	t.Run("a stop leaves none", func(t *testing.T) {
		work := newDir(t, nil)
		path, err := self()
		if err != nil {
			t.Fatal(err)
		}
		s := shell(t, envRole+`=escape '`+path+`' "$PWD/escapee"; while ! test -s escapee; do sleep .02; done; echo done`, "-dir", work, "-kill-after", "500ms")
		s.get("/").want(t, 200, "done\n")
		pid := readPID(t, work+"/escapee")
		s.stop()
		if !isGone(pid) {
			t.Errorf("process %d has outlived the service", pid)
		}
	})
}

// roleEscape starts a process in a session of its own and ends.
func roleEscape(args []string) int {
	attr := &os.ProcAttr{Dir: "/", Sys: &syscall.SysProcAttr{Setsid: true}}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 1
	}
	attr.Files = []*os.File{null, null, null}
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "trap '' TERM HUP; while :; do sleep .2; done"}, attr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.WriteFile(args[0], fmt.Appendln(nil, p.Pid), 0o644)
	return 0
}

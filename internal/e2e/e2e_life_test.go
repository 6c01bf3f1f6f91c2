//go:build freebsd || linux

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests check the life of monitor, core and socket file from start to
// stop.

// When the monitor is killed, core and command are killed too, whatever the
// command ignores. TestNeverTwo checks the next start.
func TestLifeKillMonitor(t *testing.T) {
	t.Parallel()
	cred := ordinary(t)
	m := meet(t, cred)
	s := launch{cred: cred, args: append([]string{"-dir", m.dir}, sh(`
trap '' TERM HUP
(read x <go; echo alive >told) &
echo $$ $! >told
wait`)...)}.start(t)
	s.errorsExpected = true
	c := dial(t, s.addr).send("%s", get11("/"))
	pids := m.pids(2)
	leader, child := pids[0], pids[1]
	defer syscall.Kill(child, syscall.SIGKILL)
	s.signal(syscall.SIGKILL)
	s.wait()
	awaitGone(t, s.core, leader)
	if !c.cutWithoutAnswer() {
		t.Error("an answer from a core without a monitor")
	}
	if _, err := os.Lstat(s.path); err != nil {
		t.Errorf("the socket file after kill -9: %v", err)
	}
	if runtime.GOOS == "linux" {
		// The system kills only the monitor's children. docs/reliability.md
		// says so; this pins it.
		m.release(1)
		if got := m.line(); got != "alive" {
			t.Errorf("a grandchild says %q", got)
		}
	}
}

// When a core dies, its requests and their processes end, and nothing else.
// Clients that connect meanwhile are served by the next core.
func TestLifeKillCore(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `case $PATH_INFO in
/long) trap 'echo asked to end >told; exit' TERM; echo $$ >told; read x <go;;
/stopped) echo $$ >told; kill -STOP $$;;
*) echo "$PATH_INFO";; esac`, "-dir", m.dir, "-kill-after", "10m")
	s.errorsExpected = true
	before, _ := os.Lstat(s.path)
	idle := dial(t, s.addr).send("%s", text11("GET", "/idle"))
	idle.answer("GET").want(t, 200, "/idle\n")
	long := dial(t, s.addr).send("%s", get11("/long"))
	leader := m.pids(1)[0]
	dial(t, s.addr).send("%s", get11("/stopped"))
	stopped := m.pids(1)[0]
	eventually(t, "a command that stops itself", func() bool { return isStopped(stopped) })
	for i := range 2 {
		old := s.currentCore()
		stopProcess(t, old) // so that the client waits in the backlog
		path := fmt.Sprintf("/waiting%d", i)
		waiting := dial(t, s.addr).send("%s", get11(path))
		syscall.Kill(old, syscall.SIGKILL)
		waiting.answer("GET").want(t, 200, path+"\n")
		s.await("core died", "core", strconv.Itoa(old), "exit", "signal 9")
		if i == 0 {
			if got := m.line(); got != "asked to end" {
				t.Errorf("the command of a dead core says %q", got)
			}
			awaitGone(t, leader, stopped)
			if !long.cutWithoutAnswer() || !idle.cutWithoutAnswer() {
				t.Error("bytes from a core that was killed")
			}
		}
	}
	if after, _ := os.Lstat(s.path); !os.SameFile(before, after) {
		t.Error("the socket was replaced after a crash")
	}
	if r := s.status(); r["restarts"] != "2" {
		t.Errorf("status record %v", r)
	}
	s.stop()
}

func TestLifeDrain(t *testing.T) {
	t.Parallel()
	t.Run("running and queued requests finish", func(t *testing.T) {
		m := meet(t, nil)
		s := shell(t, `echo $$ >told; read x <go; echo done`, "-dir", m.dir, "-max-procs", "1", "-max-queue", "1", "-drain", "10m")
		idle := dial(t, s.addr).send("%s", text11("GET", "/"))
		m.pids(1)
		m.release(1)
		idle.answer("GET").want(t, 200, "done\n")
		running := dial(t, s.addr).send("%s", text11("GET", "/")) // to be kept
		m.pids(1)
		// One of these finds the queue full.
		others := answers(dial(t, s.addr).send("%s", get11("/")), dial(t, s.addr).send("%s", get11("/")))
		if a := <-others; a == nil || a.status != 503 {
			t.Fatalf("got %v, want 503 from a full queue", a)
		}
		s.signal(syscall.SIGTERM)
		s.await("stop")
		awaitNoFile(t, s.path)
		if _, err := dialErr(s.addr); err == nil {
			t.Error("connection accepted after the stop")
		}
		// The address is free for the next onewake before -drain has passed.
		next := launch{dir: s.dir}.start(t)
		next.get("/").wantStatus(t, 200)
		m.release(2)
		running.answer("GET").want(t, 200, "done\n")
		running.closed()
		if a := <-others; a == nil || a.status != 200 || a.body != "done\n" {
			t.Errorf("the queued request got %v", a)
		}
		idle.closed()
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
		next.get("/").wantStatus(t, 200)
		next.stop()
	})
	t.Run("a second signal ends at once", func(t *testing.T) {
		m := meet(t, nil)
		s := shell(t, `trap '' TERM; (read x <go) & echo $$ $! >told; wait`, "-dir", m.dir, "-drain", "10m", "-kill-after", "10m")
		dial(t, s.addr).send("%s", get11("/"))
		pids := m.pids(2)
		s.signal(syscall.SIGTERM)
		s.await("stop")
		s.signal(syscall.SIGINT)
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
		s.await("stop at once")
		awaitGone(t, pids...)
	})
}

func awaitNoFile(t *testing.T, path string) {
	t.Helper()
	eventually(t, "no "+path, func() bool {
		_, err := os.Lstat(path)
		return os.IsNotExist(err)
	})
}

// A stop does not depend on the core.
func TestLifeStopWithoutTheCore(t *testing.T) {
	t.Parallel()
	s := start(t, "-drain", "1ms", "-kill-after", "1ms")
	s.errorsExpected = true
	stopProcess(t, s.core)
	s.stop()
}

// After SIGTERM a process group has -kill-after to exit. Nothing is started any
// more.
func TestLifeDrainOver(t *testing.T) {
	t.Parallel()
	t.Run("a group may clean up", func(t *testing.T) {
		m := meet(t, nil)
		// $$ is the leader. A second SIGTERM ends the service.
		s := shell(t, `(trap 'trap "" TERM; echo asked >told; read x <go; echo clean >told; exit' TERM; echo $$ >told; read x <go) & wait`,
			"-dir", m.dir, "-drain", "1ms", "-kill-after", "10m")
		dial(t, s.addr).send("%s", get11("/"))
		leader := m.pids(1)[0]
		s.signal(syscall.SIGTERM)
		s.await("drain time is over, terminating commands", "running", "1")
		if got := m.line(); got != "asked" {
			t.Errorf("the group says %q", got)
		}
		eventually(t, "the leader has been reaped", func() bool { return syscall.Kill(leader, 0) == syscall.ESRCH })
		m.release(1)
		if got := m.line(); got != "clean" {
			t.Errorf("the group says %q", got)
		}
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
	})
	t.Run("nothing is started", func(t *testing.T) {
		m := meet(t, nil)
		s := shell(t, `echo $$ >told; read x <go`, "-dir", m.dir, "-drain", "1ms", "-kill-after", "10m", "-max-procs", "1", "-max-queue", "2")
		dial(t, s.addr).send("%s", get11("/"))
		m.pids(1)
		others := answers(dial(t, s.addr).send("%s", get11("/")), dial(t, s.addr).send("%s", get11("/")), dial(t, s.addr).send("%s", get11("/")))
		for i := range 3 {
			// First the one that finds the queue full, then those in the queue.
			if a := <-others; a == nil || a.status != 503 || a.header.Get("Retry-After") == "" {
				t.Errorf("the queued request got %v, want 503", a)
			}
			if i == 0 {
				s.signal(syscall.SIGTERM)
			}
		}
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
		if got := m.rest(); got != "" {
			t.Errorf("another command has been started: %q", got)
		}
	})
}

// With fewer connections than listeners, each listener still gets one. Clients
// that have connected before a stop are answered even if all connections are in
// use. Those that have disconnected do not affect the others.
func TestLifeFewConns(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	s := start(t, "-drain", "10m", "-max-conns", "1", "-listen", "unix:"+dir+"/a", "-listen", "unix:"+dir+"/b", "-listen", "tcp4:127.0.0.1:0")
	list := splitList(s.await("start")["listen"])
	for range 2 {
		for _, l := range list {
			s.addr = dialable(l)
			s.get("/").wantStatus(t, 200)
		}
	}
	stopProcess(t, s.core) // so that all of these wait in the backlog
	for range 5 {
		c := dial(t, s.addr)
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close() // by a reset
	}
	var waiting []*conn
	for _, l := range list {
		waiting = append(waiting, dial(t, dialable(l)).send("%s", get11("/")))
	}
	s.signal(syscall.SIGTERM)
	s.await("stop")
	awaitNoFile(t, dir+"/a") // first, so that no other connection is accepted
	awaitNoFile(t, dir+"/b")
	syscall.Kill(s.core, syscall.SIGCONT)
	for _, c := range waiting {
		c.answer("GET").wantStatus(t, 200)
	}
	if st := s.wait(); st != 0 {
		t.Errorf("exit status %d", st)
	}
}

// A reload replaces the core and loses no request: neither one that is running,
// nor one that has been sent in part, nor one on a kept connection, nor one
// that has not been accepted.
func TestLifeReload(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `case $PATH_INFO in /long) echo $$ >told; read x <go;; esac; echo "$PATH_INFO"`,
		"-dir", m.dir, "-listen", "unix:"+m.dir+"/s", "-listen", "tcp4:127.0.0.1:0")
	list := splitList(s.await("start")["listen"])
	cores := []int{s.core}
	reload := func() {
		t.Helper()
		s.signal(syscall.SIGHUP)
		core, _ := strconv.Atoi(s.awaitN(len(cores), "core replaced")["core"])
		cores = append(cores, core)
		for _, l := range list {
			s.addr = dialable(l)
			s.get("/new").want(t, 200, "/new\n")
		}
	}
	long := dial(t, s.addr).send("%s", get11("/long"))
	m.pids(1)
	kept := dial(t, s.addr).send("%s", text11("GET", "/kept"))
	kept.answer("GET").want(t, 200, "/kept\n")
	whole := get11("/half")
	half := dial(t, s.addr).send("%s", whole[:20])
	reload()
	a := kept.send("%s", text11("GET", "/again")).answer("GET")
	a.want(t, 200, "/again\n")
	if !a.close {
		t.Error("the old core keeps a connection")
	}
	half.send("%s", whole[20:]).answer("GET").want(t, 200, "/half\n")

	// The second reload: the old core accepts no more connections.
	stopProcess(t, cores[1])
	waiting := dial(t, s.addr).send("%s", get11("/waiting"))
	reload()
	waiting.answer("GET").want(t, 200, "/waiting\n")
	syscall.Kill(cores[1], syscall.SIGCONT)

	m.release(1)
	long.answer("GET").want(t, 200, "/long\n")
	awaitGone(t, cores[:2]...)
	if r := s.status(); r["restarts"] != "0" || r["core"] != strconv.Itoa(cores[2]) {
		t.Errorf("status record %v, want core %d", r, cores[2])
	}
	if cores[0] == cores[1] || cores[1] == cores[2] {
		t.Errorf("cores %v", cores)
	}
	s.stop()
}

// A reload executes the binary that is on disk then. If it cannot serve, the
// old core stays, and the log says why.
func TestLifeReloadBinary(t *testing.T) {
	t.Parallel()
	bin := ownBinary(t)
	s := launch{bin: bin}.start(t)
	s.errorsExpected = true
	good, err := os.ReadFile(underTest)
	if err != nil {
		t.Fatal(err)
	}
	foreign := slices.Clone(good)
	foreign[18], foreign[19] = 0xf7, 0xff // e_machine: an unknown machine
	put := func(text []byte, mode os.FileMode) func() error {
		return func() error { return writeProgram(bin, text, mode) }
	}
	bad := []struct {
		name   string
		put    func() error
		record string // that says why
		kv     []string
	}{
		{"ends at once", put([]byte("#!/bin/sh\nexit 3\n"), 0o755), "core died", []string{"exit", "exit 3"}},
		{"cut short", put(good[:len(good)/3], 0o755), "", nil}, // the error depends on the kernel
		{"of another machine", put(foreign, 0o755), "", nil},
		{"not executable", put(good, 0o644), "", nil},
		{"another control version", func() error { pose(t, bin, "version: other"); return nil }, "core speaks another control version", nil},
		{"gone", func() error { return os.Remove(bin) }, "", nil},
	}
	for i, b := range bad {
		if err := b.put(); err != nil {
			t.Fatal(err)
		}
		s.signal(syscall.SIGHUP)
		r := s.awaitN(i+1, "reload failed, the old core stays")
		if b.record != "" {
			s.await(b.record, b.kv...)
		}
		if r["core"] != strconv.Itoa(s.core) {
			t.Errorf("%s: %v, want core %d", b.name, r, s.core)
		}
		s.get("/").wantStatus(t, 200)
	}
	if now := s.currentCore(); now != s.core {
		t.Errorf("core %d serves, want %d", now, s.core)
	}
	if err := replace(bin, underTest); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGHUP)
	s.await("core replaced", "old", strconv.Itoa(s.core))
	s.get("/").wantStatus(t, 200)
	s.stop()
}

// After three cores that cannot start the exit status is 71, the reason is
// logged, and no socket file is left.
func TestLifeCoreCannotStart(t *testing.T) {
	t.Parallel()
	bin := ownBinary(t)
	for _, tt := range []struct{ name, text, reason string }{
		{"ends at once", "#!/bin/sh\nexit 9\n", "exit 9"},
		{"is no program", "#!/nonexistent\n", "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := replace(bin, underTest); err != nil {
				t.Fatal(err)
			}
			s := launch{bin: bin}.start(t)
			s.errorsExpected = true
			if err := writeProgram(bin, []byte(tt.text), 0o755); err != nil {
				t.Fatal(err)
			}
			syscall.Kill(s.core, syscall.SIGKILL)
			if st := s.wait(); st != statusOS {
				t.Errorf("exit status %d, want %d", st, statusOS)
			}
			if r := s.await("service failed"); !strings.Contains(r["error"], tt.reason) {
				t.Errorf("%v, want %q", r, tt.reason)
			}
			if _, err := os.Lstat(s.path); err == nil {
				t.Error("the socket file has not been removed")
			}
		})
	}
}

func TestLifeSignals(t *testing.T) {
	t.Parallel()
	m := meet(t, nil)
	s := shell(t, `kill -TERM $PPID; read x <go; echo $PPID`, "-dir", m.dir)
	t.Run("status", func(t *testing.T) {
		r := s.status()
		for _, k := range []string{"uptime", "served", "running", "queued", "refused", "restarts", "core"} {
			if r[k] == "" {
				t.Errorf("no %s in %v", k, r)
			}
		}
	})
	t.Run("the core ignores what is for the monitor", func(t *testing.T) {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGPIPE} {
			syscall.Kill(s.core, sig)
		}
		// It answers after that.
		if now := s.currentCore(); now != s.core {
			t.Errorf("core %d serves, want %d", now, s.core)
		}
	})
	t.Run("SIGPIPE does not kill the monitor", func(t *testing.T) {
		s.signal(syscall.SIGPIPE)
		s.status()
	})
	t.Run("a command that signals its parent stops the service in good order", func(t *testing.T) {
		c := dial(t, s.addr).send("%s", get11("/"))
		s.await("stop")
		m.release(1)
		c.answer("GET").want(t, 200, fmt.Sprintf("%d\n", s.pid))
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
	})
}

// The service goes on if nobody reads stderr. When it is read again, the number
// of lost records is logged.
func TestLifeLogNotRead(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	addr := "unix:" + newDir(t, nil) + "/s"
	cmd := startWithLog(t, w, "-listen", addr)
	w.Close()
	awaitServing(t, addr)
	c := dial(t, addr)
	raw := text11("GET", "/"+strings.Repeat("x", 1500))
	for range 2500 { // more than the 1 MiB that is queued and the 64 KiB that the pipe holds
		c.SetDeadline(time.Now().Add(patience))
		if a, err := c.trySend(raw).tryAnswer("GET"); err != nil || a.status != 200 {
			t.Fatalf("%v, %v", a, err)
		}
	}
	r.SetReadDeadline(time.Now().Add(patience))
	for in := bufio.NewReader(r); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("no count of dropped records: %v", err)
		}
		rec, ok := parseRecord(strings.TrimSuffix(line, "\n"))
		if !ok || len(line) > 4095 {
			t.Errorf("a broken record of %d bytes: %.200q", len(line), line)
		}
		if rec["msg"] == "log records dropped" {
			break
		}
	}
	r.Close()
	for range 3 {
		dial(t, addr).send("%s", get11("/")).answer("GET").wantStatus(t, 200)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("after a stop: %v", err)
		}
	case <-time.After(patience):
		t.Fatalf("onewake has not exited within %v", patience)
	}
}

// No process of a command outlives the service, whether it stays in its group
// or leaves it.
func TestLifeLeftovers(t *testing.T) {
	t.Parallel()
	cred := ordinary(t)
	m := meet(t, cred)
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	s := launch{cred: cred, args: append([]string{"-dir", m.dir, "-max-procs", "3", "-drain", "1ms", "-kill-after", "1ms"}, sh(`
case $PATH_INFO in
/ignores) trap '' TERM INT HUP; echo $$ >told;;
/stops) echo $$ >told; kill -STOP $$;;
/leaves)
	sh -c 'echo $$ >told; read x <go' >/dev/null 2>&1 &
	sh -c 'trap "" TERM; echo $$ >told; read x <go' >/dev/null 2>&1 &
	`+envRole+`=escape '`+path+`' told "$PWD/go"
esac
read x <go`)...)}.start(t)
	var pids []int
	for path, n := range map[string]int{"/ignores": 1, "/stops": 1, "/leaves": 3} {
		dial(t, s.addr).send("%s", get11(path))
		for range n {
			pids = append(pids, m.pids(1)...)
		}
	}
	s.stop()
	for _, pid := range pids {
		if !isGone(pid) {
			t.Errorf("process %d has outlived the service", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// roleEscape starts a process in a new session, writes its pid to the first
// file and exits. The process lives until the second file contains a line.
func roleEscape(args []string) int {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 1
	}
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", `trap '' TERM HUP; read x <"$0"`, args[1]}, &os.ProcAttr{
		Dir: "/", Files: []*os.File{null, null, null}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.WriteFile(args[0], fmt.Appendln(nil, p.Pid), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

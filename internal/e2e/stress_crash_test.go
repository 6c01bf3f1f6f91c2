//go:build stress && linux

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
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// When a core dies, only its requests are lost.
func TestStressCoreCrashUnderLoad(t *testing.T) {
	storm(t)
	needRoot(t, "it counts the descriptors of processes that are closed to their own user")
	args := []string{"-access-log=false", "-max-procs", "8", "--", script(t, newDir(t, nil), "echo", echoText)}
	t.Run("unix", func(t *testing.T) {
		s := start(t, args...)
		crashUnderLoad(t, count(5, 100), s, newTraffic(t, s.addr))
	})
	t.Run("tcp", func(t *testing.T) {
		s := start(t, append([]string{"-listen", "tcp4:127.0.0.1:0"}, args...)...)
		crashUnderLoad(t, count(3, 30), s, newTraffic(t, s.addr))
	})
	// nginx answers 502 if its connection is lost, and keeps its client.
	t.Run("nginx", func(t *testing.T) {
		s, addr := front(t, "unix", args...)
		crashUnderLoad(t, count(5, 100), s, newTraffic(t, "tcp:"+addr))
	})
}

func crashUnderLoad(t *testing.T, n int, s *server, tr *traffic) {
	s.errorsExpected = true
	before := usageOf(t, s.pid)
	tr.behind = tr.addr != s.addr
	tr.sleep = "0.05"
	tr.pause = 5 * time.Millisecond
	tr.add(6, fresh)
	tr.add(6, keeping)
	tr.add(3, slow)
	tr.add(1, upload)

	var waits []time.Duration
	type death struct{ from, to time.Time } // the core died in between
	var deaths []death
	core := s.core
	for i := range n {
		time.Sleep(120 * time.Millisecond)
		sig := syscall.SIGKILL
		if i%10 == 9 {
			sig = syscall.SIGABRT // the end of a Go program that panics
		}
		from := time.Now()
		if err := syscall.Kill(core, sig); err != nil {
			t.Fatal(err)
		}
		awaitGone(t, core)
		if tr.behind {
			// Its last thread exits, and with it the connections of nginx.
			eventually(t, "the end of the core", func() bool { return isReaped(core) })
		}
		deaths = append(deaths, death{from, time.Now()})
		// Clients that connect while no core accepts are served by the next
		// core.
		began := time.Now()
		_, f, what := tr.try(nil, fresh)
		waits = append(waits, time.Since(began))
		if f != answered {
			t.Errorf("a client that connected after the crash: %v: %s", f, what)
		}
		core = s.currentCore()
	}
	tr.end()
	tr.none(wrong, busy, notConnected)
	perKill := make([]int, n)
	for _, a := range tr.others {
		// A kept connection is lost too, but not the one to nginx.
		since := a.open
		if tr.behind {
			since = a.began
		}
		i := n - 1
		for i >= 0 && deaths[i].from.After(a.end) {
			i--
		}
		if i < 0 || deaths[i].to.Before(since) {
			t.Errorf("lost although no core was killed: %s", a.what)
			continue
		}
		perKill[i]++
	}
	most := 0
	for _, k := range perKill {
		most = max(most, k)
	}
	c := tr.counts()
	m := median(waits)
	t.Logf("%d kills under load: %d answered, %d lost (at most %d at once), %d wrong; a client that waits is served after %v (median), %v at most",
		n, c[answered], c[lost], most, c[wrong], m, waits[len(waits)-1])
	if m > time.Second {
		off(t, "clients wait for the next core for %v", m)
	}
	if most > 16 {
		t.Errorf("%d requests lost by one kill, there were 16 clients", most)
	}
	if r := s.status()["restarts"]; r != strconv.Itoa(n) {
		t.Errorf("restarts=%s, want %d", r, n)
	}
	s.settled(before.descriptors)
	s.stop()
}

// The processes of a dead core are terminated: SIGTERM, then SIGKILL.
func TestStressCoreCrashEndsCommands(t *testing.T) {
	storm(t)
	dir := newDir(t, nil)
	s := start(t, "-kill-after", "500ms", "--", script(t, dir, "stubborn", `
trap '' TERM
echo $$ >"`+dir+`/$QUERY_STRING"
while :; do sleep 1; done`))
	s.errorsExpected = true
	var pids []int
	for i := range 3 {
		dial(t, s.addr).send("%s", get11(fmt.Sprintf("/?pid%d", i)))
		pids = append(pids, readPID(t, fmt.Sprintf("%s/pid%d", dir, i)))
	}
	began := time.Now()
	syscall.Kill(s.core, syscall.SIGKILL)
	awaitGone(t, pids...)
	took := time.Since(began)
	t.Logf("commands that ignore SIGTERM are gone after %v at -kill-after 500ms", took)
	if took < 400*time.Millisecond {
		off(t, "gone after %v, before -kill-after", took)
	}
	s.stop()
}

// Running out of memory is a crash like any other.
func TestStressCoreOutOfMemory(t *testing.T) {
	storm(t)
	needRoot(t, "it sets the limits of a process that is closed to its own user")
	s := start(t, "-max-body", "64MiB", "--", script(t, newDir(t, nil), "echo", echoText))
	s.errorsExpected = true
	limit := unix.Rlimit{Cur: 1 << 20, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(s.core, unix.RLIMIT_AS, &limit, nil); err != nil {
		t.Fatal(err)
	}
	core := s.core
	deadline := time.Now().Add(patience)
	// Send bodies that are kept in memory until there is none.
	for !isGone(core) {
		if time.Now().After(deadline) {
			t.Fatal("the core needs no memory")
		}
		c := dial(t, s.addr)
		c.trySend(text11("POST", "/", "Content-Length: 8000000") + strings.Repeat("x", 1<<20))
	}
	s.await("core died")
	s.get("/after").want(t, 200, "/after -\n")
	s.stop()
}

// When the monitor is killed nothing is left, and the next start needs no help.
func TestStressMonitorCrash(t *testing.T) {
	storm(t)
	dir := newDir(t, nil)
	cmd := script(t, dir, "stubborn", `
[ "$PATH_INFO" = /quick ] && exec echo quick
trap '' TERM HUP
echo $$ >"`+dir+`/$QUERY_STRING"
while :; do sleep 1; done`)
	l := launch{dir: newDir(t, nil), args: []string{"-kill-after", "2s", "--", cmd}}
	n := count(1, 20)
	var worst, starts time.Duration
	for i := range n {
		s := l.start(t)
		s.errorsExpected = true
		pids := []int{s.core}
		for j := range 3 {
			dial(t, s.addr).send("%s", get11(fmt.Sprintf("/slow?pid%d-%d", i, j)))
			pids = append(pids, readPID(t, fmt.Sprintf("%s/pid%d-%d", dir, i, j)))
		}
		began := time.Now()
		s.signal(syscall.SIGKILL)
		awaitGone(t, pids...)
		worst = max(worst, time.Since(began))

		// A service manager starts it again at once, without waiting.
		began = time.Now()
		s = l.start(t)
		s.get("/quick").want(t, 200, "quick\n")
		starts = max(starts, time.Since(began))
		s.stop()
	}
	t.Logf("%d kills: core and commands are gone after %v, the next one serves within %v", n, worst, starts)
	if worst > 2*time.Second+slack {
		off(t, "it took %v at -kill-after 2s", worst)
	}
}

// A stop works, whatever the command does.
func TestStressStopWhateverTheCommandDoes(t *testing.T) {
	storm(t)
	dir := newDir(t, nil)
	hang := script(t, dir, "hang", `
case $QUERY_STRING in
plain*) ;;
ignores*) trap '' TERM INT HUP ;;
*) ;;
esac
echo $$ >"`+dir+`/$QUERY_STRING"
case $QUERY_STRING in
stops*) kill -STOP $$ ;;
flood*) exec cat /dev/zero ;;
stderr*) exec cat /dev/zero >&2 ;;
group*) (trap '' TERM; sleep 100) & wait ;;
leaves*) setsid sh -c 'trap "" TERM; while :; do sleep 1; done' & wait ;;
esac
while :; do sleep 1; done`)
	for _, what := range []string{"plain", "ignores", "stops", "flood", "stderr", "group", "leaves"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := start(t, "-drain", "300ms", "-kill-after", "500ms", "--", hang)
			c := dial(t, s.addr).send("%s", get11("/?"+what))
			pid := readPID(t, filepath.Join(dir, what))
			began := time.Now()
			s.signal(syscall.SIGTERM)
			eventually(t, "no socket file", func() bool { _, err := os.Lstat(s.path); return os.IsNotExist(err) })
			if _, err := net.Dial("unix", s.path); !refusedConnect(err) {
				t.Errorf("a new client: %v, want a refusal", err)
			}
			go func() { // a client that reads
				var b [1 << 16]byte
				for {
					if _, err := c.Read(b[:]); err != nil {
						return
					}
				}
			}()
			if st := s.wait(); st != statusOK {
				t.Errorf("exit status %d, want 0", st)
			}
			took := time.Since(began)
			t.Logf("stopped after %v", took)
			if took > 800*time.Millisecond+slack {
				off(t, "stop took %v, at -drain 300ms -kill-after 500ms", took)
			}
			if !isGone(pid) {
				t.Errorf("the command outlives the service")
			}
		})
	}
}

// A client that has connected before a stop is answered; a client that comes
// later is refused at once.
func TestStressStopUnderLoad(t *testing.T) {
	storm(t)
	t.Run("unix", func(t *testing.T) { stopUnderLoad(t, count(2, 50)) })
	// Without a socket file that is removed first, the kernel resets
	// connections that are made between the last accept(2) and close(2).
	t.Run("tcp", func(t *testing.T) { stopUnderLoad(t, count(2, 30), "-listen", "tcp4:127.0.0.1:0") })
}

func stopUnderLoad(t *testing.T, n int, args ...string) {
	echo := script(t, newDir(t, nil), "echo", echoText)
	total, cut := 0, 0
	for range n {
		s := start(t, append(args, "-access-log=false", "-max-procs", "8", "-drain", "1m", "--", echo)...)
		tr := newTraffic(t, s.addr)
		tr.sleep, tr.size = "0.2", 256<<10
		tr.add(16, fresh)
		tr.add(4, slow)
		tr.add(2, upload)
		time.Sleep(100 * time.Millisecond)
		s.signal(syscall.SIGTERM)
		eventually(t, "no socket file", func() bool { _, err := os.Lstat(s.path); return os.IsNotExist(err) })
		if st := s.wait(); st != statusOK {
			t.Errorf("exit status %d", st)
		}
		tr.end()
		tr.none(wrong, busy)
		for _, a := range tr.others {
			switch {
			case strings.Contains(a.what, "refused") || strings.Contains(a.what, "no such file"):
			case len(args) > 0 && strings.Contains(a.what, "reset by peer"):
				cut++
			default:
				t.Errorf("%v: %s", a.outcome, a.what)
			}
		}
		total += tr.counts()[answered]
	}
	t.Logf("%d stops under load: %d answered, %d cut off by the kernel", n, total, cut)
	if cut > n/2 {
		off(t, "%d cut off", cut)
	}
}

// An unresponsive core is replaced, and clients that wait are served by the
// next one.
func TestStressStuckCore(t *testing.T) {
	storm(t)
	long(t, "a core has 30 s to answer")
	noticed := func(t *testing.T, s *server, core int) {
		began := time.Now()
		waiting := dial(t, s.addr)
		waiting.SetDeadline(began.Add(90 * time.Second))
		waiting.trySend(get11("/"))
		eventuallyFor(t, 80*time.Second, "the end of a stuck core", func() bool { return isGone(core) })
		took := time.Since(began)
		t.Logf("ended after %v", took.Round(time.Second))
		if took < 30*time.Second {
			t.Errorf("ended after %v: a core has 30 s to answer", took)
		}
		s.await("core is unresponsive", "core", strconv.Itoa(core))
		waiting.answer("GET").wantStatus(t, 200)
		if now := s.currentCore(); now == core {
			t.Errorf("core %d serves", now)
		}
		s.stop()
	}
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		s := start(t, "--", trueProgram)
		s.errorsExpected = true
		if err := syscall.Kill(s.core, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		noticed(t, s, s.core)
	})
	t.Run("answers nothing", func(t *testing.T) {
		t.Parallel()
		h := hijack(t, "--", trueProgram)
		noticed(t, h.server, h.take("silent"))
	})
}

// A service that must exit does not wait for its last record if nobody reads
// the log, because its manager waits to start it again.
func TestStressLogNotRead(t *testing.T) {
	storm(t)
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
	// Fill the pipe through another descriptor: that of onewake is blocking and
	// must stay so.
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
		t.Errorf("not exited within %v", patience)
	}
}

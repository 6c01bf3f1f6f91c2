//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// whoText answers with the pid of the monitor.
const whoText = `echo $PPID`

// who asks at a path which monitor serves there.
func who(path string) (pid int, err error) {
	c, err := net.DialTimeout("unix", path, patience)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	b, err := io.ReadAll(c)
	if err != nil {
		return 0, err
	}
	_, body, _ := strings.Cut(string(b), "\r\n\r\n")
	pid, err = strconv.Atoi(strings.TrimSpace(body))
	if err != nil {
		return 0, fmt.Errorf("answer %.100q", b)
	}
	return pid, nil
}

// Of many that start at once on one path one serves and the others say why they
// do not.
func TestRacingStarts(t *testing.T) {
	n := count(40, 100)
	l := launch{dir: newDir(t, nil), args: []string{"--", script(t, newDir(t, nil), "who", whoText)}}
	// A leftover file, which each of them would remove if it could.
	former := l.start(t)
	former.troubles = true
	former.signal(syscall.SIGKILL)
	former.wait()
	awaitGone(t, former.core)
	var all []*server
	for range n {
		all = append(all, l.begin(t))
	}
	began := time.Now()
	path := all[0].path
	serves, refused := 0, 0
	var winner *server
	for _, s := range all {
		eventuallyFor(t, 3*patience, "a start or an end", func() bool { return s.hasEnded() || len(s.find("start")) > 0 })
		if len(s.find("start")) > 0 {
			serves++
			winner = s
			continue
		}
		if st := s.wait(); st != statusInUse || !strings.Contains(s.logText(), "address already in use: a running server holds "+l.dir+"/.s.lock") {
			t.Errorf("exit status %d, %s", st, s.logText())
		} else {
			refused++
		}
		s.noise = nil
	}
	took := time.Since(began)
	t.Logf("%d starts at once: %d serves, %d have ended with status %d after %v", n, serves, refused, statusInUse, took)
	if took > 5*time.Second+patience/2 {
		t.Errorf("they have waited for %v, want 5 s", took)
	}
	if serves != 1 {
		t.Fatalf("%d servers on one path", serves)
	}
	if pid, err := who(path); pid != winner.pid {
		t.Errorf("%d serves (%v), not %d", pid, err, winner.pid)
	}
	winner.stop()
}

func (s *server) hasEnded() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

func eventuallyFor(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// life is what the model knows about one server: from its start record to the
// first signal it is the only one that may serve, and it does.
type life struct {
	*server
	mu     sync.Mutex
	began  time.Time // by its start record
	signal time.Time // when it was told to end
	killed bool      // by SIGKILL, then or later
}

// cleanly tells whether nothing but a stop has ended it.
func (l *life) cleanly() bool { return !l.signal.IsZero() && !l.killed }

// reigns tells whether the server has been serving from the one time to the
// other, as far as the model knows.
func (l *life) reigns(from, to time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.began.IsZero() && l.began.Before(from) && (l.signal.IsZero() || l.signal.After(to))
}

// Starts, stops and kills by several actors at once, against a model that knows
// what may be true.
func TestNeverTwo(t *testing.T) {
	l := launch{dir: newDir(t, nil), args: []string{"-kill-after", "500ms", "-drain", "1s", "--", script(t, newDir(t, nil), "who", whoText)}}
	path := filepath.Join(l.dir, "s")
	var mu sync.Mutex
	var lives []*life
	snapshot := func() []*life {
		mu.Lock()
		defer mu.Unlock()
		return append([]*life(nil), lives...)
	}
	// resolve notes the starts and ends that have been logged since.
	resolve := func() (pending int, serving []*life) {
		for _, l := range snapshot() {
			l.mu.Lock()
			if l.began.IsZero() {
				if r := l.find("start"); len(r) > 0 {
					l.began, _ = time.Parse(time.RFC3339Nano, r[0]["time"])
				}
			}
			switch {
			case l.hasEnded():
				if l.began.IsZero() && l.signal.IsZero() && l.cmd.ProcessState.ExitCode() != statusInUse {
					t.Errorf("a start has ended with %v: %s", l.cmd.ProcessState, l.logText())
				}
			case l.began.IsZero():
				pending++
			case l.signal.IsZero():
				serving = append(serving, l)
			}
			l.mu.Unlock()
		}
		return pending, serving
	}

	quit := make(chan struct{})
	var actors, prober sync.WaitGroup
	asked, unreachable := 0, 0
	prober.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			from := time.Now()
			pid, err := who(path)
			to := time.Now()
			asked++
			for _, l := range snapshot() {
				switch {
				case !l.reigns(from.Add(-5*time.Millisecond), to):
				case err != nil && refusedConnect(err):
					t.Errorf("%d serves and cannot be reached: %v", l.pid, err)
				case err == nil && pid != l.pid:
					t.Errorf("%d answers while %d serves", pid, l.pid)
				}
			}
			if err != nil {
				unreachable++
			}
			time.Sleep(time.Millisecond)
		}
	})
	rounds := count(200, 1000)
	var starts, stops, kills, coreKills int
	for range 4 {
		actors.Go(func() {
			for range rounds / 4 {
				time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
				pending, serving := resolve()
				what := rand.IntN(10)
				if len(serving) == 0 && pending == 0 || what < 4 && pending < 8 {
					s := &life{server: l.begin(t)}
					s.troubles = true
					mu.Lock()
					lives = append(lives, s)
					starts++
					mu.Unlock()
					continue
				}
				if len(serving) == 0 {
					continue
				}
				s := serving[rand.IntN(len(serving))]
				if what == 9 {
					if r := s.find("start"); len(r) > 0 {
						core, _ := strconv.Atoi(r[0]["core"])
						if slices.Contains(childrenOf(s.pid), core) {
							syscall.Kill(core, syscall.SIGKILL)
							mu.Lock()
							coreKills++
							mu.Unlock()
						}
					}
					continue
				}
				s.mu.Lock()
				if s.signal.IsZero() {
					s.signal = time.Now()
				}
				sig := syscall.SIGTERM
				if what >= 7 {
					sig = syscall.SIGKILL
				}
				if !s.hasEnded() {
					s.killed = s.killed || sig == syscall.SIGKILL
					syscall.Kill(s.pid, sig)
				}
				s.mu.Unlock()
				mu.Lock()
				if sig == syscall.SIGTERM {
					stops++
				} else {
					kills++
				}
				mu.Unlock()
			}
		})
	}
	actors.Wait()
	// Whoever is still waiting gets its turn.
	eventuallyFor(t, 3*patience, "the end of all", func() bool {
		pending, serving := resolve()
		for _, s := range serving {
			s.mu.Lock()
			s.signal = time.Now()
			syscall.Kill(s.pid, syscall.SIGTERM)
			s.mu.Unlock()
		}
		left := 0
		for _, l := range snapshot() {
			if !l.hasEnded() {
				left++
			}
		}
		return pending == 0 && left == 0
	})
	close(quit)
	prober.Wait()
	resolve()

	// Whoever began to serve did so after the former had been told to end.
	var last *life
	for _, l := range snapshot() {
		l.noise = nil
		if l.began.IsZero() {
			continue
		}
		if last == nil || l.began.After(last.began) {
			last = l
		}
		for _, m := range snapshot() {
			if m != l && !m.began.IsZero() && m.began.Before(l.began) && m.signal.After(l.began.Add(2*time.Millisecond)) {
				t.Errorf("%d began to serve while %d did", l.pid, m.pid)
			}
		}
		if l.cleanly() && l.cmd.ProcessState.ExitCode() != statusOK {
			t.Errorf("a stop ended with %v", l.cmd.ProcessState)
		}
	}
	if _, err := os.Lstat(path); last.cleanly() && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket file after the last clean stop: %v", err)
	}
	t.Logf("%d starts, %d stops, %d kills, %d kills of a core: never two; asked %d times who serves, %d times nobody did",
		starts, stops, kills, coreKills, asked, unreachable)
	l.start(t).stop()
}

// mount mounts a small tmpfs for the time of the test.
func mount(t *testing.T, options string) string {
	t.Helper()
	needRoot(t, "it mounts a file system")
	dir := newDir(t, nil)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		missing(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	os.Chmod(dir, 0o755)
	return dir
}

// What may happen to the directory of a socket.
func TestSocketDirectory(t *testing.T) {
	t.Run("tmpfs", func(t *testing.T) {
		l := launch{dir: mount(t, "size=1m"), args: []string{"-socket-mode", "0600", "--", script(t, newDir(t, nil), "who", whoText)}}
		s := l.start(t)
		s.troubles = true
		if fi, err := os.Lstat(s.path); err != nil || fi.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v, %v", fi, err)
		}
		// What it leaves behind is no hindrance there either.
		s.signal(syscall.SIGKILL)
		s.wait()
		awaitGone(t, s.core)
		s = l.start(t)
		if pid, err := who(s.path); pid != s.pid {
			t.Errorf("%d serves (%v), not %d", pid, err, s.pid)
		}
		s.stop()
	})
	t.Run("full disk", func(t *testing.T) {
		dir := mount(t, "size=64k,nr_inodes=3")
		l := launch{dir: dir, args: []string{"--", trueProgram}}
		// The root of it and two files: not one is left.
		fill(t, dir+"/a")
		fill(t, dir+"/b")
		s := l.begin(t)
		if st := s.wait(); st != statusOS || !strings.Contains(s.logText(), "/.s.lock: no space left on device") {
			t.Errorf("exit status %d, %s", st, s.logText())
		}
		s.noise = nil
		os.Remove(dir + "/a")
		s = l.begin(t) // room for the lock, not for the socket
		if st := s.wait(); st != statusOS || !strings.Contains(s.logText(), "bind "+s.path+": no space left on device") {
			t.Errorf("exit status %d, %s", st, s.logText())
		}
		s.noise = nil
		os.Remove(dir + "/b")
		s = l.start(t)
		s.get("/").want(t, 200, "")
		s.stop()
	})
	t.Run("read-only", func(t *testing.T) {
		dir := mount(t, "size=64k")
		l := launch{dir: dir, args: []string{"--", trueProgram}}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		s := l.begin(t)
		if st := s.wait(); st != statusOS || !strings.Contains(s.logText(), "/.s.lock: read-only file system") {
			t.Errorf("exit status %d, %s", st, s.logText())
		}
		s.noise = nil
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, "size=64k"); err != nil {
			t.Fatal(err)
		}
		l.start(t).stop()
	})
	t.Run("removed", func(t *testing.T) {
		dir := filepath.Join(newDir(t, nil), "d")
		os.Mkdir(dir, 0o755)
		l := launch{dir: dir, args: []string{"--", trueProgram}}
		s := l.start(t)
		c := dial(t, s.addr)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		// Who is in stays in, nobody else finds it; a reload does not help.
		c.send("%s", get11("/")).answer("GET").want(t, 200, "")
		s.signal(syscall.SIGHUP)
		s.await("core replaced")
		if _, err := dialErr(s.addr); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("a new client: %v", err)
		}
		s.stop()
		if r := s.find("stopped"); len(r) != 1 || strings.Contains(s.logText(), "failed to delete") {
			t.Errorf("a file that is gone is worth no warning: %s", s.logText())
		}
		r := launch{args: []string{"-listen", "unix:" + s.path, "--", trueProgram}}.run(t)
		if r.status != statusConfig || !strings.Contains(r.stderr, "to mend: install -d") {
			t.Errorf("a start without the directory: exit status %d, %s", r.status, r.stderr)
		}
		os.Mkdir(dir, 0o755)
		l.start(t).stop()
	})
	t.Run("replaced", func(t *testing.T) {
		top := newDir(t, nil)
		dir := filepath.Join(top, "d")
		os.Mkdir(dir, 0o755)
		l := launch{dir: dir, args: []string{"--", script(t, newDir(t, nil), "who", whoText)}}
		old := l.start(t)
		os.Rename(dir, dir+".old")
		os.Mkdir(dir, 0o755)
		// Another place of the same name, and another server there: each is
		// the only one of its place, and neither takes away the other's file.
		s := l.start(t)
		for at, want := range map[string]int{dir + "/s": s.pid, dir + ".old/s": old.pid} {
			if pid, err := who(at); pid != want {
				t.Errorf("%s: %d serves (%v), not %d", at, pid, err, want)
			}
		}
		old.signal(syscall.SIGTERM)
		if st := old.wait(); st != statusOK {
			t.Errorf("exit status %d", st)
		}
		if _, err := os.Lstat(dir + ".old/s"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file of a server whose directory was moved: %v", err)
		}
		if pid, err := who(s.path); pid != s.pid {
			t.Errorf("%d serves (%v), not %d", pid, err, s.pid)
		}
		s.stop()
	})
	t.Run("replaced by another server's file", func(t *testing.T) {
		dir := newDir(t, nil)
		s := launch{dir: dir, args: []string{"--", trueProgram}}.start(t)
		os.Remove(s.path)
		foreign, err := net.Listen("unix", s.path)
		if err != nil {
			t.Fatal(err)
		}
		defer foreign.Close()
		s.signal(syscall.SIGTERM)
		if st := s.wait(); st != statusOK {
			t.Errorf("exit status %d", st)
		}
		if _, err := os.Lstat(s.path); err != nil {
			t.Errorf("a foreign socket was removed: %v", err)
		}
		r := launch{args: []string{"-listen", "unix:" + s.path, "--", trueProgram}}.run(t)
		if r.status != statusInUse {
			t.Errorf("a start against a foreign server: exit status %d, %s", r.status, r.stderr)
		}
	})
}

func fill(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

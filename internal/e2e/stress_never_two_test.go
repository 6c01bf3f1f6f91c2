//go:build stress && linux

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
)

// whoText is a command that prints the pid of the monitor.
const whoText = `echo $PPID`

// askWho asks the server at a path for the pid of its monitor.
func askWho(path string) (pid int, err error) {
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

// If many are started at once on one path, one serves, and the others say why
// they do not.
func TestStressRacingStarts(t *testing.T) {
	storm(t)
	n := count(10, 100)
	l := launch{dir: newDir(t, nil), args: []string{"--", script(t, newDir(t, nil), "who", whoText)}}
	// A leftover file, which each of them would remove.
	former := l.start(t)
	former.errorsExpected = true
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
		s.otherLines = nil
	}
	took := time.Since(began)
	t.Logf("%d starts at once: %d serves, %d have ended with status %d after %v", n, serves, refused, statusInUse, took)
	if took > 5*time.Second+2*slack {
		off(t, "they have waited for %v, want 5 s", took)
	}
	if serves != 1 {
		t.Fatalf("%d servers on one path", serves)
	}
	if pid, err := askWho(path); pid != winner.pid {
		t.Errorf("%d serves (%v), not %d", pid, err, winner.pid)
	}
	winner.stop()
}

// life is what the model knows about a server: from its start record to the
// first signal it is the only one that may serve, and it serves.
type life struct {
	*server
	mu     sync.Mutex
	began  time.Time // by its start record
	signal time.Time // time of the first signal
	killed bool      // by SIGKILL, then or later
}

// cleanly reports whether it was only stopped, and not killed.
func (l *life) cleanly() bool { return !l.signal.IsZero() && !l.killed }

// wasServing reports whether the server has been serving during this time, as far
// as the model knows.
func (l *life) wasServing(from, to time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.began.IsZero() && l.began.Before(from) && (l.signal.IsZero() || l.signal.After(to))
}

// Several actors start, stop and kill servers at once. A model knows what may
// be true.
func TestStressNeverTwo(t *testing.T) {
	storm(t)
	l := launch{dir: newDir(t, nil), args: []string{"-kill-after", "500ms", "-drain", "1s", "--", script(t, newDir(t, nil), "who", whoText)}}
	path := filepath.Join(l.dir, "s")
	var mu sync.Mutex
	var lives []*life
	snapshot := func() []*life {
		mu.Lock()
		defer mu.Unlock()
		return append([]*life(nil), lives...)
	}
	// resolve reads the starts and exits that have been logged meanwhile.
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
					t.Errorf("a start has exited with %v: %s", l.cmd.ProcessState, l.logText())
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
			pid, err := askWho(path)
			to := time.Now()
			asked++
			for _, l := range snapshot() {
				switch {
				case !l.wasServing(from.Add(-5*time.Millisecond), to):
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
	rounds := count(40, 1000)
	var starts, stops, kills, coreKills int
	for range 4 {
		actors.Go(func() {
			for range rounds / 4 {
				time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
				pending, serving := resolve()
				what := rand.IntN(10)
				if len(serving) == 0 && pending == 0 || what < 4 && pending < 8 {
					s := &life{server: l.begin(t)}
					s.errorsExpected = true
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
	// The servers that are still waiting get their turn.
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

	// A server begins to serve only after the previous one has been stopped.
	var last *life
	for _, l := range snapshot() {
		l.otherLines = nil
		if l.began.IsZero() {
			continue
		}
		if last == nil || l.began.After(last.began) {
			last = l
		}
		for _, m := range snapshot() {
			if m != l && !m.began.IsZero() && m.began.Before(l.began) && m.signal.After(l.began.Add(2*time.Millisecond)) {
				t.Errorf("%d began to serve while %d served", l.pid, m.pid)
			}
		}
		if l.cleanly() && l.cmd.ProcessState.ExitCode() != statusOK {
			t.Errorf("a stop has exited with %v", l.cmd.ProcessState)
		}
	}
	if _, err := os.Lstat(path); last.cleanly() && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket file after the last clean stop: %v", err)
	}
	t.Logf("%d starts, %d stops, %d kills, %d kills of a core: never two; asked %d times who serves, %d times nobody did",
		starts, stops, kills, coreKills, asked, unreachable)
	l.start(t).stop()
}

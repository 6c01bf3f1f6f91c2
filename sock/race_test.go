package sock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// steps are the steps of Listen in their order, if it removes a leftover.
var steps = []string{
	"walked", "directory open", "lock seen", "lock created", "lock opened", "locked",
	"writable", "stale", "removed", "bound", "owner set", "permitted", "listening",
}

// reached reports whether this user reaches a step.
func reached(name string) bool { return name != "writable" || os.Geteuid() != 0 }

// After a server was killed at any step the next one starts.
func TestKilledAtEachStep(t *testing.T) {
	for _, name := range append(slices.Clone(steps), "served") {
		t.Run(name, func(t *testing.T) {
			if !reached(name) {
				t.Skip("root ignores the mode; TestOrdinaryUser runs this")
			}
			path := filepath.Join(tempDir(t), "s")
			leftover(t, path, 0o060)
			c := start(t, "hold", path, nil, "SOCK_TEST_WAIT="+name)
			c.at(t, name)
			c.kill(t)
			l := listen(t, path, mode(0o600))
			talk(t, l)
			if err := l.Close(); err != nil || exists(path) {
				t.Errorf("Close: %v, file exists: %v", err, exists(path))
			}
		})
	}
}

// A starter is a Listen in the background.
type starter struct {
	at   chan string   // the step at which it waits
	goOn chan struct{} // makes it continue
	l    *Listener
	err  error
	done chan struct{}
}

// begin starts a Listen that waits once at each of these steps.
func begin(path string, stops ...string) *starter {
	s := &starter{at: make(chan string), goOn: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		ctx := withSteps(func(name string) {
			if i := slices.Index(stops, name); i >= 0 {
				stops = slices.Delete(stops, i, i+1)
				s.at <- name
				<-s.goOn
			}
		})
		s.l, s.err = Config{Perms: mode(0o600), LockWait: never}.Listen(ctx, Addr{Unix, path})
	}()
	return s
}

// reach waits until it is at a step.
func (s *starter) reach(t *testing.T, name string) {
	t.Helper()
	select {
	case at := <-s.at:
		if at != name {
			t.Fatalf("at %q, want %q", at, name)
		}
	case <-s.done:
		t.Fatalf("done, want %q: %v", name, s.err)
	case <-time.After(hang):
		t.Fatalf("never at %q", name)
	}
}

// serves waits until it listens, and connects to it.
func (s *starter) serves(t *testing.T) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(hang):
		t.Fatal("Listen does not return")
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	talk(t, s.l)
}

// Of two servers that start at once, one serves, and the other after it, whatever
// step the first has reached when the second starts.
func TestRacingStarts(t *testing.T) {
	for i, name := range steps {
		t.Run(name, func(t *testing.T) {
			if !reached(name) {
				t.Skip("root ignores the mode; TestOrdinaryUser runs this")
			}
			path := filepath.Join(tempDir(t), "s")
			leftover(t, path, 0o060)
			defer syscall.Umask(syscall.Umask(0o777)) // for the step "lock created"
			first := begin(path, name, "waiting")
			first.reach(t, name)
			second := begin(path, "waiting")
			if i < slices.Index(steps, "locked") {
				// The second gets the lock first.
				first, second = second, first
				first.serves(t)
				second.goOn <- struct{}{}
				second.reach(t, "waiting")
			} else {
				second.reach(t, "waiting")
				first.goOn <- struct{}{}
				first.serves(t)
			}
			before, _ := os.Lstat(path)
			second.goOn <- struct{}{}
			talk(t, first.l)
			same(t, before, path)
			if err := first.l.Close(); err != nil {
				t.Error(err)
			}
			second.serves(t)
			if err := second.l.Close(); err != nil || exists(path) {
				t.Errorf("Close: %v, file exists: %v", err, exists(path))
			}
		})
	}
}

// After LockWait the error names the lock file. Nothing is changed.
func TestLocked(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	c := start(t, "hold", path, nil, "SOCK_TEST_REPORT=served")
	c.at(t, "served")
	before, _ := os.Lstat(path)
	for _, wait := range []time.Duration{-1, 10 * time.Millisecond} {
		waited := false
		ctx := withSteps(func(name string) { waited = waited || name == "waiting" })
		_, err := Config{LockWait: wait, Perms: mode(0o600)}.Listen(ctx, Addr{Unix, path})
		if !errors.Is(err, ErrLocked) || !errors.Is(err, ErrInUse) || waited != (wait > 0) {
			t.Errorf("Listen: %v, waited: %v", err, waited)
		}
		want := "listen unix:" + path + ": address already in use: a running server holds " + filepath.Dir(path) + "/.s.lock"
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
	if _, err := check(path, mode(0o600)); !errors.Is(err, ErrLocked) {
		t.Errorf("Check: %v", err)
	}
	// Other problems are reported nevertheless.
	chmod(t, filepath.Dir(path), 0o777)
	if _, err := check(path, mode(0o600)); errors.Is(err, ErrLocked) || !errors.Is(err, ErrUnsafeDir) {
		t.Errorf("Check: %v", err)
	}
	chmod(t, filepath.Dir(path), 0o700)
	same(t, before, path)

	// The lock of a killed server is free at once.
	c.kill(t)
	if note, err := check(path, mode(0o600)); err != nil || note == "" {
		t.Errorf("Check: %q, %v", note, err)
	}
	listen(t, path, mode(0o600))
}

// The end of the context ends the wait for the lock. The running server keeps it.
func TestCanceledWhileWaiting(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o600))
	before, _ := os.Lstat(path)
	open := descriptors()
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	ctx = context.WithValue(ctx, stepKey{}, func(name string) {
		if name == "waiting" {
			cancel(why)
		}
	})
	_, err := Config{LockWait: never}.Listen(ctx, Addr{Unix, path})
	want := "listen unix:" + path + ": stopped while another server holds " + filepath.Dir(path) + "/.s.lock: why"
	if !errors.Is(err, why) || errors.Is(err, ErrInUse) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if n := descriptors(); n > open {
		t.Errorf("%d descriptors open, before %d", n, open)
	}
	same(t, before, path)
	talk(t, l)

	// It is done already.
	path = filepath.Join(tempDir(t), "s")
	if _, err := (Config{}).Listen(ctx, Addr{Unix, path}); !errors.Is(err, why) || exists(filepath.Dir(path)+"/.s.lock") {
		t.Errorf("got %v", err)
	}
}

// descriptors counts the open ones.
func descriptors() (n int) {
	for fd := range 256 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

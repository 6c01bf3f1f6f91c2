package sock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// steps are what Listen goes through, in this order, where a leftover file has
// to be removed.
var steps = []string{
	"walked", "directory open", "lock seen", "lock created", "lock opened", "locked",
	"writable", "stale", "removed", "bound", "owner set", "permitted", "listening",
}

// ours leaves out the steps that are not taken by this user.
func ours(name string) bool { return name != "writable" || os.Geteuid() != 0 }

// A killed server leaves nothing that keeps the next one from starting.
func TestKilledAtEachStep(t *testing.T) {
	for _, name := range append(slices.Clone(steps), "served") {
		t.Run(name, func(t *testing.T) {
			if !ours(name) {
				t.Skip("root needs no mode; TestOrdinaryUser runs this")
			}
			path := filepath.Join(tempDir(t), "s")
			leftover(t, path, 0o060)
			c := start(t, "hold", path, nil, "SOCK_TEST_HALT="+name)
			c.at(t, name)
			c.kill(t)
			l := listen(t, path, mode(0o600))
			talk(t, l)
			if err := l.Close(); err != nil || exists(path) {
				t.Errorf("Close: %v, file there: %v", err, exists(path))
			}
		})
	}
}

// A starter is a Listen in the background.
type starter struct {
	at   chan string   // where it has stopped
	goOn chan struct{} // lets it go on
	l    *Listener
	err  error
	done chan struct{}
}

// begin has a Listen stop at each of these steps, once.
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

// reach waits until it has stopped at a step.
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

// serves waits until it listens, and makes sure that it is the one who does.
func (s *starter) serves(t *testing.T) {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(hang):
		t.Fatal("does not come to an end")
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	talk(t, s.l)
}

// Of two that start at once one serves, and then the other, wherever one of them
// is when the other comes.
func TestRacingStarts(t *testing.T) {
	for i, name := range steps {
		t.Run(name, func(t *testing.T) {
			if !ours(name) {
				t.Skip("root needs no mode; TestOrdinaryUser runs this")
			}
			path := filepath.Join(tempDir(t), "s")
			leftover(t, path, 0o060)
			defer syscall.Umask(syscall.Umask(0o777)) // so that there is a step "lock created"
			first := begin(path, name, "waiting")
			first.reach(t, name)
			second := begin(path, "waiting")
			if i < slices.Index(steps, "locked") {
				// The second overtakes.
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
				t.Errorf("Close: %v, file there: %v", err, exists(path))
			}
		})
	}
}

// Who waits no longer tells who has the lock, and leaves all as it is.
func TestLocked(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	c := start(t, "hold", path, nil, "SOCK_TEST_TELL=served")
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
	// Something else being wrong is not hidden by that.
	chmod(t, filepath.Dir(path), 0o777)
	if _, err := check(path, mode(0o600)); errors.Is(err, ErrLocked) || !errors.Is(err, ErrUnsafeDir) {
		t.Errorf("Check: %v", err)
	}
	chmod(t, filepath.Dir(path), 0o700)
	same(t, before, path)

	// A killed server's lock is nobody's, at once.
	c.kill(t)
	if note, err := check(path, mode(0o600)); err != nil || note == "" {
		t.Errorf("Check: %q, %v", note, err)
	}
	listen(t, path, mode(0o600))
}

// The end of a context ends the wait for a predecessor, who is not disturbed.
func TestCancelledWhileWaiting(t *testing.T) {
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
	if !errors.Is(err, why) || errors.Is(err, ErrInUse) || !strings.HasPrefix(err.Error(), "listen unix:"+path+": ") {
		t.Errorf("got %v", err)
	}
	if n := descriptors(); n > open {
		t.Errorf("%d descriptors open, before %d", n, open)
	}
	same(t, before, path)
	talk(t, l)
}

// descriptors counts those that are open.
func descriptors() (n int) {
	for fd := range 256 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			n++
		}
	}
	return n
}

// childStoppable is a daemon that a signal stops.
func childStoppable(ctx context.Context, path string) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := Config{Perms: mode(0o600), LockWait: never}.Listen(ctx, Addr{Unix, path})
	if !errors.Is(err, context.Canceled) {
		return fmt.Errorf("got %v, %v", l, err)
	}
	fmt.Println("at the end:", err)
	return nil
}

func init() { roles["stoppable"] = childStoppable }

// The same in the form that a daemon has: a signal stops it while it waits.
func TestStoppedWhileWaiting(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o600))
	before, _ := os.Lstat(path)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		c := start(t, "stoppable", path, nil, "SOCK_TEST_TELL=waiting")
		c.at(t, "waiting")
		if err := c.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		want := "at the end: listen unix:" + path + ": stopped while another server holds " + filepath.Dir(path) + "/.s.lock: " + sig.String()
		if s := c.line(t); !strings.HasPrefix(s, want) {
			t.Errorf("got  %s\nwant %s", s, want)
		}
		if out, err := c.end(); err != nil {
			t.Errorf("%v: %s, %v", sig, out, err)
		}
	}
	same(t, before, path)
	talk(t, l)
	// And a stop that comes before there is anything to wait for.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path = filepath.Join(tempDir(t), "s")
	if _, err := Listen(ctx, Addr{Unix, path}, unchanged); !errors.Is(err, context.Canceled) || exists(filepath.Dir(path)+"/.s.lock") {
		t.Errorf("got %v", err)
	}
}

package sock

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// listenWhile calls f at a step of Listen.
func listenWhile(path string, spec perms.Spec, at string, f func()) (*Listener, error) {
	return Config{Perms: spec, LockWait: -1, AnswerWait: -1}.Listen(withSteps(func(name string) {
		if name == at {
			f()
		}
	}), Addr{Unix, path})
}

// A live server whose queue is full is not taken for a leftover.
func TestFullQueue(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("this system refuses a connection when the queue is full")
	}
	path := filepath.Join(tempDir(t), "s")
	bound(t, path, unix.SOCK_STREAM, 0, false)
	for range 10 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		unix.SetNonblock(fd, true)
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := connect(path); err != unix.EAGAIN {
		t.Fatalf("the queue is not full: %v", err)
	}
	if _, err := listenAt(path, mode(0o600)); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if !exists(path) {
		t.Error("a live server's file was removed")
	}
}

// A file counts as a leftover only if it has refused connections for RefusalWait.
func TestRefusalWait(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	fd := bound(t, path, unix.SOCK_STREAM, -1, false)
	refusals := 0
	ctx := withSteps(func(name string) {
		if name == "refused" {
			if refusals++; refusals == 3 {
				unix.Listen(fd, 5)
			}
		}
	})
	c := Config{Perms: mode(0o600), LockWait: -1, AnswerWait: -1, RefusalWait: never}
	if _, err := c.Listen(ctx, Addr{Unix, path}); !errors.Is(err, ErrInUse) || errors.Is(err, ErrLocked) || refusals != 3 {
		t.Errorf("after %d refusals: %v", refusals, err)
	}
	if !exists(path) {
		t.Error("a live server's file was removed")
	}

	// Nobody listens.
	c.RefusalWait = 10 * time.Millisecond
	path = filepath.Join(tempDir(t), "s")
	leftover(t, path, 0o755)
	l, err := c.Listen(t.Context(), Addr{Unix, path})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()

	// The end of the context ends the wait.
	leftover(t, path, 0o755)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.RefusalWait = never
	_, err = c.Listen(context.WithValue(ctx, stepKey{}, func(name string) {
		if name == "refused" {
			cancel()
		}
	}), Addr{Unix, path})
	if !errors.Is(err, context.Canceled) || !exists(path) {
		t.Errorf("canceled: %v, file exists: %v", err, exists(path))
	}
}

// RefusalWait starts again after an answer.
func TestRefusalWaitRestarts(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	fd := bound(t, path, unix.SOCK_STREAM, -1, false)
	answered, refusals := false, 0
	l, err := Config{Perms: mode(0o600), LockWait: -1, AnswerWait: never, RefusalWait: time.Millisecond}.Listen(withSteps(func(name string) {
		switch {
		case name == "answered":
			answered = true
			c, _, err := unix.Accept(fd)
			if err := errors.Join(err, unix.Close(fd), unix.Close(c)); err != nil {
				t.Error(err)
			}
		case name == "refused" && answered:
			refusals++
		case name == "refused":
			unix.Listen(fd, 5)
		}
	}), Addr{Unix, path})
	if err != nil || !answered || refusals == 0 {
		t.Fatalf("answered: %v, refusals after that: %d, %v", answered, refusals, err)
	}
	l.Close()
}

// A server that was just killed may lose its lock before its socket. It has
// AnswerWait to close the connection.
func TestAnswerWait(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	for _, tt := range []struct {
		name string
		wait time.Duration
		then func(fd int, stop context.CancelFunc)
		err  error
	}{
		{"closes", never, func(fd int, _ context.CancelFunc) { unix.Close(fd) }, nil},
		{"keeps answering", time.Millisecond, func(int, context.CancelFunc) {}, ErrInUse},
		{"canceled", never, func(_ int, stop context.CancelFunc) { stop() }, context.Canceled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.Remove(path)
			fd := bound(t, path, unix.SOCK_STREAM, 5, false)
			before, _ := os.Lstat(path)
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			answered := 0
			l, err := Config{Perms: mode(0o600), LockWait: -1, AnswerWait: tt.wait}.Listen(context.WithValue(ctx, stepKey{}, func(name string) {
				if name == "answered" {
					if answered++; answered == 1 {
						tt.then(fd, stop)
					}
				}
			}), Addr{Unix, path})
			if !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) || answered == 0 {
				t.Errorf("%v, after %d answers", err, answered)
			}
			if err != nil {
				same(t, before, path)
				return
			}
			defer l.Close()
			talk(t, l)
		})
	}
}

// A probe does not fill the queue of a live server that accepts no connections for
// a moment: on FreeBSD the server would then seem dead. A server that closes each
// connection is alive.
func TestProbeConnectsOnce(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	fd := bound(t, path, unix.SOCK_STREAM, 1, false)
	answered := 0
	ctx := withSteps(func(name string) {
		if name == "answered" {
			answered++
		}
	})
	c := Config{Perms: mode(0o600), LockWait: -1, AnswerWait: 100 * time.Millisecond}
	if _, err := c.Listen(ctx, Addr{Unix, path}); !errors.Is(err, ErrInUse) || answered != 1 {
		t.Errorf("connected %d times, %v", answered, err)
	}
	if err := connect(path); err != nil {
		t.Errorf("its queue is full: %v", err)
	}
	go func() {
		for {
			c, _, err := unix.Accept(fd)
			if err != nil {
				return
			}
			unix.Close(c)
		}
	}()
	c.AnswerWait = never
	if _, err := c.Listen(ctx, Addr{Unix, path}); !errors.Is(err, ErrInUse) || !exists(path) {
		t.Error(err)
	}
}

// The mode that is changed for a probe is restored if a server answers.
func TestProbeRestoresMode(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root ignores the mode; TestOrdinaryUser runs this")
	}
	path := filepath.Join(tempDir(t), "s")
	bound(t, path, unix.SOCK_STREAM, 5, false)
	chmod(t, path, 0o060)
	var during os.FileMode
	_, err := listenWhile(path, mode(0o600), "writable", func() {
		if st, err := os.Lstat(path); err == nil {
			during = st.Mode().Perm()
		}
	})
	if !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if during != 0o260 {
		t.Errorf("mode %04o during the probe", during)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != 0o060 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// Another process removes the leftover.
func TestLeftoverDisappears(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	leftover(t, path, 0o755)
	l, err := listenWhile(path, mode(0o600), "stale", func() { os.Remove(path) })
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// A program that does not use the lock binds to the path just before us.
func TestPathTakenBeforeBind(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	leftover(t, path, 0o755)
	var ln net.Listener
	_, err := listenWhile(path, mode(0o600), "removed", func() { ln, _ = net.Listen("unix", path) })
	if !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if ln == nil || connect(path) != nil {
		t.Error("the other program's socket was removed")
	}
	ln.Close()
}

// Root or our user moves the directory between check and bind.
func TestMovedDirectory(t *testing.T) {
	for _, at := range []string{"walked", "directory open", "locked", "removed"} {
		t.Run(at, func(t *testing.T) {
			top := tempDir(t)
			dir := filepath.Join(top, "d")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if at == "removed" {
				leftover(t, dir+"/s", 0o755)
			}
			_, err := listenWhile(dir+"/s", mode(0o600), at, func() {
				os.Rename(dir, dir+"2")
				os.Mkdir(dir, 0o700)
			})
			if !errors.Is(err, ErrUnsafeDir) {
				t.Error(err)
			}
		})
	}
}

// Not every file system stores mode and owner. Listen then fails, and removes the
// file.
func TestModeNotKept(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	for name, spec := range map[string]perms.Spec{"mode": mode(0o600), "owner": {UID: perms.Set(os.Geteuid())}} {
		if name == "owner" && os.Geteuid() != 0 {
			continue
		}
		_, err := listenWhile(path, spec, "owner set", func() {
			if name == "mode" {
				chmod(t, path, 0o666)
			} else {
				chown(t, path, nobody, -1)
			}
		})
		if err == nil || !strings.Contains(err.Error(), path+": did not keep its mode and owner (now 0") {
			t.Errorf("%s: %v", name, err)
		}
		if exists(path) {
			t.Errorf("%s: the file was not removed", name)
		}
		listen(t, path, mode(0o600)).Close() // the lock is free
	}
}

// Another file replaces the new socket right after bind(2).
func TestReplacedAfterBind(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	_, err := listenWhile(path, mode(0o600), "bound", func() {
		os.Remove(path)
		os.WriteFile(path, []byte("precious"), 0o644)
	})
	if !errors.Is(err, ErrUnsafeDir) {
		t.Error(err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode() != 0o644 || st.Size() != 8 {
		t.Errorf("the file was changed: %v, %v", st, err)
	}
}

func TestSticky(t *testing.T) {
	needRoot(t)
	dir := tempDir(t)
	chmod(t, dir, 0o1777)
	path := filepath.Join(dir, "s")
	leftover(t, path, 0o777)
	// Another user's leftover can be probed but not removed.
	cred := &syscall.Credential{Uid: nobody, Gid: nobody}
	out, err := start(t, "hold", path, cred).end()
	if err == nil || !strings.Contains(out, "owned by user "+perms.UserName(0)+", not by ") {
		t.Errorf("%s, %v", out, err)
	}
	if !exists(path) {
		t.Error("another user's file was removed")
	}
	os.Remove(path)
	os.Remove(filepath.Join(dir, ".s.lock"))
	// Another user's server holds the path.
	c := start(t, "hold", path, cred, "SOCK_TEST_REPORT=served")
	c.at(t, "served")
	if _, err := listenAt(path, mode(0o600)); !errors.Is(err, ErrUnsafeLock) {
		t.Error(err)
	}
	if _, err := check(path, mode(0o600)); !errors.Is(err, ErrUnsafeLock) {
		t.Error(err)
	}
	if out, err := c.end(); err != nil {
		t.Errorf("%s, %v", out, err)
	}
}

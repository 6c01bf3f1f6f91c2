package sock

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

// talk connects, accepts the connection and sends a byte.
func talk(t *testing.T, l *Listener) net.Conn {
	t.Helper()
	type result struct {
		c   net.Conn
		err error
	}
	ch := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		ch <- result{c, err}
	}()
	to := l.Addr().String()
	// FreeBSD 15 does not connect to the wildcard.
	to = strings.NewReplacer("0.0.0.0:", "127.0.0.1:", "[::]:", "[::1]:").Replace(to)
	c, err := net.Dial(l.Addr().Network(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := <-ch
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.c.Close() })
	if _, err := c.Write([]byte{42}); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(r.c, b[:]); err != nil || b[0] != 42 {
		t.Fatalf("read %v, %v", b, err)
	}
	return r.c
}

func TestUnix(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o640))
	checkFlags(t, "socket", l.File(), true)
	c := talk(t, l)
	if _, ok := c.(*net.UnixConn); !ok {
		t.Errorf("a connection of type %T", c)
	}
	if a := l.Address(); a.String() != "unix:"+path || !l.Unix() || l.Addr().String() != path {
		t.Errorf("address %v, %v", a, l.Addr())
	}
	fi := file(t, path)
	if uid := int(fi.Sys().(*syscall.Stat_t).Uid); fi.Mode() != os.ModeSocket|0o640 || uid != os.Geteuid() {
		t.Errorf("%v, owner %d", fi.Mode(), uid)
	}
	for name, f := range map[string]*os.File{"socket": l.File(), "lock": l.LockFile(), "directory": l.file.dir} {
		checkFlags(t, name, f, name == "socket")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if exists(path) {
		t.Error("the file exists after Close")
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

func checkFlags(t *testing.T, name string, f *os.File, nonblock bool) {
	t.Helper()
	onFD(f, func(fd int) error {
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: not close-on-exec (%#x, %v)", name, fl, err)
		}
		if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || (fl&unix.O_NONBLOCK != 0) != nonblock {
			t.Errorf("%s: flags %#x, %v", name, fl, err)
		}
		return nil
	})
}

// Connections must not wake a process that only keeps the listener.
func TestNotPolled(t *testing.T) {
	l := listen(t, filepath.Join(tempDir(t), "s"), mode(0o600))
	tcp, err := Listen(t.Context(), Addr{TCP4, "127.0.0.1:0"}, unchanged)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for _, l := range []*Listener{l, tcp} {
		// A file in the poller can have a deadline.
		if err := l.File().SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
			t.Errorf("%v: the descriptor is in the poller (%v)", l.Address(), err)
		}
		talk(t, l)
		checkFlags(t, l.Address().String(), l.File(), true)
	}
}

func TestCloseEndsAccept(t *testing.T) {
	l := listen(t, filepath.Join(tempDir(t), "s"), mode(0o600))
	talk(t, l)
	ch := make(chan error, 1)
	go func() { _, err := l.Accept(); ch <- err }()
	awaitAccept(t)
	l.Close()
	select {
	case err := <-ch:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(hang):
		t.Error("Accept does not return")
	}
}

// awaitAccept waits until a goroutine waits in Accept. Only the list of goroutines
// shows that.
func awaitAccept(t *testing.T) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for deadline := time.Now().Add(hang); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "[IO wait") && strings.Contains(g, "sock.(*Listener).Accept") {
				return
			}
		}
	}
	t.Fatal("no goroutine waits in Accept")
}

func TestCloseAndSuccessor(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	for _, tt := range []struct {
		name string
		put  func(t *testing.T)
	}{
		{"nothing", func(t *testing.T) {}},
		{"regular file", func(t *testing.T) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"socket", func(t *testing.T) {
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
		}},
		{"leftover", func(t *testing.T) { leftover(t, path, 0o755) }},
		{"directory", func(t *testing.T) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := listen(t, path, mode(0o600))
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			tt.put(t)
			before, _ := os.Lstat(path)
			if err := l.Unlink(); err != nil {
				t.Errorf("Unlink: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			after, _ := os.Lstat(path)
			if before != nil && (after == nil || !os.SameFile(before, after)) {
				t.Error("the successor's file was removed")
			}
			os.Remove(path)
		})
	}
}

func TestUnlinkKeepsListening(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o600))
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if err := l.Unlink(); err != nil {
			t.Error(err)
		}
		if exists(path) {
			t.Error("the file exists after Unlink")
		}
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
}

func TestUnlinkNotPermitted(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may unlink anywhere; TestOrdinaryUser runs this")
	}
	dir := tempDir(t)
	path := filepath.Join(dir, "s")
	l := listen(t, path, mode(0o600))
	chmod(t, dir, 0o500)
	for _, f := range []func() error{l.Unlink, l.Close} {
		err := f()
		if err == nil || !strings.HasPrefix(err.Error(), "failed to delete socket "+path) || !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
	}
	chmod(t, dir, 0o700)
	if !exists(path) {
		t.Error("the file was removed")
	}
}

// A limited listener still works.
func TestLimit(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	var want error
	if runtime.GOOS != "freebsd" {
		want = sandbox.ErrUnsupported
	}
	for _, accepted := range []bool{false, true} {
		l := listen(t, path, mode(0o600))
		if accepted {
			talk(t, l)
		}
		err := l.Limit()
		t.Log(err)
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		checkLimited(t, l)
		talk(t, l)
		if err := l.Close(); err != nil || exists(path) {
			t.Errorf("Close: %v, file exists: %v", err, exists(path))
		}
		if err := l.Limit(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// Close releases the lock even if its descriptor has a duplicate.
func TestCloseUnlocks(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o600))
	var kept int
	onFD(l.LockFile(), func(fd int) (err error) { kept, err = syscall.Dup(fd); return err })
	defer syscall.Close(kept)
	if _, err := listenAt(path, mode(0o600)); !errors.Is(err, ErrLocked) {
		t.Errorf("the lock is held: %v", err)
	}
	l.Close()
	listen(t, path, mode(0o600)).Close()
}

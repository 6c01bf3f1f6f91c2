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

// talk connects, is accepted and exchanges a byte.
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
	if s := c.RemoteAddr().String(); s != "<unix>" {
		t.Errorf("remote address %q", s)
	}
	if n := c.RemoteAddr().Network(); n != "unix" {
		t.Errorf("remote network %q", n)
	}
	if _, ok := c.(interface{ CloseWrite() error }); !ok {
		t.Error("a connection that cannot be half closed")
	}
	host, _ := os.Hostname()
	if l.Host() != host || l.Port() != "0" {
		t.Errorf("host %q, port %q", l.Host(), l.Port())
	}
	if a := l.Address(); a.String() != "unix:"+path || !l.Unix() || l.Addr().String() != path {
		t.Errorf("address %v, %v", a, l.Addr())
	}
	m, uid, _, err := l.Info()
	if m != os.ModeSocket|0o640 || uid != os.Geteuid() || err != nil {
		t.Errorf("info %v, %v, %v", m, uid, err)
	}
	for name, f := range map[string]*os.File{"socket": l.File(), "lock": l.LockFile(), "directory": l.owned.dir} {
		checkFlags(t, name, f, name == "socket")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if exists(path) {
		t.Error("file there after Close")
	}
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if _, _, _, err := l.Info(); err == nil {
		t.Error("Info after Close")
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

// A process that only keeps the listener must not be woken by connections.
func TestNotPolled(t *testing.T) {
	l := listen(t, filepath.Join(tempDir(t), "s"), mode(0o600))
	tcp, err := Listen(Addr{TCP4, "127.0.0.1:0"}, unchanged)
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for _, l := range []*Listener{l, tcp} {
		// A file that the poller watches can have a deadline.
		if err := l.File().SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
			t.Errorf("%v: the poller watches the descriptor (%v)", l.Address(), err)
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
	time.Sleep(10 * time.Millisecond)
	l.Close()
	select {
	case err := <-ch:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Accept goes on")
	}
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
			if _, _, _, err := l.Info(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Info: %v", err)
			}
			if err := l.Unlink(); err != nil {
				t.Errorf("Unlink: %v", err)
			}
			if before != nil {
				if err := l.Renew(); !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNotSocket) {
					t.Errorf("Renew: %v", err)
				}
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

func TestUnlinkGoesOnListening(t *testing.T) {
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
			t.Error("file there after Unlink")
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
		t.Error("file gone")
	}
}

func TestRenew(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o620))
	talk(t, l)
	old := l.File()
	// What a hostile process would keep.
	var kept int
	onFD(old, func(fd int) (err error) { kept, err = unix.Dup(fd); return err })
	defer unix.Close(kept)
	was, _ := os.Lstat(path)

	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Close()
		}
		accepted <- err
	}()
	time.Sleep(10 * time.Millisecond)
	if err := l.Renew(); err != nil {
		t.Fatal(err)
	}
	is, err := os.Lstat(path)
	if err != nil || os.SameFile(was, is) {
		t.Error("the same file")
	}
	if l.File() == old {
		t.Error("the same descriptor")
	}
	if _, err := fstat(old); err == nil {
		t.Error("the old descriptor is open")
	}
	if m, _, _, err := l.Info(); m != os.ModeSocket|0o620 || err != nil {
		t.Errorf("info %v, %v", m, err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-accepted; err != nil {
		t.Errorf("an Accept that was waiting: %v", err)
	}
	unix.SetNonblock(kept, true)
	if fd, _, err := unix.Accept(kept); err == nil {
		unix.Close(fd)
		t.Error("the old descriptor can still accept")
	}
	// Gone is no obstacle.
	os.Remove(path)
	if err := l.Renew(); err != nil {
		t.Fatal(err)
	}
	talk(t, l)
	if err := l.Close(); err != nil || exists(path) {
		t.Errorf("Close: %v, file there: %v", err, exists(path))
	}
	if err := l.Renew(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Renew after Close: %v", err)
	}
}

func TestTCP(t *testing.T) {
	for _, tt := range []struct{ in, host string }{
		{"tcp4:127.0.0.1:0", "127.0.0.1"},
		{"tcp4:localhost:0", "localhost"},
		{"tcp4:0.0.0.0:0", ""},
		{"tcp6:[::1]:0", "::1"},
		{"tcp6:[::]:0", ""},
	} {
		t.Run(tt.in, func(t *testing.T) {
			a, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if a.Network == TCP6 {
				if ln, err := net.Listen("tcp6", "[::1]:0"); err != nil {
					t.Skip("no IPv6 here: ", err)
				} else {
					ln.Close()
				}
			}
			l, err := Listen(a, unchanged)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if tt.host == "" {
				tt.host, _ = os.Hostname()
			}
			_, port, _ := net.SplitHostPort(l.Addr().String())
			if l.Host() != tt.host || l.Port() != port || port == "0" || l.Unix() || l.LockFile() != nil {
				t.Errorf("host %q, port %q, bound to %v", l.Host(), l.Port(), l.Addr())
			}
			if s := l.Address().String(); !strings.HasSuffix(s, ":"+port) || !strings.HasPrefix(s, tt.in[:len(tt.in)-1]) {
				t.Errorf("address %s", s)
			}
			checkFlags(t, tt.in, l.File(), true)
			if s := talk(t, l).RemoteAddr().String(); s == "<unix>" || s == "" {
				t.Errorf("remote address %q", s)
			}
			if _, err := Listen(l.Address(), unchanged); !errors.Is(err, ErrInUse) {
				t.Errorf("in use: %v", err)
			}
			if _, err := Check(l.Address(), unchanged); !errors.Is(err, ErrInUse) || errors.Is(err, ErrLocked) {
				t.Errorf("in use: %v", err)
			}
			if err := l.Renew(); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Renew: %v", err)
			}
			if _, _, _, err := l.Info(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Info: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := Check(l.Address(), unchanged); err != nil {
				t.Errorf("after Close: %v", err)
			}
		})
	}
	for _, in := range []string{"tcp4:192.0.2.1:0", "tcp6:[fe80::1%nosuch0]:0"} {
		a, err := Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(a, unchanged); !errors.Is(err, ErrBadAddr) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestFD(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	raw := func(t *testing.T, typ int, listening bool) int {
		fd, err := unix.Socket(unix.AF_UNIX, typ, 0)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(path)
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		if listening {
			if err := unix.Listen(fd, 5); err != nil {
				t.Fatal(err)
			}
		}
		return fd
	}
	addr := func(fd int) Addr {
		return Addr{FD, (&net.TCPAddr{Port: fd}).String()[1:]}
	}
	t.Run("listening", func(t *testing.T) {
		fd := raw(t, unix.SOCK_STREAM, true)
		unix.SetNonblock(fd, true) // as who passed it on may have had it
		if _, err := Check(addr(fd), unchanged); err != nil {
			t.Error(err)
		}
		l, err := Listen(addr(fd), unchanged)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.File().SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
			t.Errorf("the poller watches the descriptor (%v)", err)
		}
		checkFlags(t, "fd", l.File(), true)
		if s := talk(t, l).RemoteAddr().String(); s != "<unix>" {
			t.Errorf("remote address %q", s)
		}
		host, _ := os.Hostname()
		if l.Host() != host || l.Port() != "0" || !l.Unix() || l.LockFile() != nil || l.Address() != addr(fd) {
			t.Errorf("%q %q %v %v", l.Host(), l.Port(), l.Unix(), l.Address())
		}
		if m, _, _, err := l.Info(); m.Type() != os.ModeSocket || err != nil {
			t.Errorf("info %v, %v", m, err)
		}
		if err := l.Unlink(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if !exists(path) {
			t.Error("somebody else's file was removed")
		}
	})
	for _, tt := range []struct {
		name string
		open func(t *testing.T) int
		kind error
	}{
		{"not listening", func(t *testing.T) int { return raw(t, unix.SOCK_STREAM, false) }, ErrBadAddr},
		{"datagrams", func(t *testing.T) int { return raw(t, unix.SOCK_DGRAM, false) }, ErrBadAddr},
		{"packets", func(t *testing.T) int {
			if runtime.GOOS == "darwin" {
				t.Skip("no SOCK_SEQPACKET on unix sockets here")
			}
			return raw(t, unix.SOCK_SEQPACKET, true)
		}, ErrBadAddr},
		{"regular file", func(t *testing.T) int {
			fd, err := unix.Open(os.Args[0], unix.O_RDONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}, ErrNotSocket},
		{"closed", func(t *testing.T) int { return 1000 }, ErrBadAddr},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd := tt.open(t)
			if _, err := Listen(addr(fd), unchanged); !errors.Is(err, tt.kind) {
				t.Errorf("Listen: %v", err)
			}
			if _, err := Check(addr(fd), unchanged); !errors.Is(err, tt.kind) {
				t.Errorf("Check: %v", err)
			}
			if err := unix.Close(fd); (err == nil) != (tt.name != "closed") {
				t.Errorf("close: %v", err)
			}
		})
	}
}

func TestFromFile(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	l, err := FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if l.File() != f || l.Host() != "127.0.0.1" {
		t.Errorf("%v %q", l.File(), l.Host())
	}
	talk(t, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := FromFile(f); err == nil {
		t.Error("a closed file")
	}
}

// A limited listener does all that it is for.
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
		if m, _, _, err := l.Info(); m != 0o600|os.ModeSocket || err != nil {
			t.Errorf("Info: %v, %v", m, err)
		}
		if err := l.Close(); err != nil || exists(path) {
			t.Errorf("Close: %v, file there: %v", err, exists(path))
		}
		if err := l.Limit(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("when closed: %v", err)
		}
	}
}

// Close gives the lock back, whoever has got a duplicate of it meanwhile.
func TestCloseUnlocks(t *testing.T) {
	hurry(t)
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o600))
	var kept int
	onFD(l.LockFile(), func(fd int) (err error) { kept, err = syscall.Dup(fd); return err })
	defer syscall.Close(kept)
	if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrLocked) {
		t.Errorf("the lock is held: %v", err)
	}
	l.Close()
	listen(t, path, mode(0o600)).Close()
}

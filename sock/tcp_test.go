package sock

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTCP(t *testing.T) {
	for _, in := range []string{"tcp4:127.0.0.1:0", "tcp4:localhost:0", "tcp4:0.0.0.0:0", "tcp6:[::1]:0", "tcp6:[::]:0"} {
		t.Run(in, func(t *testing.T) {
			a, err := Parse(in)
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
			l, err := Listen(t.Context(), a, unchanged)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			bound, ok := l.Addr().(*net.TCPAddr)
			if !ok || bound.Port == 0 || l.Address() != a || l.Unix() || l.LockFile() != nil || l.Unlink() != nil {
				t.Errorf("%v, bound to %v", l.Address(), l.Addr())
			}
			checkFlags(t, in, l.File(), true)
			if c, ok := talk(t, l).(*net.TCPConn); !ok {
				t.Errorf("a connection of type %T", c)
			}
			a.Address = strings.TrimSuffix(a.Address, ":0") + ":" + strconv.Itoa(bound.Port)
			if _, err := Listen(t.Context(), a, unchanged); !errors.Is(err, ErrInUse) || errors.Is(err, ErrLocked) {
				t.Errorf("in use: %v", err)
			}
			// Check does not detect that, since it does not bind.
			if note, err := (Config{}).Check(t.Context(), a); note != "" || err != nil {
				t.Errorf("Check: %q, %v", note, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for _, tt := range []struct {
		in    string
		kind  error
		cause Cause
		check bool // Check detects it too
	}{
		{"tcp4:192.0.2.1:0", ErrBadAddr, NoLocal, false},
		{"tcp6:[fe80::1%nosuch0]:0", ErrBadAddr, NoInterface, true},
		{"tcp6:[fe80::1%4711]:0", ErrBadAddr, NoInterface, true},
	} {
		a, err := Parse(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		var e *Error
		if _, err := Listen(t.Context(), a, unchanged); !errors.Is(err, tt.kind) || !errors.As(err, &e) || e.Cause != tt.cause {
			t.Errorf("%s: %v", tt.in, err)
		}
		if _, err := (Config{}).Check(t.Context(), a); errors.Is(err, tt.kind) != tt.check || !tt.check && err != nil {
			t.Errorf("Check %s: %v", tt.in, err)
		}
	}
	// The end of the context ends a look-up.
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, err := resolve(ctx, Addr{TCP4, "nosuch.invalid:80"}); !errors.Is(err, why) {
		t.Errorf("canceled during a look-up: %v", err)
	}
}

func TestFD(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	raw := func(t *testing.T, typ int, backlog int) int {
		os.Remove(path)
		fd, err := unix.Dup(bound(t, path, typ, backlog, false)) // the test closes it
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	addr := func(fd int) Addr { return Addr{FD, strconv.Itoa(fd)} }
	t.Run("listening", func(t *testing.T) {
		fd := raw(t, unix.SOCK_STREAM, 5)
		unix.SetNonblock(fd, true) // the parent process may have done so
		if _, err := (Config{}).Check(t.Context(), addr(fd)); err != nil {
			t.Error(err)
		}
		l, err := Listen(t.Context(), addr(fd), unchanged)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.File().SetDeadline(time.Now()); !errors.Is(err, os.ErrNoDeadline) {
			t.Errorf("the descriptor is in the poller (%v)", err)
		}
		checkFlags(t, "fd", l.File(), true)
		talk(t, l)
		if !l.Unix() || l.Addr().String() != path || l.LockFile() != nil || l.Address() != addr(fd) {
			t.Errorf("%v %v %v", l.Unix(), l.Addr(), l.Address())
		}
		if err := l.Unlink(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if !exists(path) {
			t.Error("the inherited socket's file was removed")
		}
	})
	for _, tt := range []struct {
		name string
		open func(t *testing.T) int
		kind error
	}{
		{"not listening", func(t *testing.T) int { return raw(t, unix.SOCK_STREAM, -1) }, ErrBadAddr},
		{"datagrams", func(t *testing.T) int { return raw(t, unix.SOCK_DGRAM, -1) }, ErrBadAddr},
		{"packets", func(t *testing.T) int {
			if runtime.GOOS == "darwin" {
				t.Skip("no SOCK_SEQPACKET on unix sockets here")
			}
			return raw(t, unix.SOCK_SEQPACKET, 5)
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
			if _, err := Listen(t.Context(), addr(fd), unchanged); !errors.Is(err, tt.kind) {
				t.Errorf("Listen: %v", err)
			}
			if _, err := (Config{}).Check(t.Context(), addr(fd)); !errors.Is(err, tt.kind) {
				t.Errorf("Check: %v", err)
			}
			if err := unix.Close(fd); (err == nil) != (tt.name != "closed") {
				t.Errorf("close: %v", err)
			}
		})
	}
}

func TestInheritedTCP(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		ln, err := net.Listen(network, map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network])
		if err != nil {
			t.Log(err)
			continue
		}
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		var fd int
		onFD(f, func(n int) (err error) { fd, err = unix.Dup(n); return err })
		f.Close()
		ln.Close()
		l, err := Listen(t.Context(), Addr{FD, strconv.Itoa(fd)}, unchanged)
		if err != nil {
			t.Fatal(err)
		}
		if l.Unix() || l.Addr().String() != ln.Addr().String() {
			t.Errorf("bound to %v, not %v", l.Addr(), ln.Addr())
		}
		talk(t, l)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

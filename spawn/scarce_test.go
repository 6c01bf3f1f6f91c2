//go:build linux || freebsd

package spawn

import (
	"encoding/binary"
	"os"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fits lets so many more descriptors be opened, until the function that it
// returns is called.
func fits(t *testing.T, n int) (restore func()) {
	t.Helper()
	// No holes below the limit.
	var fill []int
	top := 0
	for {
		fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fill = append(fill, fd)
		if top = max(top, fd); fd == top && len(fill) > 64 {
			break
		}
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	lim := old
	set(&lim.Cur, top+1)
	for _, fd := range fill[len(fill)-n:] {
		unix.Close(fd)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		for _, fd := range fill[:len(fill)-n] {
			unix.Close(fd)
		}
	}
}

// TestShortOfDescriptors: a core that has no room for what a message brings is
// told so for each request that it belongs to, takes nothing for another's, and
// goes on.
func TestShortOfDescriptors(t *testing.T) {
	alone(t, func(t *testing.T) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		monitor := pair[0]
		unix.SetNonblock(pair[1], true)
		c, err := NewClient(os.NewFile(uintptr(pair[1]), "control"))
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- c.Run() }()

		// asked gives the number of the next request of that kind.
		asked := func(want kind) uint64 {
			t.Helper()
			b := make([]byte, 64<<10)
			for n := 0; ; {
				m, err := unix.Read(monitor, b[n:])
				if err != nil || m == 0 {
					t.Fatalf("%d, %v", m, err)
				}
				n += m
				if f, size, err := nextFrame(b[:n], maxToMon); size == n && err == nil {
					if f.kind != want {
						t.Fatalf("message %d, want %d", f.kind, want)
					}
					return f.id
				}
			}
		}
		type result struct {
			f   *os.File
			err error
		}
		spool := func() (uint64, chan result) {
			ch := make(chan result, 1)
			go func() {
				f, err := c.Spool()
				ch <- result{f, err}
			}()
			return asked(msgSpool), ch
		}
		begin := func() *Process {
			var v Vars
			v.Reset()
			p := c.New(false)
			if err := c.Start(p, &v); err != nil {
				t.Fatal(err)
			}
			if id := asked(msgStart); id != p.ID {
				t.Fatalf("request %d, want %d", id, p.ID)
			}
			return p
		}
		file := func(text string) int {
			f, err := os.CreateTemp(tempDir(t), "")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			f.WriteString(text)
			fd, _ := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			return fd
		}
		holds := func(f *os.File) string {
			b := make([]byte, 100)
			n, _ := f.ReadAt(b, 0)
			f.Close()
			return string(b[:n])
		}
		for free := range 5 {
			// Two files and a process in one message, four descriptors.
			id1, ch1 := spool()
			p := begin()
			id2, ch2 := spool()
			fds := []int{file("first"), file("stdout"), file("stderr"), file("second")}
			msg := slices.Concat(appendFrame(nil, msgSpooled, id1), appendFrame(nil, msgStarted, p.ID), appendFrame(nil, msgSpooled, id2))
			restore := fits(t, free)
			// Linux counts all that this user has under way, other tests' too.
			eventually(t, "the message to go", func() bool {
				err := unix.Sendmsg(monitor, msg, unix.UnixRights(fds...), nil, 0)
				if err != nil && err != unix.ETOOMANYREFS {
					t.Fatal(err)
				}
				return err == nil
			})
			r1 := <-ch1
			e := happens(t, p)
			r2 := <-ch2
			restore()
			closeAll(fds)
			for _, r := range []struct {
				result
				want string
			}{{r1, "first"}, {r2, "second"}} {
				switch {
				case r.err != nil && r.err != syscall.EMFILE:
					t.Errorf("%d free: %v", free, r.err)
				case r.err == nil:
					if got := holds(r.f); got != r.want {
						t.Errorf("%d free: %q in place of %q", free, got, r.want)
					}
				case free == 4:
					t.Errorf("%s: %v, though there was room", r.want, r.err)
				}
			}
			switch e.Kind {
			case EventStarted:
				if out := holds(os.NewFile(uintptr(p.Stdout), "")); out != "stdout" {
					t.Errorf("%d free: %q in place of stdout", free, out)
				}
				if errs := holds(os.NewFile(uintptr(p.Stderr), "")); errs != "stderr" {
					t.Errorf("%d free: %q in place of stderr", free, errs)
				}
			case EventFailed:
				if e.Errno != syscall.EMFILE || free == 4 {
					t.Errorf("%d free: %v", free, e.Errno)
				}
				// It runs, and nobody reads what it says.
				if id := asked(msgEnd); id != p.ID {
					t.Errorf("end of request %d, not of %d", id, p.ID)
				}
			}
			unix.Write(monitor, appendFrame(nil, msgExited, p.ID, 0, 0, 0, 0))
			if e.Kind == EventStarted {
				exited(t, p)
			}
		}
		select {
		case err := <-over:
			t.Errorf("the core has given up: %v", err)
		default:
		}
		unix.Close(monitor)
	})
}

// TestTooManyUnderWay: where the system bounds how many descriptors of a user
// may be under way (Linux: ETOOMANYREFS), the monitor waits for the core to
// pick some up.
func TestTooManyUnderWay(t *testing.T) {
	alone(t, func(t *testing.T) {
		if os.Getuid() == 0 { // the bound does not hold for root
			if err := syscall.Setgid(65534); err != nil {
				t.Fatal(err)
			}
			// A user that nobody else is.
			if err := syscall.Setuid(65000 + os.Getpid()%500); err != nil {
				t.Fatal(err)
			}
		}
		r := newRig(t, ":", 4, never)
		r.do(func() { r.sup.deafTime = never })
		c := newRaw(r)
		var old unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
		lim := old
		set(&lim.Cur, 128)
		r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) })
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		const n = 300
		for id := uint64(1); id <= n; id++ {
			c.send(appendFrame(nil, msgSpool, id))
			r.do(func() {}) // each in a message of its own
		}
		select {
		case err := <-c.broken:
			t.Fatalf("the core was given up at once: %v", err)
		default:
		}
		waiting := false
		r.do(func() { waiting = c.peer.deaf != nil && len(c.peer.out) > 0 })
		if !waiting && runtime.GOOS != "linux" {
			t.Skip("this system bounds nothing")
		}
		if !waiting {
			t.Fatal("nothing waits")
		}
		// Now the core reads. It is in the same process as the monitor, which
		// has used up the limit: room for the descriptors of one message.
		set(&lim.Cur, 128+partFDs+4)
		r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) })
		files, answers, came := 0, 0, 0
		buf, oob := make([]byte, 16<<10), make([]byte, 8<<10)
		have := 0
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(bound / time.Second)})
		for answers < n {
			m, oobn, flags, _, err := unix.Recvmsg(c.fd, buf[have:], oob, unix.MSG_CMSG_CLOEXEC)
			if err != nil || m == 0 || flags&unix.MSG_CTRUNC != 0 {
				t.Fatalf("after %d answers: %d, %#x, %v", answers, m, flags, err)
			}
			msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
			for i := range msgs {
				fds, _ := unix.ParseUnixRights(&msgs[i])
				came += len(fds)
				closeAll(fds)
			}
			have += m
			for {
				f, size, err := nextFrame(buf[:have], maxToCore)
				if err != nil {
					t.Fatal(err)
				}
				if size == 0 {
					break
				}
				answers++
				switch {
				case f.kind == msgSpooled:
					files++
				case f.kind != msgNoSpool || binary.BigEndian.Uint32(f.payload) != uint32(unix.EMFILE):
					t.Errorf("message %d, %x", f.kind, f.payload)
				}
				have = copy(buf, buf[size:have])
			}
		}
		if files != came || files < 100 {
			t.Errorf("%d files, %d descriptors", files, came)
		}
		select {
		case err := <-c.broken:
			t.Errorf("the core was given up: %v", err)
		default:
		}
		r.do(func() { waiting = c.peer.deaf != nil || len(c.peer.out) > 0 })
		if waiting {
			t.Error("the monitor still waits")
		}
		r.do(c.peer.Close)
		unix.Close(c.fd)
	})
}

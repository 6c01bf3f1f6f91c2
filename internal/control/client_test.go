//go:build linux || freebsd

package control

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/process"
)

// TestProcess: a command's whole life, as its owner sees it.
func TestProcess(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.core()
		before := r.descriptors()
		p := c.begin(piped(`read x; echo "got $x"; echo bad >&2; exit 7`))
		if isClosed(p.Exited) || isClosed(p.Over) || p.ID == 0 {
			t.Error("over already")
		}
		io.WriteString(p.Stdin, "this\n")
		out, err := io.ReadAll(p.Stdout)
		errs, err2 := io.ReadAll(p.Stderr)
		if string(out) != "got this\n" || string(errs) != "bad\n" || err != nil || err2 != nil {
			t.Errorf("%q, %v; %q, %v", out, err, errs, err2)
		}
		wait(t, "over", p.Over)
		wait(t, "ended", p.Exited)
		if Describe(p.Status) != "exit 7" || p.TimedOut || p.Err != nil {
			t.Errorf("%s, timed out: %t, %v", Describe(p.Status), p.TimedOut, p.Err)
		}
		p.Cancel() // is no harm
		p.closed()
		next := c.begin(script("exit 0"))
		if next.Stdin != nil || next.ID <= p.ID {
			t.Errorf("stdin %v, request %d after %d", next.Stdin, next.ID, p.ID)
		}
		wait(t, "over", next.Over)
		next.closed()
		if after := r.descriptors(); after != before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		c.alive()
	})
}

// TestLeftovers: what a command leaves behind keeps its request from being over,
// until it ends or is ended.
func TestLeftovers(t *testing.T) {
	for _, how := range []string{"by itself", "by End"} {
		t.Run(how[3:], func(t *testing.T) {
			alone(t, func(t *testing.T) {
				r := newRig(t, 1)
				c := r.core()
				p := c.begin(piped("exec 3<&0; (read x) <&3 >/dev/null 2>&1 & exit 4"))
				wait(t, "ended", p.Exited)
				if isClosed(p.Over) || Describe(p.Status) != "exit 4" {
					t.Errorf("over: %t, %s", isClosed(p.Over), Describe(p.Status))
				}
				if how == "by End" {
					p.Cancel()
				} else {
					p.Stdin.Close()
				}
				wait(t, "over", p.Over)
				q := c.begin(script(":")) // there is room again
				wait(t, "over", q.Over)
			})
		})
	}
}

// TestTimedOut: the core is told why the monitor has ended a command.
func TestTimedOut(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRigFor(t, process.Options{Max: 4, Timeout: soon, KillAfter: never})
		c := r.core()
		p := c.begin(script("exec sleep 60"))
		wait(t, "over", p.Over)
		if !p.TimedOut || Describe(p.Status) != "signal 15" {
			t.Errorf("%s, timed out: %t", Describe(p.Status), p.TimedOut)
		}
	})
}

// TestStartFails: an error says why, and nothing is left.
func TestStartFails(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 1)
		c := r.core()
		before := r.descriptors()
		s := piped(":")
		s.Script = "gone"
		if p, err := c.Start(context.Background(), s); err != syscall.ENOENT || p != nil || IsTemporary(err) {
			t.Errorf("%v, %v", p, err)
		}
		spool, err := c.Spool()
		if err != nil {
			t.Fatal(err)
		}
		s = spooled(":", spool)
		s.Script = "gone"
		if _, err := c.Start(context.Background(), s); err != syscall.ENOENT {
			t.Error(err)
		}
		spool.Close()

		ended, cancel := context.WithCancelCause(context.Background())
		why := errors.New("too late")
		cancel(why)
		if _, err := c.Start(ended, script(":")); err != why {
			t.Error(err)
		}
		r.do(func() {
			if r.sup.Running() != 0 || len(c.peer.requests) != 0 {
				t.Error("something is there")
			}
		})
		if after := r.descriptors(); after != before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		for err, want := range map[error]bool{syscall.EAGAIN: true, syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOMEM: true, syscall.ENOENT: false, syscall.EACCES: false, ErrDisconnected: false} {
			if IsTemporary(err) != want {
				t.Errorf("%v is temporary: %t", err, !want)
			}
		}
		c.alive()
	})
}

// TestStartedTooLate: the context ends when the command has been started, which
// the core does not know yet.
func TestStartedTooLate(t *testing.T) {
	alone(t, func(t *testing.T) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		m := &fakeMonitor{t: t, fd: pair[0]}
		c := newClient(t, pair[1])
		go c.Run()
		ctx, cancel := context.WithCancel(context.Background())
		ch := make(chan result, 1)
		go func() {
			p, err := c.Start(ctx, Start{})
			ch <- result{p, err}
		}()
		id := m.asked(msgStart)
		cancel()
		if end := m.asked(msgCancel); end != id {
			t.Errorf("request %d is ended, not %d", end, id)
		}
		m.answer(msgCreated, id, 0, 0, m.file("stdout"), m.file("stderr"))
		res := <-ch
		if res.err != nil || res.p.ID != id {
			t.Fatalf("%+v", res)
		}
		m.answer(msgExited, id, 15, exitOver)
		wait(t, "over", res.p.Over)
		res.p.closed()
		c.conn.Close()
	})
}

// TestMonitorGone: whatever is under way fails, and whatever comes later.
func TestMonitorGone(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		c := r.core()
		runs := c.begin(script("exec sleep 60"))
		left := c.begin(piped("exec 3<&0; (read x) <&3 >/dev/null 2>&1 & exit 4"))
		wait(t, "ended", left.Exited)
		other := r.core() // has the monitor's time, so that this one waits
		waits := other.asks(context.Background(), script(":"))
		r.until("it to wait", func() bool { return len(other.peer.requests) == 1 })
		spool, err := c.Spool()
		if err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			c.peer.Close()
			other.peer.Close()
		})
		for _, p := range []*Process{runs, left} {
			wait(t, "ended", p.Exited)
			wait(t, "over", p.Over)
		}
		if Describe(runs.Status) != "signal 9" || !errors.Is(runs.Err, ErrDisconnected) || !errors.Is(runs.Err, io.EOF) {
			t.Errorf("%s, %v", Describe(runs.Status), runs.Err)
		}
		if Describe(left.Status) != "exit 4" || left.Err != nil {
			t.Errorf("%s, %v", Describe(left.Status), left.Err)
		}
		if res := r.result(waits); !errors.Is(res.err, ErrDisconnected) || !errors.Is(res.err, io.EOF) {
			t.Errorf("%+v", res)
		}
		if err := <-c.ended; !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if _, err := c.Start(context.Background(), Start{}); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
		if _, err := c.Spool(); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
		spool.Close()
		runs.Cancel()
		if err := c.Push(Stats{}); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
		// What ran for the core is ended.
		r.idle()
	})
}

// TestMonitorGoneBeforeFile: who waits for a file is told.
func TestMonitorGoneBeforeFile(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMonitor{t: t, fd: pair[0]}
	c := newClient(t, pair[1])
	go c.Run()
	ch := make(chan error, 1)
	go func() {
		_, err := c.Spool()
		ch <- err
	}()
	m.asked(msgSpool)
	unix.Close(m.fd)
	if err := <-ch; !errors.Is(err, ErrDisconnected) {
		t.Error(err)
	}
}

// TestNamesOfScripts: a core that is asked for a script that it does not know asks for
// the names of all.
func TestNamesOfScripts(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.core()
		var now []string
		r.do(func() { c.peer.OnScripts = func() []string { return now } })
		for _, want := range [][]string{nil, {}, {"a"}, {"b/c", strings.Repeat("x", 100_000), "d"}, nil} {
			r.do(func() { now = want })
			got, err := c.Scripts()
			if err != nil || (got == nil) != (want == nil) || !slices.Equal(got, want) {
				t.Errorf("%.100q, %v, want %.100q", got, err, want)
			}
		}
		c.alive()
		r.do(func() {
			c.peer.OnScripts = func() []string { c.peer.Close(); return nil }
		})
		if _, err := c.Scripts(); !errors.Is(err, ErrDisconnected) { // it was waiting
			t.Error(err)
		}
		<-c.ended
		if _, err := c.Scripts(); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
	})
}

// TestSpool: a file is written by the core and read by the command.
func TestSpool(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		c := r.core()
		before := r.descriptors()
		spool, err := c.Spool()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"hello ", "world"} {
			if _, err := io.WriteString(spool, s); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := spool.Read(make([]byte, 1)); err == nil {
			t.Error("the core can read it")
		}
		if names, _ := os.ReadDir(r.dir); len(names) != 0 {
			t.Errorf("%v", names)
		}
		p := c.begin(spooled("cat", spool))
		if p.Stdin != nil {
			t.Error("there is a pipe too")
		}
		out, err := io.ReadAll(p.Stdout)
		if string(out) != "hello world" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		wait(t, "over", p.Over)
		spool.Close()
		p.closed()

		// Forgotten while the command runs.
		if spool, err = c.Spool(); err != nil {
			t.Fatal(err)
		}
		unix.Mkfifo(r.dir+"/fifo", 0o600)
		p = c.begin(spooled("read x <"+r.dir+"/fifo; exit 7", spool))
		spool.Close()
		q := c.begin(script(":")) // behind what Forget has said
		wait(t, "over", q.Over)
		q.closed()
		if err := os.WriteFile(r.dir+"/fifo", []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		wait(t, "over", p.Over)
		if got := Describe(p.Status); got != "exit 7" {
			t.Error(got)
		}
		p.closed()

		// Forgotten without having been used.
		if spool, err = c.Spool(); err != nil {
			t.Fatal(err)
		}
		spool.Close()
		r.until("it to be forgotten", func() bool { return len(c.peer.spools) == 0 })
		if after := r.descriptors(); after != before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		c.alive()
	})
}

// TestSpoolWaits: a file that waits with its request is closed when the request
// is called off, or the core goes.
func TestSpoolWaits(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		busy := r.core()
		p, q := busy.begin(script("exec sleep 60")), busy.begin(script("exec sleep 60"))
		c := r.core()
		ctx, cancel := context.WithCancel(context.Background())
		before := r.descriptors()
		for _, off := range []func(){cancel, func() { r.do(c.peer.Close) }} {
			spool, err := c.Spool()
			if err != nil {
				t.Fatal(err)
			}
			ch := c.asks(ctx, spooled("cat", spool))
			r.until("it to wait", func() bool { return len(c.peer.requests) == 1 })
			off()
			if res := r.result(ch); res.err == nil {
				t.Errorf("%+v", res)
			}
			spool.Close()
			if after := r.descriptors(); after > before {
				t.Errorf("%d descriptors, then %d", before, after)
			}
			ctx = context.Background()
		}
		p.Cancel()
		q.Cancel()
		r.idle()
	})
}

// TestTooManySpools: a core has only so many files that no command has.
func TestTooManySpools(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		c := r.core()
		before := r.descriptors()
		var held []*Spool
		for range r.o.MaxSpools {
			s, err := c.Spool()
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, s)
		}
		if _, err := c.Spool(); err != syscall.EMFILE || !IsTemporary(err) {
			t.Errorf("one too many: %v", err)
		}
		p := c.begin(spooled("cat", held[0])) // which makes room
		wait(t, "over", p.Over)
		held[1].Close()
		for range 2 {
			s, err := c.Spool()
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, s)
		}
		if _, err := c.Spool(); err != syscall.EMFILE {
			t.Errorf("one too many: %v", err)
		}
		// A core that goes leaves none.
		r.do(c.peer.Close)
		<-c.ended
		for _, s := range held {
			s.Close()
		}
		p.closed()
		if after := r.descriptors(); after >= before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
	})
}

// TestSpoolFails: the reason is told, and logged.
func TestSpoolFails(t *testing.T) {
	alone(t, func(t *testing.T) {
		full := tempDir(t)
		if runtime.GOOS == "linux" && os.Getuid() == 0 {
			mountFull(t, full)
		}
		r := newRig(t, 2)
		before := 0
		try := func(dir string, want error) {
			t.Helper()
			r.o.SpoolDir = dir
			c := r.core()
			before = r.descriptors()
			if _, err := c.Spool(); err != want {
				t.Errorf("%s: %v, want %v", dir, err, want)
			}
			if after := r.descriptors(); after != before {
				t.Errorf("%s: %d descriptors, then %d", dir, before, after)
			}
			c.alive()
		}
		try(r.dir+"/missing", syscall.ENOENT)
		if os.Getuid() == 0 {
			if runtime.GOOS == "linux" {
				try(full, syscall.ENOSPC)
			}
			if err := syscall.Setuid(65534); err != nil { // of all threads
				t.Fatal(err)
			}
		}
		os.Mkdir(r.dir+"/closed", 0o500)
		try(r.dir+"/closed", syscall.EACCES)
	})
}

// fakeMonitor is the other end of a client's socket.
type fakeMonitor struct {
	t    *testing.T
	fd   int
	have []byte
}

// asked gives the number of the next request, of that kind.
func (m *fakeMonitor) asked(want kind) uint64 {
	m.t.Helper()
	for {
		if len(m.have) >= headerSize {
			size, err := frameSize(m.have, headerSize, maxToMon)
			if err != nil {
				m.t.Fatal(err)
			}
			if len(m.have) >= size {
				f := parseFrame(m.have[:size])
				m.have = m.have[size:]
				if f.kind != want {
					m.t.Fatalf("message %d, want %d", f.kind, want)
				}
				return f.id
			}
		}
		b := make([]byte, 4096)
		n, err := unix.Read(m.fd, b)
		if err != nil || n == 0 {
			m.t.Fatalf("%d, %v", n, err)
		}
		m.have = append(m.have, b[:n]...)
	}
}

func (m *fakeMonitor) answer(k kind, id uint64, value uint32, flags byte, fds ...int) {
	m.t.Helper()
	m.send(appendAnswer(nil, k, id, value, flags), fds...)
}

func (m *fakeMonitor) send(b []byte, fds ...int) {
	m.t.Helper()
	// Linux counts all descriptors that this user has under way, other tests' too.
	eventually(m.t, "the message to go", func() bool {
		err := unix.Sendmsg(m.fd, b, unix.UnixRights(fds...), nil, 0)
		if err != nil && err != unix.ETOOMANYREFS {
			m.t.Fatal(err)
		}
		return err == nil
	})
	closeAll(fds...)
}

// file makes a file that holds a text.
func (m *fakeMonitor) file(text string) int {
	m.t.Helper()
	f, err := os.CreateTemp(tempDir(m.t), "")
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	f.WriteString(text)
	fd, _ := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return fd
}

// holds is what such a file holds.
func holds(f *os.File) string {
	b := make([]byte, 100)
	n, _ := f.ReadAt(b, 0)
	f.Close()
	return string(b[:n])
}

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
	setLimit(&lim.Cur, top+1)
	closeAll(fill[len(fill)-n:]...)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		closeAll(fill[:len(fill)-n]...)
	}
}

// TestShortOfDescriptors: a core that has no room for what a message brings is
// told so for the request that it belongs to, takes nothing for another's, and
// goes on. All messages are there before it reads any.
func TestShortOfDescriptors(t *testing.T) {
	if runtime.GOOS == "freebsd" {
		t.Skip("recvmsg(2) of FreeBSD 15.1 may not return then, and the process cannot be killed: -max-conns is lowered instead, see monitor.setup")
	}
	alone(t, func(t *testing.T) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		m := &fakeMonitor{t: t, fd: pair[0]}
		c := newClient(t, pair[1])
		type file struct {
			s   *Spool
			err error
		}
		spool := func() (uint64, chan file) {
			ch := make(chan file, 1)
			go func() {
				s, err := c.Spool()
				ch <- file{s, err}
			}()
			return m.asked(msgSpool), ch
		}
		for free := range 5 {
			id1, ch1 := spool()
			ch := make(chan result, 1)
			go func() {
				p, err := c.Start(context.Background(), Start{})
				ch <- result{p, err}
			}()
			id := m.asked(msgStart)
			id2, ch2 := spool()
			m.answer(msgCreated, id1, 0, 0, m.file("first"))
			m.answer(msgCreated, id, 0, 0, m.file("stdout"), m.file("stderr"))
			m.answer(msgCreated, id2, 0, 0, m.file("second"))
			restore := fits(t, free)
			for range 3 {
				f, fds, err := c.read()
				if err == nil {
					err = c.handle(f, fds)
				}
				if err != nil {
					t.Fatalf("%d free: the core has given up: %v", free, err)
				}
			}
			restore()
			var lost []uint64 // each is to be ended
			first, second := <-ch1, <-ch2
			for _, f := range []struct {
				file
				id   uint64
				want string
			}{{first, id1, "first"}, {second, id2, "second"}} {
				switch {
				case f.err == syscall.EMFILE:
					lost = append(lost, f.id)
				case f.err != nil:
					t.Errorf("%d free: %v", free, f.err)
				default:
					if got := holds(f.s.File); got != f.want {
						t.Errorf("%d free: %q in place of %q", free, got, f.want)
					}
				}
			}
			isLost := free < 3
			if isLost {
				lost = append(lost, id)
			}
			if want := []int{3, 2, 1, 1, 0}[free]; len(lost) != want {
				t.Fatalf("%d free: %d of 3 lost, want %d", free, len(lost), want)
			}
			for range lost {
				if end := m.asked(msgCancel); !slices.Contains(lost, end) {
					t.Errorf("%d free: end of %d", free, end)
				}
			}
			if isLost && len(ch) > 0 {
				t.Errorf("%d free: told before it is over", free)
			}
			c.handle(frame{msgExited, id, []byte{0, 0, 0, 0, exitOver}}, nil)
			res := <-ch
			switch {
			case isLost && res.err != syscall.EMFILE, !isLost && res.err != nil:
				t.Errorf("%d free: %v", free, res.err)
			case !isLost:
				if out, errs := holds(res.p.Stdout), holds(res.p.Stderr); out != "stdout" || errs != "stderr" {
					t.Errorf("%d free: %q, %q in place of stdout, stderr", free, out, errs)
				}
			}
		}
		unix.Close(m.fd)
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
		r := newRig(t, 4)
		r.o.MaxSpools = 300
		c := r.raw()
		var old unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
		lim := old
		setLimit(&lim.Cur, 200)
		r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) })
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		const n = 300
		for id := uint64(1); id <= n; id++ { // each forgotten at once: only its way is long
			c.send(appendFrame(appendFrame(nil, msgSpool, id), msgCancel, id))
			r.until("it to be asked", func() bool { return c.peer.lastID == id }) // none waits for room in one turn
		}
		r.until("all to be asked", func() bool { return c.peer.lastID == n && c.peer.r == c.peer.w })
		c.alive()
		waiting := 0
		r.do(func() {
			waiting = len(c.peer.out)
			if waiting > 0 && c.peer.retry == nil {
				t.Error("the socket is full, which is another matter")
			}
		})
		if waiting == 0 && runtime.GOOS != "linux" {
			t.Skip("this system bounds nothing")
		}
		if waiting == 0 {
			t.Fatal("nothing waits")
		}
		// Now the core reads. It is in the same process as the monitor, whose
		// limit is used up by what waits.
		r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
		files := 0
		client := newClient(t, c.fd)
		client.conn.SetReadDeadline(time.Now().Add(bound))
		for id := uint64(1); id <= n; id++ {
			f, fds, err := client.read()
			if err != nil || f.id != id || !slices.Contains([]kind{msgCreated, msgFailed}, f.kind) || (f.kind == msgCreated) != (len(fds) == 1) {
				t.Fatalf("%d: message %d of %d, %d descriptors, %v", id, f.kind, f.id, len(fds), err)
			}
			files += len(fds)
			closeAll(fds...)
		}
		if files <= 200 {
			t.Errorf("%d files", files)
		}
		r.until("nothing to wait", func() bool { return len(c.peer.out) == 0 && c.peer.retry == nil })
		c.alive()
	})
}

// FuzzCoreFrames: bytes from a monitor, even from one of another version, are
// refused or understood, and never a panic.
func FuzzCoreFrames(f *testing.F) {
	answers := func(more ...[]byte) []byte { return slices.Concat(more...) }
	f.Add(appendFrame(nil, msgConfig, 0, []byte("4\x00{}...")))
	f.Add(appendAnswer(nil, msgCreated, 1, 0, 0))
	f.Add(answers(appendAnswer(nil, msgFailed, 1, 2, 0), appendAnswer(nil, msgExited, 2, 256, 1)))
	f.Add(answers(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgExited, 2, 256, 0), appendAnswer(nil, msgOver, 2, 0, 0)))
	f.Add(answers(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgExited, 2, 0, 3), appendAnswer(nil, msgExited, 2, 0, 3)))
	f.Add(answers(appendAnswer(nil, msgFailed, 3, 2, 0), appendAnswer(nil, msgCreated, 3, 0, 0)))
	f.Add(answers(appendAnswer(nil, msgRetire, 0, 0, 0), appendAnswer(nil, msgStop, 0, 0, 0)))
	f.Add(answers(appendAnswer(nil, msgOver, 1, 0, 0), appendAnswer(nil, msgExited, 2, 0, 0)))
	f.Add(answers(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgOver, 2, 0, 0)))
	f.Add(answers(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgFailed, 2, 2, 0)))
	f.Add(answers(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgCreated, 2, 0, 0)))
	f.Add(answers(appendFrame(nil, msgScripts, 0, []byte("\x00\x00\x00\x00\x01a\x00b\x00")), appendAnswer(nil, msgScripts, 0, 0, 0)))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 100<<10 {
			return
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		c := newClient(t, pair[1])
		c.OnRetire, c.OnStop = func() {}, func() {}
		// Requests 1 and 2 are commands, 3 is a spool file.
		var requests []*Process
		for id := uint64(1); id <= 3; id++ {
			p := &Process{ID: id, c: c, fds: 1, reply: make(chan reply, 1)}
			if id < 3 {
				p.Exited, p.Over = make(chan struct{}), make(chan struct{})
			}
			c.requests[id] = p
			requests = append(requests, p)
		}
		unix.Write(pair[0], b)
		unix.Shutdown(pair[0], unix.SHUT_WR)
		if err := c.Run(); err == nil {
			t.Fatal("no end")
		}
		for _, p := range requests {
			if len(p.reply) != 1 {
				t.Fatalf("request %d: %d replies, want 1", p.ID, len(p.reply))
			}
			r := <-p.reply
			if created := p.ID < 3 && r.err == nil; created != isClosed(p.Exited) || created != isClosed(p.Over) {
				t.Fatalf("request %d: error %v, exited: %t, over: %t", p.ID, r.err, isClosed(p.Exited), isClosed(p.Over))
			}
		}
	})
}

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

	"github.com/onewake/onewake/internal/looptest"
	"github.com/onewake/onewake/internal/process"
)

// TestProcess runs a command from start to exit.
func TestProcess(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.core()
		before := r.openFDs()
		p := c.start(piped(`read x; echo "got $x"; echo bad >&2; exit 7`))
		if isClosed(p.Exited) || isClosed(p.Over) || p.ID == 0 {
			t.Errorf("process %d, exited: %t, over: %t", p.ID, isClosed(p.Exited), isClosed(p.Over))
		}
		io.WriteString(p.Stdin, "this\n")
		out, err := io.ReadAll(p.Stdout)
		errs, err2 := io.ReadAll(p.Stderr)
		if string(out) != "got this\n" || string(errs) != "bad\n" || err != nil || err2 != nil {
			t.Errorf("%q, %v; %q, %v", out, err, errs, err2)
		}
		await(t, p.Over)
		await(t, p.Exited)
		if Describe(p.Status) != "exit 7" || p.TimedOut || p.Err != nil {
			t.Errorf("%s, timed out: %t, %v", Describe(p.Status), p.TimedOut, p.Err)
		}
		p.Cancel() // does nothing
		p.closeFiles()
		next := c.start(script("exit 0"))
		if next.Stdin != nil || next.ID <= p.ID {
			t.Errorf("stdin %v, request %d after %d", next.Stdin, next.ID, p.ID)
		}
		await(t, next.Over)
		next.closeFiles()
		if after := r.openFDs(); after != before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
		c.checkOpen()
	})
}

// TestBackgroundProcess checks that a request is not over while a background
// process runs.
func TestBackgroundProcess(t *testing.T) {
	for _, how := range []string{"exits", "canceled"} {
		t.Run(how, func(t *testing.T) {
			looptest.Alone(t, func(t *testing.T) {
				r := newRig(t, 1)
				c := r.core()
				p := c.start(piped("exec 3<&0; (read x) <&3 >/dev/null 2>&1 & exit 4"))
				await(t, p.Exited)
				if isClosed(p.Over) || Describe(p.Status) != "exit 4" {
					t.Errorf("over: %t, %s", isClosed(p.Over), Describe(p.Status))
				}
				if how == "canceled" {
					p.Cancel()
				} else {
					p.Stdin.Close()
				}
				await(t, p.Over)
				q := c.start(script(":")) // the slot is free
				await(t, q.Over)
			})
		})
	}
}

// TestTimedOut checks that the core learns about a timeout in the monitor.
func TestTimedOut(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRigWith(t, process.Options{Max: 4, Timeout: looptest.Soon, KillAfter: looptest.Never})
		c := r.core()
		p := c.start(script("exec sleep 60"))
		await(t, p.Over)
		if !p.TimedOut || Describe(p.Status) != "signal 15" {
			t.Errorf("%s, timed out: %t", Describe(p.Status), p.TimedOut)
		}
	})
}

// TestStartFails checks the errors of Start, and that nothing is left afterwards.
func TestStartFails(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 1)
		c := r.core()
		before := r.openFDs()
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

		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("cause")
		cancel(cause)
		if _, err := c.Start(ctx, script(":")); err != cause {
			t.Error(err)
		}
		r.do(func() {
			if r.sup.Running() != 0 || len(c.peer.requests) != 0 {
				t.Errorf("%d running, %d requests", r.sup.Running(), len(c.peer.requests))
			}
		})
		if after := r.openFDs(); after != before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
		for err, want := range map[error]bool{syscall.EAGAIN: true, syscall.EMFILE: true, syscall.ENFILE: true, syscall.ENOMEM: true, syscall.ENOENT: false, syscall.EACCES: false, ErrDisconnected: false} {
			if IsTemporary(err) != want {
				t.Errorf("%v is temporary: %t", err, !want)
			}
		}
		c.checkOpen()
	})
}

// TestCanceledTooLate cancels the context when the command has been started but
// before the core knows.
func TestCanceledTooLate(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		pair := socketPair(t)
		m := &fakeMonitor{t: t, fd: pair[0]}
		c := newClient(t, pair[1])
		go c.Run()
		ctx, cancel := context.WithCancel(context.Background())
		ch := startLater(c, ctx, Start{})
		id := m.asked(msgStart)
		cancel()
		if got := m.asked(msgCancel); got != id {
			t.Errorf("request %d is canceled, want %d", got, id)
		}
		m.answer(msgCreated, id, 0, 0, m.file("stdout"), m.file("stderr"))
		res := <-ch
		if res.err != nil || res.p.ID != id {
			t.Fatalf("%+v", res)
		}
		m.answer(msgExited, id, 15, exitOver)
		await(t, res.p.Over)
		res.p.closeFiles()
		c.conn.Close()
	})
}

// TestDisconnected checks that all requests fail without a monitor.
func TestDisconnected(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		c := r.core()
		running := c.start(script("exec sleep 60"))
		exited := c.start(piped("exec 3<&0; (read x) <&3 >/dev/null 2>&1 & exit 4"))
		await(t, exited.Exited)
		other := r.core()
		waiting := startLater(other.Client, context.Background(), script(":"))
		r.await("the request waits", func() bool { return len(other.peer.requests) == 1 })
		spool, err := c.Spool()
		if err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			c.peer.Close()
			other.peer.Close()
		})
		for _, p := range []*Process{running, exited} {
			await(t, p.Exited)
			await(t, p.Over)
		}
		if Describe(running.Status) != "signal 9" || !errors.Is(running.Err, ErrDisconnected) || !errors.Is(running.Err, io.EOF) {
			t.Errorf("%s, %v", Describe(running.Status), running.Err)
		}
		if Describe(exited.Status) != "exit 4" || exited.Err != nil {
			t.Errorf("%s, %v", Describe(exited.Status), exited.Err)
		}
		if res := r.awaitResult(waiting); !errors.Is(res.err, ErrDisconnected) || !errors.Is(res.err, io.EOF) {
			t.Errorf("%+v", res)
		}
		if err := <-c.done; !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		if _, err := c.Start(context.Background(), Start{}); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
		if _, err := c.Spool(); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
		spool.Close()
		running.Cancel()
		if err := c.Push(Stats{}); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
		r.awaitIdle()
	})
}

// TestDisconnectedSpool checks that a pending Spool fails without a monitor.
func TestDisconnectedSpool(t *testing.T) {
	pair := socketPair(t)
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

// TestScripts sends lists of scripts.
func TestScripts(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
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
		c.checkOpen()
		r.do(func() {
			c.peer.OnScripts = func() []string { c.peer.Close(); return nil }
		})
		if _, err := c.Scripts(); !errors.Is(err, ErrDisconnected) { // it was pending
			t.Error(err)
		}
		<-c.done
		if _, err := c.Scripts(); !errors.Is(err, ErrDisconnected) {
			t.Error(err)
		}
	})
}

// TestSpool checks that a spool file is written by the core and read by a command.
func TestSpool(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		c := r.core()
		before := r.openFDs()
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
			t.Error("the core can read the file")
		}
		if names, _ := os.ReadDir(r.dir); len(names) != 0 {
			t.Errorf("%v", names)
		}
		p := c.start(spooled("cat", spool))
		if p.Stdin != nil {
			t.Error("stdin is a pipe")
		}
		out, err := io.ReadAll(p.Stdout)
		if string(out) != "hello world" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		await(t, p.Over)
		spool.Close()
		p.closeFiles()

		// Closed while the command runs.
		if spool, err = c.Spool(); err != nil {
			t.Fatal(err)
		}
		unix.Mkfifo(r.dir+"/fifo", 0o600)
		p = c.start(spooled("read x <"+r.dir+"/fifo; exit 7", spool))
		spool.Close()
		q := c.start(script(":")) // the monitor has handled all messages of Close
		await(t, q.Over)
		q.closeFiles()
		if err := os.WriteFile(r.dir+"/fifo", []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		await(t, p.Over)
		if got := Describe(p.Status); got != "exit 7" {
			t.Error(got)
		}
		p.closeFiles()

		// Closed without a command.
		if spool, err = c.Spool(); err != nil {
			t.Fatal(err)
		}
		spool.Close()
		r.await("the monitor closes the file", func() bool { return len(c.peer.spools) == 0 })
		if after := r.openFDs(); after != before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
		c.checkOpen()
	})
}

// TestSpoolOfWaitingRequest checks that the file is closed if the request is
// canceled or the core is disconnected.
func TestSpoolOfWaitingRequest(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		busy := r.core()
		p, q := busy.start(script("exec sleep 60")), busy.start(script("exec sleep 60"))
		c := r.core()
		ctx, cancel := context.WithCancel(context.Background())
		before := r.openFDs()
		for _, abort := range []func(){cancel, func() { r.do(c.peer.Close) }} {
			spool, err := c.Spool()
			if err != nil {
				t.Fatal(err)
			}
			ch := startLater(c.Client, ctx, spooled("cat", spool))
			r.await("the request waits", func() bool { return len(c.peer.requests) == 1 })
			abort()
			if res := r.awaitResult(ch); res.err == nil {
				t.Errorf("%+v", res)
			}
			spool.Close()
			if after := r.openFDs(); after > before {
				t.Errorf("%d open descriptors, want %d", after, before)
			}
			ctx = context.Background()
		}
		p.Cancel()
		q.Cancel()
		r.awaitIdle()
	})
}

// TestTooManySpools checks the limit on files without a command.
func TestTooManySpools(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		c := r.core()
		before := r.openFDs()
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
		p := c.start(spooled("cat", held[0])) // no longer counts
		await(t, p.Over)
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
		r.do(c.peer.Close)
		<-c.done
		for _, s := range held {
			s.Close()
		}
		p.closeFiles()
		if after := r.openFDs(); after >= before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
	})
}

// TestSpoolFails checks the errors of Spool.
func TestSpoolFails(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		full := looptest.Dir(t)
		if runtime.GOOS == "linux" && os.Getuid() == 0 {
			mountFull(t, full)
		}
		r := newRig(t, 2)
		before := 0
		try := func(dir string, want error) {
			t.Helper()
			r.o.SpoolDir = dir
			c := r.core()
			before = r.openFDs()
			if _, err := c.Spool(); err != want {
				t.Errorf("%s: %v, want %v", dir, err, want)
			}
			if after := r.openFDs(); after != before {
				t.Errorf("%s: %d descriptors, then %d", dir, before, after)
			}
			c.checkOpen()
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

// asked reads the next message, which must be of that kind. It returns the number
// of the request.
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
	// Linux limits the descriptors in flight of a user, including other tests.
	looptest.Eventually(m.t, "sendmsg", func() bool {
		err := unix.Sendmsg(m.fd, b, unix.UnixRights(fds...), nil, 0)
		if err != nil && err != unix.ETOOMANYREFS {
			m.t.Fatal(err)
		}
		return err == nil
	})
	closeAll(fds...)
}

// file opens a file with that content.
func (m *fakeMonitor) file(text string) int {
	m.t.Helper()
	f, err := os.CreateTemp(looptest.Dir(m.t), "")
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	f.WriteString(text)
	fd, _ := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	return fd
}

// content reads such a file.
func content(f *os.File) string {
	b := make([]byte, 100)
	n, _ := f.ReadAt(b, 0)
	f.Close()
	return string(b[:n])
}

// limitFDs limits this process to n more descriptors. The function that it returns
// restores the limit.
func limitFDs(t *testing.T, n int) (restore func()) {
	t.Helper()
	// Use all descriptors below the limit.
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

// TestLostDescriptors checks that only those requests fail whose descriptors do
// not fit into the core, and that no request gets those of another. All messages
// arrive before the core reads the first.
func TestLostDescriptors(t *testing.T) {
	if runtime.GOOS == "freebsd" {
		t.Skip("recvmsg(2) of FreeBSD 15.1 may not return in this case; see monitor.setup")
	}
	looptest.Alone(t, func(t *testing.T) {
		pair := socketPair(t)
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
			ch := startLater(c, context.Background(), Start{})
			id := m.asked(msgStart)
			id2, ch2 := spool()
			m.answer(msgCreated, id1, 0, 0, m.file("first"))
			m.answer(msgCreated, id, 0, 0, m.file("stdout"), m.file("stderr"))
			m.answer(msgCreated, id2, 0, 0, m.file("second"))
			restore := limitFDs(t, free)
			for range 3 {
				f, fds, err := c.read()
				if err == nil {
					err = c.handle(f, fds)
				}
				if err != nil {
					t.Fatalf("%d free: %v", free, err)
				}
			}
			restore()
			var lost []uint64 // must be canceled
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
					if got := content(f.s.File); got != f.want {
						t.Errorf("%d free: %q, want %q", free, got, f.want)
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
				if got := m.asked(msgCancel); !slices.Contains(lost, got) {
					t.Errorf("%d free: request %d is canceled, want %d", free, got, lost)
				}
			}
			if isLost && len(ch) > 0 {
				t.Errorf("%d free: Start returned before the request was over", free)
			}
			c.handle(frame{msgExited, id, []byte{0, 0, 0, 0, exitOver}}, nil)
			res := <-ch
			switch {
			case isLost && res.err != syscall.EMFILE, !isLost && res.err != nil:
				t.Errorf("%d free: %v", free, res.err)
			case !isLost:
				if out, errs := content(res.p.Stdout), content(res.p.Stderr); out != "stdout" || errs != "stderr" {
					t.Errorf("%d free: %q, %q, want stdout, stderr", free, out, errs)
				}
			}
		}
		unix.Close(m.fd)
	})
}

// TestTooManyInFlight checks that the monitor retries when a user has too many
// descriptors in flight (Linux: ETOOMANYREFS).
func TestTooManyInFlight(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux limits how many descriptors a user has in flight")
	}
	looptest.Alone(t, func(t *testing.T) {
		if os.Getuid() == 0 { // root has no limit
			if err := syscall.Setgid(65534); err != nil {
				t.Fatal(err)
			}
			// A user without other processes.
			if err := syscall.Setuid(65000 + os.Getpid()%500); err != nil {
				t.Fatal(err)
			}
		}
		r := newRig(t, 4)
		r.o.MaxSpools = 300
		c := r.rawCore()
		var old unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
		lim := old
		setLimit(&lim.Cur, 200)
		r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) })
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		const n = 300
		for id := uint64(1); id <= n; id++ { // closed at once, so only those in flight count
			c.send(appendFrame(appendFrame(nil, msgSpool, id), msgCancel, id))
			r.await("the monitor reads the request", func() bool { return c.peer.lastID == id })
		}
		r.await("the monitor reads all requests", func() bool { return c.peer.r == c.peer.w })
		c.checkOpen()
		other := socketPair(t)
		if err := unix.Sendmsg(other[0], []byte{0}, unix.UnixRights(2), nil, 0); err != unix.ETOOMANYREFS {
			t.Fatal(err)
		}
		// Now the core reads. It needs descriptors in the same process.
		r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
		files := 0
		client := newClient(t, c.fd)
		client.conn.SetReadDeadline(time.Now().Add(looptest.Bound))
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
		r.await("all messages are sent", func() bool { return len(c.peer.out) == 0 && c.peer.retry == nil })
		c.checkOpen()
	})
}

// FuzzCoreFrames checks that the core does not panic whatever the monitor sends.
func FuzzCoreFrames(f *testing.F) {
	f.Add(appendFrame(nil, msgConfig, 0, []byte("4\x00{}...")))
	f.Add(appendAnswer(nil, msgCreated, 1, 0, 0))
	f.Add(slices.Concat(appendAnswer(nil, msgFailed, 1, 2, 0), appendAnswer(nil, msgExited, 2, 256, 1)))
	f.Add(slices.Concat(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgExited, 2, 256, 0), appendAnswer(nil, msgOver, 2, 0, 0)))
	f.Add(slices.Concat(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgExited, 2, 0, 3), appendAnswer(nil, msgExited, 2, 0, 3)))
	f.Add(slices.Concat(appendAnswer(nil, msgFailed, 3, 2, 0), appendAnswer(nil, msgCreated, 3, 0, 0)))
	f.Add(slices.Concat(appendAnswer(nil, msgRetire, 0, 0, 0), appendAnswer(nil, msgStop, 0, 0, 0)))
	f.Add(slices.Concat(appendAnswer(nil, msgOver, 1, 0, 0), appendAnswer(nil, msgExited, 2, 0, 0)))
	f.Add(slices.Concat(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgOver, 2, 0, 0)))
	f.Add(slices.Concat(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgFailed, 2, 2, 0)))
	f.Add(slices.Concat(appendAnswer(nil, msgCreated, 2, 0, 0), appendAnswer(nil, msgCreated, 2, 0, 0)))
	f.Add(slices.Concat(appendFrame(nil, msgScripts, 0, []byte("\x00\x00\x00\x00\x01a\x00b\x00")), appendAnswer(nil, msgScripts, 0, 0, 0)))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 100<<10 {
			return
		}
		pair := socketPair(t)
		defer unix.Close(pair[0])
		c := newClient(t, pair[1])
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
			t.Fatal("Run returned nil")
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

//go:build linux || freebsd

package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/looptest"
	"github.com/onewake/onewake/internal/process"
)

func startFrame(id uint64, stdin byte, script, vars string) []byte {
	return appendFrame(nil, msgStart, id, []byte{stdin}, []byte(script), []byte{0}, []byte(vars))
}

// TestViolations checks that each protocol violation closes the connection to
// that core, and does not affect another core.
func TestViolations(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		honest := r.core()
		p := honest.start(script("sleep 60"))
		before := r.openFDs()
		length := func(n uint32) []byte {
			return append(binary.BigEndian.AppendUint32(nil, n), make([]byte, headerSize)...)
		}
		frame := func(k kind, id uint64, payload ...byte) []byte { return appendFrame(nil, k, id, payload) }
		spool := frame(msgSpool, 5)
		read := "QUERY_STRING=read x\x00" // does not exit
		tests := []struct {
			name string
			in   []byte
		}{
			{"no kind", frame(0, 1)},
			{"unknown kind", frame(200, 1)},
			{"message of the monitor", frame(msgCreated, 1)},
			{"configuration", frame(msgConfig, 0, '1', 0)},
			{"exited", frame(msgExited, 1, 0, 0, 0, 0, 0)},
			{"length 0", length(0)},
			{"length too small", length(headerSize - 5)},
			{"length too large", length(maxToMon - 3)},
			{"length of 4 GiB", length(1<<32 - 1)},
			{"text", []byte("GET / HTTP/1.1\r\n\r\n")},
			{"start without payload", frame(msgStart, 1)},
			{"start with unknown stdin", startFrame(1, 3, "", "")},
			{"start without script", frame(msgStart, 1, 0)},
			{"unknown script", startFrame(1, 0, "../../bin/sh", "")},
			{"script too long", startFrame(1, 0, strings.Repeat("x", maxScript+1), "")},
			{"start with number 0", startFrame(0, 0, "", "")},
			{"start twice", slices.Concat(startFrame(1, 0, "", ""), startFrame(1, 0, "", ""))},
			{"numbers going down", slices.Concat(startFrame(5, 0, "", ""), startFrame(4, 0, "", ""))},
			{"number after the last one", slices.Concat(startFrame(1<<64-1, 0, "", ""), startFrame(1, 0, "", ""))},
			{"unknown file", startFrame(1, 2, "", "")},
			{"unknown file, lower number", slices.Concat(spool, startFrame(4, 2, "", ""))},
			{"number of a file, but no file", slices.Concat(spool, startFrame(5, 0, "", ""))},
			{"file used twice", slices.Concat(spool, startFrame(5, 2, "", ""), startFrame(5, 2, "", ""))},
			{"file used after cancel", slices.Concat(spool, frame(msgCancel, 5), startFrame(5, 2, "", ""))},
			{"two files with the same number", slices.Concat(spool, spool)},
			{"file and a bad variable", slices.Concat(spool, startFrame(5, 2, "", "PATH=/evil\x00"))},
			{"PATH", startFrame(1, 0, "", "PATH=/evil\x00")},
			{"LD_PRELOAD after valid ones", startFrame(1, 0, "", "HTTP_A=b\x00LD_PRELOAD=/evil\x00")},
			{"variable without NUL", startFrame(1, 0, "", "HTTP_A=b")},
			{"variable too large", startFrame(1, 0, "", "HTTP_A="+strings.Repeat("x", MaxVar)+"\x00")},
			{"too many requests", slices.Concat(startFrame(1, 1, "", read), startFrame(2, 1, "", read), startFrame(3, 1, "", read))},
			{"cancel number 0", frame(msgCancel, 0)},
			{"cancel unknown request", frame(msgCancel, 9)},
			{"cancel with payload", slices.Concat(startFrame(1, 0, "", ""), frame(msgCancel, 1, 9))},
			{"file with payload", frame(msgSpool, 1, 9)},
			{"file with number 0", frame(msgSpool, 0)},
			{"ready without NUL", frame(msgReady, 0, '4')},
			{"ready too long", frame(msgReady, 0, make([]byte, maxState+1)...)},
			{"ready with a number", frame(msgReady, 1, '5', 0)},
			{"closed with a number", frame(msgClosed, 1)},
			{"closed with payload", frame(msgClosed, 0, 9)},
			{"counters with a number", frame(msgStats, 1, make([]byte, binary.Size(Stats{}))...)},
			{"scripts without -scripts", frame(msgGetScripts, 0)},
			{"counters too short", frame(msgStats, 0, make([]byte, binary.Size(Stats{})-1)...)},
			{"counters too long", frame(msgStats, 0, make([]byte, binary.Size(Stats{})+1)...)},
		}
		for _, tt := range tests {
			for _, how := range []string{"at once", "byte by byte"} {
				if how == "byte by byte" && len(tt.in) > 200 {
					continue
				}
				c := r.rawCore()
				if how == "at once" {
					c.send(tt.in)
				} else {
					for i := range tt.in {
						c.send(tt.in[i : i+1])
					}
				}
				if err := c.awaitFail(); !isViolation(err) {
					t.Errorf("%s, %s: %v", tt.name, how, err)
				}
			}
		}
		r.await("only the command of the honest core runs", func() bool { return r.sup.Running() == 1 })
		if after := r.openFDs(); after > before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
		if isClosed(p.Exited) {
			t.Error("the command of the honest core has exited")
		}
		p.Cancel()
		await(t, p.Over)
		honest.checkOpen()
	})
}

// TestTruncated checks that half a frame is not a protocol violation.
func TestTruncated(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		whole := startFrame(1, 1, "", "QUERY_STRING=read x\x00")
		for n := range len(whole) + 1 {
			c := r.rawCore()
			c.send(whole[:n])
			unix.Shutdown(c.fd, unix.SHUT_WR)
			if err := c.awaitFail(); err != io.EOF {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		r.awaitIdle()
	})
}

// TestLongFrame sends the longest msgStart.
func TestLongFrame(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.core()
		var v Vars
		v.Add("QUERY_STRING", "exit 9")
		for i := 0; !v.TooLarge(); i++ {
			v.Add(fmt.Sprint("HTTP_X", i), strings.Repeat("x", 60000))
			if len(v.Bytes())+60000 > MaxVars {
				break
			}
		}
		p, err := c.Start(context.Background(), Start{Vars: &v})
		if err != nil {
			t.Fatal(err)
		}
		await(t, p.Over)
		if got := Describe(p.Status); got != "exit 9" {
			t.Error(got)
		}
		p.closeFiles()
	})
}

// TestDescriptorsFromCore checks that the monitor ignores descriptors from a core.
func TestDescriptorsFromCore(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.rawCore()
		before := r.openFDs()
		fds := make([]int, 100)
		for i := range fds {
			fds[i] = 2
		}
		rights := unix.UnixRights(fds...)
		for i := range 10 { // 1,000 in total
			f := appendFrame(nil, msgCancel, 1)
			if i == 0 {
				f = startFrame(1, 0, "", "")
			}
			for _, part := range [][]byte{f[:3], f[3:]} {
				// Linux limits the descriptors in flight of a user, including other tests.
				looptest.Eventually(t, "sendmsg", func() bool {
					err := unix.Sendmsg(c.fd, part, rights, nil, 0)
					if err != nil && err != unix.ETOOMANYREFS {
						t.Fatal(err)
					}
					return err == nil
				})
			}
		}
		r.await("the monitor reads all messages", func() bool { return c.peer.lastID == 1 && c.peer.r == c.peer.w && r.sup.Idle() })
		if after := r.openFDs(); after > before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
		c.send(make([]byte, headerSize))
		if err := c.awaitFail(); !isViolation(err) {
			t.Error(err)
		}
		if after := r.openFDs(); after > before {
			t.Errorf("%d open descriptors at the end, want %d", after, before)
		}
	})
}

// TestCoreDoesNotRead checks that the monitor drops a core that leaves too many
// messages unread, and serves other cores in the meantime.
func TestCoreDoesNotRead(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 16)
		other := r.core()
		other.start(script(":")).closeFiles()
		before := r.openFDs()
		c := r.rawCore()
		unix.SetsockoptInt(c.peer.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10) // fills up soon
		id := uint64(0)
		ask := func() error {
			var b []byte
			for range 20 {
				// Spool files, closed at once, and some commands: all are
				// answered with descriptors.
				if id++; id%64 == 0 {
					b = append(b, startFrame(id, 0, "", "")...)
				} else {
					b = appendFrame(appendFrame(b, msgSpool, id), msgCancel, id)
				}
			}
			return c.send(b)
		}
		for full := false; !full; {
			ask() // fails after the connection has been closed
			// Otherwise too many arrive in one turn of the loop.
			r.await("the monitor reads all requests", func() bool { return c.peer.lastID == id || c.peer.closed })
			r.do(func() { full = c.peer.retry != nil || c.peer.closed })
		}
		p := other.start(script(":"))
		await(t, p.Over)
		p.closeFiles()
		c.checkOpen()
		for ask() == nil {
		}
		if err := c.awaitFail(); err != ErrUnread {
			t.Error(err)
		}
		p = other.start(script(":"))
		await(t, p.Over)
		p.closeFiles()
		r.awaitIdle()
		if after := r.openFDs(); after > before {
			t.Errorf("%d open descriptors, want %d", after, before)
		}
	})
}

// TestSlowCore checks that a core that reads late gets all messages.
func TestSlowCore(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.rawCore()
		unix.SetsockoptInt(c.peer.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10)
		n := uint64(0)
		for waiting := false; !waiting; {
			n++
			c.send(appendFrame(appendFrame(nil, msgSpool, n), msgCancel, n))
			r.do(func() { waiting = c.peer.retry != nil && len(c.peer.out) > 3 })
		}
		client := newClient(t, c.fd)
		for id := uint64(1); id <= n; id++ {
			f, fds, err := client.read()
			if err != nil || f.kind != msgCreated || f.id != id || len(fds) != 1 {
				t.Fatalf("%d: message %d of %d, descriptors %v, %v", id, f.kind, f.id, fds, err)
			}
			closeAll(fds...)
		}
		r.await("all messages are sent", func() bool { return len(c.peer.out) == 0 && c.peer.retry == nil })
		c.checkOpen()
	})
}

// TestSilentCore checks that the monitor keeps a core that sends half a message.
func TestSilentCore(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.rawCore()
		c.send([]byte{0, 0})
		r.await("the monitor reads half a frame", func() bool { return c.peer.w == 2 })
		r.do(func() {
			if c.peer.retry != nil || c.peer.closed {
				t.Errorf("retry: %t, closed: %t", c.peer.retry != nil, c.peer.closed)
			}
			c.peer.Close()
			c.peer.Close() // does nothing
			c.peer.Retire()
			if len(c.peer.out) != 0 {
				t.Errorf("%d messages after Close", len(c.peer.out))
			}
		})
		c.checkOpen()
		unix.Close(c.fd)
	})
}

// TestTwoCores checks that two cores together stay within the limit, as during a
// reload. Waiting requests start in order, or can be canceled.
func TestTwoCores(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		old, young := r.core(), r.core()
		waiting := func(c *core, n int) {
			t.Helper()
			r.await("the request waits", func() bool { return len(c.peer.requests) == n })
		}
		a, b := old.start(piped("read x")), old.start(piped("read x"))
		ctx, cancel := context.WithCancelCause(context.Background())
		cause := errors.New("client gone")
		first := startLater(young.Client, context.Background(), piped("read x"))
		waiting(young, 1)
		canceled := startLater(young.Client, ctx, piped("read x"))
		waiting(young, 2)
		cancel(cause)
		if res := r.awaitResult(canceled); res.err != cause {
			t.Errorf("%+v", res)
		}
		waiting(young, 1)
		r.do(func() {
			if r.sup.Running() != 2 {
				t.Errorf("%d running", r.sup.Running())
			}
		})
		a.Stdin.Close()
		await(t, a.Over)
		second := startLater(old.Client, context.Background(), piped("read x")) // after the request of the young core
		x := r.awaitResult(first)
		if x.err != nil {
			t.Fatal(x.err)
		}
		waiting(old, 2)
		r.do(func() {
			if r.sup.Running() != 2 {
				t.Errorf("%d running", r.sup.Running())
			}
		})
		// Closing the connection terminates running and waiting requests.
		third := startLater(young.Client, context.Background(), piped("read x"))
		waiting(young, 2)
		young.conn.Close()
		if err := young.awaitFail(); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if res := r.awaitResult(third); !errors.Is(res.err, ErrDisconnected) {
			t.Errorf("%+v", res)
		}
		y := r.awaitResult(second)
		if y.err != nil {
			t.Fatal(y.err)
		}
		b.Cancel()
		await(t, b.Over)
		y.p.Cancel()
		await(t, y.p.Over)
		r.awaitIdle()
		old.checkOpen()
	})
}

// TestStop checks that waiting and later requests fail when the service stops.
func TestStop(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 1)
		old, young := r.core(), r.core()
		p := old.start(piped("read x"))
		waiting := startLater(young.Client, context.Background(), script(":"))
		r.await("the request waits", func() bool { return len(young.peer.requests) == 1 })
		r.do(r.sup.TerminateAll)
		if res := r.awaitResult(waiting); res.err != syscall.ECANCELED {
			t.Errorf("%+v", res)
		}
		await(t, p.Over)
		if got := Describe(p.Status); got != "signal 15" {
			t.Error(got)
		}
		if _, err := young.Start(context.Background(), script(":")); err != syscall.ECANCELED {
			t.Error(err)
		}
	})
}

// TestDrain checks that Drain handles the last messages of a core.
func TestDrain(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.rawCore()
		client := newClient(t, c.fd)
		var served uint64
		r.do(func() {
			c.peer.OnStats = func(s Stats) { served += s.Served }
			client.Push(Stats{Served: 7})
			client.conn.Close()
			c.peer.Retire() // cannot be sent
			c.peer.Drain()
			if !c.peer.closed {
				t.Error("the connection is still open")
			}
		})
		if served != 7 {
			t.Errorf("served %d, want 7", served)
		}
		if err := <-c.failed; err != io.EOF {
			t.Errorf("%v, want %v", err, io.EOF)
		}
	})
}

// TestMessages sends each message that is not about a request.
func TestMessages(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.rawCore()
		got := make(chan string, 4)
		config := strings.Repeat("config\x00and more", 100_000)
		r.do(func() {
			c.peer.OnReady = func(state string, err error) { got <- fmt.Sprint(state, " ", err) }
			c.peer.OnStats = func(s Stats) { got <- fmt.Sprint(s) }
			c.peer.OnClosed = func() { got <- "closed" }
			c.peer.Configure([]byte(config))
			c.peer.Retire()
			c.peer.Stop()
		})
		client := newClient(t, c.fd)
		b, err := client.Config()
		if err != nil || string(b) != config {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		client.OnRetire = func() { got <- "retire" }
		client.OnStop = func() { got <- "stop" }
		go client.Run()
		for _, want := range []string{"retire", "stop"} {
			if s := <-got; s != want {
				t.Errorf("%s, want %s", s, want)
			}
		}
		client.Ready("a sandbox")
		client.Push(Stats{1, 2, 3, 4, 5})
		client.Closed()
		for _, want := range []string{"a sandbox <nil>", "{1 2 3 4 5}", "closed"} {
			if s := <-got; s != want {
				t.Errorf("%s, want %s", s, want)
			}
		}
		c.checkOpen()
		client.conn.Close()
		<-c.failed
	})
}

// TestVersion checks that core and monitor detect another version, which is not a
// protocol violation.
func TestVersion(t *testing.T) {
	looptest.Alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.rawCore()
		got := make(chan error, 1)
		r.do(func() {
			c.peer.OnReady = func(state string, err error) { got <- err }
			c.peer.send(appendFrame(nil, msgConfig, 0, []byte("0.9\x00{}")))
		})
		client := newClient(t, c.fd)
		if b, err := client.Config(); err == nil || !strings.Contains(err.Error(), `"0.9"`) || isViolation(err) {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		client.conn.Close()
		<-c.failed

		c = r.rawCore()
		r.do(func() { c.peer.OnReady = func(state string, err error) { got <- err } })
		c.send(appendFrame(nil, msgReady, 0, []byte("0.9\x00x")))
		if err := <-got; err == nil || !strings.Contains(err.Error(), `"0.9"`) || isViolation(err) {
			t.Error(err)
		}
		c.checkOpen()
		unix.Close(c.fd)
		<-c.failed
	})
}

// TestStats checks which counters are added up.
func TestStats(t *testing.T) {
	s := Stats{1, 2, 3, 4, 5}
	s.AddTotals(Stats{10, 20, 30, 40, 50})
	if want := (Stats{11, 2, 33, 4, 55}); s != want {
		t.Errorf("%v, want %v", s, want)
	}
}

// FuzzMonitorFrames checks that whatever a core sends, the monitor stays within its
// limits and reports a protocol violation at most.
func FuzzMonitorFrames(f *testing.F) {
	f.Add(startFrame(1, 0, "", "HTTP_A=b\x00"), 3)
	f.Add(append(startFrame(1, 1, "gone", ""), appendFrame(nil, msgCancel, 1)...), 100)
	f.Add(append(appendFrame(nil, msgSpool, 1), startFrame(1, 2, "", "PATH=x\x00")...), 1)
	f.Add(append(appendFrame(nil, msgSpool, 1), startFrame(1, 2, "", "HTTPS=x\x00")...), 1000)
	f.Add(append(appendFrame(nil, msgSpool, 2), appendFrame(nil, msgCancel, 2)...), 7)
	f.Add(appendFrame(nil, msgReady, 0, []byte("4\x00none")), 5)
	f.Add(append(appendFrame(nil, msgStats, 0, make([]byte, binary.Size(Stats{}))), appendFrame(nil, msgClosed, 0)...), 9)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 1)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), 2)
	loop, err := process.NewLoop()
	if err != nil {
		f.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	sup, err := process.NewSupervisor(loop, log, process.Options{Max: 2, Timeout: time.Second, KillAfter: time.Second})
	if err != nil {
		f.Fatal(err)
	}
	// The command cannot be started, because only messages are tested.
	cmd := &process.Command{Path: "/nonexistent/command", Args: []string{"x"}, Dir: "/"}
	o := PeerOptions{Max: 2, MaxSpools: 3, SpoolDir: looptest.Dir(f), Log: log, Filter: NewFilter(FilterOptions{}), Command: func(s string) (*process.Command, error) {
		if s == "gone" {
			return nil, unix.ENOENT
		} else if s != "" {
			return nil, errors.New("unknown")
		}
		return cmd, nil
	}}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		if len(b) > 50<<10 {
			return // no longer fits into the socket buffers
		}
		pair := socketPair(t)
		defer unix.Close(pair[1])
		p, err := NewPeer(pair[0], loop, sup, o)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		step = max(step&0xffff, 1)
		for len(b) > 0 && !p.closed {
			n := min(step, len(b))
			if _, err := unix.Write(pair[1], b[:n]); err != nil {
				t.Fatal(err)
			}
			b = b[n:]
			for range n/len(p.in) + 1 {
				if err := p.receive(); err != nil {
					if !isViolation(err) {
						t.Fatalf("%v is not a protocol violation", err)
					}
					return
				}
			}
			if len(p.requests) != 0 || sup.Running() != 0 || len(p.spools) > o.MaxSpools || len(p.in) > maxToMon {
				t.Fatalf("%d requests, %d running, %d files, buffer of %d", len(p.requests), sup.Running(), len(p.spools), len(p.in))
			}
		}
	})
}

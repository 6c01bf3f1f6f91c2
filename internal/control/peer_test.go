//go:build linux || freebsd

package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/process"
)

func startFrame(id uint64, stdin byte, script, vars string) []byte {
	return appendFrame(nil, msgStart, id, []byte{stdin}, []byte(script), []byte{0}, []byte(vars))
}

// TestViolations: whatever an honest core never sends ends the core, and nothing
// but the core; an honest one beside it is served on.
func TestViolations(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		honest := r.core()
		p := honest.begin(script("sleep 60"))
		before := r.descriptors()
		length := func(n uint32) []byte {
			return append(binary.BigEndian.AppendUint32(nil, n), make([]byte, headerSize)...)
		}
		frame := func(k kind, id uint64, payload ...byte) []byte { return appendFrame(nil, k, id, payload) }
		join := func(f ...[]byte) []byte { return slices.Concat(f...) }
		spool := frame(msgSpool, 5)
		tests := []struct {
			name string
			in   []byte
		}{
			{"no kind", frame(0, 1)},
			{"unknown kind", frame(200, 1)},
			{"a frame of the monitor's", frame(msgCreated, 1)},
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
			{"script that is not there", startFrame(1, 0, "../../bin/sh", "")},
			{"script too long", startFrame(1, 0, strings.Repeat("x", maxScript+1), "")},
			{"start with number 0", startFrame(0, 0, "", "")},
			{"start twice", join(startFrame(1, 0, "", ""), startFrame(1, 0, "", ""))},
			{"numbers going down", join(startFrame(5, 0, "", ""), startFrame(4, 0, "", ""))},
			{"after the last number", join(startFrame(1<<64-1, 0, "", ""), startFrame(1, 0, "", ""))},
			{"file that is not there", startFrame(1, 2, "", "")},
			{"file that is not there, below others", join(spool, startFrame(4, 2, "", ""))},
			{"file that is not used", join(spool, startFrame(5, 0, "", ""))},
			{"file used twice", join(spool, startFrame(5, 2, "", ""), startFrame(5, 2, "", ""))},
			{"file used when forgotten", join(spool, frame(msgCancel, 5), startFrame(5, 2, "", ""))},
			{"file of the same number", join(spool, spool)},
			{"file and a bad variable", join(spool, startFrame(5, 2, "", "PATH=/evil\x00"))},
			{"PATH", startFrame(1, 0, "", "PATH=/evil\x00")},
			{"LD_PRELOAD behind good ones", startFrame(1, 0, "", "HTTP_A=b\x00LD_PRELOAD=/evil\x00")},
			{"variables without end", startFrame(1, 0, "", "HTTP_A=b")},
			{"too large a variable", startFrame(1, 0, "", "HTTP_A="+strings.Repeat("x", MaxVar)+"\x00")},
			{"too many at once", join(startFrame(1, 0, "", ""), startFrame(2, 0, "", ""), startFrame(3, 0, "", ""))},
			{"end of nothing", frame(msgCancel, 0)},
			{"end of what never began", frame(msgCancel, 9)},
			{"end with payload", join(startFrame(1, 0, "", ""), frame(msgCancel, 1, 9))},
			{"file with payload", frame(msgSpool, 1, 9)},
			{"file with number 0", frame(msgSpool, 0)},
			{"ready without NUL", frame(msgReady, 0, '4')},
			{"ready too long", frame(msgReady, 0, make([]byte, maxState+1)...)},
			{"names, where there are none", frame(msgGetScripts, 0)},
			{"counters too short", frame(msgStats, 0, make([]byte, binary.Size(Stats{})-1)...)},
			{"counters too long", frame(msgStats, 0, make([]byte, binary.Size(Stats{})+1)...)},
		}
		for _, tt := range tests {
			for _, how := range []string{"at once", "byte by byte"} {
				if how == "byte by byte" && len(tt.in) > 200 {
					continue
				}
				c := r.raw()
				if how == "at once" {
					c.send(tt.in)
				} else {
					for i := range tt.in {
						c.send(tt.in[i : i+1])
					}
				}
				if err := c.end(); !isViolation(err) {
					t.Errorf("%s, %s: %v", tt.name, how, err)
				}
			}
		}
		// What they had started is ended, and nothing else.
		r.until("only the honest core's command to run", func() bool { return r.sup.Running() == 1 })
		if after := r.descriptors(); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		if isClosed(p.Exited) {
			t.Error("the honest core's command has ended")
		}
		p.Cancel()
		wait(t, "over", p.Over)
		honest.alive()
	})
}

// TestTruncated: a core that dies in the middle of a frame has broken nothing.
func TestTruncated(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		whole := startFrame(1, 1, "", "QUERY_STRING=read x\x00")
		for n := range len(whole) + 1 {
			c := r.raw()
			c.send(whole[:n])
			unix.Shutdown(c.fd, unix.SHUT_WR)
			if err := c.end(); err != io.EOF {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		r.idle()
	})
}

// TestLongFrame: the longest start there is.
func TestLongFrame(t *testing.T) {
	alone(t, func(t *testing.T) {
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
		wait(t, "over", p.Over)
		if got := Describe(p.Status); got != "exit 9" {
			t.Error(got)
		}
		p.closed()
	})
}

// TestDescriptorsFromCore: the monitor reads with read(2), so that the kernel
// frees whatever descriptors a core attaches.
func TestDescriptorsFromCore(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.raw()
		before := r.descriptors()
		fds := make([]int, 100)
		for i := range fds {
			fds[i] = 2
		}
		rights := unix.UnixRights(fds...)
		for i := range 10 { // 1,000 in all, on whole frames and on parts of them
			f := appendFrame(nil, msgCancel, 1)
			if i == 0 {
				f = startFrame(1, 0, "", "")
			}
			for _, part := range [][]byte{f[:3], f[3:]} {
				// Linux counts all that this user has under way, other tests' too.
				eventually(t, "the message to go", func() bool {
					err := unix.Sendmsg(c.fd, part, rights, nil, 0)
					if err != nil && err != unix.ETOOMANYREFS {
						t.Fatal(err)
					}
					return err == nil
				})
			}
		}
		r.until("all to be read", func() bool { return c.peer.lastID == 1 && c.peer.r == c.peer.w && r.sup.Idle() })
		if after := r.descriptors(); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		c.send(make([]byte, headerSize))
		if err := c.end(); !isViolation(err) {
			t.Error(err)
		}
		if after := r.descriptors(); after > before {
			t.Errorf("%d descriptors, then %d at the end", before, after)
		}
	})
}

// TestUnreadCore: one that never reads is given up when it leaves too much
// unread; meanwhile others are served as ever, and nothing of it stays.
func TestUnreadCore(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 16)
		other := r.core()
		other.begin(script(":")).closed()
		before := r.descriptors()
		c := r.raw()
		unix.SetsockoptInt(c.peer.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10) // soon full
		id := uint64(0)
		ask := func() error {
			var b []byte
			for range 20 {
				// A file that is forgotten at once, and every now
				// and then a command: all answered with descriptors.
				if id++; id%64 == 0 {
					b = append(b, startFrame(id, 0, "", "")...)
				} else {
					b = appendFrame(appendFrame(b, msgSpool, id), msgCancel, id)
				}
			}
			return c.send(b)
		}
		for full := false; !full; {
			ask() // when it has been given up this fails
			// One after the other, or too much comes in one turn.
			r.until("all to be asked", func() bool { return c.peer.lastID == id || c.peer.closed })
			r.do(func() { full = c.peer.retry != nil || c.peer.closed })
		}
		p := other.begin(script(":"))
		wait(t, "over", p.Over)
		p.closed()
		c.alive()
		for ask() == nil {
		}
		if err := c.end(); err != ErrUnread {
			t.Error(err)
		}
		p = other.begin(script(":"))
		wait(t, "over", p.Over)
		p.closed()
		r.idle()
		if after := r.descriptors(); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
	})
}

// TestSlowCore: one that reads late gets all there was for it.
func TestSlowCore(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.raw()
		unix.SetsockoptInt(c.peer.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 8<<10)
		n := uint64(0)
		for waiting := false; !waiting; {
			n++
			c.send(appendFrame(appendFrame(nil, msgSpool, n), msgCancel, n))
			r.do(func() { waiting = c.peer.retry != nil && len(c.peer.out) > 3 })
		}
		// Now it reads.
		client := newClient(t, c.fd)
		for id := uint64(1); id <= n; id++ {
			f, fds, err := client.read()
			if err != nil || f.kind != msgCreated || f.id != id || len(fds) != 1 {
				t.Fatalf("%d: message %d of %d, descriptors %v, %v", id, f.kind, f.id, fds, err)
			}
			closeAll(fds...)
		}
		r.until("nothing to wait", func() bool { return len(c.peer.out) == 0 && c.peer.retry == nil })
		c.alive()
	})
}

// TestSilentCore: one that reads nothing and asks for nothing is left alone.
func TestSilentCore(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.raw()
		c.send([]byte{0, 0})
		r.until("half a frame to be read", func() bool { return c.peer.w == 2 })
		r.do(func() {
			if c.peer.retry != nil || c.peer.closed {
				t.Error("something is to happen to it")
			}
			c.peer.Close()
			c.peer.Close() // twice is no harm
			c.peer.Retire()
			if len(c.peer.out) != 0 {
				t.Error("something is to be sent")
			}
		})
		c.alive()
		unix.Close(c.fd)
	})
}

// TestTwoCores: two cores, as during a reload, each within the limit, are
// together within it too; what waits is started in the order of asking, or can
// be called off.
func TestTwoCores(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 2)
		old, young := r.core(), r.core()
		waiting := func(c *core, n int) {
			t.Helper()
			r.until("it to wait", func() bool { return len(c.peer.requests) == n })
		}
		a, b := old.begin(piped("read x")), old.begin(piped("read x"))
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("client gone")
		first := young.asks(context.Background(), piped("read x"))
		waiting(young, 1)
		off := young.asks(ctx, piped("read x"))
		waiting(young, 2)
		cancel(why)
		if res := r.result(off); res.err != why {
			t.Errorf("%+v", res)
		}
		waiting(young, 1)
		r.do(func() {
			if r.sup.Running() != 2 {
				t.Errorf("%d running", r.sup.Running())
			}
		})
		a.Stdin.Close()
		wait(t, "over", a.Over)
		second := old.asks(context.Background(), piped("read x")) // behind the young one's
		x := r.result(first)
		if x.err != nil {
			t.Fatal(x.err)
		}
		waiting(old, 2)
		r.do(func() {
			if r.sup.Running() != 2 {
				t.Errorf("%d running", r.sup.Running())
			}
		})
		// A core that goes takes what it has running along, and its starts
		// that wait.
		third := young.asks(context.Background(), piped("read x"))
		waiting(young, 2)
		young.conn.Close()
		if err := young.end(); err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if res := r.result(third); !errors.Is(res.err, ErrDisconnected) {
			t.Errorf("%+v", res)
		}
		y := r.result(second)
		if y.err != nil {
			t.Fatal(y.err)
		}
		b.Cancel()
		wait(t, "over", b.Over)
		y.p.Cancel()
		wait(t, "over", y.p.Over)
		r.idle()
		old.alive()
	})
}

// TestEnding: when the service ends, who waits is told so, and so is who comes
// later.
func TestEnding(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 1)
		old, young := r.core(), r.core()
		p := old.begin(piped("read x"))
		waits := young.asks(context.Background(), script(":"))
		r.until("it to wait", func() bool { return len(young.peer.requests) == 1 })
		r.do(r.sup.EndAll)
		if res := r.result(waits); res.err != syscall.ECANCELED {
			t.Errorf("%+v", res)
		}
		wait(t, "over", p.Over)
		if got := Describe(p.Status); got != "signal 15" {
			t.Error(got)
		}
		if _, err := young.Start(context.Background(), script(":")); err != syscall.ECANCELED {
			t.Error(err)
		}
	})
}

// TestDrain: what a dead core said before is heard, whichever event the loop
// sees first.
func TestDrain(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.raw()
		client := newClient(t, c.fd)
		var served uint64
		r.do(func() {
			c.peer.OnStats = func(s Stats) { served += s.Served }
			client.Push(Stats{Served: 7})
			client.conn.Close()
			c.peer.Retire() // which it does not hear any more
			c.peer.Drain()
			if !c.peer.closed {
				t.Error("the end has not been seen")
			}
		})
		if served != 7 {
			t.Errorf("served %d, want 7", served)
		}
		if err := <-c.failed; err != io.EOF {
			t.Errorf("broken by %v, want %v", err, io.EOF)
		}
	})
}

// TestLife: what monitor and core say to each other besides requests.
func TestLife(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.raw()
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
		c.alive()
		client.conn.Close()
		<-c.failed
	})
}

// TestVersion: a core of another version is told from one that misbehaves, by
// itself and by the monitor.
func TestVersion(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, 4)
		c := r.raw()
		got := make(chan error, 1)
		r.do(func() {
			c.peer.OnReady = func(state string, err error) { got <- err }
			c.peer.send(appendFrame(nil, msgConfig, 0, []byte("0.9\x00{}")))
		})
		client := newClient(t, c.fd)
		if b, err := client.Config(); err == nil || !strings.Contains(err.Error(), `"0.9"`) || isViolation(err) {
			t.Errorf("%q, %v", b, err)
		}
		if err := <-got; err != nil { // it has told which version it speaks
			t.Error(err)
		}
		client.conn.Close()
		<-c.failed

		c = r.raw()
		r.do(func() { c.peer.OnReady = func(state string, err error) { got <- err } })
		c.send(appendFrame(nil, msgReady, 0, []byte("0.9\x00x")))
		if err := <-got; err == nil || !strings.Contains(err.Error(), `"0.9"`) || isViolation(err) {
			t.Error(err)
		}
		c.alive()
		unix.Close(c.fd)
		<-c.failed
	})
}

// TestStats: counters that only grow are added up.
func TestStats(t *testing.T) {
	s := Stats{1, 2, 3, 4, 5}
	s.AddTotals(Stats{10, 20, 30, 40, 50})
	if want := (Stats{11, 2, 33, 4, 55}); s != want {
		t.Errorf("%v, want %v", s, want)
	}
}

// FuzzMonitorFrames: bytes from a core break nothing but the core.
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
	log := discard
	sup, err := process.NewSupervisor(loop, log, process.Options{Max: 2, Timeout: time.Second, KillAfter: time.Second})
	if err != nil {
		f.Fatal(err)
	}
	// A command that cannot be started, so that only messages are tried.
	cmd := &process.Command{Path: "/nonexistent/command", Args: []string{"x"}, Dir: "/"}
	o := PeerOptions{Max: 2, MaxSpools: 3, SpoolDir: tempDir(f), Log: log, Filter: NewFilter(FilterOptions{}), Command: func(s string) (*process.Command, error) {
		if s == "gone" {
			return nil, unix.ENOENT
		} else if s != "" {
			return nil, errors.New("unknown")
		}
		return cmd, nil
	}}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		if len(b) > 50<<10 {
			return // the sockets' buffers hold it all and the answers, and so nothing waits
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
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
						t.Fatalf("%v is no breach", err)
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

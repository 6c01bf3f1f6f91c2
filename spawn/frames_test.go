//go:build linux || freebsd

package spawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCheckVars(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", MaxVar)
	for _, tt := range []struct {
		name, in string
		ok       bool
	}{
		{"none", "", true},
		{"one", "QUERY_STRING=a=b\x00", true},
		{"empty value", "HTTP_A=\x00", true},
		{"all", "CONTENT_LENGTH=1\x00CONTENT_TYPE=a\x00GATEWAY_INTERFACE=b\x00PATH_INFO=c\x00REMOTE_ADDR=d\x00HTTPS=on\x00REQUEST_URI=/\x00HTTP_X_9=e\x00", true},
		{"PATH", "PATH=/evil\x00", false},
		{"LD_PRELOAD", "LD_PRELOAD=/evil.so\x00", false},
		{"LD_LIBRARY_PATH", "LD_LIBRARY_PATH=/evil\x00", false},
		{"IFS", "IFS=x\x00", false},
		{"ENV", "ENV=/evil\x00", false},
		{"BASH_ENV", "BASH_ENV=/evil\x00", false},
		{"BASH_FUNC", "BASH_FUNC_x%%=() { evil; }\x00", false},
		{"HTTP_ and BASH_FUNC", "HTTP_BASH_FUNC_x%%=() { evil; }\x00", false},
		{"HTTP_PROXY", "HTTP_PROXY=evil\x00", false},
		{"http_proxy", "http_proxy=evil\x00", false},
		{"HTTPS_PROXY", "HTTPS_PROXY=evil\x00", false},
		{"AUTH_TYPE: nobody is authenticated here", "AUTH_TYPE=Basic\x00", false},
		{"REMOTE_USER", "REMOTE_USER=root\x00", false},
		{"lower case", "query_string=x\x00", false},
		{"HTTP_ in lower case", "HTTP_a=x\x00", false},
		{"HTTP_ alone", "HTTP_=x\x00", false},
		{"HTTP- ", "HTTP-A=x\x00", false},
		{"HTTP_ with a dot", "HTTP_A.B=x\x00", false},
		{"HTTP_ with a space", "HTTP_A B=x\x00", false},
		{"HTTP_ with a newline", "HTTP_A\nPATH=x\x00", false},
		{"HTTP_ beyond ASCII", "HTTP_\xc3\x89=x\x00", false},
		{"prefix of a name", "QUERY=x\x00", false},
		{"a name and more", "QUERY_STRING2=x\x00", false},
		{"space before name", " QUERY_STRING=x\x00", false},
		{"no name", "=x\x00", false},
		{"no =", "QUERY_STRING\x00", false},
		{"empty", "\x00", false},
		{"no NUL at the end", "QUERY_STRING=x", false},
		{"the second without end", "HTTP_A=\x00HTTP_B=", false},
		{"the second is bad", "HTTP_A=\x00PATH=x\x00", false},
		{"largest", "HTTP_A=" + big[:MaxVar-8] + "\x00", true},
		{"too large", "HTTP_A=" + big[:MaxVar-7] + "\x00", false},
		{"largest in all", strings.Repeat("HTTP_A="+big[:MaxVar-8]+"\x00", MaxVars/MaxVar), true},
		{"too large in all", strings.Repeat("HTTP_A="+big[:MaxVar-8]+"\x00", MaxVars/MaxVar) + "HTTP_B=\x00", false},
	} {
		env, err := checkVars([]string{"PATH=/bin"}, []byte(tt.in))
		if (err == nil) != tt.ok || err != nil && !isBreach(err) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.ok && (env[0] != "PATH=/bin" || len(env) != 1+strings.Count(tt.in, "\x00")) {
			t.Errorf("%s: %.100q", tt.name, env)
		}
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("%s: the error is %d bytes long", tt.name, len(err.Error()))
		}
	}
	for name, want := range map[string]bool{"HTTP_PROXY": true, "HTTP_": true, "HTTP_X": true, "QUERY_STRING": true, "PATH": false, "HTTPX": false, "": false, "AUTH_TYPE": false} {
		if IsRequestVariable(name) != want {
			t.Errorf("%q comes from requests: %t", name, !want)
		}
	}
}

// raw is a core that sends what it likes.
type raw struct {
	*rig
	fd int
}

func newRaw(r *rig) *raw {
	p, broken, fd := r.newPeer()
	r.peer, r.broken = p, broken
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(bound / time.Second)})
	return &raw{r, fd}
}

func (r *raw) send(b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(r.fd, b)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// end waits for the monitor to give this core up, and says why.
func (r *raw) end() error {
	r.t.Helper()
	select {
	case err := <-r.broken:
		unix.Close(r.fd)
		return err
	case <-time.After(bound):
		r.t.Fatal("the core is still believed")
		return nil
	}
}

func startFrame(id uint64, vars string) []byte {
	return appendFrame(nil, msgStart, id, append([]byte{0}, vars...)...)
}

// TestBreach: whatever an honest core never sends ends the core, and nothing
// but the core; an honest one beside it is served on.
func TestBreach(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, "sleep 60", 2, never).run()
		honest := r.start(false)
		started(t, honest)
		before := descriptors(t)
		length := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
		frame := func(k kind, id uint64, payload ...byte) []byte { return appendFrame(nil, k, id, payload...) }
		join := func(f ...[]byte) (all []byte) {
			for _, b := range f {
				all = append(all, b...)
			}
			return all
		}
		tests := []struct {
			name string
			in   []byte
		}{
			{"no kind", frame(0, 1)},
			{"unknown kind", frame(200, 1)},
			{"a frame of the monitor's", frame(msgStarted, 1)},
			{"configuration", frame(msgConfig, 0, '1', 0)},
			{"exited", frame(msgExited, 1, 0, 0, 0, 0)},
			{"length 0", length(0)},
			{"length too small", length(headerSize - 5)},
			{"length too large", length(maxToMon - 3)},
			{"length of 4 GiB", length(1<<32 - 1)},
			{"text", []byte("GET / HTTP/1.1\r\n\r\n")},
			{"start without flags", frame(msgStart, 1)},
			{"start with unknown flags", frame(msgStart, 1, 128)},
			{"start with number 0", startFrame(0, "")},
			{"start twice", join(startFrame(1, ""), startFrame(1, ""))},
			{"numbers going down", join(startFrame(5, ""), startFrame(4, ""))},
			{"number of a file used again", join(frame(msgSpool, 5), startFrame(5, ""))},
			{"after the last number", join(startFrame(1<<64-1, ""), startFrame(1, ""))},
			{"PATH", startFrame(1, "PATH=/evil\x00")},
			{"LD_PRELOAD behind good ones", startFrame(1, "HTTP_A=b\x00LD_PRELOAD=/evil\x00")},
			{"variables without end", startFrame(1, "HTTP_A=b")},
			{"too large a variable", startFrame(1, "HTTP_A="+strings.Repeat("x", MaxVar)+"\x00")},
			{"too many at once", join(startFrame(1, ""), startFrame(2, ""), startFrame(3, ""))},
			{"end of nothing", frame(msgEnd, 0)},
			{"end of what never began", frame(msgEnd, 9)},
			{"end with payload", join(startFrame(1, ""), frame(msgEnd, 1, 9))},
			{"file with payload", frame(msgSpool, 1, 9)},
			{"file with number 0", frame(msgSpool, 0)},
			{"ready without NUL", frame(msgReady, 0, '1')},
			{"ready too long", frame(msgReady, 0, make([]byte, 257)...)},
			{"counters too short", frame(msgStats, 0, make([]byte, 8*statsFields-1)...)},
			{"counters too long", frame(msgStats, 0, make([]byte, 8*statsFields+1)...)},
		}
		for _, tt := range tests {
			for _, how := range []string{"at once", "byte by byte"} {
				if how == "byte by byte" && len(tt.in) > 200 {
					continue
				}
				c := newRaw(r)
				if how == "at once" {
					c.send(tt.in)
				} else {
					for i := range tt.in {
						c.send(tt.in[i : i+1])
					}
				}
				if err := c.end(); !isBreach(err) {
					t.Errorf("%s, %s: %v", tt.name, how, err)
				}
			}
		}
		// What they had started is ended, and nothing else.
		r.until("only the honest core's command to run", func() bool { return r.sup.Running() == 1 })
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		select {
		case e := <-honest.Events:
			t.Errorf("the honest core's command: %+v", e)
		default:
		}
		r.client.End(honest)
		exited(t, honest)
		honest.closed()
	})
}

// TestTruncated: a core that dies in the middle of a frame has broken nothing.
func TestTruncated(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, "exec sleep 60", 4, never)
		whole := startFrame(1, "HTTP_A=b\x00")
		for n := range len(whole) + 1 {
			c := newRaw(r)
			c.send(whole[:n])
			unix.Shutdown(c.fd, unix.SHUT_WR)
			if err := c.end(); err != io.EOF {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
		r.until("nothing to run", r.sup.Idle)
	})
}

// TestDescriptorsFromCore: the monitor reads with read(2), so that the kernel
// frees whatever descriptors a core attaches.
func TestDescriptorsFromCore(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, ":", 4, never)
		c := newRaw(r)
		before := descriptors(t)
		fds := make([]int, 100)
		for i := range fds {
			fds[i] = 2
		}
		rights := unix.UnixRights(fds...)
		for i := range 10 { // 1,000 in all, on whole frames and on parts of them
			f := appendFrame(nil, msgEnd, 1)
			if i == 0 {
				f = startFrame(1, "")
			}
			if err := unix.Sendmsg(c.fd, f[:3], rights, nil, 0); err != nil {
				t.Fatal(err)
			}
			if err := unix.Sendmsg(c.fd, f[3:], rights, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		r.until("the command to end", func() bool { return c.peer.lastID == 1 && r.sup.Idle() })
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		c.send([]byte{0, 0, 0, 0})
		if err := c.end(); !isBreach(err) {
			t.Error(err)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d at the end", before, after)
		}
	})
}

// TestDeafCore: one that never reads is given up when it leaves too much
// unread, or after deafTime; meanwhile others are served as ever, and nothing
// of it stays.
func TestDeafCore(t *testing.T) {
	for name, after := range map[string]time.Duration{"too much": never, "too long": 10 * time.Millisecond} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				r := newRig(t, ":", 64, never).run()
				r.do(func() { r.sup.deafTime = after })
				r.output(false)
				before := descriptors(t)
				c := newRaw(r)
				unix.SetsockoptInt(c.peer.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4*partBytes) // soon full
				// Commands and files, each answered with descriptors.
				id := uint64(0)
				ask := func() (err error) {
					var b []byte
					for range 200 {
						if id++; id%64 == 0 && id < 10*64 {
							b = append(b, startFrame(id, "")...)
						} else {
							b = appendFrame(b, msgSpool, id)
						}
					}
					return c.send(b)
				}
				eventually(t, "the socket to be full", func() (deaf bool) {
					ask() // after the end of a deaf core this fails
					r.do(func() { deaf = c.peer.deaf != nil || c.peer.closed })
					return deaf
				})
				if os.Getuid() == 0 {
					// The other core. Linux lets a user have so many descriptors
					// under way, and only root more.
					r.output(false)
				}
				if after == never {
					select {
					case err := <-c.broken:
						t.Errorf("given up too early: %v", err)
					default:
					}
					for n := 0; n < 2*maxUnsent && ask() == nil; n += 200 * headerSize {
					}
				}
				if err := c.end(); err != ErrDeaf {
					t.Error(err)
				}
				r.output(false)
				r.until("nothing to run", r.sup.Idle)
				if after := descriptors(t); after > before {
					t.Errorf("%d descriptors, then %d", before, after)
				}
			})
		})
	}
}

// TestSilentCore: one that reads nothing and asks for nothing is left alone.
func TestSilentCore(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, ":", 4, never)
		c := newRaw(r)
		c.send([]byte{0, 0})
		r.until("half a frame to be read", func() bool { return c.peer.w == 2 })
		r.do(func() {
			if c.peer.deaf != nil || len(r.loop.timers) != 0 || c.peer.closed {
				t.Error("something is to happen to it")
			}
		})
		r.do(c.peer.Close)
		r.do(c.peer.Close) // twice is no harm
		unix.Close(c.fd)
	})
}

// TestPending: two cores, as during a reload, each within the limit, are
// together within it too; what waits is started, or can be called off.
func TestPending(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, "exec sleep 60", 2, never).run()
		_, broken, fd := r.newPeer()
		unix.SetNonblock(fd, true)
		second, err := NewClient(os.NewFile(uintptr(fd), "control"))
		if err != nil {
			t.Fatal(err)
		}
		go second.Run()
		a, b := r.start(false), r.start(false)
		started(t, a)
		started(t, b)
		var v Vars
		v.Reset()
		v.Add("QUERY_STRING", "kept")
		x, y := second.New(false), second.New(true)
		second.Start(x, &v)
		second.Start(y, &v)
		r.until("two to wait", func() bool { return len(r.sup.pending) == 2 })
		second.End(y) // called off before it began
		if err := failed(t, y); err != syscall.ECANCELED {
			t.Error(err)
		}
		r.do(func() {
			if r.sup.Running() != 2 || len(r.sup.pending) != 1 {
				t.Errorf("past the limit: %d running, %d waiting", r.sup.Running(), len(r.sup.pending))
			}
		})
		r.client.End(a)
		exited(t, a)
		started(t, x)
		r.do(func() {
			if r.sup.Running() != 2 {
				t.Errorf("%d running", r.sup.Running())
			}
		})
		// A core that goes takes its waiting starts along.
		z := second.New(false)
		second.Start(z, &v)
		r.until("one to wait", func() bool { return len(r.sup.pending) == 1 })
		second.conn.Close()
		if err := <-broken; err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if err := failed(t, z); err != syscall.EPIPE {
			t.Error(err)
		}
		r.until("the other core's command alone", func() bool { return len(r.sup.pending) == 0 && r.sup.Running() == 1 })
		r.client.End(b)
		exited(t, b)
		for _, p := range []*Process{a, b, x, y, z} {
			p.closed()
		}
	})
}

// TestDrain: what a dead core said before is heard, whichever event the loop
// sees first.
func TestDrain(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, ":", 4, never)
		var served uint64
		r.do(func() {
			r.peer.OnStats = func(s Stats) { served += s.Served }
			r.client.LastStats()
			r.client.conn.Close()
			r.peer.Drain()
			if !r.peer.closed {
				t.Error("the end has not been seen")
			}
		})
		if served != 7 {
			t.Errorf("served %d, want 7", served)
		}
		if err := <-r.broken; err != io.EOF {
			t.Errorf("broken by %v, want %v", err, io.EOF)
		}
	})
}

// TestVersion: a core of another version is told from one that misbehaves.
func TestVersion(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, ":", 4, never)
		got := make(chan string, 4)
		r.do(func() {
			r.peer.OnReady = func(sandbox string, err error) { got <- fmt.Sprintf("%s %v", sandbox, err != nil) }
			r.peer.OnStats = func(s Stats) { got <- fmt.Sprint(s.Served) }
			r.peer.OnClosed = func() { got <- "closed" }
			r.peer.Configure([]byte("config\x00and more"))
			r.peer.WantStats()
			r.peer.Retire()
			r.peer.Stop()
		})
		b, err := r.client.Config()
		if err != nil || string(b) != "config\x00and more" {
			t.Errorf("%q, %v", b, err)
		}
		r.client.Ready("a sandbox")
		r.run()
		r.client.Closed()
		all := map[string]bool{}
		for range 3 {
			all[<-got] = true
		}
		if !all["a sandbox false"] || !all["7"] || !all["closed"] {
			t.Error(all)
		}
		c := newRaw(r)
		r.do(func() { c.peer.OnReady = func(sandbox string, err error) { got <- fmt.Sprint(err) } })
		c.send(appendFrame(nil, msgReady, 0, []byte("0.9\x00x")...))
		if s := <-got; !strings.Contains(s, `"0.9"`) {
			t.Error(s)
		}
		unix.Close(c.fd)
		<-c.broken
	})
}

// TestMonitorGone: whatever is under way fails.
func TestMonitorGone(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, "exec sleep 60", 4, never)
		ended := make(chan error, 1)
		go func() { ended <- r.client.Run() }()
		var v Vars
		v.Reset()
		p := r.client.New(false)
		exits := 0
		p.OnExit = func(Event) { exits++ }
		if err := r.client.Start(p, &v); err != nil {
			t.Fatal(err)
		}
		started(t, p)
		r.do(r.peer.Close)
		if err := failed(t, p); err != syscall.EPIPE {
			t.Error(err)
		}
		if err := <-ended; err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
		if exits != 1 {
			t.Errorf("OnExit was called %d times", exits)
		}
		p.closed()
		v.Reset()
		if err := r.client.Start(r.client.New(false), &v); err == nil {
			t.Error("a start without a monitor")
		}
		if _, err := r.client.Spool(); err == nil {
			t.Error("a file without a monitor")
		}
	})
}

// FuzzMonitorFrames: bytes from a core break nothing but the core.
func FuzzMonitorFrames(f *testing.F) {
	f.Add(startFrame(1, "HTTP_A=b\x00"), 3)
	f.Add(append(startFrame(1, ""), appendFrame(nil, msgEnd, 1)...), 100)
	f.Add(append(appendFrame(nil, msgSpool, 1), startFrame(2, "PATH=x\x00")...), 1)
	f.Add(appendFrame(nil, msgReady, 0, []byte("1\x00none")...), 5)
	f.Add(append(appendFrame(nil, msgStats, 0, make([]byte, 8*statsFields)...), appendFrame(nil, msgClosed, 0)...), 9)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, 1)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), 2)
	loop, err := NewLoop()
	if err != nil {
		f.Fatal(err)
	}
	// A command that cannot be started, so that only messages are tried.
	sup, err := NewSupervisor(loop, discard, Command{Path: "/nonexistent/command", Args: []string{"x"}, Dir: "/", SpoolDir: "/nonexistent"}, 2, time.Second, func(int) bool { return true })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		if len(b) > 100<<10 {
			return // the socket's buffer holds it all, and so nothing waits
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		p, err := sup.NewPeer(pair[0])
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
					if !isBreach(err) {
						t.Fatalf("%v is no breach", err)
					}
					return
				}
			}
			if p.starts != 0 || sup.running != 0 || len(p.groups) != 0 || len(sup.pending) != 0 || len(p.in) > maxToMon {
				t.Fatalf("%d starts, %d running, buffer of %d", p.starts, sup.running, len(p.in))
			}
		}
	})
}

// FuzzCoreFrames: bytes from a monitor, even from one of another version, are
// refused or understood, and never a panic.
func FuzzCoreFrames(f *testing.F) {
	f.Add(appendFrame(nil, msgConfig, 0, []byte("1\x00{}")...))
	f.Add(appendFrame(nil, msgStarted, 1))
	f.Add(append(appendFrame(nil, msgFailed, 1, 0, 0, 0, 2), appendFrame(nil, msgExited, 2, 0, 0, 1, 0)...))
	f.Add(append(appendFrame(nil, msgNoSpool, 3, 0, 0, 0, 2), appendFrame(nil, msgSpooled, 3)...))
	f.Add(append(appendFrame(nil, msgRetire, 0), appendFrame(nil, msgWantStats, 0)...))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 100<<10 {
			return
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.SetNonblock(pair[1], true)
		c, err := NewClient(os.NewFile(uintptr(pair[1]), "control"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.conn.Close()
		c.OnRetire, c.OnStop, c.OnWantStats = func() {}, func() {}, func() Stats { return Stats{} }
		var v Vars
		v.Reset()
		started, failed := c.New(true), c.New(false)
		if c.Start(started, &v) != nil || c.Start(failed, &v) != nil {
			t.Fatal("no start")
		}
		spool := make(chan spooled, 1)
		c.spools[3] = spool
		unix.Write(pair[0], b)
		unix.Shutdown(pair[0], unix.SHUT_WR)
		defer unix.Close(pair[0])
		if err := c.Run(); err == nil {
			t.Fatal("no end")
		}
		// Whoever waits is told, once.
		for _, p := range []*Process{started, failed} {
			ends := 0
			for len(p.Events) > 0 {
				if e := <-p.Events; e.Kind != EventStarted {
					ends++
				}
			}
			if ends != 1 {
				t.Fatalf("told of %d ends", ends)
			}
		}
		if len(spool) != 1 {
			t.Fatal("who waits for a file is not told")
		}
	})
}

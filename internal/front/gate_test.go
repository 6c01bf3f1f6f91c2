package front

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/cgi"
)

// A retired core answers what it has once more, and loses nothing.
func TestRetire(t *testing.T) {
	in, goOn := make(chan bool), make(chan bool)
	f := start(t, config(), "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		if r.Target == "/slow" {
			in <- true
			<-goOn
		}
		hello(ctx, r, w)
	})
	kept, slow := f.dial(), f.dial()
	kept.send(get("/")).answer("GET")
	slow.send(get("/slow"))
	<-in
	f.gate.Retire()
	f.gate.WaitListeners()
	if n := f.gate.Conns(); n != 2 {
		t.Errorf("%d connections", n)
	}
	goOn <- true
	for _, c := range []*client{slow, kept.send(get("/"))} {
		if resp, body := c.answer("GET"); body != "hello" || !resp.Close {
			t.Errorf("%q, close %v", body, resp.Close)
		}
		if rest := c.ended(); rest != "" {
			t.Errorf("%q", rest)
		}
	}
	f.gate.WaitIdle()
}

// A stop answers whoever has connected, and ends who says nothing.
func TestStop(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			cfg := config()
			in, goOn := make(chan bool), make(chan bool)
			f := start(t, cfg, network, func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
				if r.Target == "/slow" {
					in <- true
					<-goOn
				}
				hello(ctx, r, w)
			})
			kept, slow := f.dial(), f.dial()
			kept.send(get("/")).answer("GET")
			slow.send(get("/slow"))
			<-in
			var waiting []*client
			for range 5 {
				waiting = append(waiting, f.dial().send(get("/")))
			}
			f.gate.Stop()
			f.gate.WaitListeners()
			kept.ended()
			goOn <- true
			for _, c := range append(waiting, slow) {
				if _, body := c.answer("GET"); body != "hello" {
					t.Errorf("%q", body)
				}
				c.ended()
			}
			f.gate.WaitIdle()
		})
	}
}

// A request that has come when the stop does is answered, though its connection
// was idle a moment before.
func TestStopFindsRequest(t *testing.T) {
	f := start(t, config(), "unix", hello)
	c := f.dial()
	c.send(get("/")).answer("GET")
	// The server's read is interrupted with the request in the socket: both come
	// before it runs again, since it is asked for the lock that it wants.
	f.gate.mu.Lock()
	f.gate.phase.Store(stopping)
	close(f.gate.over)
	f.gate.listeners = nil
	for x := range f.gate.conns {
		x.SetReadDeadline(longAgo)
	}
	f.gate.mu.Unlock()
	// Whether it was in time or not, nothing is half: an answer or a close.
	io.WriteString(c, get("/"))
	if rest := c.ended(); rest != "" && !strings.HasPrefix(rest, "HTTP/1.1 200") {
		t.Errorf("%q", rest)
	}
}

// No more than -max-conns connections are in; others wait and are lost on nobody.
func TestMaxConns(t *testing.T) {
	cfg := config()
	cfg.MaxConns = 2
	in, goOn := make(chan bool, 10), make(chan bool)
	f := start(t, cfg, "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		in <- true
		<-goOn
		hello(ctx, r, w)
	})
	var all []*client
	for range 4 {
		all = append(all, f.dial().send(get("/", "Connection: close")))
	}
	<-in
	<-in
	if n := f.gate.Conns(); n != 2 {
		t.Errorf("%d connections", n)
	}
	if len(in) != 0 {
		t.Error("a third request is served")
	}
	for range all {
		goOn <- true
	}
	for _, c := range all {
		if _, body := c.answer("GET"); body != "hello" {
			t.Errorf("%q", body)
		}
	}
}

func TestAllow(t *testing.T) {
	cfg := config()
	cfg.Allow.Set = true
	f := start(t, cfg, "unix", hello)
	for range 5 {
		if rest := f.dial().ended(); rest != "" {
			t.Errorf("%q", rest)
		}
	}
	if n := strings.Count(f.log.String(), "peer refused"); n != 1 {
		t.Errorf("%d records\n%s", n, f.log)
	}
	cfg = config()
	cfg.Allow.Set, cfg.Allow.UIDs = true, []int{os.Geteuid()}
	f = start(t, cfg, "unix", hello)
	f.dial().send(get("/")).answer("GET")
	if r := <-f.done; r.Peer.UID != os.Geteuid() || r.Peer.Addr != "<unix>" {
		t.Errorf("%+v", r.Peer)
	}
	tcp := start(t, cfg, "tcp", hello)
	tcp.dial().send(get("/")).answer("GET")
	if r := <-tcp.done; r.Peer.Addr != "127.0.0.1" || r.Peer.Port == "" || r.Peer.UID != -1 {
		t.Errorf("%+v", r.Peer)
	}
}

// A listener that is closed by itself is not waited for.
func TestListenerClosed(t *testing.T) {
	f := start(t, config(), "unix", hello)
	f.gate.Stop()
	f.gate.WaitIdle()
	if _, err := net.Dial("unix", f.addr.String()); err == nil {
		t.Error("still listening")
	}
}

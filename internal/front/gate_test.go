package front

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
)

// After Retire each connection gets one more answer, and no request is lost.
func TestRetire(t *testing.T) {
	in, goOn := make(chan bool), make(chan bool)
	f := start(t, config(), "unix", slow(in, goOn))
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

// Stop answers all clients that have connected, and closes idle connections.
func TestStop(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			cfg := config()
			in, goOn := make(chan bool), make(chan bool)
			f := start(t, cfg, network, slow(in, goOn))
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

// A request that was sent before Stop on an idle connection is answered.
func TestStopFindsRequest(t *testing.T) {
	for name, cfg := range map[string]*cli.Config{"HTTP": config(), "FastCGI": fcgiConfig()} {
		t.Run(name, func(t *testing.T) {
			f := start(t, cfg, "unix", hello)
			c, request := f.dial(), get("/")
			answer := func() string { _, body := c.answer("GET"); return body }
			if cfg.Protocol == cli.FastCGI {
				request = string(ask(1, true, "", "REQUEST_METHOD", "GET"))
				answer = func() string {
					return strings.TrimPrefix(c.mustEnd(1).stdout, strings.TrimSuffix(helloAnswer, "hello"))
				}
			}
			c.send(request)
			answer()
			// The stop interrupts the read before the request is sent; the
			// server must look again.
			f.each(func(x *conn) {
				f.gate.phase.Store(stopping)
				x.Conn.SetReadDeadline(longAgo)
				c.send(request)
			})
			if body := answer(); body != "hello" {
				t.Errorf("%q", body)
			}
			c.ended()
			f.gate.phase.Store(serving) // for the cleanup
		})
	}
}

// Stop does not wait long for a silent client.
func TestStopSilent(t *testing.T) {
	for name, cfg := range map[string]*cli.Config{"HTTP": config(), "FastCGI": fcgiConfig()} {
		t.Run(name, func(t *testing.T) {
			cfg.Times.Grace = time.Millisecond
			f := start(t, cfg, "unix", hello)
			silent := f.dial()
			half := f.dial().send("\x01") // it could be the first byte of either
			f.awaitPartial(1)
			f.gate.Stop()
			f.within("WaitIdle waits for a silent client", f.gate.WaitIdle)
			half.ended() // net/http answers 400
			if rest := silent.ended(); rest != "" {
				t.Errorf("%q", rest)
			}
		})
	}
}

// At a stop, new connections and partial requests get time to be completed.
func TestStopHalf(t *testing.T) {
	in, goOn := make(chan bool), make(chan bool)
	f := start(t, config(), "unix", slow(in, goOn))
	request := get("/")
	silent, half, kept, one, ahead := f.dial(), f.dial(), f.dial(), f.dial(), f.dial()
	kept.send(request).answer("GET")
	one.send(request).answer("GET")
	ahead.send(get("/slow"))
	<-in
	half.send(request[:20])
	kept.send(request[:20])
	one.send(request[:1])
	ahead.send(request[:1])
	f.awaitPartial(4)
	f.gate.Stop()
	f.gate.WaitListeners()
	for _, c := range []*client{silent, half, kept, one} {
		sent := map[*client]int{silent: 0, half: 20, kept: 20, one: 1}[c]
		if _, body := c.send(request[sent:]).answer("GET"); body != "hello" {
			t.Errorf("after %d bytes: %q", sent, body)
		}
		c.ended()
	}
	goOn <- true // the next request comes after the last answer
	ahead.answer("GET")
	ahead.ended()
}

// The same for FastCGI.
func TestStopHalfFastCGI(t *testing.T) {
	f := start(t, fcgiConfig(), "unix", hello)
	request := string(ask(1, true, "", "REQUEST_METHOD", "GET"))
	half := make(map[int]*client)
	for _, sent := range []int{1, fcgiHeader, 2 * fcgiHeader, 2*fcgiHeader + 2} {
		half[sent] = f.dial()
		half[sent].send(request).mustEnd(1)
		half[sent].send(request[:sent])
	}
	f.awaitPartial(len(half))
	f.gate.Stop()
	f.gate.WaitListeners()
	for sent, c := range half {
		if a := c.send(request[sent:]).mustEnd(1); a.stdout != helloAnswer {
			t.Errorf("after %d bytes: %+v", sent, a)
		}
		c.ended()
	}
}

// Stop does not wait long for room for another connection.
func TestStopWithoutRoom(t *testing.T) {
	cfg := config()
	cfg.MaxConns, cfg.Times.Grace = 1, time.Millisecond
	in, goOn := make(chan bool), make(chan bool)
	f := start(t, cfg, "unix", func(ctx context.Context, r *cgi.Request, w cgi.Writer) {
		in <- true
		<-goOn
		hello(ctx, r, w)
	})
	c := f.dial().send(get("/"))
	<-in
	f.gate.Stop()
	f.within("WaitListeners waits for room", f.gate.WaitListeners)
	goOn <- true
	if _, body := c.answer("GET"); body != "hello" {
		t.Errorf("%q", body)
	}
	f.gate.WaitIdle()
}

// At most -max-conns connections are accepted; the others wait.
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

// WaitIdle does not wait for a listener that has been closed.
func TestListenerClosed(t *testing.T) {
	f := start(t, config(), "unix", hello)
	f.gate.Stop()
	f.gate.WaitIdle()
	if _, err := net.Dial("unix", f.addr.String()); err == nil {
		t.Error("still listening")
	}
}

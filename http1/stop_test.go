//go:build stress

package http1

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// TestRetire: when a successor has taken over, nobody is cut: each connection
// gets one more answer, and that one says close.
func TestRetire(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		inside, goOn := make(chan struct{}), make(chan struct{})
		s := newServer(t, network, func(x *Exchange) {
			if string(x.Path) == "/wait" {
				close(inside)
				<-goOn
			}
			echo(x)
		}, nil)
		idle, busy, half, fresh := s.dial(), s.dial(), s.dial(), s.dial()
		idle.send(get)
		idle.answer("GET")
		half.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na")
		busy.send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
		<-inside
		for s.Conns() < 4 {
			time.Sleep(time.Millisecond)
		}
		s.Retire()
		<-s.served
		s.WaitListeners()
		if c, err := net.Dial(network, s.addr); err == nil {
			c.Close()
			t.Error("still accepting")
		}
		close(goOn)
		half.send("bc")
		fresh.send(get)
		for _, c := range []*client{busy, half, fresh} {
			if r, _ := c.answer("GET"); r.StatusCode != 200 || !r.Close {
				t.Error(r)
			}
			c.ended()
		}
		// The others linger for a moment, for clients that send more.
		for wait := time.Now().Add(5 * time.Second); s.Conns() != 1; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(wait) {
				t.Fatalf("%d connections, the idle one should be left", s.Conns())
			}
		}
		idle.send(get)
		if r, _ := idle.answer("GET"); r.StatusCode != 200 || !r.Close {
			t.Error(r)
		}
		idle.ended()
		s.WaitIdle()
	})
}

// TestStop: idle connections end at once, whoever has been let in is served.
func TestStop(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		inside, goOn := make(chan struct{}), make(chan struct{})
		s := newServer(t, network, func(x *Exchange) {
			if string(x.Path) == "/wait" {
				close(inside)
				<-goOn
			}
			echo(x)
		}, func(s *Server) { s.MaxConns = 4 })
		idle, busy, half, headless := s.dial(), s.dial(), s.dial(), s.dial()
		idle.send(get)
		idle.answer("GET")
		half.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na")
		headless.send("GET / HTTP/1.1\r\nHost: h")
		busy.send("GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
		<-inside
		for s.Conns() < 4 {
			time.Sleep(time.Millisecond)
		}
		// MaxConns is reached: these two wait in the backlog.
		waiting, silent := s.dial(), s.dial()
		waiting.send(get)
		time.Sleep(10 * time.Millisecond)
		if s.Conns() != 4 {
			t.Fatalf("%d connections", s.Conns())
		}
		began := time.Now()
		s.Stop()
		idle.ended()
		if d := time.Since(began); d > time.Second {
			t.Errorf("idle connection ended after %v", d)
		}
		if r, _ := waiting.answer("GET"); r.StatusCode != 200 || !r.Close {
			t.Error(r)
		}
		silent.ended()
		headless.send("\r\n\r\n")
		half.send("bc")
		close(goOn)
		for _, c := range []*client{busy, half, headless} {
			if r, _ := c.answer("GET"); r.StatusCode != 200 || !r.Close {
				t.Error(r)
			}
			c.ended()
		}
		s.WaitIdle()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("took %v", d)
		}
		if _, err := net.Dial(network, s.addr); err == nil {
			t.Error("still accepting")
		}
	})
}

// TestStopRace stops servers while clients send whole requests on idle
// connections: each either gets its answer or sees the connection end before
// a single byte, which makes it safe to send again.
func TestStopRace(t *testing.T) {
	t.Parallel()
	for range 30 {
		s := newServer(t, "unix", echo, nil)
		var wg sync.WaitGroup
		var ready sync.WaitGroup
		for range 8 {
			c := s.dial()
			wg.Add(1)
			ready.Add(1)
			go func() {
				defer wg.Done()
				for i := 0; ; i++ {
					if _, err := io.WriteString(c.Conn, get); err != nil {
						return
					}
					r, err := http.ReadResponse(c.in, nil)
					if err == io.ErrUnexpectedEOF && i == 0 {
						t.Error("first request of a connection lost")
					}
					if i == 0 {
						ready.Done()
					}
					if err != nil {
						return
					}
					if b, err := io.ReadAll(r.Body); err != nil || string(b) != "GET / " {
						t.Errorf("%q, %v", b, err)
					}
					if r.Close {
						return
					}
				}
			}()
		}
		ready.Wait()
		s.Stop()
		wg.Wait()
		s.WaitIdle()
	}
}

// TestStopBeforeServe: a listener that comes too late is closed.
func TestStopBeforeServe(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Handler: echo}
	s.Stop()
	s.Serve(&Listener{Listener: ln})
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	s.WaitIdle()
}

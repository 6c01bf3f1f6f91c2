//go:build stress

package http1

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestHeaderTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, echo, func(s *Server) { s.HeaderTimeout = 100 * time.Millisecond })
		began := time.Now()
		silent, slow := s.dial(), s.dial()
		slow.send("GET / HTTP/1.1\r\nHo")
		stop := make(chan struct{})
		go func() { // a byte now and then buys no time
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond):
					io.WriteString(slow.Conn, "x")
				}
			}
		}()
		r, _ := slow.answer("GET")
		close(stop)
		if r.StatusCode != 408 || !r.Close {
			t.Error(r)
		}
		silent.ended() // nothing asked, nothing answered
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("took %v", d)
		}
		slow.Close()
		for s.Conns() > 0 {
			time.Sleep(time.Millisecond)
		}
		if got := s.records(); got != "  408" {
			t.Errorf("%q", got)
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, echo, func(s *Server) { s.IdleTimeout = 100 * time.Millisecond })
		c := s.dial()
		c.send(get)
		if r, _ := c.answer("GET"); r.Close {
			t.Error("closed without need")
		}
		began := time.Now()
		c.ended()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestBodyTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		for _, body := range []string{"Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n9\r\nabc"} {
			got := make(chan error, 1)
			s := newServer(t, network, func(x *Exchange) {
				b, err := io.ReadAll(x)
				if string(b) != "abc" || x.BodyRead() {
					t.Errorf("%q", b)
				}
				got <- err
				x.Error(408, "")
			}, func(s *Server) { s.BodyTimeout = 100 * time.Millisecond })
			c := s.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\n" + body)
			if r, _ := c.answer("POST"); r.StatusCode != 408 || !r.Close {
				t.Error(r)
			}
			if err := <-got; err != os.ErrDeadlineExceeded {
				t.Error(err)
			}
			c.Close()
		}
	})
}

func TestBodyEndsEarly(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		got := make(chan error, 1)
		s := newServer(t, network, func(x *Exchange) {
			_, err := io.ReadAll(x)
			got <- err
			x.Cut()
		}, nil)
		for _, body := range []string{
			"Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n9\r\nabc",
			"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
		} {
			c := s.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\n" + body)
			c.Conn.(interface{ CloseWrite() error }).CloseWrite()
			if err := <-got; err != io.ErrUnexpectedEOF {
				t.Errorf("%q: %v", body, err)
			}
			c.Close()
		}
	})
}

func TestWriteTimeout(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		got := make(chan error, 1)
		s := newServer(t, network, func(x *Exchange) {
			x.Begin(200, -1)
			for b := new(Block); ; {
				if err := x.Send(b, 0, BlockSize, false); err != nil {
					got <- err
					break
				}
			}
			if !x.WasCut {
				t.Error("not cut")
			}
		}, func(s *Server) { s.WriteTimeout = 100 * time.Millisecond })
		c := s.dial()
		c.send(get) // and reads nothing
		select {
		case err := <-got:
			if !os.IsTimeout(err) {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the server writes for ever")
		}
		// A client that is slow but takes something now and then is served.
		s2 := newServer(t, network, func(x *Exchange) {
			x.Begin(200, -1)
			b := new(Block)
			for range 100 {
				if err := x.Send(b, 0, BlockSize, false); err != nil {
					got <- err
					return
				}
			}
			got <- x.Send(b, 0, 0, true)
		}, func(s *Server) { s.WriteTimeout = 1500 * time.Millisecond })
		c = s2.dial()
		c.send(get)
		buf := make([]byte, 1<<20)
		for range 4 {
			time.Sleep(700 * time.Millisecond)
			io.ReadFull(c.Conn, buf)
		}
		go io.Copy(io.Discard, c.Conn)
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}

// TestLinger shows that a client can read an answer while it is still sending
// what the server will never take.
func TestLinger(t *testing.T) {
	onBoth(t, func(t *testing.T, network string) {
		s := newServer(t, network, func(x *Exchange) { x.Error(413, "body too large") }, nil)
		for _, framing := range []string{"Content-Length: 2097152\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n200000\r\n"} {
			c := s.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\n" + framing)
			c.send(strings.Repeat("x", 2<<20)) // all of it, before the answer is read
			r, _ := c.answer("POST")
			if r.StatusCode != 413 || !r.Close {
				t.Error(r)
			}
			c.ended()
		}
		// The same for what the parser refuses.
		c := s.dial()
		c.send("GET /" + strings.Repeat("x", 2<<20))
		if r, _ := c.answer("GET"); r.StatusCode != 414 {
			t.Error(r)
		}
	})
}

package front

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
)

// conn is a connection that a gate has let in.
type conn struct {
	net.Conn
	listener *Listener
	peer     cgi.Peer
	raw      syscall.RawConn // of a Unix socket
	state    atomic.Int32
	head     head
	mu       sync.Mutex // of the read deadline
	once     sync.Once
}

// The states of a connection.
const (
	fresh  int32 = iota // no whole head has come yet
	active              // a request is being answered
	idle                // between two requests
)

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		g := c.listener.gate
		<-g.room
		g.mu.Lock()
		delete(g.conns, c)
		g.gone.Broadcast()
		g.mu.Unlock()
	})
	return err
}

// setState notes what a connection does.
func (c *conn) setState(s int32) {
	if s == idle {
		c.head = head{}
	}
	c.state.Store(s)
}

// maxLines is how many lines a head may have. Each takes some hundred bytes in
// net/http, even an empty field.
const maxLines = 1000

var errManyLines = errors.New("a head of too many lines")

// head counts the lines of a head while it is read.
type head struct {
	lines int
	bytes int  // while there is no line
	empty bool // nothing of the present line has come, but for a CR
	whole bool
}

// add takes in what has been read. It fails if there are too many lines.
func (h *head) add(p []byte) error {
	if h.lines == 0 {
		h.bytes += len(p)
	}
	for _, b := range p {
		switch {
		case h.whole:
			return nil
		case b == '\n' && h.empty:
			h.whole = true
		case b == '\n':
			h.empty = true
			if h.lines++; h.lines > maxLines {
				return errManyLines
			}
		case b != '\r':
			h.empty = false
		}
	}
	return nil
}

// SetReadDeadline is that of the connection. One that is idle at a stop has no
// time left.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load() == idle && c.listener.gate.phase.Load() == stopping {
		t = longAgo
	}
	return c.Conn.SetReadDeadline(t)
}

// wake has an idle connection end: its read looks once more whether a request
// has come, see Read.
func (c *conn) wake() {
	if c.state.Load() == idle {
		c.SetReadDeadline(longAgo)
	}
}

// Read reads from the client.
//
// While a request is answered, net/http reads a single byte ahead to notice that
// the client goes away, and takes an end of what it sends for its end. A client
// on a Unix socket that has only shut down its sending half still reads: its
// end is that of the connection.
//
// A stop interrupts the read of an idle connection. What has come by then is a
// request that is still answered.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.state.Load() != active && c.listener.gate.cfg.Protocol != cli.FastCGI {
		if herr := c.head.add(p[:n]); herr != nil {
			return 0, herr
		}
	}
	switch {
	case err == nil || n > 0:
	case err == io.EOF && c.raw != nil && len(p) == 1 && c.state.Load() == active:
		return 0, c.waitClosed()
	case c.state.Load() == idle && c.listener.gate.phase.Load() == stopping && errors.Is(err, os.ErrDeadlineExceeded):
		return c.lastRead(p)
	}
	return n, err
}

// Write writes to the client. net/http answers 431 to a head that is too large
// by itself; where not even the request line has ended, it is that which is.
func (c *conn) Write(p []byte) (int, error) {
	if c.head.lines == 0 && c.head.bytes > maxRequestLine && bytes.HasPrefix(p, []byte("HTTP/1.1 431 ")) {
		const text = "414 URI Too Long: " + longLine + "\n"
		_, err := fmt.Fprintf(c.Conn, "HTTP/1.1 414 URI Too Long\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
			len(text), text)
		return len(p), err
	}
	return c.Conn.Write(p)
}

// waitClosed waits until the client has closed its socket: poll(2) reports
// POLLHUP for that alone.
func (c *conn) waitClosed() error {
	if err := c.raw.Read(isClosed); err != nil {
		return err
	}
	return io.EOF
}

func (c *conn) lastRead(p []byte) (n int, err error) {
	rc, err := c.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := rc.Control(func(fd uintptr) { n, err = syscall.Read(int(fd), p) }); cerr != nil || err != nil || n <= 0 {
		return 0, io.EOF
	}
	return n, nil
}

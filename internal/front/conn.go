package front

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/cgi"
)

// conn is a connection that a gate has accepted.
type conn struct {
	net.Conn
	listener *Listener
	peer     cgi.Peer
	raw      syscall.RawConn
	http     bool // not FastCGI
	once     sync.Once

	mu       sync.Mutex
	accepted time.Time // zero after the first answer
	deadline time.Time // for reads, as it was set
	busy     bool      // a request is being answered
	partial  bool      // a part of the next request has been read
	head     head      // HTTP: the header that is being read
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		g := c.listener.gate
		<-g.limit
		g.mu.Lock()
		delete(g.conns, c)
		g.closed.Broadcast()
		g.mu.Unlock()
	})
	return err
}

// setBusy is called with true when a header has been read, and with false when
// its request has been answered.
func (c *conn) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = busy; busy {
		c.partial = false
	} else {
		c.accepted, c.head = time.Time{}, head{}
	}
	c.setDeadline()
}

// setPartial sets c.partial. c.mu must be held.
func (c *conn) setPartial(partial bool) {
	if c.partial != partial {
		if c.partial = partial; c.isStopping() {
			c.setDeadline()
		}
	}
}

// SetReadDeadline sets the read deadline. It comes earlier when the gate stops.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.setDeadline()
}

// stop is called when the gate stops.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setDeadline()
}

func (c *conn) isStopping() bool { return c.listener.gate.phase.Load() == stopping }

// setDeadline sets the read deadline. c.mu must be held. If the gate is stopping,
// a new connection has Times.Grace to send something, a partial request has
// Times.Grace to be completed, and an idle connection has no time.
func (c *conn) setDeadline() error {
	t := c.deadline
	if c.isStopping() && !c.busy {
		start := c.accepted
		if c.partial {
			start = time.Now()
		}
		end := start.Add(c.listener.gate.cfg.Times.Grace)
		if t.IsZero() || end.Before(t) {
			t = end
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// Read reads from the client.
//
// While it serves a request net/http reads a single byte ahead. It takes the end
// of the input for a closed connection. But a client on a Unix socket may have
// shut down only its sending half and still wait for the answer. In this case
// Read does not return before the client has closed the socket. Nor does it if
// the byte belongs to the next request: net/http would not look again.
//
// A stop interrupts the reads of idle connections. If there is input by then,
// Read returns it, and the request is answered.
func (c *conn) Read(p []byte) (int, error) {
	if c.hasManyLines() {
		return 0, errManyLines
	}
	n, err := c.Conn.Read(p)
	for n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && c.hasInputAtStop() {
		n, err = c.Conn.Read(p)
	}
	ahead := len(p) == 1
	busy := c.received(p[:n], ahead)
	switch {
	case c.hasManyLines():
		return 0, errManyLines
	case c.http && c.listener.Unix && ahead && busy && (n > 0 || err == io.EOF):
		closed := c.waitClosed()
		if n == 0 || closed == io.EOF {
			return 0, closed
		}
	}
	return n, err
}

// hasInputAtStop reports whether an idle connection has input when a stop has
// interrupted its read. If so, it allows time to read it.
func (c *conn) hasInputAtStop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isStopping() || c.busy || c.partial || !hasInput(c.raw) {
		return false
	}
	c.Conn.SetReadDeadline(time.Now().Add(c.listener.gate.cfg.Times.Grace))
	return true
}

// received is called with input. While an HTTP request is being answered, input
// is the body of this request, unless net/http reads ahead.
func (c *conn) received(p []byte, ahead bool) (busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) > 0 && (!c.busy || ahead || !c.http) {
		c.setPartial(true)
	}
	if c.http && !c.busy {
		c.head.add(p)
	}
	return c.busy
}

func (c *conn) hasManyLines() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.head.lines > maxLines
}

// Write writes to the client, for at most Times.IO.
//
// It replaces two answers of net/http to an invalid header. If the request line
// is not complete when net/http finds the header too large, then the request
// line is too long. And net/http does not know errManyLines.
func (c *conn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(c.listener.gate.cfg.Times.IO))
	switch {
	case c.head.lines == 0 && c.head.bytes > maxRequestLine && bytes.HasPrefix(p, []byte("HTTP/1.1 431 ")):
		return len(p), c.refuse(http.StatusRequestURITooLong, longLine)
	case c.head.lines > maxLines && bytes.HasPrefix(p, []byte("HTTP/1.1 400 ")):
		return len(p), c.refuse(http.StatusRequestHeaderFieldsTooLarge, errManyLines.Error())
	}
	return c.Conn.Write(p)
}

// refuse writes an answer in place of net/http.
func (c *conn) refuse(status int, reason string) error {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	body := text + ": " + reason + "\n"
	_, err := fmt.Fprintf(c.Conn, "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		text, len(body), body)
	return err
}

// waitClosed waits until the client has closed its Unix socket.
func (c *conn) waitClosed() error {
	if err := c.raw.Read(isClosed); err != nil {
		return err
	}
	return io.EOF
}

// isClosed reports whether the other end of a Unix socket is closed. poll(2) then
// reports POLLHUP, or POLLERR if there was unread data.
func isClosed(fd uintptr) bool {
	return poll(fd, 0)&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
}

// hasInput reports whether accept(2) or read(2) would return at once. Go calls
// neither when the deadline has passed.
func hasInput(s syscall.RawConn) (has bool) {
	err := s.Control(func(fd uintptr) { has = poll(fd, unix.POLLIN)&unix.POLLIN != 0 })
	return has && err == nil
}

func poll(fd uintptr, events int16) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		if _, err := unix.Poll(p, 0); err != unix.EINTR {
			return p[0].Revents
		}
	}
}

// maxLines is the largest number of lines of an HTTP header. Each line takes some
// hundred bytes in net/http, even an empty field.
const maxLines = 1000

var errManyLines = errors.New("header of more than 1,000 lines")

// head counts the lines of an HTTP header while it is being read.
type head struct {
	lines    int
	bytes    int  // of the request line
	empty    bool // the current line is empty so far
	complete bool
}

// add adds input.
func (h *head) add(p []byte) {
	if h.lines == 0 {
		h.bytes += len(p)
	}
	for _, b := range p {
		switch {
		case h.complete || h.lines > maxLines:
			return
		case b == '\n' && h.empty:
			h.complete = true
		case b == '\n':
			h.empty = true
			h.lines++
		case b != '\r':
			h.empty = false
		}
	}
}

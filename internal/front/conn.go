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

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
)

// conn is a connection that a gate has let in.
type conn struct {
	net.Conn
	listener *Listener
	peer     cgi.Peer
	raw      syscall.RawConn
	once     sync.Once
	head     head // of HTTP

	mu    sync.Mutex
	came  time.Time // it was let in then, and has got no answer yet
	until time.Time // the read deadline that it was given
	busy  bool      // a request is answered
	begun bool      // a part of the next head has come
}

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

// setBusy notes that a whole head has come, or that its request is answered.
func (c *conn) setBusy(busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = busy; busy {
		c.begun = false
	} else {
		c.came, c.head = time.Time{}, head{}
	}
	c.limit()
}

// setBegun notes whether a part of the next head has come.
func (c *conn) setBegun(begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark(begun)
}

// mark is setBegun for who holds mu.
func (c *conn) mark(begun bool) {
	if c.begun != begun {
		if c.begun = begun; c.stopping() {
			c.limit()
		}
	}
}

// maxLines is how many lines a head may have. Each takes some hundred bytes in
// net/http, even an empty field.
const maxLines = 1000

var errManyLines = errors.New("header of more than 1,000 lines")

// head counts the lines of a head while it is read.
type head struct {
	lines int
	bytes int  // while there is no line
	empty bool // nothing of the present line has come, but for a CR
	whole bool

	spoilt int // how much of noField has been read
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

// SetReadDeadline is that of the connection; a stop leaves less, see limit.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = t
	return c.limit()
}

// limit sets the read deadline for who holds mu. At a stop an idle connection
// has no time left. One that has just come has Times.Grace to send something,
// and one of whose next head a part is here has Times.Grace for the rest.
func (c *conn) limit() error {
	t := c.until
	if c.stopping() && !c.busy {
		last := c.came
		if c.begun {
			last = time.Now()
		}
		last = last.Add(c.listener.gate.cfg.Times.Grace)
		if t.IsZero() || last.Before(t) {
			t = last
		}
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *conn) stopping() bool { return c.listener.gate.phase.Load() == stopping }

// stop has a connection take notice of a stop.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit()
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
	if c.spoilt() {
		return c.spoil(p)
	}
	n, err := c.Conn.Read(p)
	for n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && c.again() {
		n, err = c.Conn.Read(p)
	}
	busy, herr := c.note(p[:n], len(p) == 1)
	switch {
	case herr != nil:
		return c.spoil(p)
	case n == 0 && err == io.EOF && c.listener.Unix && len(p) == 1 && busy:
		return 0, c.waitClosed()
	}
	return n, err
}

// again tells whether an idle connection's read is to be tried again after a
// stop has interrupted it. While something is there it is found, however slow
// the machine.
func (c *conn) again() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.stopping() || c.busy || c.begun || !hasInput(c.raw) {
		return false
	}
	c.Conn.SetReadDeadline(time.Now().Add(c.listener.gate.cfg.Times.Grace))
	return true
}

// note takes in what has been read. What comes while a request is answered is
// its body, except for what net/http reads ahead.
func (c *conn) note(p []byte, ahead bool) (busy bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	isHTTP := c.listener.gate.cfg.Protocol != cli.FastCGI
	if len(p) > 0 && (!c.busy || ahead || !isHTTP) {
		c.mark(true)
	}
	if isHTTP && !c.busy {
		err = c.head.add(p)
	}
	return c.busy, err
}

// spoilt tells whether the head at hand has too many lines.
func (c *conn) spoilt() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.head.lines > maxLines
}

// spoil ends a head of too many lines in the place of what comes yet: by a line
// that is none, which net/http answers with 400, behind the end of one that may be
// in the midst. An error would not do: behind a part of a line net/http drops it
// and waits.
func (c *conn) spoil(p []byte) (int, error) {
	n := copy(p, noField[c.head.spoilt:])
	if c.head.spoilt += n; n == 0 {
		return 0, errManyLines
	}
	return n, nil
}

const noField = "x\nno field\n\n"

// Write writes to the client. Two heads that are too large net/http answers with
// other statuses than ours: where not even the request line has ended, it is that
// which is too long; and of too many lines it knows nothing.
func (c *conn) Write(p []byte) (int, error) {
	switch {
	case c.head.lines == 0 && c.head.bytes > maxRequestLine && bytes.HasPrefix(p, []byte("HTTP/1.1 431 ")):
		return len(p), c.refuse(http.StatusRequestURITooLong, longLine)
	case c.head.lines > maxLines && bytes.HasPrefix(p, []byte("HTTP/1.1 400 ")):
		return len(p), c.refuse(http.StatusRequestHeaderFieldsTooLarge, errManyLines.Error())
	}
	return c.Conn.Write(p)
}

// refuse answers in net/http's place; the connection ends.
func (c *conn) refuse(status int, reason string) error {
	text := fmt.Sprintf("%d %s", status, http.StatusText(status))
	body := text + ": " + reason + "\n"
	_, err := fmt.Fprintf(c.Conn, "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		text, len(body), body)
	return err
}

// waitClosed waits until the client has closed its socket: poll(2) reports
// POLLHUP for that alone.
func (c *conn) waitClosed() error {
	if err := c.raw.Read(isClosed); err != nil {
		return err
	}
	return io.EOF
}

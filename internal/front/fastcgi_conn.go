package front

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/onewake/onewake/internal/cgi"
)

// fcgiConn is a connection. One goroutine at a time reads its records: the one
// that answers a request, until the body has been read, and from then on another
// one, which goes on with the next request.
type fcgiConn struct {
	f *FastCGI
	*conn
	in     *bufio.Reader
	buf    []byte       // content of the last record
	coming *fcgiRequest // its parameters are not whole

	wmu sync.Mutex // of writing

	mu      sync.Mutex
	current *fcgiRequest // it is being answered
	over    bool         // nothing is begun any more
}

// fcgiRequest is a request.
type fcgiRequest struct {
	id     uint16
	keep   bool // the connection
	params []byte
	huge   bool // there are more than maxParams
	cancel context.CancelCauseFunc
}

// record is one record without its padding. The content is good until the next
// one is read.
type record struct {
	kind    byte
	id      uint16
	content []byte
}

// notFastCGI is what is wrong with what a client sends.
type notFastCGI string

func (m notFastCGI) Error() string { return string(m) }

// read reads records until the connection ends, or another goroutine does.
func (c *fcgiConn) read() {
	for {
		rec, err := c.next()
		var r *fcgiRequest
		if err == nil {
			r, err = c.handle(rec)
		}
		if err != nil {
			c.fail(err)
			return
		}
		if r != nil && c.answer(r) {
			return
		}
	}
}

// next reads a record.
func (c *fcgiConn) next() (record, error) {
	c.setBegun(c.in.Buffered() > 0 || c.coming != nil)
	var h [fcgiHeader]byte
	if _, err := io.ReadFull(c.in, h[:]); err != nil {
		return record{}, err
	}
	if h[0] != fcgiVersion {
		hint := ""
		if 'A' <= h[0] && h[0] <= 'Z' {
			hint = ", as if by HTTP"
		}
		return record{}, notFastCGI(fmt.Sprintf("a record begins with %d%s", h[0], hint))
	}
	n := int(binary.BigEndian.Uint16(h[4:]))
	c.buf = slices.Grow(c.buf[:0], n)[:n]
	if _, err := io.ReadFull(c.in, c.buf); err != nil {
		return record{}, err
	}
	_, err := c.in.Discard(int(h[6]))
	return record{kind: h[1], id: binary.BigEndian.Uint16(h[2:]), content: c.buf}, err
}

// handle handles one record. It returns a request whose parameters are whole.
func (c *fcgiConn) handle(rec record) (*fcgiRequest, error) {
	c.mu.Lock()
	current, over := c.current, c.over
	c.mu.Unlock()
	r := c.coming
	switch {
	case over: // nobody waits for an answer
	case rec.id == 0:
		return nil, c.manage(rec)
	case rec.kind == fcgiBegin && (r != nil || current != nil):
		return nil, c.write(appendEnd(nil, rec.id, 0, fcgiCantMpx))
	case rec.kind == fcgiBegin:
		return nil, c.begin(rec)
	case rec.kind == fcgiAbort && current != nil && current.id == rec.id:
		current.cancel(cgi.ErrClientGone)
	case r == nil || r.id != rec.id: // it is over, or never was
	case rec.kind == fcgiAbort:
		c.coming = nil
		return nil, c.refuse(r.id, fcgiComplete, r.keep)
	case rec.kind == fcgiParams:
		if r.add(rec.content) {
			c.coming = nil
			return r, nil
		}
	}
	return nil, nil
}

// manage answers a management record (§ 4).
func (c *fcgiConn) manage(rec record) error {
	if rec.kind != fcgiGetValues {
		return c.write(appendRecord(nil, fcgiUnknown, 0, []byte{rec.kind, 0, 0, 0, 0, 0, 0, 0}))
	}
	values := map[string]string{
		"FCGI_MAX_CONNS": strconv.Itoa(c.f.MaxConns), "FCGI_MAX_REQS": strconv.Itoa(c.f.MaxConns), "FCGI_MPXS_CONNS": "0",
	}
	var out []byte
	err := eachPair(string(rec.content), func(name, _ string) {
		if v, ok := values[name]; ok {
			delete(values, name)
			out = append(append(append(out, byte(len(name)), byte(len(v))), name...), v...)
		}
	})
	if err != nil {
		return err
	}
	return c.write(appendRecord(nil, fcgiResult, 0, out))
}

// begin begins a request (§ 5.1), which has Times.Header for its parameters.
func (c *fcgiConn) begin(rec record) error {
	if len(rec.content) != 8 {
		return notFastCGI(fmt.Sprintf("a begin record of %d bytes", len(rec.content)))
	}
	role, keep := binary.BigEndian.Uint16(rec.content), rec.content[2]&fcgiKeepConn != 0
	if role != fcgiResponder {
		return c.refuse(rec.id, fcgiUnknownRole, keep)
	}
	c.SetReadDeadline(time.Now().Add(c.f.Times.Header))
	c.coming = &fcgiRequest{id: rec.id, keep: keep}
	return nil
}

// refuse ends a request of which nothing has been answered.
func (c *fcgiConn) refuse(id uint16, status byte, keep bool) error {
	if err := c.write(appendEnd(nil, id, 0, status)); err != nil {
		return err
	}
	if !keep {
		return io.EOF
	}
	return c.SetReadDeadline(time.Now().Add(c.f.Times.Idle))
}

// add takes a part of the parameters, and tells whether that was all: an empty
// part is their end. Of those that are too many a part is kept for the log.
func (r *fcgiRequest) add(content []byte) bool {
	if r.huge = len(r.params)+len(content) > maxParams; r.huge {
		content = content[:maxParams-len(r.params)]
		r.keep = false
	}
	r.params = append(r.params, content...)
	return len(content) == 0 || r.huge
}

// answer has a request answered, and ends it. It tells whether another goroutine
// reads the connection now.
func (c *fcgiConn) answer(r *fcgiRequest) (read bool) {
	req, err := c.request(r)
	if m := notFastCGI(""); errors.As(err, &m) {
		c.fail(m)
		return true // nobody does
	}
	r.params = nil
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	c.setBusy(true)
	c.mu.Lock()
	c.current = r
	c.mu.Unlock()
	body := &fcgiBody{c: c, id: r.id, left: req.Length}
	req.Body = body
	w := &fcgiWriter{c: c, id: r.id, r: req}
	if err != nil {
		req.Fail(w, err)
	} else {
		body.check()
		c.f.Handler.Serve(ctx, req, w)
	}
	cancel(nil)
	if c.f.Done != nil {
		c.f.Done(req)
	}
	c.end(r, w, body)
	return body.whole
}

// end sends what is left of an answer.
func (c *fcgiConn) end(r *fcgiRequest, w *fcgiWriter, body *fcgiBody) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	// The next request may come as soon as the end of this one is sent.
	c.mu.Lock()
	gone := c.over // nobody reads any more
	c.over = gone || body.failed || !r.keep || w.r.Record.Cut || c.f.Gate.ending()
	c.current = nil
	last := c.over
	if !last || body.whole {
		c.setBusy(false)
	}
	c.SetReadDeadline(time.Now().Add(c.f.Times.Idle))
	c.mu.Unlock()
	if w.r.Record.Cut || c.send(w.finish(w.r.Record.ExitStatus)) != nil || gone {
		c.Close()
		return
	}
	if last {
		// It ends when the client ends it, or soon: one that is still sending may
		// take a connection that is closed for a failure, and never look at its
		// answer.
		c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		c.SetReadDeadline(time.Now().Add(c.f.Times.Grace))
	}
}

// fail ends the connection, which cannot be read any more, and the request at
// hand.
func (c *fcgiConn) fail(err error) {
	c.mu.Lock()
	r, over := c.current, c.over
	c.over = true
	c.mu.Unlock()
	if !over {
		c.complain(err)
	}
	if r != nil {
		if err == io.EOF && c.listener.Unix {
			c.waitClosed() // only its sending half may be closed, and it still reads
		}
		r.cancel(cgi.ErrClientGone)
		return // the end of the answer closes it
	}
	c.wmu.Lock() // not in the middle of what is being written
	defer c.wmu.Unlock()
	c.Close()
}

// complain says once in a while that a client does not speak FastCGI.
func (c *fcgiConn) complain(err error) {
	var m notFastCGI
	if !errors.As(err, &m) {
		return
	}
	if more, say := c.f.Gate.said.take("malformed"); say {
		c.f.Log.Warn("not FastCGI", "listen", c.listener.Name, "error", m, "more", more)
	}
}

// write sends whole records.
func (c *fcgiConn) write(b []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.send(b)
}

// send is write for who holds wmu.
func (c *fcgiConn) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.SetWriteDeadline(time.Now().Add(c.f.Times.IO))
	_, err := c.Conn.Write(b)
	return err
}

// fcgiBody is standard input up to CONTENT_LENGTH, which may be less than what
// comes; -1 stands for all of it. Its reader reads the records of the connection.
type fcgiBody struct {
	c      *fcgiConn
	id     uint16
	left   int64
	rest   []byte // of a record
	whole  bool   // another goroutine reads the connection
	failed bool   // and nobody can
}

func (b *fcgiBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.whole {
			return 0, io.EOF
		}
		if err := b.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if b.left > 0 {
		b.left -= int64(n)
	}
	b.check()
	return n, nil
}

// more reads one more record.
func (b *fcgiBody) more() error {
	b.c.SetReadDeadline(time.Now().Add(b.c.f.Times.IO))
	rec, err := b.c.next()
	switch {
	case err == nil && rec.id == b.id && rec.kind == fcgiStdin:
		b.rest = rec.content
		if b.left >= 0 && int64(len(b.rest)) > b.left {
			b.rest = b.rest[:b.left]
		}
		if len(rec.content) == 0 {
			b.left = 0
		}
		b.check()
		return nil
	case err == nil:
		_, err = b.c.handle(rec)
		if err == nil && rec.id == b.id && rec.kind == fcgiAbort {
			return cgi.ErrClientGone
		}
	}
	if err == nil {
		return nil
	}
	b.failed = true
	b.c.complain(err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return cgi.ErrBodyStalled
	}
	return cgi.ErrClientGone
}

// check has another goroutine read the connection once the body has been read:
// the client may go away, and ask for something else.
func (b *fcgiBody) check() {
	if b.left == 0 && len(b.rest) == 0 && !b.whole {
		b.whole = true
		b.c.SetReadDeadline(time.Time{})
		go b.c.read()
	}
}
